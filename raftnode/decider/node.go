package decider

import (
	"fmt"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// MaxGrace bounds the grace time of a drain.
const MaxGrace = 24 * time.Hour

// Drain moves everything away from a node, by plan, and keeps it away until
// Undrain. Errors: *NotFoundError, *InvalidError.
type Drain struct {
	Node string
	// Grace makes the moves soft: for so long, at most, the node goes on answering
	// the clients that know it. 0 ends a grace time that runs.
	Grace time.Duration
	Actor string
}

func (c *Drain) kind() string  { return "Drain" }
func (c *Drain) actor() string { return c.Actor }

func (c *Drain) decide(t *tx) (answer, error) {
	node := t.s.Nodes[c.Node]
	if node == nil {
		return nil, &NotFoundError{Kind: "node", Name: c.Node}
	}
	if c.Grace < 0 || c.Grace > MaxGrace {
		var f faults
		f.add("grace", "%s is not within 0 to %s", c.Grace, MaxGrace)
		return nil, f.err()
	}
	if node.Drained != logv1.DrainReason_DRAIN_REASON_ADMIN || c.Grace > 0 || node.GraceUntil > t.now {
		ev := nodeDrained(c.Node, logv1.DrainReason_DRAIN_REASON_ADMIN)
		ev.GetNodeDrained().GraceNanos = int64(c.Grace)
		t.emit(ev)
	}
	return ownedBy(c.Node), nil
}

// Undrain lets a node own addresses again. Errors: *NotFoundError.
type Undrain struct {
	Node  string
	Actor string
}

func (c *Undrain) kind() string  { return "Undrain" }
func (c *Undrain) actor() string { return c.Actor }

func (c *Undrain) decide(t *tx) (answer, error) {
	node := t.s.Nodes[c.Node]
	if node == nil {
		return nil, &NotFoundError{Kind: "node", Name: c.Node}
	}
	if node.Drained != logv1.DrainReason_DRAIN_REASON_UNSPECIFIED {
		t.emit(&logv1.Event{Fact: &logv1.Event_NodeUndrained{NodeUndrained: &logv1.NodeUndrained{Node: c.Node}}})
	}
	return nil, nil
}

// ForgetNode removes a node that will not return. Errors: *NotFoundError;
// *PreconditionError while its session is open or it still owns an address.
type ForgetNode struct {
	Node  string
	Actor string
}

func (c *ForgetNode) kind() string  { return "ForgetNode" }
func (c *ForgetNode) actor() string { return c.Actor }

func (c *ForgetNode) decide(t *tx) (answer, error) {
	node := t.s.Nodes[c.Node]
	switch {
	case node == nil:
		return nil, &NotFoundError{Kind: "node", Name: c.Node}
	case node.SessionState == fsm.SessionOpen:
		return nil, &PreconditionError{Reason: fmt.Sprintf("node %q has an open session; stop its speaker first", c.Node)}
	case node.Owned > 0:
		return nil, &PreconditionError{Reason: fmt.Sprintf(
			"node %q still owns %d addresses: no other node may have them yet", c.Node, node.Owned)}
	case t.s.SoftCount(c.Node) > 0:
		return nil, &PreconditionError{Reason: fmt.Sprintf(
			"%d addresses are still moving away from node %q: try again", t.s.SoftCount(c.Node), c.Node)}
	}
	t.emit(&logv1.Event{Fact: &logv1.Event_NodeForgotten{NodeForgotten: &logv1.NodeForgotten{Node: c.Node}}})
	return nil, nil
}
