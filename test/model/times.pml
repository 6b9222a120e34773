/*
 * Rule 9: the fence F changes.
 *
 * As in fence.pml node A owns the address under Release, has one process that sees nothing of
 * what is decided, and loses it to B. As in owner.pml leaders follow each other, a heartbeat
 * arrives and is acked at once or never, and every member applies what is committed at once.
 * F is 1, 2 or 3 ticks on both sides. A speaker relies on the F that its ack
 * names; a leader waits for the longest that may have been named.
 */

#ifndef TERMS
#define TERMS	3
#endif
#ifndef CHANGES
#define CHANGES	3
#endif
#define LONG	3

#define nothing 0
mtype = { expired, assigned, times };

typedef Facts {
	bit closed;		/* A's session */
	bit given;		/* the address is B's */
	byte fence;		/* F */
	byte prior;		/* the F before */
};
Facts log;			/* committed */
Facts head;			/* the leader's */
mtype flight;			/* proposed, not committed */
byte changes;

byte leader;			/* its term */
byte barrier;			/* ticks since the leader's barrier */
byte passed;			/* ticks since the last heartbeat that passed */
/* The older F that still counts for the leader, and for how many ticks: those of F in the log
 * when they were changed, and those that others know. */
byte past[4];
/* What a member knows that has the log or a snapshot: one former F. */
byte known;

byte confirmed;			/* ticks left */
byte f_;

#define MAX(a, b)	((a) > (b) -> (a) : (b))
#define MIN(a, b)	((a) < (b) -> (a) : (b))

inline safe() {
	assert(!(log.given && confirmed > 0))
}

/* What waits use. */
#ifdef RULE_9_NEW_TIMES
#define LONGEST		head.fence
#else
#define LONGEST		MAX(head.fence, MAX((past[3] > 0 -> 3 : 0), MAX((past[2] > 0 -> 2 : 0), (past[1] > 0 -> 1 : 0))))
#endif
/* What acks name. */
#ifdef RULE_9_EAGER
#define NAMED		head.fence
#else
#define NAMED		MIN(head.fence, log.fence)
#endif
/* A second change waits until the one before counts no more. */
#ifdef RULE_9_TWICE
#define MAY_CHANGE	true
#else
#define MAY_CHANGE	(past[1] == 0 && past[2] == 0 && past[3] == 0)
#endif

inline copy(to, from) {
	to.closed = from.closed; to.given = from.given; to.fence = from.fence; to.prior = from.prior
}

inline commit() {
	if
	:: head.fence != log.fence -> known = head.prior
	:: else
	fi;
	copy(log, head);
	flight = nothing;
	safe()
}

inline begin() {
	past[1] = 0; past[2] = 0; past[3] = 0;
#ifndef RULE_9_FORGET
	past[log.prior] = known;
#endif
	past[0] = 0;
	copy(head, log);
	flight = nothing; barrier = 0; passed = LONG
}

inline say_flight() {
	if
	:: flight == expired -> printf("SessionExpired(A)")
	:: flight == assigned -> printf("OwnerAssigned(B)")
	:: flight == times -> printf("LeaseTimesSet(F = %d)", head.fence)
	fi
}

inline decide(e) {
	flight = e;
	printf("the leader decides "); say_flight(); printf("\n")
}

proctype Leader() {
end:
	do
	:: d_step { flight == nothing && !head.closed -> head.closed = 1; decide(expired) }
	:: d_step { flight == nothing && head.closed && !head.given && barrier >= LONGEST && passed >= LONGEST ->
		head.given = 1; decide(assigned) }
	:: d_step { flight != nothing ->
		say_flight(); printf(" is committed\n");
		commit() }
	:: d_step { flight != nothing ->
		printf("the leader cannot append "); say_flight(); printf(" and goes back to what is committed\n");
		if
		:: flight == times -> past[head.fence] = head.fence
		:: else
		fi;
		copy(head, log); flight = nothing }
	:: d_step { leader + 1 < TERMS ->
		leader++; begin();
		printf("another leader passes its barrier\n") }
	:: d_step { leader + 1 < TERMS && flight != nothing ->
		printf("another leader passes its barrier; "); say_flight(); printf(" is committed with it\n");
		commit(); leader++; begin() }
	od
}

/* The operator changes F. */
proctype Change(byte f) {
end:
	do
	:: d_step { flight == nothing && head.fence != f && changes < CHANGES && !head.given && MAY_CHANGE ->
		changes++;
		past[head.fence] = head.fence;
		head.prior = head.fence; head.fence = f;
		decide(times) }
	od
}

proctype Speaker() {
end:
	do
	:: d_step { !head.closed && confirmed < NAMED ->
		printf("A sends #send:A#; the leader acks it and names F = %d\n", NAMED);
		passed = 0; confirmed = NAMED;
		safe() }
	od
}

inline less(x) {
	if
	:: x > 0 -> x--
	:: else
	fi
}

inline more(x) {
	if
	:: x < LONG -> x++
	:: else
	fi
}

proctype Clock() {
end:
	do
	:: d_step {
		printf("#tick#\n");
		less(confirmed); less(known);
		less(past[1]); less(past[2]); less(past[3]);
		more(barrier); more(passed) }
	od
}

init {
	atomic {
		log.fence = 2; log.prior = 2;
		begin(); barrier = LONG;
		run Clock(); run Leader(); run Speaker();
		run Change(1); run Change(2); run Change(3)
	}
}
