/*
 * Rule 7: whatever goes wrong with one single member, no healthy node is expired.
 *
 * Node A runs: it sends a heartbeat in every tick, and every healthy member gets it
 * within that tick. In every tick each healthy member answers a poll of the leader, if that is healthy
 * too. One member is not: whatever is sent to it or by it may be lost, its answers may be
 * late, it may stall and restart. Any member may be elected at any time. Rule 8 is
 * left out, so nothing here rests on it.
 *
 * D is 4 ticks, a report is fresh in the tick after its poll. The first heartbeat
 * of a session comes in the tick after that in which it was opened.
 */

#define MEMBERS	3
#define D	4
#define FRESH	1
#define NEVER	(D + 1)
#define STALE	(FRESH + 1)
#define NOBODY	3
#define m1(m)	((m) + 1)

#define bad	0		/* the faulty member: one is like the other */
bit stalled;			/* it does not run */
byte heard[MEMBERS];		/* ticks since the member heard A */
byte up[MEMBERS];		/* ticks since it started */
bit beat_due[MEMBERS];		/* this tick's heartbeat is not there yet */
bit answer_due[MEMBERS];	/* nor its answer to the leader */
bit open;			/* A has a session */

byte leader;
byte barrier;			/* ticks since its barrier */
byte opened;			/* ticks since it opened A's session, NEVER if another did */
typedef Report {
	byte poll;		/* ticks since the poll that it answers */
	byte heard;		/* ticks since A was heard, as it says */
	bit up;			/* the member is up for D */
};
Report report[MEMBERS];

#define RUNS(m)		((m) != bad || !stalled)
#define SICK(m)		((m) == bad || leader == bad)

/* Rule 7, as the leader sees it. */
#define MIN(a, b)	((a) < (b) -> (a) : (b))
#ifdef RULE_7_UNASKED
#define OTHERS		NEVER
#else
#define OTHERS		MIN(report[(leader + 1) % 3].heard, report[(leader + 2) % 3].heard)
#endif
#define ANYBODY		MIN(heard[leader], OTHERS)
#ifdef RULE_7_UNOPENED
#define LAST		(ANYBODY == NEVER -> D : ANYBODY)
#else
#define LAST		(opened < NEVER -> MIN(ANYBODY, opened) : (ANYBODY == NEVER -> barrier : ANYBODY))
#endif
#ifdef RULE_7_YOUNG
#define OLD(x)		true
#else
#define OLD(x)		(x)
#endif
#define OTHER(m)	(report[m].poll <= FRESH && OLD(report[m].up))
#define WITNESSES	(OLD(up[leader] == D) + OTHER((leader + 1) % 3) + OTHER((leader + 2) % 3))
#ifdef RULE_7_ALONE
#define WITNESSED	true
#else
#define WITNESSED	(WITNESSES >= 2)
#endif
#define SAID(m)		(report[m].poll < NEVER)
#ifdef RULE_7_FIRST
#define ASKED		true
#else
#define ASKED		(barrier > FRESH || (SAID((leader + 1) % 3) && SAID((leader + 2) % 3)))
#endif

inline forget(m) {
	report[m].poll = NEVER; report[m].heard = NEVER; report[m].up = 0
}

inline elect(m) {
	leader = m; barrier = 0; opened = NEVER;
	forget(0); forget(1); forget(2)
}

inline say(m) {
	if
	:: heard[m] == NEVER -> printf("m%d reports to m%d that it never heard A\n", m1(m), m1(leader))
	:: else -> printf("m%d reports to m%d that it heard A %d ticks ago\n", m1(m), m1(leader), heard[m])
	fi
}

proctype Member(byte m) {
end:
	do
	:: d_step { open && beat_due[m] && RUNS(m) ->
		heard[m] = 0; beat_due[m] = 0;
		printf("m%d hears A\n", m1(m)) }
	:: d_step { leader != NOBODY && leader != m && answer_due[m] && RUNS(m) && RUNS(leader) ->
		answer_due[m] = 0;
		report[m].poll = 0; report[m].heard = heard[m]; report[m].up = (up[m] == D);
		say(m) }
	/* Late: a poll of the last tick. */
	:: d_step { leader != NOBODY && leader != m && answer_due[m] && RUNS(m) && RUNS(leader) && SICK(m) && barrier > 0 ->
		answer_due[m] = 0;
		report[m].poll = 1; report[m].heard = heard[m]; report[m].up = (up[m] == D);
		say(m) }
	:: d_step { leader != m && RUNS(m) ->
		elect(m);
		printf("m%d is elected and passes its barrier\n", m1(m)) }
	od
}

proctype Leader() {
end:
	do
	:: d_step { leader != NOBODY && RUNS(leader) && !open ->
		open = 1; opened = 0;
		printf("m%d opens A's session\n", m1(leader)) }
	:: d_step { leader != NOBODY && RUNS(leader) && open && ASKED && WITNESSED && LAST >= D ->
		printf("m%d expires A, which is healthy\n", m1(leader));
		assert(false) }
	od
}

/* What may be wrong with a member, beside losses. */
proctype Fault() {
end:
	do
	:: d_step { !stalled -> stalled = 1; printf("m%d stalls\n", m1(bad)) }
	:: d_step { stalled -> stalled = 0; printf("m%d runs again\n", m1(bad)) }
	:: d_step { up[bad] > 0 ->
		stalled = 0; up[bad] = 0; heard[bad] = NEVER;
		if
		:: leader == bad -> elect(NOBODY)
		:: else
		fi;
		printf("m%d restarts\n", m1(bad)) }
	od
}

inline older(x, top) {
	if
	:: x < (top) -> x++
	:: else
	fi
}

#ifdef RULE_7_STALL
#define AWAKE(m)	true
#else
#define AWAKE(m)	RUNS(m)
#endif

/* What is due of healthy members has been done. */
#define DONE(m)		((m) == bad || ((!open || !beat_due[m]) && (leader == NOBODY || leader == bad || leader == m || !answer_due[m])))

proctype Clock() {
	byte m = 0;
end:
	do
	:: d_step { DONE(0) && DONE(1) && DONE(2) ->
		printf("#tick#\n");
		do
		:: m < MEMBERS ->
			if
			:: AWAKE(m) && heard[m] < NEVER -> older(heard[m], D)
			:: else
			fi;
			if
			:: AWAKE(m) -> older(up[m], D)
			:: else
			fi;
			/* Times of reports go on, the ages in them stand still while the leader does. */
			if
			:: report[m].poll < NEVER -> older(report[m].poll, STALE)
			:: else
			fi;
			if
			:: leader != NOBODY && AWAKE(leader) && report[m].heard < NEVER -> older(report[m].heard, D)
			:: else
			fi;
			beat_due[m] = open; answer_due[m] = 1;
			m++
		:: else -> break
		od;
		m = 0;
		if
		:: leader != NOBODY && AWAKE(leader) ->
			older(barrier, D);
			if
			:: opened < NEVER -> older(opened, D)
			:: else
			fi
		:: else
		fi }
	od
}

init {
	atomic {
		up[0] = D; up[1] = D; up[2] = D;
		heard[0] = NEVER; heard[1] = NEVER; heard[2] = NEVER;
		elect(0); barrier = D;
		run Clock(); run Leader(); run Fault();
		run Member(0); run Member(1); run Member(2)
	}
}
