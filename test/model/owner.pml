/*
 * Who owns the address: rules 1 and 4 (b), fence time and waits of planned moves.
 *
 * Two nodes, one address, under Release. Leaders take it from a node and give it to
 * one, expire nodes and open sessions for them; each of these is a revision of the log.
 * A speaker process has a view, which is that of some revision, and answers when it is confirmed
 * and the address is its node's in that view. A node that is restarted gets a new
 * process, and the old one may run on beside it. Without CLONE all processes of a
 * node run on one machine; with CLONE, A1 runs on one, A2 and A3 on another.
 *
 * A leader is followed by another at any time. The old one acks nothing after
 * the new one's barrier: fence.pml shows it. A heartbeat arrives and is acked at once or
 * never: what counts is when it was sent, so that one which is late only
 * confirms for less and makes waits longer.
 * Time is as in fence.pml.
 */

#ifndef FENCE
#define FENCE	2
#endif
#ifndef TERMS
#define TERMS	2
#endif
#ifndef REVISIONS
#define REVISIONS 5
#endif
#define HOLD	FENCE
#define WAIT	FENCE

/* Processes are numbered A1, A2, A3, B1, B2; A's sessions are 0 to 2, B's are 3 and 4. */
#ifndef LAST_A
#define LAST_A	1
#endif
#ifndef LAST_B
#define LAST_B	3
#endif
#define PROCS	(LAST_B + 1)
#define A	0
#define B	1
#define NONE	2
#define NODE(p)		((p) < 3 -> A : B)
#ifdef CLONE
#define MACHINE(p)	((p) == 0 -> 0 : ((p) < 3 -> 1 : 2))
#else
#define MACHINE(p)	((p) < 3 -> 0 : 2)
#endif

typedef Node {
	byte session;		/* the process that has the newest session */
	bit open;
	byte taken_at;		/* the newest revision that took the address from it */
};

typedef Facts {
	byte revision;
	byte owner;
	byte prior;		/* from whom it was taken last */
	byte prior_at;
	Node node[2];
};
Facts log;			/* committed */
Facts head;			/* the leader's: committed and in flight */
bit flight;			/* a batch is in flight */
#ifdef RULE_4_LATE_HEAD
Facts applied;			/* by the leader */
#endif

/* Of the leader. */
byte leader;			/* its term */
byte barrier;			/* ticks until F(1+rho) has passed since its barrier */
typedef Known {
	byte passed;		/* since the last heartbeat that passed (a) and (b) */
	byte before;		/* since the last one of earlier sessions that any leader acked */
	byte foreign;		/* since the last one of sessions on another machine */
	byte since;		/* since the session was known here */
};
Known known[2];
byte reports;			/* processes that have reported the loss as seen */
/*
 * Ticks until F(1+rho) has passed since the loss was known here. Every member applies
 * a batch as soon as it is committed: the sooner it is known, the shorter the wait.
 */
byte taken_wait;

/* Of the speakers' processes. */
typedef Process {
	bit runs;
	byte view;		/* the revision of its view */
	bit owns;		/* what that says */
	byte confirmed;		/* ticks left */
};
Process proc[PROCS];

#define BIT(p)		(1 << (p))
#define ANSWERS(p)	(proc[p].confirmed > 0 && proc[p].owns)
#define BOTH(p, q)	(ANSWERS(p) && ANSWERS(q))

inline safe() {
	assert(!BOTH(0, 3) && !BOTH(LAST_A, 3) && !BOTH(0, LAST_B) && !BOTH(LAST_A, LAST_B));
#if LAST_A > 1
	assert(!BOTH(1, 3) && !BOTH(1, LAST_B));
#endif
#ifdef CLONE
	assert(!BOTH(0, 1) && !BOTH(0, LAST_A));
#endif
	skip
}

inline max_of(x, y) {
	if
	:: (y) > x -> x = y
	:: else
	fi
}

inline copy(to, from) {
	to.revision = from.revision; to.owner = from.owner; to.prior = from.prior; to.prior_at = from.prior_at;
	to.node[A].session = from.node[A].session; to.node[A].open = from.node[A].open; to.node[A].taken_at = from.node[A].taken_at;
	to.node[B].session = from.node[B].session; to.node[B].open = from.node[B].open; to.node[B].taken_at = from.node[B].taken_at
}

/* A node's name, to be printed by %c. */

#define NAME(n)		(65 + (n))
#define NUMBER(p)	((p) < 3 -> (p) + 1 : (p) - 2)

/* Rules 4 (a) and (b), by the head of the leader. */
#ifdef RULE_4_LATE_HEAD
#define JUDGE	applied
#else
#define JUDGE	head
#endif
#ifdef RULE_4A_ANY_SESSION
#define RIGHT_SESSION(p)	true
#else
#define RIGHT_SESSION(p)	(JUDGE.node[NODE(p)].open && JUDGE.node[NODE(p)].session == (p))
#endif
#ifdef RULE_4B_IGNORE_SEEN
#define RIGHT_VIEW(p)		true
#else
#define RIGHT_VIEW(p)		(proc[p].view >= JUDGE.node[NODE(p)].taken_at)
#endif

/* Rule 1: a process of another machine with the same name may still be confirmed. */
#if defined(CLONE) && !defined(RULE_1_NO_PREDECESSOR)
#define PREDECESSOR(p)	(known[NODE(p)].foreign > 0)
#else
#define PREDECESSOR(p)	false
#endif

#ifdef RULE_6_NO_FENCE
#define FENCED(n)	true
#else
#define FENCED(n)	(barrier == 0 && known[n].passed == 0)
#endif

/* Whether the prior owner no longer answers for the address that was taken from it. */
#define PRIOR		head.node[head.prior]
#define SINCE_KNOWN	(log.prior_at == head.prior_at && taken_wait == 0)
#ifdef RULE_MOVE_NEWCOMER
#define REPORTED	(reports & BIT(PRIOR.session))
#else
#define REPORTED	((reports & BIT(PRIOR.session)) && known[head.prior].before == 0)
#endif
#ifdef RULE_MOVE_NO_WAIT
#define RELEASED	true
#elif defined(RULE_MOVE_EARLIER)
#define RELEASED	(SINCE_KNOWN || REPORTED || inherited)
bit inherited;
#else
#define RELEASED	(SINCE_KNOWN || REPORTED)
#endif

inline commit() {
	flight = 0;
	if
	:: head.prior_at > log.prior_at -> taken_wait = WAIT
	:: else
	fi;
	n_ = A;
	do
	:: n_ <= B ->
		if
		:: head.node[n_].session > log.node[n_].session ->
			known[n_].since = WAIT;
			p_ = head.node[n_].session;
			proc[p_].runs = 1;
			proc[p_].view = head.revision;
			proc[p_].owns = (head.owner == n_)
		:: else
		fi;
		n_++
	:: else -> break
	od;
	n_ = 0; p_ = 0;
	copy(log, head)
}
byte n_, p_;

/* A new leader passes its barrier. */
inline begin() {
	copy(head, log);
#ifdef RULE_4_LATE_HEAD
	copy(applied, log);
#endif
#ifdef RULE_MOVE_EARLIER
	inherited = 1;
#endif
	flight = 0; reports = 0;
#ifndef RULE_6_NO_BARRIER
	barrier = WAIT;
#endif
	known[A].passed = 0; known[A].before = known[A].since;
	known[B].passed = 0; known[B].before = known[B].since;
#ifdef RULE_1_LOOK_BACK
	/* The session before A3's was on its machine too. */
	known[A].foreign = (log.node[A].session == 1 -> known[A].before : 0)
#else
	known[A].foreign = known[A].before;
#endif
	known[B].foreign = 0
}

#define BUSY	(flight || head.revision == REVISIONS)

inline propose() {
	flight = 1;
	head.revision++
}

inline take(n) {
	head.prior = n; head.prior_at = head.revision; head.node[n].taken_at = head.revision;
#ifdef RULE_MOVE_EARLIER
	inherited = 0;
#endif
	reports = 0
}

#define REPORTS(p)	(head.owner == NONE && NODE(p) == head.prior && proc[p].view >= head.prior_at && !(reports & BIT(p)))

inline report(p) {
	if
	:: REPORTS(p) -> reports = reports | BIT(p)
	:: else
	fi
}

/* The leader decides about node n. */
proctype Decides(byte n) {
	byte other = 1 - n;
end:
	do
	:: d_step { !BUSY && head.owner == n && head.node[n].open ->
		propose(); take(n); head.owner = NONE;
		printf("the leader decides revision %d: OwnerReleased(%c)\n", head.revision, NAME(n)) }
	:: d_step { !BUSY && head.node[n].open ->
		propose(); head.node[n].open = 0;
		printf("the leader decides revision %d: SessionExpired(%c)\n", head.revision, NAME(n)) }
	:: d_step { !BUSY && head.node[n].session < (n == A -> LAST_A : LAST_B) ->
		propose();
		known[n].before = barrier;
		max_of(known[n].before, known[n].passed);
		if
		:: MACHINE(head.node[n].session) != MACHINE(head.node[n].session + 1) -> known[n].foreign = known[n].before
		:: else
		fi;
		head.node[n].session++; head.node[n].open = 1;
		printf("the leader decides revision %d: SessionOpened(%c%d)\n", head.revision, NAME(n), NUMBER(head.node[n].session)) }
	:: d_step { !BUSY && head.owner == NONE && head.node[n].open && RELEASED ->
		propose(); head.owner = n;
		printf("the leader decides revision %d: OwnerAssigned(%c)\n", head.revision, NAME(n)) }
	:: d_step { !BUSY && head.owner == other && !head.node[other].open && head.node[n].open && FENCED(other) ->
		propose(); take(other); head.owner = n;
		printf("the leader decides revision %d: OwnerAssigned(%c)\n", head.revision, NAME(n)) }
	od
}
/* What happens to the leader: commits, elections. */
proctype Reign() {
end:
	do
	:: d_step { flight ->
		printf("revision %d is committed\n", head.revision);
		commit(); safe() }
	:: d_step { leader + 1 < TERMS ->
		printf("another leader passes its barrier, at revision %d\n", log.revision);
		leader++; begin() }
	:: d_step { leader + 1 < TERMS && flight ->
		printf("another leader passes its barrier; revision %d is committed with it\n", head.revision);
		commit(); safe();
		leader++; begin() }
#ifdef RULE_4_LATE_HEAD
	:: d_step { applied.revision < log.revision ->
		copy(applied, log);
		printf("the leader applies revision %d\n", log.revision) }
#endif
	od
}

/* A process sends heartbeats, and sees what is decided, or not. */
proctype Speaker(byte p) {
end:
	do
	:: d_step { proc[p].runs && proc[p].view < log.revision ->
		proc[p].view = log.revision;
		proc[p].owns = (log.owner == NODE(p));
		printf("%c%d sees revision %d\n", NAME(NODE(p)), NUMBER(p), log.revision);
		safe() }
	/* A heartbeat that is acked, */
	:: d_step { proc[p].runs && RIGHT_SESSION(p) && RIGHT_VIEW(p) && !PREDECESSOR(p) ->
		known[NODE(p)].passed = WAIT;
		report(p);
		proc[p].confirmed = HOLD;
		printf("%c%d sends #send:%c%d#, with view %d; the leader acks it\n", NAME(NODE(p)), NUMBER(p), NAME(NODE(p)), NUMBER(p), proc[p].view);
		safe() }
	/* one that is not acked because of a predecessor, */
	:: d_step { proc[p].runs && RIGHT_SESSION(p) && RIGHT_VIEW(p) && PREDECESSOR(p) && known[NODE(p)].passed < WAIT ->
		known[NODE(p)].passed = WAIT;
		report(p);
		printf("%c%d sends #send:%c%d#, with view %d; the leader does not ack it yet\n", NAME(NODE(p)), NUMBER(p), NAME(NODE(p)), NUMBER(p), proc[p].view) }
	/* and one that tells of a view, whether acked or not. */
	:: d_step { proc[p].runs && REPORTS(p) ->
		report(p);
		printf("%c%d sends #send:%c%d#, with view %d\n", NAME(NODE(p)), NUMBER(p), NAME(NODE(p)), NUMBER(p), proc[p].view) }
	od
}

inline less(x) {
	if
	:: x > 0 -> x--
	:: else
	fi
}

/* Time passes everywhere by one tick. */
proctype Clock() {
end:
	do
	:: d_step {
		printf("#tick#\n");
		p_ = 0;
		do
		:: p_ < PROCS ->
			less(proc[p_].confirmed);
			p_++
		:: else -> break
		od;
		p_ = 0;
		less(barrier); less(taken_wait);
		less(known[A].passed); less(known[A].before); less(known[A].foreign); less(known[A].since);
		less(known[B].passed); less(known[B].before); less(known[B].since) }
	od
}

init {
	atomic {
		log.owner = A; log.prior = NONE;
		log.node[A].open = 1; log.node[B].open = 1; log.node[B].session = 3;
		proc[0].runs = 1; proc[0].owns = 1; proc[3].runs = 1;
		begin();
		run Clock(); run Reign();
		run Decides(A); run Decides(B);
		run Speaker(0); run Speaker(3);
#if LAST_A > 0
		run Speaker(1);
#endif
#if LAST_A > 1
		run Speaker(2);
#endif
#if LAST_B > 3
		run Speaker(4);
#endif
	}
}
