/*
 * Rules 4 (a), 4 (c), 5 and 6: acks, confirmation, fence time.
 *
 * Node A owns the one address, under Release. Its speaker processes send heartbeats, and see
 * nothing of what is decided: they answer for as long as they are confirmed. Leaders
 * ack, expire A, let it come back in a new session, and give the address to node B, which
 * answers from the moment of the commit. The leader may do what the rules allow at any
 * time, with or without a reason; so observation (rules 7 and 8) is not needed here.
 *
 * Time: F is FENCE ticks, of which one is the drift of clocks. A speaker's clock
 * is as slow and a member's as fast as allowed, since all other clocks only make confirmations
 * shorter and waits longer. So F(1-rho) of a speaker and F(1+rho) of a member are both
 * FENCE ticks of true time, and a plain F is one more or one less.
 */

#ifndef FENCE
#define FENCE	2
#endif
#ifndef TERMS
#define TERMS	2
#endif
#ifndef PROCS
#define PROCS	2
#endif
#define MEMBERS 3
#include "raft.pml"

#ifdef RULE_5_NO_DRIFT
#define HOLD	(FENCE + 1)
#else
#define HOLD	FENCE
#endif
#ifdef RULE_6_NO_DRIFT
#define WAIT	(FENCE - 1)
#else
#define WAIT	FENCE
#endif

/* Session s + 1 belongs to process s of node A. */
typedef Facts {
	unsigned session : 2;
	bit open;
	bit given;		/* the address is B's */
};
Facts log;			/* committed */

#define nothing 0
mtype = { expired, opened, assigned };

/* A heartbeat that waits for a majority. */
typedef Pending {
	bit is;
	unsigned sent : 2;	/* ticks since it was sent */
	unsigned received : 2;	/* and since it was received */
	bit covered;		/* a majority has answered a later poll */
};

typedef Leader {
	Facts head;
	mtype flight;		/* proposed, not committed */
	unsigned fence : 2;	/* ticks until the fence time */
	bit answered;		/* used by broken rules only */
	Pending pend[PROCS];
};
Leader at[TERMS];

/* The age at which a heartbeat is of no use any more. */
#ifdef RULE_5_FROM_RECEIPT
#define USELESS	(HOLD + 1)
#else
#define USELESS	HOLD
#endif
byte beat[PROCS];	/* age of the process's newest heartbeat */
byte confirmed[PROCS];	/* ticks left */
unsigned p_ : 2;

inline safe() {
	assert(!(log.given && (confirmed[0] > 0 || confirmed[PROCS-1] > 0)))
}

/* Rule 4 (a), by the head of the leader. */
#define OPEN(t, p)	(at[t].head.open && at[t].head.session == (p))
#ifdef RULE_4A_ANY_SESSION
#define JUDGED(t, p)	true
#else
#define JUDGED(t, p)	OPEN(t, p)
#endif

/* What a leader decides is of no consequence when the next one's barrier has been passed. */
#if TERMS > 2
#define DEPOSED(t)	((t) == 0 && (LED(1) || LED(2)) || (t) == 1 && LED(2))
#else
#define DEPOSED(t)	((t) == 0 && LED(1))
#endif
#define LED(t)		(phase[t] == leads || phase[t] == over)

inline wait_from(t, ago) {
#ifndef RULE_6_NO_RECEIPT
	if
	:: DEPOSED(t)
	:: !DEPOSED(t) && WAIT > (ago) && WAIT - (ago) > at[t].fence -> at[t].fence = WAIT - (ago)
	:: else
	fi
#endif
	skip
}

inline forget(t) {
	at[t].head.session = 0; at[t].head.open = 0; at[t].head.given = 0;
	at[t].flight = nothing; at[t].fence = 0; at[t].answered = 0;
	p_ = 0;
	do
	:: p_ < PROCS -> drop(t, p_); p_++
	:: else -> break
	od;
	p_ = 0
}

inline drop(t, p) {
	at[t].pend[p].is = 0; at[t].pend[p].sent = 0; at[t].pend[p].received = 0; at[t].pend[p].covered = 0
}

inline fold(s, e) {
	if
	:: e == expired -> s.open = 0
	:: e == opened -> s.open = 1; s.session = s.session + 1
	:: e == assigned -> s.given = 1
	:: else
	fi
}

inline copy_log(t) {
	at[t].head.session = log.session; at[t].head.open = log.open; at[t].head.given = log.given
}

inline commit(t) {
	fold(log, at[t].flight);
	at[t].flight = nothing;
	safe()
}

inline say_flight(t) {
	if
	:: at[t].flight == expired -> printf("SessionExpired(A%d)", at[t].head.session + 1)
	:: at[t].flight == opened -> printf("SessionOpened(A%d)", at[t].head.session + 1)
	:: at[t].flight == assigned -> printf("OwnerAssigned(B)")
	fi
}

/* The member that leads in term t, as it is printed. */
#define W	m1(lead[t])

#ifdef RULE_4C_ANY_TERM
#define ANSWERS(m)	true
#else
#define ANSWERS(m)	(term[m] == t)
#endif
#ifdef RULE_4C_OWN_TERM
#define OWN_TERM	true
#else
#define OWN_TERM	(term[lead[t]] == t)
#endif
#ifdef RULE_6_NO_FENCE
#define FENCED		true
#else
#define FENCED		(at[t].fence == 0)
#endif

#define IDLE	(phase[t] == leads && at[t].flight == nothing && !DEPOSED(t))
#define FLIES	(phase[t] == leads && at[t].flight != nothing)
#ifdef RULE_4C_EARLIER_POLL
#define UNCOVERED	!at[t].answered
#else
#define UNCOVERED	((at[t].pend[0].is && !at[t].pend[0].covered) || (at[t].pend[PROCS-1].is && !at[t].pend[PROCS-1].covered))
#endif

inline cover(t) {
#ifdef RULE_4C_EARLIER_POLL
	at[t].answered = 1;
#endif
	p_ = 0;
	do
	:: p_ < PROCS -> at[t].pend[p_].covered = at[t].pend[p_].is; p_++
	:: else -> break
	od;
	p_ = 0
}

inline begin(t) {
	phase[t] = leads;
	copy_log(t);
#ifndef RULE_6_NO_BARRIER
	at[t].fence = WAIT;
#endif
	skip
}

inline depose(t) {
	at[t].flight = nothing; at[t].fence = 0
}

inline decide(t, e) {
	at[t].flight = e;
	fold(at[t].head, e);
	printf("m%d decides ", W); say_flight(t); printf("\n")
}

/* The leader of term t hears process p, and acks it. */
proctype Acks(byte t; byte p) {
end:
	do
	:: d_step { phase[t] == leads && beat[p] < HOLD ->
		at[t].pend[p].is = 1;
		at[t].pend[p].sent = beat[p];
		at[t].pend[p].received = 0;
		at[t].pend[p].covered = 0;
#ifdef RULE_4C_EARLIER_POLL
		at[t].pend[p].covered = at[t].answered;
#endif
#ifdef RULE_4C_NO_POLL
		at[t].pend[p].covered = 1;
#endif
		if
		:: JUDGED(t, p) -> wait_from(t, 0)
		:: else
		fi;
		printf("m%d hears #recv:A%d:%d#\n", W, p + 1, t) }
	:: d_step { phase[t] == leads && at[t].pend[p].is && at[t].pend[p].covered && OWN_TERM && JUDGED(t, p) ->
		printf("m%d acks #ack:A%d:%d#: A%d is confirmed\n", W, p + 1, t, p + 1);
#ifndef RULE_6_JUDGED_ONCE
		wait_from(t, at[t].pend[p].received);
#endif
#ifdef RULE_5_FROM_RECEIPT
		confirmed[p] = HOLD;
#else
		if
		:: HOLD - at[t].pend[p].sent > confirmed[p] -> confirmed[p] = HOLD - at[t].pend[p].sent
		:: else
		fi;
#endif
		drop(t, p);
		safe() }
	od
}

/* Member m answers a poll that the leader of term t sent after what it has heard. */
proctype Answers(byte t; byte m) {
end:
	do
	:: d_step { phase[t] == leads && m != lead[t] && UNCOVERED && ANSWERS(m) ->
		printf("m%d answers a later poll of m%d, being in term %d\n", m1(m), W, m1(term[m]));
		cover(t) }
	od
}

/* The leader of term t decides. */
proctype Decides(byte t; byte prev) {
end:
	do
	:: d_step { t > 0 && phase[t] == candidate && MAJORITY(votes[t]) && FOLLOWED(t) ->
		printf("m%d passes its barrier and leads in term %d\n", W, m1(t));
		begin(t);
		depose(prev) }
	/* The same, with a batch of the former leader in its log. */
	:: d_step { t > 0 && phase[t] == candidate && MAJORITY(votes[t]) && FOLLOWED(t) &&
			phase[prev] == leads && at[prev].flight != nothing ->
		printf("m%d passes its barrier and leads in term %d; m%d's ", W, m1(t), m1(lead[prev]));
		say_flight(prev);
		printf(" is committed with it\n");
		commit(prev);
		begin(t);
		depose(prev) }
	:: d_step { phase[t] == leads ->
		printf("m%d leads no more and knows it\n", W);
		phase[t] = over; forget(t) }
	:: d_step { IDLE && at[t].head.open && !at[t].head.given -> decide(t, expired) }
	:: d_step { IDLE && at[t].head.session + 1 < PROCS && !at[t].head.given -> decide(t, opened) }
	:: d_step { IDLE && !at[t].head.open && !at[t].head.given && FENCED -> decide(t, assigned) }
	:: d_step { FLIES && FOLLOWED(t) ->
		printf("m%d commits ", W); say_flight(t); printf("\n");
		commit(t) }
	:: d_step { FLIES && FOLLOWED(t) ->
		printf("m%d cannot append ", W); say_flight(t); printf(" and goes back to what is committed\n");
		at[t].flight = nothing;
		copy_log(t) }
	od
}

/* A process sends heartbeats once its session is committed. */
proctype Speaker(byte p) {
end:
	do
	:: d_step { log.session >= p && beat[p] > 0 ->
		beat[p] = 0;
		printf("speaker A%d sends #send:A%d#\n", p + 1, p + 1) }
	od
}

inline older(x, top) {
	if
	:: x < (top) -> x++
	:: else
	fi
}

inline less(x) {
	if
	:: x > 0 -> x--
	:: else
	fi
}

/* Time passes everywhere by one tick. */
proctype Clock() {
	byte t = 0;
end:
	do
	:: d_step {
		printf("#tick#\n");
		p_ = 0;
		do
		:: p_ < PROCS ->
			older(beat[p_], HOLD);
			less(confirmed[p_]);
			t = 0;
			do
			:: t < TERMS ->
				if
				:: at[t].pend[p_].is && at[t].pend[p_].sent + 1 >= USELESS -> drop(t, p_)
				:: at[t].pend[p_].is && at[t].pend[p_].sent + 1 < USELESS ->
					at[t].pend[p_].sent++; at[t].pend[p_].received++
				:: else
				fi;
				t++
			:: else -> break
			od;
			p_++
		:: else -> break
		od;
		t = 0;
		do
		:: t < TERMS -> less(at[t].fence); t++
		:: else -> break
		od;
		t = 0; p_ = 0 }
	od
}

init {
	atomic {
		raft_init();
		p_ = 0;
		do
		:: p_ < PROCS -> beat[p_] = HOLD; p_++
		:: else -> break
		od;
		p_ = 0;
		log.open = 1;
		begin(0);
		run Clock();
		run Speaker(0);
		run Acks(0, 0); run Acks(1, 0);
#if PROCS > 1
		run Speaker(1);
		run Acks(0, 1); run Acks(1, 1);
#endif
		run Decides(0, 0); run Decides(1, 0);
		run Answers(0, 1); run Answers(0, 2);
		run Answers(1, 0); run Answers(1, 1); run Answers(1, 2);
		run Member(0, 1); run Member(1, 1); run Member(2, 1);
#if TERMS > 2
		run Acks(2, 0);
#if PROCS > 1
		run Acks(2, 1);
#endif
		run Decides(2, 1);
		run Answers(2, 0); run Answers(2, 1); run Answers(2, 2);
		run Member(0, 2); run Member(1, 2); run Member(2, 2);
#endif
	}
}
