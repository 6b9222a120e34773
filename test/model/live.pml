/*
 * An owner that is expired, or whose address was taken from it, has a successor that
 * answers, within a bounded time after the last fault.
 *
 * Node A owns the address, under Hold or Release, and may be in the middle of a planned
 * move. Either A dies and B is to answer, or B is dead, A was expired by mistake, and has to come
 * back. One member is cut off from the others for good, and the watch of the node that lives
 * may be attached to that one; so it is not told what is decided. Leaders die.
 *
 * All that can happen happens within the tick (Promela's timeout: the clock goes on
 * when nothing else can); faults come with the ticks, until there are no more.
 */

#define MEMBERS	3
#define D	3
#define F	4
#ifndef CRASHES
#define CRASHES	2
#endif
/* Ticks after the last fault. */
#define BOUND	(D + F + 4)
#define NOBODY	3
#define m1(m)	((m) + 1)

#define A	0
#define B	1
#define NONE	2
#define NAME(n)	(65 + (n))

bit hold;			/* the policy */
byte survivor;			/* the node that lives */
#define victim	(1 - survivor)
byte cut;			/* the member that is cut off; NOBODY if none is */
byte crashes;			/* leaders that may die yet */

typedef Facts {
	bit open[2];
	byte owner;
	bit taken;		/* from A, in a planned move that goes on */
	byte given_at;		/* the revision that assigned it last */
	byte revision;
};
Facts log;

byte leader;
bit alive[2];			/* whether the process runs */
byte silent[2];			/* ticks since a member heard the node, as the leader knows */
byte fence;			/* ticks until A's fence time, or that of the release */
bit told;			/* the survivor knows that its session is closed */

byte watch;			/* the member that the survivor's watch is attached to */
byte seen;			/* the revision of its view */
byte behind;			/* ticks since it learned that it lacks one */
bit acked;
bit answers;

byte quiet;			/* ticks since the last fault */

#ifdef RULE_LIVE_RELEASE
#define OVER	false		/* only what the old owner reports counts */
#else
#define OVER	(fence == 0)
#endif

#define MAY_FOLLOW	(log.taken && OVER || log.owner != NONE && !log.open[log.owner] && (hold || fence == 0))

inline expire(n) {
	log.open[n] = 0; log.revision++;
	printf("revision %d: SessionExpired(%c)\n", log.revision, NAME(n))
}

proctype Leader() {
end:
	do
	:: d_step { leader == NOBODY ->
		if
		:: cut == 0 -> leader = 1 + (crashes & 1)
		:: cut == 1 -> leader = 2 * (crashes & 1)
		:: else -> leader = crashes & 1
		fi;
		silent[A] = 0; silent[B] = 0; fence = F;
		printf("m%d is elected and passes its barrier\n", m1(leader)) }
	:: d_step { leader != NOBODY && log.open[A] && silent[A] >= D -> expire(A) }
	:: d_step { leader != NOBODY && log.open[B] && silent[B] >= D -> expire(B) }
	:: d_step { leader != NOBODY && log.open[survivor] && log.owner != survivor && MAY_FOLLOW ->
		log.owner = survivor; log.taken = 0;
		log.revision++; log.given_at = log.revision;
		printf("revision %d: OwnerAssigned(%c)\n", log.revision, NAME(survivor)) }
	od
}
/* The node that lives. Its heartbeats reach the leader, and acks and refusals reach it. */
proctype Survivor() {
end:
	do
#ifndef RULE_LIVE_TOLD
	:: d_step { leader != NOBODY && alive[survivor] && !log.open[survivor] && !told ->
		told = 1; acked = 0; answers = 0;
		printf("%c is told that it has no session\n", NAME(survivor)) }
#endif
	:: d_step { leader != NOBODY && told && !log.open[survivor] ->
		told = 0; log.open[survivor] = 1; log.revision++; silent[survivor] = 0; seen = 0;
		printf("revision %d: SessionOpened(%c)\n", log.revision, NAME(survivor)) }
	:: d_step { leader != NOBODY && alive[survivor] && log.open[survivor] && !acked ->
		acked = 1; printf("%c is acked\n", NAME(survivor)) }
	:: d_step { alive[survivor] && log.open[survivor] && watch != cut && seen < log.revision ->
		seen = log.revision; behind = 0;
		printf("%c sees revision %d\n", NAME(survivor), seen) }
#ifndef RULE_LIVE_NEED
	:: d_step { acked && seen < log.given_at && log.owner == survivor && behind >= 2 ->
		watch = (watch + 1) % MEMBERS; behind = 0;
		printf("%c has been behind for long and attaches its watch to m%d\n", NAME(survivor), m1(watch)) }
#endif
	:: d_step { acked && seen >= log.given_at && log.owner == survivor && !answers ->
		answers = 1;
		printf("%c answers for the address\n", NAME(survivor)) }
	od
}

inline less(x) {
	if
	:: x > 0 -> x--
	:: else
	fi
}

inline older(x, top) {
	if
	:: x < (top) -> x++
	:: else
	fi
}

proctype Clock() {
end:
	do
	:: timeout ->
		d_step {
			printf("#tick#\n");
			assert(quiet < BOUND || answers);
			if
			:: alive[A] -> silent[A] = 0
			:: else -> older(silent[A], D)
			fi;
			if
			:: alive[B] -> silent[B] = 0
			:: else -> older(silent[B], D)
			fi;
			less(fence);
			if
			:: acked && seen < log.given_at -> older(behind, 2)
			:: else
			fi;
			older(quiet, BOUND)
		};
		/* Faults. */
		if
		:: alive[victim] -> alive[victim] = 0; quiet = 0; printf("%c dies\n", NAME(victim))
		:: crashes > 0 && !alive[victim] ->
			printf("m%d, the leader, dies\n", m1(leader));
			crashes--; leader = NOBODY; quiet = 0
		:: !alive[victim]
		fi
	od
}

init {
	atomic {
		if
		:: hold = 0
		:: hold = 1
		fi;
		if
		:: cut = 1
		:: cut = 2
		:: cut = NOBODY
		fi;
		if
		:: watch = 0
		:: watch = 1
		:: watch = 2
		fi;
		crashes = CRASHES; fence = F; seen = 1; log.revision = 1; alive[A] = 1; alive[B] = 1;
		if
		:: survivor = B; log.open[A] = 1; log.open[B] = 1; log.owner = A;
		   printf("A owns the address\n")
		:: survivor = B; log.open[A] = 1; log.open[B] = 1; log.owner = NONE; log.taken = 1;
		   printf("the address was taken from A by revision 1, which A has not seen\n")
		:: survivor = A; log.open[B] = 1; log.owner = A;
		   printf("A owns the address, and was expired by mistake\n")
		fi;
		if
		:: watch == cut -> printf("%c's watch is attached to m%d, which is cut off from the other members\n", NAME(survivor), m1(watch))
		:: else
		fi;
		run Clock(); run Leader(); run Survivor()
	}
}
