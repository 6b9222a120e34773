package lease

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/leasetime"
)

func TestReportsHoldWhatIsNew(t *testing.T) {
	g := newRig(t, rules{})
	var c Cursor
	report := func() Report { return g.hear.Report(g.now, 1, term, &c) }
	if r := report(); len(r.Heard) != 0 || len(r.Silences) != 0 {
		t.Fatalf("%+v", r)
	}
	a, b := g.beat("n1", 10), g.beat("n2", 10)
	a2 := g.beat("n1", 11)
	if r := report(); !slices.Equal(r.Heard, []Heartbeat{a2, b}) {
		t.Errorf("heard %+v, not %+v (and not %+v)", r.Heard, a2, a)
	}
	if r := report(); len(r.Heard) != 0 {
		t.Errorf("heard again: %+v", r.Heard)
	}
	b2 := g.beat("n2", 10)
	if r := report(); !slices.Equal(r.Heard, []Heartbeat{b2}) {
		t.Errorf("heard %+v", r.Heard)
	}
	// A new stream starts with everything.
	c = Cursor{}
	if r := report(); !slices.Equal(r.Heard, []Heartbeat{b2, a2}) {
		t.Errorf("a new stream: %+v", r.Heard)
	}
	g.up(2*testH+25*ms, "n1")
	r := report()
	if len(r.Silences) != 1 || r.Silences[0] != (Silence{"n2", 2, 2*testH + 25*ms}) {
		t.Errorf("silences %+v", r.Silences)
	}
	g.now += time.Second // nothing ran
	r = report()
	if len(r.Silences) != 1 || r.Silences[0] != (Silence{"n2", 2, 2*testH + 50*ms}) {
		t.Errorf("silences %+v", r.Silences)
	}
	if r.Up != 2*testH+25*ms+25*ms || r.Stall != time.Second-25*ms {
		t.Errorf("up %v, stall %v", r.Up, r.Stall)
	}
}

func TestHeardIgnoresOldHeartbeats(t *testing.T) {
	h := NewHearing(Config{Self: "a"}, 0)
	for i, tc := range []struct {
		session, seq uint64
		news         bool
	}{{1, 5, true}, {1, 5, false}, {1, 4, false}, {1, 0, false}, {2, 1, true}, {1, 6, true}, {2, 0, false}, {3, 0, false}} {
		if got := h.Heard(ms, Heartbeat{"n1", tc.session, tc.seq, 7}); got != tc.news {
			t.Errorf("%d: %v", i, got)
		}
	}
	for s := range uint64(20) {
		h.Heard(time.Duration(s)*ms, Heartbeat{"n1", 100 + s, 1, s})
	}
	if n := len(h.nodes["n1"].sessions); n != maxSessions {
		t.Errorf("%d sessions are remembered", n)
	}
	if h.Seen("n1") != 19 || h.Seen("n9") != 0 {
		t.Errorf("seen %d", h.Seen("n1"))
	}
	if d, ok := h.Unheard(25*ms, "n1", 119); !ok || d != 6*ms {
		t.Errorf("unheard %v, %v", d, ok)
	}
	if _, ok := h.Unheard(25*ms, "n1", 1); ok {
		t.Error("session 1 gave way long ago")
	}
}

func TestSilentSessionsAreForgotten(t *testing.T) {
	g := newRig(t, rules{})
	for i := range 100 {
		g.hear.Heard(g.now, Heartbeat{fmt.Sprintf("x%d", i), 1, 1, 1})
	}
	g.beat("n1", 10)
	g.up(forgetAfter+2*time.Second, "n2")
	if n := len(g.hear.nodes); n != 4 {
		t.Errorf("%d nodes are remembered: only those with an open session should", n)
	}
	g.hear.NodeGone(g.now, "n1")
	g.hear.NodeGone(g.now, "n9")
	if n := len(g.hear.nodes); n != 3 {
		t.Errorf("%d nodes are remembered", n)
	}
	count := 0
	for n := g.hear.order.first; n != nil; n = n.next {
		count++
	}
	if count != 3 {
		t.Errorf("%d nodes in the list", count)
	}
}

func TestTimesKeepTheLongest(t *testing.T) {
	short := fsm.LeaseTimes{Detection: 250 * ms, Heartbeat: 50 * ms, Settle: time.Second}
	long := fsm.LeaseTimes{Detection: 3 * time.Second, Heartbeat: 600 * ms, Settle: 0}
	var times Times
	times.set(0, long)
	times.set(time.Second, short)
	times.set(time.Second, short)
	if got := times.longest(2 * time.Second); got != (fsm.LeaseTimes{Detection: 3 * time.Second, Heartbeat: 600 * ms, Settle: time.Second}) {
		t.Errorf("%+v", got)
	}
	end := time.Second + leasetime.Lengthen(6*time.Second)
	if got := times.longest(end - 1); got.Detection != long.Detection {
		t.Errorf("%+v", got)
	}
	if got := times.longest(end); got != short {
		t.Errorf("%+v", got)
	}
}

// A member that starts from a snapshot learns of the former times from it.
func TestFormerTimesFromASnapshot(t *testing.T) {
	h := NewHearing(Config{Self: "a"}, 0)
	h.Applied(0, 100, testTimes, fsm.LeaseTimes{Detection: 3 * time.Second, Heartbeat: 600 * ms})
	if got := h.longest().Fence(); got != 6*time.Second {
		t.Errorf("F %v", got)
	}
	l := NewLeader(h, ms, term, Head{Revision: 100, Times: testTimes, Nodes: func(func(string, Facts) bool) {}})
	if until := l.LeaseChange(ms); until != leasetime.Lengthen(6*time.Second) {
		t.Errorf("until %v", until)
	}
	if until := l.LeaseChange(7 * time.Second); until != 0 {
		t.Errorf("until %v", until)
	}
}

func TestPast(t *testing.T) {
	var p Past
	if _, ok := p.known(1); ok {
		t.Error("knows without having applied")
	}
	const keep = 3 * time.Second
	for i := range uint64(10_000) {
		p.applied(time.Duration(i)*ms, i+1, keep)
	}
	if len(p.marks) > 4*int(keep/markStep) {
		t.Errorf("%d marks", len(p.marks))
	}
	for _, rev := range []uint64{9000, 9500, 9999, 10_000} {
		at, ok := p.known(rev)
		if applied := time.Duration(rev-1) * ms; !ok || at < applied || at > applied+2*markStep {
			t.Errorf("revision %d, applied at %v, known at %v (%v)", rev, applied, at, ok)
		}
	}
	if at, ok := p.known(1); !ok || at > 10*time.Second-keep {
		t.Errorf("an old one is known at %v (%v)", at, ok)
	}
	if _, ok := p.known(10_001); ok {
		t.Error("knows the future")
	}
	p.applied(20*time.Second, 10_000, keep) // nothing new
	if at, _ := p.known(10_000); at > 10*time.Second {
		t.Errorf("known at %v", at)
	}
	p.applied(21*time.Second, 5, keep) // another history
	if at, ok := p.known(5); !ok || at != 21*time.Second {
		t.Errorf("known at %v (%v)", at, ok)
	}
	if _, ok := p.known(6); ok {
		t.Error("knows the former history")
	}
}

func TestRefusalNames(t *testing.T) {
	for r := NotRefused; r <= Predecessor; r++ {
		if s := r.String(); s == "" || s == "unknown" {
			t.Errorf("%d: %q", r, s)
		}
	}
	if Refusal(99).String() != "unknown" {
		t.Error("99 has a name")
	}
}

// The cost of one pulse of a member with 5,000 nodes at h = 150 ms, of which some
// are silent.
func BenchmarkPulse(b *testing.B) {
	const nodes = 5000
	for _, silent := range []int{0, 10} {
		b.Run(fmt.Sprintf("silent %d", silent), func(b *testing.B) {
			h := NewHearing(Config{Self: "a"}, 0)
			h.Applied(0, 1, testTimes, fsm.LeaseTimes{})
			hbs := make([]Heartbeat, nodes)
			for i := range hbs {
				hbs[i] = Heartbeat{fmt.Sprintf("n%d", i), 1, 0, 1}
				h.NodeApplied(0, hbs[i].Node, Facts{Session: 1, State: fsm.SessionOpen})
			}
			var c Cursor
			now, next := time.Duration(0), silent
			b.ReportAllocs()
			for b.Loop() {
				now += DefaultPulse
				for range nodes / 6 {
					if next++; next >= nodes {
						next = silent
					}
					hbs[next].Seq++
					h.Heard(now, hbs[next])
				}
				h.Tick(now)
				h.Report(now, 1, 1, &c)
			}
		})
	}
}
