package lease

import (
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
)

// A node is expired D after it was last heard, not before and not much later, also
// when the leader changes on the way.
func TestExpiryAfterD(t *testing.T) {
	for name, change := range map[string]bool{"one leader": false, "new leader": true} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, rules{}).up(12*time.Second, "n1", "n2", "n3", "n4").elect().up(time.Second, "n1", "n2", "n3", "n4")
			last := g.now
			g.up(300*ms, "n1", "n2", "n3")
			if change {
				g.term++
				g.elect()
			}
			for ; g.now < last+testD; g.up(25*ms, "n1", "n2", "n3") {
				if g.expired("n4") {
					t.Fatalf("after %v", g.now-last)
				}
			}
			if at := g.lead.NextExpiry(); at != last+testD {
				t.Errorf("next expiry after %v", at-last)
			}
			if !g.expired("n4") {
				t.Fatal("not expired")
			}
			if g.expired("n4") {
				t.Error("named twice at once")
			}
			e := Expiry{Node: "n4", Session: 4}
			if !g.lead.StillSilent(g.now, e) || g.lead.HeardLately(g.now, "n4") || !g.lead.HeardLately(g.now, "n1") {
				t.Error("silence is not what it was")
			}
			if g.up(askAgain, "n1", "n2", "n3"); !g.expired("n4") {
				t.Error("not named again")
			}
			g.beat("n4", 10)
			if g.lead.StillSilent(g.now, e) {
				t.Error("heard, and still silent")
			}
			g.decide(11, "n4", Facts{Session: 4, State: fsm.SessionExpired})
			if g.up(2*testD, "n1", "n2", "n3"); g.expired("n4") {
				t.Error("expired a closed session")
			}
		})
	}
}

// Ages of reports count from their receipt: never too old.
func TestAgesOfReports(t *testing.T) {
	g := newRig(t, rules{}).up(12*time.Second, "n1", "n2", "n3").elect()
	g.hear.NodeApplied(g.now, "n4", g.state["n4"])
	poll := g.lead.Poll(g.now, "b")
	sent := g.now
	g.now += 80 * ms // a slow answer
	g.lead.Answer(g.now, "b", Report{Poll: poll, Term: term, Up: time.Hour, Silences: []Silence{{"n4", 4, 700 * ms}}})
	n := g.lead.nodes["n4"]
	if last := g.lead.lastHeard(n) + g.hear.stalled; last != sent+80*ms-700*ms {
		t.Errorf("last heard %v before the poll", sent-last)
	}
	// A later report can correct it, an overtaken one cannot.
	first, second := g.lead.Poll(g.now, "b"), g.lead.Poll(g.now, "b")
	g.lead.Answer(g.now, "b", Report{Poll: second, Term: term, Silences: []Silence{{"n4", 4, 720 * ms}}})
	g.lead.Answer(g.now, "b", Report{Poll: first, Term: term, Silences: []Silence{{"n4", 4, 900 * ms}}})
	if last := g.lead.lastHeard(n) + g.hear.stalled; last != g.now-720*ms {
		t.Errorf("last heard %v ago", g.now-last)
	}
	// A session that head does not name says nothing.
	g.answer("c", Report{Term: term, Heard: []Heartbeat{{"n4", 3, 1, 1}}, Silences: []Silence{{"n9", 1, 0}}})
	if last := g.lead.lastHeard(n) + g.hear.stalled; last != g.now-720*ms {
		t.Errorf("another session changed it to %v ago", g.now-last)
	}
}

// Right after an election the first answer does not decide alone, and what nobody has
// ever heard has D from the barrier.
// TestExpiryOverALongLine has every answer take longer than a report is fresh. A node is
// expired all the same, when a majority was asked after it had been silent for D; and not
// one that a member still heard when it was asked.
func TestExpiryOverALongLine(t *testing.T) {
	const trip = 300 * ms
	for name, heardBy := range map[string]string{"nobody hears it": "", "one member hears it": "c"} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, rules{}).up(12*time.Second, "n1", "n2", "n3", "n4").elect().up(time.Second, "n1", "n2", "n3", "n4")
			last, seq := g.now, uint64(1000)
			type asked struct {
				at   time.Duration
				poll [2]uint64
			}
			var under []asked
			var found time.Duration
			for g.now < last+3*time.Second {
				g.now += 25 * ms
				for _, n := range []string{"n1", "n2", "n3"} {
					g.beat(n, 10)
				}
				g.hear.Tick(g.now)
				under = append(under, asked{g.now, [2]uint64{g.lead.Poll(g.now, "b"), g.lead.Poll(g.now, "c")}})
				for len(under) > 0 && g.now-under[0].at >= trip {
					for i, m := range []string{"b", "c"} {
						r := Report{Poll: under[0].poll[i], Term: term, Up: time.Hour}
						if m == heardBy {
							seq++
							r.Heard = []Heartbeat{{"n4", 4, seq, 10}}
						}
						g.lead.Answer(g.now, m, r)
					}
					under = under[1:]
				}
				if found == 0 && g.expired("n4") {
					found = g.now - last
				}
			}
			switch {
			case heardBy != "" && found != 0:
				t.Errorf("expired after %v", found)
			case heardBy == "" && (found < testD+trip || found > testD+trip+100*ms):
				t.Errorf("expired after %v, want D and one answer, %v", found, testD+trip)
			}
		})
	}
}

func TestExpiryAfterAnElection(t *testing.T) {
	g := newRig(t, rules{}).up(12*time.Second, "n1", "n2", "n3").elect()
	barrier := g.now
	g.answer("b", Report{Term: term, Up: time.Hour, Heard: []Heartbeat{{"n4", 4, 1, 10}}, Silences: []Silence{{"n4", 4, time.Minute}}})
	if g.expired("n4") {
		t.Error("c was not asked")
	}
	g.answer("c", Report{Term: term, Up: time.Hour})
	if !g.expired("n4") {
		t.Error("all were asked")
	}
	g = newRig(t, rules{}).up(12*time.Second, "n1", "n2", "n3").elect()
	for ; g.now < barrier+testD; g.up(25*ms, "n1", "n2", "n3") {
		if g.expired("n4") {
			t.Fatalf("n4, of which nobody knows, after %v", g.now-barrier)
		}
	}
	if !g.expired("n4") {
		t.Error("n4 is never expired")
	}
}

func TestMassEvent(t *testing.T) {
	steady := func() *rig {
		return newRig(t, rules{}).up(12*time.Second, "n1", "n2", "n3", "n4").elect().up(time.Second, "n1", "n2", "n3", "n4")
	}
	t.Run("over after the settle time", func(t *testing.T) {
		g := steady().up(2*testH+50*ms, "n1")
		begin := g.now
		if !g.hear.Blocked(g.now) {
			t.Fatal("three of four are silent")
		}
		for ; g.now < begin+settle-100*ms; g.up(25*ms, "n1") {
			if g.expired("n4") {
				t.Fatalf("expired after %v", g.now-begin)
			}
		}
		g.up(200*ms, "n1")
		if len(g.lead.Expired(g.now, voters)) != 3 {
			t.Error("the dead are not expired after the settle time")
		}
	})
	t.Run("over when fewer are silent for D", func(t *testing.T) {
		g := steady().up(2*testH+50*ms, "n1").up(testD-50*ms, "n1", "n2")
		if !g.hear.Blocked(g.now) {
			t.Error("not yet D")
		}
		if g.up(100*ms, "n1", "n2"); g.hear.Blocked(g.now) {
			t.Error("half are alive for D")
		}
		if !g.expired("n4") {
			t.Error("n4 is dead")
		}
	})
	t.Run("a break starts D over", func(t *testing.T) {
		g := steady().up(2*testH+50*ms, "n1").up(testD-100*ms, "n1", "n2").up(2*testH+50*ms, "n1")
		if g.up(testD-50*ms, "n1", "n2"); !g.hear.Blocked(g.now) {
			t.Error("D counts from the break")
		}
	})
	t.Run("after a break shorter than D-2h it is the same event", func(t *testing.T) {
		// The settle time counts from its beginning: the second outage is short, and costs the nodes all the same.
		g := steady().up(2*testH + 50*ms)
		begin := g.now
		g.up(settle-2*testD).up(testD-2*testH-50*ms, "n1", "n2", "n3", "n4")
		if g.up(testD + 250*ms); g.now > begin+settle || len(g.lead.Expired(g.now, voters)) > 0 {
			t.Fatal("expired before the settle time")
		}
		if g.up(200 * ms); len(g.lead.Expired(g.now, voters)) != 4 {
			t.Error("not expired when it has passed")
		}
	})
	t.Run("half is not most", func(t *testing.T) {
		g := steady()
		if g.up(testD+25*ms, "n1", "n2"); !g.expired("n3") {
			t.Error("two of four may die")
		}
	})
	t.Run("those who left do not count", func(t *testing.T) {
		g := steady()
		for _, n := range []string{"n2", "n3"} {
			f := Facts{Session: g.state[n].Session, State: fsm.SessionClosed}
			g.decide(11, n, f)
			g.hear.NodeApplied(g.now, n, f)
		}
		if g.up(testD+25*ms, "n1"); !g.expired("n4") {
			t.Error("one of two may die")
		}
	})
	t.Run("those expired lately count", func(t *testing.T) {
		g := steady()
		for _, n := range []string{"n2", "n3"} {
			f := Facts{Session: g.state[n].Session, State: fsm.SessionExpired}
			g.decide(11, n, f)
			g.hear.NodeApplied(g.now, n, f)
		}
		if g.up(testD+25*ms, "n1"); g.expired("n4") {
			t.Error("three of four fell silent within 10 s")
		}
	})
	t.Run("those who came lately and are heard count as alive", func(t *testing.T) {
		g := steady()
		reopen := func(revision uint64, state fsm.SessionState) {
			for _, n := range []string{"n3", "n4"} {
				f := Facts{Session: revision, State: state}
				g.decide(revision, n, f)
				g.hear.NodeApplied(g.now, n, f)
			}
		}
		reopen(11, fsm.SessionExpired)
		g.up(12*time.Second, "n1", "n2")
		reopen(12, fsm.SessionOpen)
		g.up(time.Second, "n1", "n2", "n3", "n4")
		if g.up(testD+25*ms, "n3", "n4"); len(g.lead.Expired(g.now, voters)) != 2 {
			t.Error("two of four may die, although the other two are new")
		}
	})
	t.Run("a young member asks about all", func(t *testing.T) {
		g := newRig(t, rules{}).up(time.Second, "n1", "n2", "n3", "n4").elect()
		if g.up(2*testD, "n1"); g.expired("n4") {
			t.Error("three of four are silent")
		}
	})
}

func TestStallIsAddedToDeadlines(t *testing.T) {
	g := newRig(t, rules{}).up(12*time.Second, "n1", "n2", "n3", "n4").elect().up(time.Second, "n1", "n2", "n3", "n4")
	last := g.now
	const stall = 3 * time.Second
	g.now += stall
	g.up(testD-100*ms, "n1", "n2", "n3")
	if g.expired("n4") || g.hear.Stalled() != stall {
		t.Fatalf("stalled %v", g.hear.Stalled())
	}
	g.up(100*ms, "n1", "n2", "n3")
	if !g.expired("n4") {
		t.Errorf("not expired %v after it was heard", g.now-last)
	}
	// A timer that is a little late is no stall.
	g.now += 25*ms + testH
	g.hear.Tick(g.now)
	if g.hear.Stalled() != stall {
		t.Errorf("stalled %v", g.hear.Stalled())
	}
}
