package lease

import (
	"fmt"
	"strings"
	"testing"
)

// broken is a rule left out, and the mode in which the simulation notices.
type broken struct {
	name string
	brk  breaks
	mode simMode
	// hint is a seed that noticed it once. Where few schedules do, the search begins
	// there; it goes on when the simulation has changed since.
	hint uint64
}

// Two rules are missing here because others cover for them in every schedule so
// far: expireYoung and noStall, see TestRules.
var brokenRules = []broken{
	{"4(a) ack any session", breaks{rules: rules{anySession: true}}, modeAll, 1},
	{"4(b) ignore seen", breaks{rules: rules{ignoreSeen: true}}, modeAll, 1},
	{"4(c) ack on receipt", breaks{rules: rules{noPoll: true}}, modeAll, 1},
	{"4(c) count polls sent before the receipt", breaks{rules: rules{earlierPoll: true}}, modeAll, 1},
	{"4(c) count answers of any term", breaks{rules: rules{anyTerm: true}}, modeAll, 1},
	{"4(c) do not read the own term", breaks{rules: rules{ownTermStale: true}}, modeAll, 168},
	{"4(c) one voter less than a majority", breaks{rules: rules{minority: true}}, modeAll, 1},
	{"4 leases learn of a batch when it is applied", breaks{lateHead: true}, modeAll, 1},
	{"5 confirmed from the receipt of the ack", breaks{heldAtReceipt: true}, modeAll, 1},
	{"5 F instead of F(1-ρ)", breaks{heldNoDrift: true}, modeAll, 330},
	{"5 take acks of other sessions", breaks{heldAnySession: true}, modeOneMember, 1},
	{"6 fence time without the barrier", breaks{rules: rules{fenceNoBarrier: true}}, modeAll, 1},
	{"6 fence time without the last heartbeat", breaks{rules: rules{fenceNoReceipt: true}}, modeAll, 1},
	{"6 no fence time", breaks{rules: rules{fenceNoWait: true}}, modeAll, 1},
	{"7 expire without a majority of fresh reports", breaks{rules: rules{expireAlone: true}}, modeOneMember, 1},
	{"7 expire whom others hear", breaks{rules: rules{expireUnasked: true}}, modeOneMember, 1},
	{"7 expire a session that was just opened", breaks{rules: rules{expireUnopened: true}}, modeOneMember, 1},
	{"8 no mass events", breaks{rules: rules{noMass: true}}, modeOutage, 1},
	{"8 not after a start", breaks{rules: rules{noStart: true}}, modeOutage, 1},
	{"9 new lease times at once", breaks{rules: rules{newTimes: true}}, modeAll, 1},
	{"9 acks name F before it is committed", breaks{rules: rules{eagerFence: true}}, modeAll, 1},
	{"9 a snapshot forgets the former times", breaks{noPrior: true}, modeAll, 567},
	{"section 7: no wait after a release", breaks{rules: rules{releaseNoWait: true}}, modeAll, 1},
	{"section 7: releases of former leaders are old", breaks{rules: rules{releaseEarlier: true}}, modeAll, 1},
	{"section 7: a new incarnation's reports count at once", breaks{rules: rules{newcomer: true}}, modeAll, 88},
	{"1 ack a clone at once", breaks{rules: rules{noPredecessor: true}}, modeAll, 1},
	{"1 look one session back only", breaks{rules: rules{noLookBack: true}}, modeAll, 1},
}

// TestBrokenRules leaves out one rule at a time: the simulation must notice each.
func TestBrokenRules(t *testing.T) {
	for _, b := range brokenRules {
		t.Run(b.name, func(t *testing.T) {
			if *simRules {
				reportBroken(t, b)
				return
			}
			if _, failed, _ := runMany(b.hint, 5000, b.mode, b.brk, 1); failed == 0 {
				t.Error("no schedule failed without this rule")
			}
		})
	}
}

// reportBroken tells which share of the schedules of each mode notices.
func reportBroken(t *testing.T, b broken) {
	runs := *simRuns
	if runs == 0 {
		runs = 1000
	}
	var out []string
	var example string
	for mode := range modeNames {
		_, failed, first := runMany(1, runs, simMode(mode), b.brk, 0)
		out = append(out, fmt.Sprintf("%5.1f %%", 100*float64(failed)/float64(runs)))
		if simMode(mode) == b.mode && failed > 0 {
			example = first[0]
		}
	}
	t.Logf("%-55s %s   %.60s", b.name, strings.Join(out, " "), example)
}
