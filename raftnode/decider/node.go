package decider

import (
	"fmt"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Drain moves everything away from a node, by plan, and keeps it away until
// Undrain. Errors: *NotFoundError.
type Drain struct {
	Node  string
	Actor string
}

func (c *Drain) kind() string  { return "Drain" }
func (c *Drain) actor() string { return c.Actor }

func (c *Drain) decide(t *tx) (answer, error) {
	node := t.s.Nodes[c.Node]
	if node == nil {
		return nil, &NotFoundError{Kind: "node", Name: c.Node}
	}
	if node.Drained != logv1.DrainReason_DRAIN_REASON_ADMIN {
		t.emit(nodeDrained(c.Node, logv1.DrainReason_DRAIN_REASON_ADMIN))
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
	}
	t.emit(&logv1.Event{Fact: &logv1.Event_NodeForgotten{NodeForgotten: &logv1.NodeForgotten{Node: c.Node}}})
	return nil, nil
}
