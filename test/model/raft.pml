/*
 * What the lease rules rest on of Raft, and no more.
 *
 * Term t has at most one leader, lead[t]. A member votes once in a term and never goes
 * back to a lower one, also over a restart. Voting and hearing of a leader both raise
 * a member's term. A leader does not know that it is deposed until it is told, here: at
 * any time or never. A batch commits only while a majority follows its leader; one that was in
 * flight when the leader was deposed commits by the next leader's barrier or not at all.
 *
 * The model that includes this defines MEMBERS (3) and TERMS. Term 0 is led by member 0
 * from the start. Terms and members are printed counted from 1.
 */

#define NOBODY 7

mtype = { none, candidate, leads, over };

byte term[MEMBERS];
byte votes[TERMS];	/* a bit set of members */
byte lead[TERMS];		/* who stands or leads */
mtype phase[TERMS];

#define BIT(m)		(1 << (m))
#define COUNT(s)	(((s) & 1) + (((s) >> 1) & 1) + (((s) >> 2) & 1))
#define MAJORITY(s)	(COUNT(s) >= 2)

/* Those that would still accept an entry of term t. */
#define FOLLOWERS(t)	((term[0] <= (t)) + ((term[1] <= (t)) << 1) + ((term[2] <= (t)) << 2))
#define FOLLOWED(t)	MAJORITY(FOLLOWERS(t))

/* Of the members that do not lead at first, one is like the other: the second stands first. */
#define MAY_STAND(m, t)	(lead[t] == NOBODY && term[m] < (t) && ((t) != 1 || (m) != 2))

inline raft_init() {
	byte i_ = 1;
	do
	:: i_ < TERMS -> lead[i_] = NOBODY; phase[i_] = none; i_++
	:: else -> break
	od;
	phase[0] = leads; votes[0] = 3; i_ = 0
}

#define m1(m)	((m) + 1)

/* What member m does in term t: stand, vote, learn. */
proctype Member(byte m; byte t) {
end:
	do
	:: d_step { MAY_STAND(m, t) ->
		term[m] = t; lead[t] = m; votes[t] = BIT(m); phase[t] = candidate;
		printf("m%d stands for election in term %d\n", m1(m), m1(t)) }
	:: d_step { lead[t] != m && term[m] < t && phase[t] == candidate ->
		term[m] = t; votes[t] = votes[t] | BIT(m);
		printf("m%d votes for m%d in term %d\n", m1(m), m1(lead[t]), m1(t)) }
	:: d_step { lead[t] != m && term[m] < t && phase[t] == leads ->
		term[m] = t;
		printf("m%d follows m%d in term %d\n", m1(m), m1(lead[t]), m1(t)) }
	od
}
