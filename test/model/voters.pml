/*
 * Rule 4 (c) while the voters change, one at a time.
 *
 * Leader m1 of term 1 acks heartbeats and changes the voters. Another member is elected in
 * term 2, by the voters of the newest configuration in its own log. Once that one has
 * passed its barrier, m1 must not ack a heartbeat that it received later:
 * on this all fence times rest.
 *
 * There are four members. Configurations are log entries that count from the moment
 * they are appended; the next may follow when the last one is committed. A member
 * votes only for one whose log is not shorter than its own.
 */

#define MEMBERS	4
#define CHANGES	3

byte config[4];			/* the voters of each configuration: bit sets */
byte has[MEMBERS];		/* the newest configuration in a member's log */
byte committed;
byte term[MEMBERS];		/* 0 or 1 */
byte lead1;			/* who stands in term 1 */
byte votes;
bit leads1;			/* and has passed its barrier */

#define NOBODY 7
#define BIT(m)		(1 << (m))
#define IN(m, s)	(((s) >> (m)) & 1)
#define COUNT(s)	(IN(0, s) + IN(1, s) + IN(2, s) + IN(3, s))
#define VOTERS(m)	config[has[m]]
#define MAJORITY(s, c)	(2 * COUNT((s) & (c)) > COUNT(c))
#define m1(m)		((m) + 1)

/* Who has the configuration c and is in the term t. */
#define HOLD(m, c, t)	((has[m] >= (c) && term[m] <= (t)) << (m))
#define HOLDERS(c, t)	(HOLD(0, c, t) + HOLD(1, c, t) + HOLD(2, c, t) + HOLD(3, c, t))

/* The heartbeat that m1 has received last. */
bit received;
bit late;			/* after the later leader's barrier */
byte answered;			/* who has answered a later poll in term 0 */
byte list;			/* the voters, as m1 read them last */

#ifdef RULE_4C_OLD_VOTERS
#define JUDGES	list
#else
#define JUDGES	VOTERS(0)
#endif
#ifdef RULE_4C_MINORITY
#define ENOUGH(s, c)	(2 * (COUNT((s) & (c)) + 1) > COUNT(c))
#else
#define ENOUGH(s, c)	MAJORITY(s, c)
#endif

inline say(s) {
	if
	:: IN(0, s) -> printf(" m1")
	:: else
	fi;
	if
	:: IN(1, s) -> printf(" m2")
	:: else
	fi;
	if
	:: IN(2, s) -> printf(" m3")
	:: else
	fi;
	if
	:: IN(3, s) -> printf(" m4")
	:: else
	fi
}

/* m1 leads in term 0. It makes member m a voter, or no voter any more. */
proctype Change(byte m) {
end:
	do
	:: d_step { term[0] == 0 && has[0] == committed && committed < CHANGES ->
		config[has[0] + 1] = VOTERS(0) ^ BIT(m);
		has[0]++;
		printf("m1 appends configuration %d:", has[0]); say(VOTERS(0)); printf("\n") }
	od
}

proctype Member(byte m) {
end:
	do
	:: d_step { m != 0 && term[m] == 0 && term[0] == 0 && has[m] < has[0] ->
		has[m] = has[0];
		printf("m%d takes configuration %d\n", m1(m), has[m]) }
	:: d_step { term[m] == 0 && lead1 == NOBODY && IN(m, VOTERS(m)) ->
		term[m] = 1; lead1 = m; votes = BIT(m);
		printf("m%d stands for election in term 2, with configuration %d\n", m1(m), has[m]) }
	:: d_step { term[m] == 0 && lead1 != NOBODY && has[m] <= has[lead1] ->
		term[m] = 1;
		if
		:: !leads1 ->
			votes = votes | BIT(m);
			printf("m%d votes for m%d in term 2\n", m1(m), m1(lead1))
		:: else -> printf("m%d follows m%d in term 2\n", m1(m), m1(lead1))
		fi }
	:: d_step { m != 0 && received && term[m] == 0 && !IN(m, answered) ->
		answered = answered | BIT(m);
		printf("m%d answers a later poll of m1, being in term 1\n", m1(m)) }
	od
}

proctype Leaders() {
end:
	do
	:: d_step { term[0] == 0 && committed < has[0] && MAJORITY(HOLDERS(has[0], 0), VOTERS(0)) ->
		committed = has[0];
		printf("configuration %d is committed\n", committed) }
	:: d_step { lead1 != NOBODY && !leads1 && MAJORITY(votes, VOTERS(lead1)) ->
		leads1 = 1;
		printf("m%d has votes of a majority of", m1(lead1)); say(VOTERS(lead1)); printf(", and passes its barrier\n") }
	:: d_step { received = 1; answered = BIT(0); late = leads1;
		if
		:: leads1 -> printf("m1 receives a heartbeat, after that barrier\n")
		:: else -> printf("m1 receives a heartbeat\n")
		fi }
#ifdef RULE_4C_OLD_VOTERS
	:: d_step { list != VOTERS(0) ->
		list = VOTERS(0);
		printf("m1 reads the voters anew:"); say(list); printf("\n") }
#endif
	:: d_step { received && term[0] == 0 && ENOUGH(answered, JUDGES) ->
		printf("m1 acks it, as a majority of"); say(JUDGES); printf(" has answered\n");
		received = 0; answered = 0;
		assert(!late) }
	od
}

init {
	atomic {
		config[0] = 7; lead1 = NOBODY; list = 7;
		run Leaders();
		run Member(0); run Member(1); run Member(2); run Member(3);
		run Change(0); run Change(1); run Change(2); run Change(3)
	}
}
