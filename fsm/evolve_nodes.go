package fsm

import (
	"slices"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// sessionOpened ends an open session of the node; the node keeps its addresses.
func (f *folding) sessionOpened(e *logv1.SessionOpened) error {
	if e.GetNode() == "" {
		return corruptf("SessionOpened without a node")
	}
	if len(e.GetProcess()) != 16 {
		return corruptf("session of %s: process id of %d bytes", e.GetNode(), len(e.GetProcess()))
	}
	macs := make([]MAC, 0, len(e.GetMacs()))
	for _, m := range e.GetMacs() {
		if len(m) != len(MAC{}) {
			return corruptf("session of %s: MAC of %d bytes", e.GetNode(), len(m))
		}
		macs = append(macs, MAC(m))
	}
	n := &Node{Name: e.GetNode()}
	if old := f.s.Nodes[e.GetNode()]; old != nil {
		if e.GetIncarnation() < old.Incarnation {
			return corruptf("session of %s: incarnation %d after %d", old.Name, e.GetIncarnation(), old.Incarnation)
		}
		if old.Session == f.revision {
			return corruptf("session of %s opened twice", old.Name)
		}
		*n = *old
		n.PriorMACs = old.MACs
	}
	n.Session, n.SessionState, n.EndedAt = f.revision, SessionOpen, 0
	n.Process, n.Incarnation = [16]byte(e.GetProcess()), e.GetIncarnation()
	n.MACs, n.Labels, n.Links, n.Version = macs, e.GetLabels(), e.GetLinks(), e.GetVersion()
	if n.Drained == logv1.DrainReason_DRAIN_REASON_LEAVE {
		n.Drained = logv1.DrainReason_DRAIN_REASON_UNSPECIFIED
	}
	f.s.Nodes[n.Name] = n
	f.touchNode(n.Name)
	return nil
}

func (f *folding) sessionClosed(e *logv1.SessionClosed) error {
	return f.endSession("SessionClosed", e.GetNode(), e.GetSession(), SessionClosed)
}

func (f *folding) sessionExpired(e *logv1.SessionExpired) error {
	return f.endSession("SessionExpired", e.GetNode(), e.GetSession(), SessionExpired)
}

func (f *folding) endSession(event, node string, session uint64, to SessionState) error {
	n, err := f.node(event, node)
	if err != nil {
		return err
	}
	if n.SessionState != SessionOpen || n.Session != session {
		return corruptf("%s of %s: session %d is not its open one", event, node, session)
	}
	c := f.editNode(n)
	c.SessionState, c.EndedAt = to, f.revision
	return nil
}

func (f *folding) nodeLinksChanged(e *logv1.NodeLinksChanged) error {
	n, err := f.node("NodeLinksChanged", e.GetNode())
	if err != nil {
		return err
	}
	f.editNode(n).Links = e.GetLinks()
	return nil
}

// nodeDrained: what an administrator drained stays drained when the speaker
// leaves and returns.
func (f *folding) nodeDrained(e *logv1.NodeDrained) error {
	n, err := f.node("NodeDrained", e.GetNode())
	if err != nil {
		return err
	}
	if e.GetReason() == logv1.DrainReason_DRAIN_REASON_UNSPECIFIED {
		return corruptf("drain of %s without a reason", e.GetNode())
	}
	c := f.editNode(n)
	if c.Drained != logv1.DrainReason_DRAIN_REASON_ADMIN {
		c.Drained = e.GetReason()
	}
	// A speaker that shuts down ends an administrator's grace time as well.
	c.GraceUntil = 0
	if e.GetGraceNanos() > 0 {
		c.GraceUntil = f.s.Time + e.GetGraceNanos()
	}
	return nil
}

func (f *folding) nodeUndrained(e *logv1.NodeUndrained) error {
	n, err := f.node("NodeUndrained", e.GetNode())
	if err != nil {
		return err
	}
	f.editNode(n).Drained = logv1.DrainReason_DRAIN_REASON_UNSPECIFIED
	return nil
}

func (f *folding) nodeForgotten(e *logv1.NodeForgotten) error {
	n, err := f.node("NodeForgotten", e.GetNode())
	if err != nil {
		return err
	}
	if n.SessionState == SessionOpen {
		return corruptf("node %s forgotten with an open session", n.Name)
	}
	if n.Owned > 0 {
		return corruptf("node %s forgotten while it owns %d addresses", n.Name, n.Owned)
	}
	if soft := f.s.SoftCount(n.Name); soft > 0 {
		return corruptf("node %s forgotten while %d addresses move away softly", n.Name, soft)
	}
	delete(f.s.Nodes, n.Name)
	f.forgetHealth(n.Name)
	f.touchNode(n.Name)
	return nil
}

func (f *folding) node(event, name string) (*Node, error) {
	n := f.s.Nodes[name]
	if n == nil {
		return nil, corruptf("%s for unknown node %q", event, name)
	}
	return n, nil
}

// editNode puts a copy of the record in its place, to be changed before
// anybody else sees it.
func (f *folding) editNode(n *Node) *Node {
	if f.nodes != nil && f.nodes[n.Name] == n {
		return n
	}
	c := *n
	f.s.Nodes[n.Name] = &c
	if f.nodes != nil {
		f.nodes[n.Name] = &c
	}
	f.touchNode(n.Name)
	return &c
}

// HasMAC tells whether m is one of the node's link-layer addresses.
func (n *Node) HasMAC(m MAC) bool { return slices.Contains(n.MACs, m) }
