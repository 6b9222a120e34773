package lease

import "time"

// Config holds what does not change while a member runs.
type Config struct {
	// Self is the member's id.
	Self string
	// Pulse is the longest time between two polls of one follower, and between
	// two calls of Tick. 0 means DefaultPulse.
	Pulse time.Duration

	rules rules
}

// DefaultPulse is the interval of the exchange between leader and followers.
const DefaultPulse = 25 * time.Millisecond

const (
	// firstPulses is how many pulses a new leader waits for a voter that has not reported
	// yet; often it leads because that one is dead.
	firstPulses = 2
	// freshPulses is how many pulses old a member's report may be to count in
	// the majority that takes a node for dead.
	freshPulses = 4
	// massWindow is how long ago a node must have had a session to count in a
	// mass event.
	massWindow = 10 * time.Second
	// forgetAfter is how long a silent session that is not open any more is
	// remembered.
	forgetAfter = time.Minute
	// askAgain is after how long a node is reported for expiry again while
	// nothing was decided about it.
	askAgain = 250 * time.Millisecond
	// maxSessions bounds the sessions remembered of one node: the open one, its
	// predecessor that may still run, and some room.
	maxSessions = 4
	// maxUnacked bounds the heartbeats of one node that wait for a majority, beside
	// the newest.
	maxUnacked = 16
)

// rules breaks single rules. Only tests set it, to prove that each rule is
// needed: the simulation must fail for every field. The numbers are those of
// docs/architecture.md.
type rules struct {
	// Rule 4: acks.
	anySession   bool // (a) acks whatever the session
	ignoreSeen   bool // (b) acks a node that lacks a loss
	noPoll       bool // (c) acks on receipt
	earlierPoll  bool // (c) polls sent before the receipt count
	anyTerm      bool // (c) answers of any term count
	ownTermStale bool // (c) the leader does not read its own term
	minority     bool // (c) one voter less than a majority is enough
	// Rule 6: fence time.
	fenceNoBarrier bool // only heartbeats received by this leader count
	fenceNoReceipt bool // only the barrier counts
	fenceNoWait    bool // no fence time at all
	// Rule 7: expiry.
	expireAlone    bool // no majority of fresh reports
	expireUnasked  bool // what other members heard does not count
	expireYoung    bool // members that are not up for D count
	expireUnopened bool // D need not have passed since SessionOpened
	// Rule 8: mass events.
	noMass  bool // never
	noStart bool // not after a start
	noStall bool // an own stall counts as silence
	// Rule 9: change of lease times.
	newTimes   bool // waits use the new values at once
	eagerFence bool // acks name F before it is committed
	// Section 7: ownership.
	releaseNoWait  bool // a released address is free at once
	releaseEarlier bool // releases of former leaders count as old
	newcomer       bool // what a new incarnation reports counts at once
	// Rule 1: a cloned machine.
	noPredecessor bool // is acked at once
	noLookBack    bool // a leader looks one session back only, also after its election
}
