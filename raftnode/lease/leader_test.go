package lease

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
)

func TestAckNamesTheNewestHeartbeatAndF(t *testing.T) {
	g := newRig(t, rules{}).elect()
	g.beat("n1", 10)
	g.now += ms
	last := g.beat("n1", 10)
	g.answer("b", Report{Term: term})
	g.now += ms
	uncovered := g.beat("n2", 10) // received after the poll
	acks := g.acks()
	want := Ack{Node: "n1", Session: 1, Seq: last.Seq, Fence: testF, Detection: testTimes.Detection, First: true}
	if len(acks) != 1 || acks[0] != want {
		t.Fatalf("acks %+v, want %+v", acks, want)
	}
	if g.acks() != nil {
		t.Error("acked twice")
	}
	g.answer("c", Report{Term: term})
	g.beat("n1", 10)
	g.answer("b", Report{Term: term})
	acks = g.acks()
	if len(acks) != 2 || acks[0].Seq != uncovered.Seq || acks[1].First {
		t.Errorf("later acks %+v", acks)
	}
}

// What was heard before the barrier counts as received at the barrier.
func TestNewLeaderAcksWhatItHasHeard(t *testing.T) {
	g := newRig(t, rules{})
	hb := g.beat("n1", 10)
	g.now += 100 * ms
	g.elect()
	g.answer("b", Report{Term: term})
	if !g.acked(hb) {
		t.Error("not acked")
	}
}

// The same heartbeat over several members is one; what a follower hears counts from
// the receipt of its answer.
func TestHeartbeatsOverFollowers(t *testing.T) {
	g := newRig(t, rules{}).elect()
	hb := Heartbeat{Node: "n1", Session: 1, Seq: 5, Seen: 10}
	early := g.lead.Poll(g.now, "c")
	g.answer("b", Report{Term: term, Heard: []Heartbeat{hb}})
	g.lead.Answer(g.now, "c", Report{Poll: early, Term: term, Heard: []Heartbeat{hb}})
	if g.acked(hb) {
		t.Fatal("acked by answers to polls sent before the receipt")
	}
	g.answer("c", Report{Term: term, Heard: []Heartbeat{hb}})
	if !g.acked(hb) {
		t.Fatal("not acked")
	}
	g.answer("b", Report{Term: term, Heard: []Heartbeat{hb}})
	if acks := g.acks(); acks != nil {
		t.Errorf("acked again: %+v", acks)
	}
}

func TestRefusals(t *testing.T) {
	for _, tc := range []struct {
		name string
		hb   Heartbeat
		want Ack
	}{
		{"unknown node", Heartbeat{"n9", 1, 1, 10}, Ack{Node: "n9", Session: 1, Refusal: NoSession}},
		{"expired session", Heartbeat{"n2", 2, 1, 10}, Ack{Node: "n2", Session: 2, Refusal: NoSession}},
		{"older session of the same process", Heartbeat{"n3", 3, 1, 10}, Ack{Node: "n3", Session: 3, Refusal: NoSession}},
		{"older session of another process", Heartbeat{"n4", 4, 1, 10}, Ack{Node: "n4", Session: 4, Refusal: Replaced}},
		{"behind a loss", Heartbeat{"n1", 1, 1, 10}, Ack{Node: "n1", Session: 1, Refusal: Behind, Need: 11}},
		{"behind a gain", Heartbeat{"n1", 1, 1, 11}, Ack{Node: "n1", Session: 1, Seq: 1, Fence: testF, Detection: testTimes.Detection, Need: 12, First: true}},
		{"level", Heartbeat{"n1", 1, 1, 12}, Ack{Node: "n1", Session: 1, Seq: 1, Fence: testF, Detection: testTimes.Detection, First: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newRig(t, rules{}).elect()
			g.decide(11, "n2", Facts{Session: 2, State: fsm.SessionExpired})
			g.decide(11, "n3", Facts{Session: 11, State: fsm.SessionOpen})
			g.decide(11, "n4", Facts{Session: 11, State: fsm.SessionOpen, Process: [16]byte{1}})
			g.decide(12, "n1", Facts{Session: 1, State: fsm.SessionOpen, TakenAt: 11, GivenAt: 12})
			g.heard(tc.hb)
			g.answer("b", Report{Term: term})
			if acks := g.acks(); len(acks) != 1 || acks[0] != tc.want {
				t.Errorf("%+v, want %+v", acks, tc.want)
			}
		})
	}
}

// A node that was forgotten comes back with the view that its process had: the new
// record does not say what was taken from it, so the session's opening must be seen.
func TestForgottenNodeComesBackWithAnOldView(t *testing.T) {
	g := newRig(t, rules{}).elect()
	g.decide(11, "n1", Facts{Session: 1, State: fsm.SessionExpired, TakenAt: 11})
	g.lead.NodeForgotten(g.now, "n1")
	g.apply(12)
	g.decide(13, "n1", Facts{Session: 13, State: fsm.SessionOpen})
	g.heard(Heartbeat{Node: "n1", Session: 13, Seq: 1, Seen: 10})
	g.answer("b", Report{Term: term})
	want := Ack{Node: "n1", Session: 13, Refusal: Behind, Need: 13}
	if acks := g.acks(); len(acks) != 1 || acks[0] != want {
		t.Errorf("%+v, want %+v", acks, want)
	}
	hb := g.heard(Heartbeat{Node: "n1", Session: 13, Seq: 2, Seen: 13})
	g.answer("b", Report{Term: term})
	if !g.acked(hb) {
		t.Error("it is not acked after it has seen the opening")
	}
}

// A restarted speaker on the same machine is acked at once; after a clone's wait
// so is the clone, and a restart of the clone waits on.
func TestPredecessorOnAnotherMachine(t *testing.T) {
	for _, tc := range []struct {
		name     string
		sessions []Facts
		wait     time.Duration
	}{
		{"same machine", []Facts{{MACs: macA, PriorMACs: macA}}, 0},
		{"one of several links stays", []Facts{{MACs: append(slices.Clone(macB), macA...), PriorMACs: macA}}, 0},
		{"first session", []Facts{{MACs: macB}}, 0},
		{"another machine", []Facts{{MACs: macB, PriorMACs: macA}}, outlast},
		{"another machine, restarted", []Facts{{MACs: macB, PriorMACs: macA}, {MACs: macB, PriorMACs: macB}}, outlast},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newRig(t, rules{}).elect()
			g.now += 10 * time.Second
			g.beat("n1", 10) // the predecessor, just alive
			at := g.now
			for i, f := range tc.sessions {
				f.Session, f.State = uint64(11+i), fsm.SessionOpen
				g.decide(f.Session, "n1", f)
			}
			for _, now := range []time.Duration{at, at + tc.wait - 1, at + tc.wait} {
				if now < g.now {
					continue
				}
				g.now = now
				hb := g.beat("n1", 20)
				g.answer("b", Report{Term: term})
				if got, want := g.acked(hb), now >= at+tc.wait; got != want {
					t.Errorf("acked %v after %v, want %v", got, now-at, want)
				}
			}
		})
	}
}

// A leader's death costs a clone that has long been alone nothing.
func TestNewLeaderKnowsOldSessions(t *testing.T) {
	g := newRig(t, rules{})
	g.state["n1"] = Facts{Session: 9, State: fsm.SessionOpen, MACs: macB, PriorMACs: macA}
	g.hear.Applied(g.now, 10, testTimes, fsm.LeaseTimes{})
	g.now += outlast
	g.elect()
	hb := g.beat("n1", 10)
	g.answer("b", Report{Term: term})
	if !g.acked(hb) {
		t.Error("the clone's session was known here for F(1+ρ)")
	}
	// And releases of former leaders that were applied long ago are over.
	if over, _ := g.lead.ReleaseWait(g.now, Release{Node: "n2", Session: 2, At: 9}); !over {
		t.Error("the release was known here for F(1+ρ)")
	}
}

func TestFenceTime(t *testing.T) {
	g := newRig(t, rules{}).elect()
	barrier := g.now
	if passed, _ := g.lead.FencePassed(barrier+time.Hour, "n1"); passed {
		t.Error("passed while the session is open")
	}
	g = newRig(t, rules{}).elect()
	if passed, again := g.lead.FencePassed(g.now, "gone"); passed || again != barrier+outlast {
		t.Errorf("unknown node: %v, %v", passed, again)
	}
	g.now += 5 * time.Second
	g.beat("n1", 10)
	last := g.now
	g.now += time.Second
	g.decide(11, "n1", Facts{Session: 1, State: fsm.SessionExpired})
	g.beat("n1", 10) // no longer passes (a)
	for _, tc := range []struct {
		at   time.Duration
		want bool
	}{{last + outlast - 1, false}, {last + outlast, true}} {
		if passed, again := g.lead.FencePassed(tc.at, "n1"); passed != tc.want || again != last+outlast {
			t.Errorf("after %v: %v, again after %v", tc.at-last, passed, again-last)
		}
	}
}

// A node that was forgotten, and one that opened a new session, are still fenced.
func TestFenceOutlastsForgetting(t *testing.T) {
	g := newRig(t, rules{}).up(12*time.Second, "n1", "n2", "n3", "n4").elect().up(3*time.Second, "n1", "n2", "n3", "n4")
	last := g.now
	g.lead.NodeForgotten(g.now, "n1")
	if passed, again := g.lead.FencePassed(g.now, "n1"); passed || again != last+outlast {
		t.Errorf("%v, %v", passed, again-last)
	}
	g.decide(11, "n2", Facts{Session: 11, State: fsm.SessionExpired})
	if passed, again := g.lead.FencePassed(g.now, "n2"); passed || again != last+outlast {
		t.Errorf("%v, %v", passed, again-last)
	}
	g.up(outlast, "n2", "n3", "n4")
	if passed, _ := g.lead.FencePassed(g.now, "n1"); !passed {
		t.Error("never passes")
	}
	g.acks()
	g.expired("n4") // clears up
	if len(g.lead.nodes) != 3 {
		t.Errorf("%d nodes are remembered", len(g.lead.nodes))
	}
}

func TestReleaseWait(t *testing.T) {
	release := Release{Node: "n1", Session: 1, At: 11}
	setup := func() *rig {
		g := newRig(t, rules{}).elect().up(3*time.Second, "n1", "n2", "n3")
		g.decide(11, "n1", Facts{Session: 1, State: fsm.SessionOpen, TakenAt: 11})
		return g
	}
	t.Run("the owner reports", func(t *testing.T) {
		g := setup()
		g.beat("n1", 10)
		if over, again := g.lead.ReleaseWait(g.now, release); over || again != g.now+outlast {
			t.Errorf("%v, %v", over, again-g.now)
		}
		if !g.lead.Heard(g.now, Heartbeat{"n1", 1, 1000, 11}) {
			t.Error("not told that the node has newly seen something")
		}
		if over, _ := g.lead.ReleaseWait(g.now, release); !over {
			t.Error("not over")
		}
	})
	t.Run("a follower hears it", func(t *testing.T) {
		g := setup()
		poll := g.lead.Poll(g.now, "b")
		seen := g.lead.Answer(g.now, "b", Report{Poll: poll, Term: term, Heard: []Heartbeat{{"n1", 1, 1000, 11}}})
		if len(seen) != 1 || seen[0] != "n1" {
			t.Errorf("seen %v", seen)
		}
		if over, _ := g.lead.ReleaseWait(g.now, release); !over {
			t.Error("not over")
		}
	})
	t.Run("time passes", func(t *testing.T) {
		g := setup()
		if over, _ := g.lead.ReleaseWait(g.now+outlast, release); !over {
			t.Error("not over")
		}
	})
	t.Run("still in flight", func(t *testing.T) {
		g := setup()
		g.lead.Decided(g.now, 12, testTimes)
		r := Release{Node: "n1", Session: 1, At: 12}
		if over, again := g.lead.ReleaseWait(g.now+outlast, r); over || again != g.now+2*outlast {
			t.Errorf("%v, %v", over, again)
		}
	})
	for _, hold := range []bool{false, true} {
		t.Run(fmt.Sprintf("hold %v", hold), func(t *testing.T) {
			r := release
			r.Hold = hold
			g := setup()
			g.decide(12, "n1", Facts{Session: 1, State: fsm.SessionExpired, TakenAt: 11})
			if over, _ := g.lead.ReleaseWait(g.now, r); over != hold {
				t.Errorf("expired: %v", over)
			}
			g = setup()
			g.lead.NodeForgotten(g.now, "n1")
			if over, _ := g.lead.ReleaseWait(g.now, r); over != hold {
				t.Errorf("forgotten: %v", over)
			}
		})
	}
	t.Run("a new incarnation whose predecessor is long silent", func(t *testing.T) {
		g := newRig(t, rules{}).elect().up(10 * time.Second)
		g.decide(11, "n1", Facts{Session: 11, State: fsm.SessionOpen, Process: [16]byte{1}, PriorMACs: macA, MACs: macA})
		g.decide(12, "n1", Facts{Session: 11, State: fsm.SessionOpen, TakenAt: 12})
		g.beat("n1", 12)
		if over, _ := g.lead.ReleaseWait(g.now, Release{Node: "n1", Session: 11, At: 12}); !over {
			t.Error("nobody else can be confirmed")
		}
	})
}

// A batch that was decided and lost leaves facts, but no waits, behind.
func TestRebase(t *testing.T) {
	g := newRig(t, rules{}).elect().up(3*time.Second, "n1", "n2", "n3")
	g.lead.Decided(g.now, 11, fsm.LeaseTimes{Detection: 3 * time.Second, Heartbeat: 600 * ms, Settle: settle})
	g.lead.NodeDecided(g.now, "n1", Facts{Session: 1, State: fsm.SessionExpired})
	g.lead.NodeDecided(g.now, "n8", Facts{Session: 11, State: fsm.SessionOpen})
	refused := g.beat("n1", 10)
	g.lead.Rebase(g.now, Head{Revision: 10, Times: testTimes, Nodes: maps.All(g.state)})
	g.answer("b", Report{Term: term})
	if !g.acked(refused) {
		t.Error("the session is open again, so its heartbeat counts")
	}
	at := g.now
	g.now += time.Second
	g.decide(11, "n1", Facts{Session: 1, State: fsm.SessionExpired})
	// Six seconds of F were decided here, if only for a moment.
	if _, again := g.lead.FencePassed(g.now, "n1"); again < at+6*time.Second {
		t.Errorf("the fence time ends %v after the heartbeat", again-at)
	}
	if g.lead.nodes["n8"].listening {
		t.Error("n8 is still known")
	}
}

func TestQueueOfANodeIsBounded(t *testing.T) {
	g := newRig(t, rules{}).elect()
	var last Heartbeat
	for range 10 * maxUnacked {
		g.now += ms
		last = g.beat("n1", 10)
	}
	if n := len(g.lead.queue.items); n > maxUnacked {
		t.Fatalf("%d heartbeats wait", n)
	}
	g.answer("b", Report{Term: term})
	if !g.acked(last) {
		t.Error("the newest was not acked")
	}
	if n := g.lead.nodes["n1"].unacked; n != 0 {
		t.Errorf("%d are still counted", n)
	}
	hb := g.beat("n1", 10)
	g.answer("b", Report{Term: term})
	if !g.acked(hb) {
		t.Error("the next was not acked")
	}
}

// Answers to polls of a former term, of which the same process was leader too.
func TestLateAnswersOfAFormerTerm(t *testing.T) {
	g := newRig(t, rules{}).elect()
	old := g.lead.Poll(g.now, "b")
	g.term += 2
	g.elect()
	hb := g.beat("n1", 10)
	g.lead.Answer(g.now, "b", Report{Poll: old, Term: g.term})
	if g.acked(hb) {
		t.Error("an answer to a poll of a former term counted")
	}
	g.lead.Answer(g.now, "b", Report{Poll: old + 1000, Term: g.term})
	if g.acked(hb) {
		t.Error("an answer to a poll that was never sent counted")
	}
}

func TestMajorities(t *testing.T) {
	for _, tc := range []struct {
		voters, answers []string
		want            bool
	}{
		{nil, nil, false},
		{[]string{"a"}, nil, true},
		{[]string{"b"}, nil, false},
		{[]string{"a", "b"}, nil, false},
		{[]string{"a", "b"}, []string{"b"}, true},
		{[]string{"a", "b", "c", "d"}, []string{"b"}, false},
		{[]string{"a", "b", "c", "d", "e"}, []string{"b", "x"}, false},
		{[]string{"a", "b", "c", "d", "e"}, []string{"b", "e"}, true},
		{[]string{"b", "c", "d"}, []string{"b"}, false}, // the leader is being removed
		{[]string{"b", "c", "d"}, []string{"b", "d"}, true},
	} {
		g := newRig(t, rules{}).elect()
		g.beat("n1", 10)
		for _, m := range tc.answers {
			g.answer(m, Report{Term: term})
		}
		if got := len(g.lead.Acks(g.now, term, tc.voters)) == 1; got != tc.want {
			t.Errorf("voters %v, answers %v: %v", tc.voters, tc.answers, got)
		}
	}
}
