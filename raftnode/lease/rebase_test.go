package lease

import (
	"maps"
	"testing"

	"github.com/quorumlb/quorumlb/fsm"
)

// A successor whose SessionOpened was lost has replaced nobody: when the session
// that is open again ends, its process is not told to go away for good.
func TestLostSuccessorHasReplacedNobody(t *testing.T) {
	first, second := [16]byte{1}, [16]byte{2}
	lost := Facts{Session: 12, State: fsm.SessionOpen, Process: second, MACs: macA, PriorMACs: macA}
	for _, tc := range []struct {
		name  string
		again Facts // what is decided after the Rebase
		want  Refusal
	}{
		{"expired", Facts{Session: 11, State: fsm.SessionExpired, Process: first, MACs: macA}, NoSession},
		{"replaced after all", Facts{Session: 13, State: fsm.SessionOpen, Process: second, MACs: macA, PriorMACs: macA}, Replaced},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newRig(t, rules{}).elect()
			g.decide(11, "n1", Facts{Session: 11, State: fsm.SessionOpen, Process: first, MACs: macA})
			g.lead.Decided(g.now, 12, testTimes)
			g.lead.NodeDecided(g.now, "n1", lost)
			g.lead.Rebase(g.now, Head{Revision: 11, Times: testTimes, Nodes: maps.All(g.state)})
			g.decide(tc.again.Session+1, "n1", tc.again)
			g.heard(Heartbeat{Node: "n1", Session: 11, Seq: 1, Seen: 20})
			g.answer("b", Report{Term: term})
			if acks := g.acks(); len(acks) != 1 || acks[0].Refusal != tc.want {
				t.Errorf("%+v, want %v", acks, tc.want)
			}
		})
	}
}
