package lease

import (
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
)

// ruleTests hold for each rule a situation in which it forbids something: bad tells
// whether the forbidden thing happens. It must not with all rules, and must without the one.
var ruleTests = []struct {
	name string
	rule rules
	bad  func(g *rig) bool
}{
	{"4(a) a closed session is not acked", rules{anySession: true}, func(g *rig) bool {
		g.elect()
		hb := g.beat("n1", 10)
		g.decide(11, "n1", Facts{Session: 1, State: fsm.SessionExpired})
		g.answer("b", Report{Term: term})
		return g.acked(hb)
	}},
	{"4(b) a node that lacks a loss is not acked", rules{ignoreSeen: true}, func(g *rig) bool {
		g.elect()
		hb := g.beat("n1", 10)
		g.decide(11, "n1", Facts{Session: 1, State: fsm.SessionOpen, TakenAt: 11})
		g.answer("b", Report{Term: term})
		return g.acked(hb)
	}},
	{"4(c) an ack needs a majority", rules{noPoll: true}, func(g *rig) bool {
		g.elect()
		return g.acked(g.beat("n1", 10))
	}},
	{"4(c) an ack needs a majority, not half", rules{minority: true}, func(g *rig) bool {
		g.elect()
		return g.acked(g.beat("n1", 10))
	}},
	{"4(c) a poll sent before the receipt does not count", rules{earlierPoll: true}, func(g *rig) bool {
		g.elect()
		poll := g.lead.Poll(g.now, "b")
		hb := g.beat("n1", 10)
		g.lead.Answer(g.now, "b", Report{Poll: poll, Term: term})
		return g.acked(hb)
	}},
	{"4(c) an answer of another term does not count", rules{anyTerm: true}, func(g *rig) bool {
		g.elect()
		hb := g.beat("n1", 10)
		g.answer("b", Report{Term: term + 1})
		g.answer("c", Report{Term: term - 1})
		return g.acked(hb)
	}},
	{"4(c) the leader reads its own term", rules{ownTermStale: true}, func(g *rig) bool {
		g.elect()
		hb := g.beat("n1", 10)
		g.answer("b", Report{Term: term})
		g.term++
		return g.acked(hb)
	}},
	{"6 the fence time counts from the barrier", rules{fenceNoBarrier: true}, func(g *rig) bool {
		g.elect().decide(11, "n1", Facts{Session: 1, State: fsm.SessionExpired})
		passed, _ := g.lead.FencePassed(g.now+outlast-1, "n1")
		return passed
	}},
	{"6 the fence time counts from the last heartbeat", rules{fenceNoReceipt: true}, func(g *rig) bool {
		g.elect().up(time.Second)
		g.beat("n1", 10)
		g.decide(11, "n1", Facts{Session: 1, State: fsm.SessionExpired})
		passed, _ := g.lead.FencePassed(g.now+outlast-1, "n1")
		return passed
	}},
	{"6 there is a fence time", rules{fenceNoWait: true}, func(g *rig) bool {
		g.elect().decide(11, "n1", Facts{Session: 1, State: fsm.SessionExpired})
		passed, _ := g.lead.FencePassed(g.now, "n1")
		return passed
	}},
	{"7 a majority has to report", rules{expireAlone: true}, func(g *rig) bool {
		g.up(2*time.Second, "n1", "n2", "n3").elect()
		for range 40 {
			g.now += 25 * ms
			g.beat("n1", 10)
			g.beat("n2", 10)
			g.hear.Tick(g.now)
		}
		return g.expired("n4")
	}},
	{"7 reports must be fresh", rules{expireAlone: true}, func(g *rig) bool {
		g.up(2*time.Second, "n1", "n2", "n3").elect().up(600*ms, "n1", "n2", "n3")
		for range 40 {
			g.now += 25 * ms
			g.beat("n1", 10)
			g.beat("n2", 10)
			g.beat("n3", 10)
			g.hear.Tick(g.now)
		}
		return g.expired("n4")
	}},
	{"7 whom another member hears is not expired", rules{expireUnasked: true}, func(g *rig) bool {
		g.up(2*time.Second, "n1", "n2", "n3").elect().up(time.Second, "n1", "n2", "n3")
		g.answer("c", Report{Term: term, Up: time.Hour, Silences: []Silence{{"n4", 4, 400 * ms}}})
		return g.expired("n4")
	}},
	{"7 members count when they are up for D", rules{expireYoung: true}, func(g *rig) bool {
		g.up(2*time.Second, "n1", "n2", "n3").elect().up(700*ms, "n1", "n2", "n3")
		for range 6 {
			g.now += 25 * ms
			g.beat("n1", 10)
			g.beat("n2", 10)
			g.beat("n3", 10)
			g.hear.Tick(g.now)
			g.answer("b", Report{Term: term, Up: testD - 1})
			g.answer("c", Report{Term: term, Up: testD - 1})
		}
		return g.expired("n4")
	}},
	{"7 a session just opened is not expired", rules{expireUnopened: true}, func(g *rig) bool {
		g.up(2*time.Second, "n1", "n2", "n3").elect().up(time.Second, "n1", "n2", "n3")
		g.decide(11, "n5", Facts{Session: 11, State: fsm.SessionOpen})
		return g.up(testD-25*ms, "n1", "n2", "n3").expired("n5")
	}},
	{"8 nobody is expired in a mass event", rules{noMass: true}, func(g *rig) bool {
		g.up(12*time.Second, "n1", "n2", "n3", "n4").elect().up(2*time.Second, "n1")
		return g.expired("n4")
	}},
	{"8 nobody is expired after a start", rules{noStart: true}, func(g *rig) bool {
		return g.elect().up(2*time.Second, "n1").expired("n4")
	}},
	{"8 an own stall is no silence", rules{noStall: true}, func(g *rig) bool {
		g.up(12*time.Second, "n1", "n2", "n3", "n4").elect().up(time.Second, "n1", "n2", "n3", "n4")
		g.now += 700 * ms
		// What waited meanwhile is taken in, but that of n4.
		for _, n := range []string{"n1", "n2", "n3"} {
			g.beat(n, 10)
		}
		return g.up(100*ms, "n1", "n2", "n3").expired("n4")
	}},
	{"9 waits use the longer times after a change", rules{newTimes: true}, func(g *rig) bool {
		g.elect().up(2 * time.Second)
		long := fsm.LeaseTimes{Detection: 3 * time.Second, Heartbeat: 600 * ms, Settle: settle}
		g.lead.Decided(g.now, 11, long)
		g.hear.Applied(g.now, 11, long, testTimes)
		g.up(2 * time.Second)
		g.beat("n1", 11)
		g.decide(12, "n1", Facts{Session: 1, State: fsm.SessionExpired})
		passed, _ := g.lead.FencePassed(g.now+outlast, "n1")
		return passed
	}},
	{"9 acks name only what is committed", rules{eagerFence: true}, func(g *rig) bool {
		g.elect()
		g.lead.Decided(g.now, 11, fsm.LeaseTimes{Detection: 3 * time.Second, Heartbeat: 600 * ms})
		g.beat("n1", 10)
		g.answer("b", Report{Term: term})
		a := g.acks()[0]
		return a.Fence != testF || a.Detection != testTimes.Detection
	}},
	{"section 7: a released address waits", rules{releaseNoWait: true}, func(g *rig) bool {
		g.elect().up(3 * time.Second)
		g.decide(11, "n1", Facts{Session: 1, State: fsm.SessionOpen, TakenAt: 11})
		over, _ := g.lead.ReleaseWait(g.now+outlast-1, Release{Node: "n1", Session: 1, At: 11})
		return over
	}},
	{"section 7: also one of a former leader", rules{releaseEarlier: true}, func(g *rig) bool {
		g.state["n1"] = Facts{Session: 1, State: fsm.SessionOpen, TakenAt: 10}
		over, _ := g.elect().lead.ReleaseWait(g.now+outlast-1, Release{Node: "n1", Session: 1, At: 10})
		return over
	}},
	{"section 7: a new incarnation does not speak for the old", rules{newcomer: true}, func(g *rig) bool {
		g.elect().up(2*time.Second, "n1")
		g.decide(11, "n1", Facts{Session: 11, State: fsm.SessionOpen, Process: [16]byte{1}, MACs: macA, PriorMACs: macA})
		g.decide(12, "n1", Facts{Session: 11, State: fsm.SessionOpen, TakenAt: 12, MACs: macA, PriorMACs: macA})
		g.beat("n1", 12)
		over, _ := g.lead.ReleaseWait(g.now, Release{Node: "n1", Session: 11, At: 12})
		return over
	}},
	{"1 a clone is not acked before its predecessor's fence time", rules{noPredecessor: true}, func(g *rig) bool {
		g.elect().up(2*time.Second, "n1")
		g.decide(11, "n1", Facts{Session: 11, State: fsm.SessionOpen, MACs: macB, PriorMACs: macA})
		hb := g.beat("n1", 11)
		g.answer("b", Report{Term: term})
		return g.acked(hb)
	}},
	{"1 a new leader does not trust what it cannot see", rules{noLookBack: true}, func(g *rig) bool {
		g.state["n1"] = Facts{Session: 10, State: fsm.SessionOpen, MACs: macB, PriorMACs: macB}
		g.elect()
		hb := g.beat("n1", 11)
		g.answer("b", Report{Term: term})
		return g.acked(hb)
	}},
}

func TestRules(t *testing.T) {
	for _, tc := range ruleTests {
		t.Run(tc.name, func(t *testing.T) {
			if tc.bad(newRig(t, rules{})) {
				t.Error("it happens with all rules in force")
			}
			if !tc.bad(newRig(t, tc.rule)) {
				t.Error("it does not happen without the rule: the test proves nothing")
			}
		})
	}
}
