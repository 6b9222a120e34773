package raftnode

import (
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/raftnode/decider"
	"github.com/quorumlb/quorumlb/raftnode/membership"
	"github.com/quorumlb/quorumlb/raftnode/pulse"
)

// memberBackend answers other members.
type memberBackend struct {
	*membership.Membership
	*pulse.Keeper
}

// String names neither of the two.
func (memberBackend) String() string { return "member backend" }

// deciderLog is the log as the decider needs it. A member that has stopped
// serving does not lead for its decider.
type deciderLog struct{ p *parts }

func (l deciderLog) Propose(raw []byte) decider.Future   { return l.p.node.Propose(raw) }
func (l deciderLog) Barrier(timeout time.Duration) error { return l.p.node.Barrier(timeout) }
func (l deciderLog) Verify() decider.Future              { return l.p.node.Verify() }
func (l deciderLog) Read(f func(*fsm.State))             { l.p.node.Read(f) }
func (l deciderLog) NotAppended(err error) bool          { return l.p.node.NotAppended(err) }
func (l deciderLog) Leadership() decider.Leadership {
	now := l.p.node.Leadership()
	return decider.Leadership{Leader: now.Leader && l.p.services.Offline() == nil, Term: now.Term, Changed: now.Changed}
}
