package lease

import (
	"fmt"
	"strings"
	"testing"
)

// broken is a rule left out, and the modes in which the simulation notices.
type broken struct {
	name string
	brk  breaks
	mode simMode
}

// Two rules are missing here because others cover for them in every schedule so
// far: expireYoung and noStall, see TestRules.
var brokenRules = []broken{
	{"4(a) ack any session", breaks{rules: rules{anySession: true}}, modeAll},
	{"4(b) ignore seen", breaks{rules: rules{ignoreSeen: true}}, modeAll},
	{"4(c) ack on receipt", breaks{rules: rules{noPoll: true}}, modeAll},
	{"4(c) count polls sent before the receipt", breaks{rules: rules{earlierPoll: true}}, modeAll},
	{"4(c) count answers of any term", breaks{rules: rules{anyTerm: true}}, modeAll},
	{"4(c) do not read the own term", breaks{rules: rules{ownTermStale: true}}, modeAll},
	{"4(c) one voter less than a majority", breaks{rules: rules{minority: true}}, modeAll},
	{"4 leases learn of a batch when it is applied", breaks{lateHead: true}, modeAll},
	{"5 confirmed from the receipt of the ack", breaks{heldAtReceipt: true}, modeAll},
	{"5 F instead of F(1-ρ)", breaks{heldNoDrift: true}, modeAll},
	{"5 take acks of other sessions", breaks{heldAnySession: true}, modeAll},
	{"6 fence time without the barrier", breaks{rules: rules{fenceNoBarrier: true}}, modeAll},
	{"6 fence time without the last heartbeat", breaks{rules: rules{fenceNoReceipt: true}}, modeAll},
	{"6 no fence time", breaks{rules: rules{fenceNoWait: true}}, modeAll},
	{"7 expire without a majority of fresh reports", breaks{rules: rules{expireAlone: true}}, modeOneMember},
	{"7 expire whom others hear", breaks{rules: rules{expireUnasked: true}}, modeOneMember},
	{"7 expire a session that was just opened", breaks{rules: rules{expireUnopened: true}}, modeOneMember},
	{"8 no mass events", breaks{rules: rules{noMass: true}}, modeOutage},
	{"8 not after a start", breaks{rules: rules{noStart: true}}, modeOutage},
	{"9 new lease times at once", breaks{rules: rules{newTimes: true}}, modeAll},
	{"9 acks name F before it is committed", breaks{rules: rules{eagerFence: true}}, modeAll},
	{"9 a snapshot forgets the former times", breaks{noPrior: true}, modeAll},
	{"section 7: no wait after a release", breaks{rules: rules{releaseNoWait: true}}, modeAll},
	{"section 7: releases of former leaders are old", breaks{rules: rules{releaseEarlier: true}}, modeAll},
	{"section 7: a new incarnation's reports count at once", breaks{rules: rules{newcomer: true}}, modeAll},
	{"1 ack a clone at once", breaks{rules: rules{noPredecessor: true}}, modeAll},
	{"1 look one session back only", breaks{rules: rules{noLookBack: true}}, modeAll},
}

// TestBrokenRules leaves out one rule at a time: the simulation must notice each.
func TestBrokenRules(t *testing.T) {
	for _, b := range brokenRules {
		t.Run(b.name, func(t *testing.T) {
			if *simRules {
				reportBroken(t, b)
				return
			}
			if _, failed, _ := runMany(1, 4000, b.mode, b.brk, 1); failed == 0 {
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
