package decider

import (
	"bytes"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// OpenSession admits a speaker process. A repeated command of a process whose
// session is open is answered with that session. Errors: ErrReplaced,
// ErrSessionClosed, *InvalidError.
type OpenSession struct {
	Node string
	// Process is the random id of the speaker process, never zero.
	Process [16]byte
	// Incarnation is 0 on the process's first command, later the number it was given.
	Incarnation uint64
	MACs        []fsm.MAC
	Labels      map[string]string
	Links       []*logv1.Link
	Version     string
}

func (c *OpenSession) kind() string  { return "OpenSession" }
func (c *OpenSession) actor() string { return "speaker:" + c.Node }
func (c *OpenSession) observed()     {}

func (c *OpenSession) decide(t *tx) (answer, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	node := t.s.Nodes[c.Node]
	incarnation, err := c.admit(node)
	if err != nil {
		return nil, err
	}
	if node != nil && node.Process == c.Process && node.SessionState == fsm.SessionOpen {
		c.refresh(t, node)
		return sessionAnswer(node.Session, incarnation), nil
	}
	if node != nil && node.Session == t.rev {
		// A session's id is its revision, so a batch opens one per node.
		return nil, errNextBatch
	}
	macs := make([][]byte, 0, len(c.MACs))
	for _, m := range sortedMACs(c.MACs) {
		macs = append(macs, bytes.Clone(m[:]))
	}
	t.emit(&logv1.Event{Fact: &logv1.Event_SessionOpened{SessionOpened: &logv1.SessionOpened{
		Node: c.Node, Process: bytes.Clone(c.Process[:]), Incarnation: incarnation, Macs: macs,
		Labels: c.Labels, Links: c.Links, Version: c.Version,
	}}})
	return sessionAnswer(t.rev, incarnation), nil
}

// admit gives the incarnation of the asking process, or says why it may not come in.
func (c *OpenSession) admit(node *fsm.Node) (uint64, error) {
	switch {
	case node == nil || node.Incarnation == 0:
		// New, or forgotten by an administrator: its count goes on where it was.
		return max(c.Incarnation, 1), nil
	case node.Process == c.Process:
		if c.Incarnation != 0 && c.Incarnation != node.Incarnation {
			return 0, fmt.Errorf("%w: it is incarnation %d, not %d", ErrReplaced, node.Incarnation, c.Incarnation)
		}
		if node.SessionState == fsm.SessionClosed {
			return 0, ErrSessionClosed
		}
		return node.Incarnation, nil
	case c.Incarnation == 0:
		return node.Incarnation + 1, nil
	case c.Incarnation <= node.Incarnation:
		return 0, fmt.Errorf("%w: incarnation %d, and %d asks", ErrReplaced, node.Incarnation, c.Incarnation)
	default:
		// The log was restored from an older state than the one that counted this process.
		return c.Incarnation, nil
	}
}

// refresh records what a repeated command says anew.
func (c *OpenSession) refresh(t *tx, node *fsm.Node) {
	if !equalLinks(node.Links, c.Links) {
		t.emit(linksChanged(c.Node, c.Links))
	}
}

// sessionAnswer names the session that the command found or opened. The node may
// have another one at the end of the batch, of another process.
func sessionAnswer(session, incarnation uint64) answer {
	return func(head *fsm.State, r *Result) {
		r.Session = &SessionResult{Session: session, Incarnation: incarnation, ClusterID: head.ClusterID, Lease: head.Lease}
	}
}

func (c *OpenSession) check() error {
	var f faults
	checkNodeName(&f, "node", c.Node)
	if c.Process == [16]byte{} {
		f.add("process", "must be a random id, not zero")
	}
	for i, m := range c.MACs {
		if m == (fsm.MAC{}) || m[0]&1 != 0 {
			f.add(fmt.Sprintf("macs[%d]", i), "is not the address of a station")
		}
	}
	checkLinks(&f, c.Links)
	checkText(&f, "version", c.Version)
	for k, v := range c.Labels {
		checkText(&f, "labels", k+v)
	}
	return f.err()
}

// Leave asks for a planned move of everything that the node owns, because its
// speaker shuts down; with Done it closes the session. Errors: ErrNoSession, and
// PreconditionError for Done while the node owns an address: a close says that the
// node answers for nothing, so nobody waits after it.
type Leave struct {
	Node    string
	Session uint64
	Done    bool
}

func (c *Leave) kind() string  { return "Leave" }
func (c *Leave) actor() string { return "speaker:" + c.Node }
func (c *Leave) observed()     {}

func (c *Leave) decide(t *tx) (answer, error) {
	node := t.s.Nodes[c.Node]
	if node == nil || node.Session != c.Session {
		return nil, fmt.Errorf("%w: %d", ErrNoSession, c.Session)
	}
	if node.SessionState == fsm.SessionOpen {
		switch {
		case c.Done && node.Owned > 0:
			return nil, &PreconditionError{Reason: fmt.Sprintf("node %q still owns %d addresses", c.Node, node.Owned)}
		case c.Done && t.s.SoftCount(c.Node) > 0:
			return nil, &PreconditionError{Reason: fmt.Sprintf(
				"node %q still answers old clients of %d addresses", c.Node, t.s.SoftCount(c.Node))}
		case c.Done:
			t.emit(&logv1.Event{Fact: &logv1.Event_SessionClosed{
				SessionClosed: &logv1.SessionClosed{Node: c.Node, Session: c.Session},
			}})
		case node.Drained == logv1.DrainReason_DRAIN_REASON_UNSPECIFIED, node.GraceUntil > t.now:
			// It shuts down whether clients know it or not: that ends a grace time.
			t.emit(nodeDrained(c.Node, logv1.DrainReason_DRAIN_REASON_LEAVE))
		}
	}
	return ownedBy(c.Node), nil
}

// SessionID names a session of a node.
type SessionID struct {
	Node    string
	Session uint64
}

// ExpireNodes reports nodes that nobody heard for the detection time. Those
// whose session is no longer the open one, or that were heard while the command
// waited, are passed over.
type ExpireNodes struct {
	Sessions []SessionID
}

func (c *ExpireNodes) kind() string  { return "ExpireNodes" }
func (c *ExpireNodes) actor() string { return "" }
func (c *ExpireNodes) observed()     {}
func (c *ExpireNodes) urgent()       {}

func (c *ExpireNodes) decide(t *tx) (answer, error) {
	for _, id := range c.Sessions {
		node := t.s.Nodes[id.Node]
		if node == nil || node.Session != id.Session || node.SessionState != fsm.SessionOpen || !t.silent(id.Node, id.Session) {
			continue
		}
		t.emit(&logv1.Event{Fact: &logv1.Event_SessionExpired{
			SessionExpired: &logv1.SessionExpired{Node: id.Node, Session: id.Session},
		}})
	}
	return nil, nil
}

// LinksChanged reports the links of a node. Errors: ErrNoSession, *InvalidError.
type LinksChanged struct {
	Node    string
	Session uint64
	Links   []*logv1.Link
}

func (c *LinksChanged) kind() string  { return "LinksChanged" }
func (c *LinksChanged) actor() string { return "speaker:" + c.Node }
func (c *LinksChanged) observed()     {}
func (c *LinksChanged) urgent()       {}

func (c *LinksChanged) decide(t *tx) (answer, error) {
	node := t.s.Nodes[c.Node]
	if node == nil || node.Session != c.Session || node.SessionState != fsm.SessionOpen {
		return nil, fmt.Errorf("%w: %d", ErrNoSession, c.Session)
	}
	var f faults
	checkLinks(&f, c.Links)
	if err := f.err(); err != nil {
		return nil, err
	}
	if !equalLinks(node.Links, c.Links) {
		t.emit(linksChanged(c.Node, c.Links))
	}
	return nil, nil
}

func linksChanged(node string, links []*logv1.Link) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_NodeLinksChanged{
		NodeLinksChanged: &logv1.NodeLinksChanged{Node: node, Links: links},
	}}
}

func nodeDrained(node string, why logv1.DrainReason) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_NodeDrained{
		NodeDrained: &logv1.NodeDrained{Node: node, Reason: why},
	}}
}

// ownedBy answers how many addresses the node still owns.
func ownedBy(name string) answer {
	return func(head *fsm.State, r *Result) {
		if node := head.Nodes[name]; node != nil {
			r.Owned, r.Soft = node.Owned, head.SoftCount(name)
		}
	}
}

func sortedMACs(macs []fsm.MAC) []fsm.MAC {
	out := slices.Clone(macs)
	slices.SortFunc(out, func(a, b fsm.MAC) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(out)
}

func equalLinks(a, b []*logv1.Link) bool {
	return slices.EqualFunc(a, b, func(x, y *logv1.Link) bool { return proto.Equal(x, y) })
}
