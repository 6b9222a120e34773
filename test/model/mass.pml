/*
 * Rule 8: an outage between all nodes and all members expires nobody, if it is over a
 * heartbeat before the settle time.
 *
 * Three nodes send a heartbeat in every tick, and all members hear the same, so
 * one stands for all. There is one outage, in which no heartbeat arrives. All
 * members may be restarted at any time, once, though not within D before the outage: the
 * settle time would count from the restart. A tick is h, D is 5 of them, a node is silent when
 * it is unheard for more than 2. The leader may expire a node whenever the rules let it.
 */

#define NODES	3
#define D	5
#define SETTLE	8
#define NEVER	(D + 1)
#define CALM	(D + 2)		/* a start is no mass event any more */

mtype = { outage_to_come, outage, outage_past };
mtype network = outage_to_come;
byte length;			/* ticks that the outage lasts */

byte heard[NODES];		/* ticks since the node was heard; NEVER by these processes */
bit due[NODES];			/* this tick's heartbeat is not there yet */
byte up;			/* ticks since the members started */
bit restarted;

bit on;				/* a mass event */
byte since;			/* ticks since it began */
byte over;			/* ticks since most nodes were found silent */

/* Nodes that were not heard yet count as heard at the start. */
#define SILENT(n)	(heard[n] == NEVER && up > 2 || heard[n] != NEVER && heard[n] > 2)
#define MOST_SILENT	(SILENT(0) + SILENT(1) + SILENT(2) >= 2 && COUNTED)
#define LAST(n)		(heard[n] == NEVER -> up : heard[n])

#ifdef RULE_8_START
#define COUNTED		(!restarted)	/* who had a session 10 s ago is not known */
#else
#define COUNTED		true
#endif
#ifdef RULE_8_NO_MASS
#define BLOCKED		false
#else
#define BLOCKED		(on && since < SETTLE)
#endif
#ifdef RULE_8_END
#define ENDED		true
#else
#define ENDED		(over >= D)
#endif

/* The member's timer. */
inline update() {
	if
	:: MOST_SILENT && !on -> on = 1; since = 0; over = 0; printf("most nodes are silent: a mass event begins\n")
	:: MOST_SILENT && on -> over = 0
	:: !MOST_SILENT && on && ENDED -> on = 0; since = 0; over = 0; printf("the mass event is over\n")
	:: else
	fi
}

proctype Node(byte n) {
end:
	do
	:: d_step { due[n] && network != outage ->
		due[n] = 0; heard[n] = 0;
		printf("node %d is heard\n", n + 1);
		update() }
	:: d_step { up >= D && !BLOCKED && LAST(n) >= D ->
		printf("node %d is expired, and is healthy\n", n + 1);
		assert(false) }
	od
}

proctype Fault() {
end:
	do
	:: d_step { network == outage_to_come && up == CALM -> network = outage; printf("the network between nodes and members fails\n") }
	:: d_step { network == outage -> network = outage_past; printf("the network works again\n") }
	:: d_step { !restarted ->
		restarted = 1; up = 0;
		heard[0] = NEVER; heard[1] = NEVER; heard[2] = NEVER;
		on = 0; since = 0; over = 0;
#ifndef RULE_8_START
		on = 1;
#endif
		printf("all members restart\n") }
	od
}

inline older(x, top) {
	if
	:: x < (top) -> x++
	:: else
	fi
}

proctype Clock() {
	byte n = 0;
end:
	do
	:: d_step { (network == outage && length < SETTLE - 1) || (network != outage && !due[0] && !due[1] && !due[2]) ->
		printf("#tick#\n");
		do
		:: n < NODES ->
			due[n] = 1;
			if
			:: heard[n] < NEVER -> older(heard[n], D)
			:: else
			fi;
			n++
		:: else -> break
		od;
		n = 0;
		older(up, CALM);
		if
		:: network == outage -> length++
		:: else
		fi;
		if
		:: on -> older(since, SETTLE); older(over, D)
		:: else
		fi;
		update() }
	od
}

init {
	atomic {
		up = CALM;
		run Clock(); run Fault();
		run Node(0); run Node(1); run Node(2)
	}
}
