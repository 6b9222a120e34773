package lease

import (
	"maps"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/leasetime"
)

const (
	ms     = time.Millisecond
	testD  = 750 * ms
	testH  = 150 * ms
	testF  = 1500 * ms
	settle = 10 * time.Second
	term   = 7
)

var (
	testTimes = fsm.LeaseTimes{Detection: testD, Heartbeat: testH, Settle: settle}
	outlast   = leasetime.Lengthen(testF)
	voters    = []string{"a", "b", "c"}
	macA      = []fsm.MAC{{2, 1}}
	macB      = []fsm.MAC{{2, 2}}
)

// rig is the leader "a" of three members, and a clock.
type rig struct {
	t     *testing.T
	now   time.Duration
	hear  *Hearing
	lead  *Leader
	seq   uint64
	term  uint64
	state map[string]Facts
}

// newRig starts member a at one hour; nodes n1 to n4 have the sessions 1 to 4.
func newRig(t *testing.T, r rules) *rig {
	g := &rig{t: t, now: time.Hour, term: term, state: make(map[string]Facts)}
	g.hear = NewHearing(Config{Self: "a", rules: r}, g.now)
	g.hear.Applied(g.now, 10, testTimes, fsm.LeaseTimes{})
	for i, name := range []string{"n1", "n2", "n3", "n4"} {
		g.state[name] = Facts{Session: uint64(i + 1), State: fsm.SessionOpen, MACs: macA}
		g.hear.NodeApplied(g.now, name, g.state[name])
	}
	return g
}

// elect passes the barrier now, at revision 10.
func (g *rig) elect() *rig {
	g.lead = NewLeader(g.hear, g.now, g.term, Head{Revision: 10, Times: testTimes, Nodes: maps.All(g.state)})
	return g
}

// up lets d pass with ticks, heartbeats of the nodes named and answers of both followers.
func (g *rig) up(d time.Duration, nodes ...string) *rig {
	for end := g.now + d; g.now < end; {
		g.now = min(end, g.now+25*ms)
		for _, n := range nodes {
			g.beat(n, 10)
		}
		g.hear.Tick(g.now)
		if g.lead != nil {
			g.answer("b", Report{Term: g.term, Up: time.Hour})
			g.answer("c", Report{Term: g.term, Up: time.Hour})
		}
	}
	return g
}

// beat lets member a hear the node's open session.
func (g *rig) beat(node string, seen uint64) Heartbeat {
	g.seq++
	return g.heard(Heartbeat{Node: node, Session: g.state[node].Session, Seq: g.seq, Seen: seen})
}

func (g *rig) heard(hb Heartbeat) Heartbeat {
	if g.hear.Heard(g.now, hb) && g.lead != nil {
		g.lead.Heard(g.now, hb)
	}
	return hb
}

// answer polls a member, which answers at once.
func (g *rig) answer(member string, r Report) {
	r.Poll = g.lead.Poll(g.now, member)
	g.lead.Answer(g.now, member, r)
}

// decide changes what head says of a node, at the revision, and applies it.
func (g *rig) decide(revision uint64, node string, f Facts) {
	g.state[node] = f
	g.lead.Decided(g.now, revision, testTimes)
	g.lead.NodeDecided(g.now, node, f)
	g.apply(revision)
}

func (g *rig) apply(revision uint64) { g.hear.Applied(g.now, revision, testTimes, fsm.LeaseTimes{}) }

func (g *rig) acks() []Ack { return g.lead.Acks(g.now, g.term, voters) }

// acked tells whether exactly the heartbeat is acked now.
func (g *rig) acked(hb Heartbeat) bool {
	for _, a := range g.acks() {
		if a.Node == hb.Node && a.Session == hb.Session && a.Seq == hb.Seq && a.Refusal == NotRefused {
			return true
		}
	}
	return false
}

func (g *rig) expired(node string) bool {
	for _, e := range g.lead.Expired(g.now, voters) {
		if e.Node == node {
			return true
		}
	}
	return false
}
