package main

import "strings"

// check is one run of the verifier: with all rules, or with one left out.
type check struct {
	model string
	// sizes are defines that say how much the model holds.
	sizes []string
	// property holds with all rules.
	property string
	// rule that is left out, and the define that does it; none if empty.
	rule, without string
	// wrong says what the counterexample comes to.
	wrong string
	// covered: no counterexample, since other rules forbid the same.
	covered bool
}

func (c check) name() string {
	if c.rule == "" {
		return c.model + ": " + strings.Join(append([]string{c.property}, c.sizes...), " ")
	}
	return c.model + ": without " + c.rule
}

func (c check) defines() []string {
	var d []string
	for _, s := range c.sizes {
		d = append(d, "-D"+s)
	}
	if c.without != "" {
		d = append(d, "-DRULE_"+c.without)
	}
	return d
}

// file is the name of the trace, as 4a-any-session.txt.
func (c check) file() string {
	name := strings.ToLower(strings.ReplaceAll(c.without, "_", "-"))
	switch {
	case strings.HasSuffix(c.rule, "with a clone"):
		name += "-clone"
	case strings.HasSuffix(c.rule, "beside a successor"):
		name += "-beside"
	}
	return name + ".txt"
}

const (
	never2  = "never two owners (S)"
	never2c = "never two owners, with a clone (S)"
	healthy = "one member's faults expire no healthy node (H)"
	outages = "an outage expires nobody (H)"
	again   = "an expired owner's address is answered for again (L)"
	barrier = "nothing is acked that came after a later barrier (S)"

	twoOwners = "A1 is confirmed and answers, and so does B"
	oldFence  = "A is still confirmed by the F that its ack named, and answers, and so does B"
	twoViews  = "A1 and B1 are both confirmed, and the address is theirs in both views"
	twoClones = "A1 and its clone are both confirmed, and answer from two machines"
)

// one holds the sizes of the models where one process of A is enough.
var one = []string{"PROCS=1"}

var checks = []check{
	{model: "fence", sizes: []string{"PROCS=1", "FENCE=3"}, property: never2},
	{model: "fence", sizes: []string{"PROCS=1", "FENCE=1", "TERMS=3"}, property: never2},
	{model: "fence", sizes: []string{"PROCS=2", "FENCE=1"}, property: never2},
	{model: "owner", sizes: []string{"LAST_A=0", "REVISIONS=6", "TERMS=3"}, property: never2},
	{model: "owner", sizes: []string{"LAST_A=1", "REVISIONS=4"}, property: never2},
	{model: "owner", sizes: []string{"CLONE", "LAST_A=1", "REVISIONS=3"}, property: never2c},
	{model: "owner", sizes: []string{"CLONE", "LAST_A=2", "REVISIONS=3"}, property: never2c},
	{model: "times", property: never2},
	{model: "voters", property: barrier},
	{model: "expiry", property: healthy},
	{model: "mass", property: outages},
	{model: "live", property: again},

	{model: "fence", sizes: one, rule: "4(a) ack any session", without: "4A_ANY_SESSION", wrong: twoOwners},
	{model: "fence", sizes: one, rule: "4(c) ack on receipt", without: "4C_NO_POLL", wrong: twoOwners},
	{model: "fence", sizes: one, rule: "4(c) count polls sent before the receipt", without: "4C_EARLIER_POLL", wrong: twoOwners},
	{model: "fence", sizes: one, rule: "4(c) count answers of any term", without: "4C_ANY_TERM", wrong: twoOwners},
	{model: "fence", sizes: one, rule: "4(c) do not read the own term", without: "4C_OWN_TERM", wrong: twoOwners},
	{model: "voters", rule: "4(c) one voter less than a majority", without: "4C_MINORITY", wrong: "that heartbeat came after the barrier of a later leader, whose fence time does not cover it"},
	{model: "voters", rule: "4(c) the voters as they were read before", without: "4C_OLD_VOTERS", wrong: "that heartbeat came after the barrier of a later leader, whose fence time does not cover it"},
	{model: "fence", sizes: one, rule: "5 confirmed from the receipt of the ack", without: "5_FROM_RECEIPT", wrong: twoOwners},
	{model: "fence", sizes: one, rule: "5 F instead of F(1-ρ)", without: "5_NO_DRIFT", wrong: twoOwners},
	{model: "fence", sizes: one, rule: "6 F instead of F(1+ρ)", without: "6_NO_DRIFT", wrong: twoOwners},
	{model: "fence", sizes: one, rule: "6 fence time without the barrier", without: "6_NO_BARRIER", wrong: twoOwners},
	{model: "fence", sizes: one, rule: "6 fence time without the last heartbeat", without: "6_NO_RECEIPT", wrong: twoOwners},
	{model: "fence", sizes: one, rule: "6 heartbeats count as they were judged at the receipt only", without: "6_JUDGED_ONCE", wrong: twoOwners},
	{model: "fence", sizes: one, rule: "6 no fence time", without: "6_NO_FENCE", wrong: twoOwners},

	{model: "owner", sizes: []string{"LAST_A=0"}, rule: "4(b) ignore seen", without: "4B_IGNORE_SEEN", wrong: twoViews},
	{model: "owner", sizes: []string{"LAST_A=0"}, rule: "4 leases learn of a batch when it is applied", without: "4_LATE_HEAD", wrong: twoViews + "; the leader had not applied revision 1 when it acked"},
	{model: "owner", sizes: []string{"LAST_A=0", "REVISIONS=6", "TERMS=3"}, rule: "4(a) ack any session, with no process beside another", without: "4A_ANY_SESSION", covered: true},
	{model: "owner", sizes: []string{"LAST_A=1", "REVISIONS=4"}, rule: "4(a) ack any session, beside a successor", without: "4A_ANY_SESSION", wrong: twoViews},
	{model: "owner", sizes: []string{"CLONE", "LAST_A=1", "REVISIONS=3"}, rule: "4(a) ack any session, with a clone", without: "4A_ANY_SESSION", wrong: twoClones},
	{model: "owner", sizes: []string{"LAST_A=0"}, rule: "section 7: no wait after a release", without: "MOVE_NO_WAIT", wrong: twoViews},
	{model: "owner", sizes: []string{"LAST_A=0"}, rule: "section 7: releases of former leaders are old", without: "MOVE_EARLIER", wrong: twoViews},
	{model: "owner", sizes: []string{"LAST_A=1", "REVISIONS=4"}, rule: "section 7: a new incarnation's reports count at once", without: "MOVE_NEWCOMER", wrong: twoViews},
	{model: "owner", sizes: []string{"CLONE", "LAST_A=1", "REVISIONS=3"}, rule: "1 ack a clone at once", without: "1_NO_PREDECESSOR", wrong: twoClones},
	{model: "owner", sizes: []string{"CLONE", "LAST_A=2", "REVISIONS=3"}, rule: "1 look one session back only", without: "1_LOOK_BACK", wrong: twoClones},

	{model: "times", rule: "9 new lease times at once", without: "9_NEW_TIMES", wrong: oldFence},
	{model: "times", rule: "9 acks name F before it is committed", without: "9_EAGER", wrong: oldFence},
	{model: "times", rule: "9 a snapshot forgets the former times", without: "9_FORGET", wrong: oldFence},
	{model: "times", rule: "9 a second change while the first counts", without: "9_TWICE", wrong: oldFence},

	{model: "expiry", rule: "7 expire without a majority of fresh reports", without: "7_ALONE", wrong: "A sends its heartbeats and two members hear them"},
	{model: "expiry", rule: "7 expire whom others hear", without: "7_UNASKED", wrong: "A sends its heartbeats and two members hear them"},
	{model: "expiry", rule: "7 expire a session that was just opened", without: "7_UNOPENED", wrong: "A has had no time for its first heartbeat"},
	{model: "expiry", rule: "7 members count that are not up for D", without: "7_YOUNG", covered: true},
	{model: "expiry", rule: "7 do not wait for all voters' first reports", without: "7_FIRST", covered: true},
	{model: "expiry", rule: "8 an own stall counts as silence", without: "7_STALL", covered: true},
	{model: "mass", rule: "8 no mass events", without: "8_NO_MASS", wrong: "the node runs; the network between nodes and members does not"},
	{model: "mass", rule: "8 not after a start", without: "8_START", wrong: "the node runs; the network between nodes and members does not"},
	{model: "mass", rule: "8 over as soon as most nodes are heard", without: "8_END", wrong: "the node runs, and its next heartbeat is on its way"},

	{model: "live", rule: "section 7: wait for the old owner's word only", without: "LIVE_RELEASE", wrong: "nobody answers for the address, long after the last fault"},
	{model: "live", rule: "4 refusals do not say why", without: "LIVE_TOLD", wrong: "nobody answers for the address, long after the last fault"},
	{model: "live", rule: "4 acks do not name what the node needs", without: "LIVE_NEED", wrong: "nobody answers for the address, long after the last fault"},
}
