package chaos

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
)

// Change is a fact about an address: that it was given to a node, or taken from one.
type Change struct {
	At       time.Time `json:"at"` // when it was decided, by the leader's clock
	Revision uint64    `json:"revision"`
	Node     string    `json:"node"`
	Lost     bool      `json:"lost,omitempty"` // taken, not given
	Why      string    `json:"why"`
}

// Expiry is a fact about a node: its session was closed for silence.
type Expiry struct {
	At       time.Time `json:"at"`
	Revision uint64    `json:"revision"`
	Node     string    `json:"node"`
	// Because names the faults that may have caused it; none is worth a look.
	Because []string `json:"because"`
}

// chronicle follows the log's events, through whatever member answers, and keeps what
// says who owned what when. All clocks of the lab are one, so its times can be compared
// with those of the captures.
type chronicle struct {
	mu       sync.Mutex
	changes  map[netip.Addr][]Change
	expiries []Expiry
	revision uint64
	position uint32
	events   int
	gaps     []string // revisions that nobody had any more
	missed   int      // times that a member did not have what comes next
}

func newChronicle() *chronicle { return &chronicle{changes: map[netip.Addr][]Change{}} }

// follow runs until ctx ends.
func (c *chronicle) follow(ctx context.Context, e *Env) error {
	for i := 0; ctx.Err() == nil; i++ {
		n := e.Members()[i%len(e.Members())]
		if n.Member().Running() {
			c.followAt(ctx, e, n)
		}
		_ = lab.Wait(ctx, 50*time.Millisecond)
	}
	return nil
}

// followAt reads what one member has until the stream breaks. A member that stands still
// is left after a while.
func (c *chronicle) followAt(ctx context.Context, e *Env, n *cluster.Node) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	a, err := e.history.client(e, 91, n)
	if err != nil {
		return
	}
	c.mu.Lock()
	since := c.revision
	c.mu.Unlock()
	stream, err := a.Events(ctx, &adminv1.EventsRequest{SinceRevision: since, Follow: true})
	if err != nil {
		return
	}
	for {
		ev, err := stream.Recv()
		if err != nil {
			return
		}
		if !c.add(ev) {
			return
		}
	}
}

// add notes one event. It reports false when revisions before it are missing, which another
// member may have.
func (c *chronicle) add(ev *adminv1.EventsResponse) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	rev, pos := ev.GetRevision(), ev.GetPosition()
	switch {
	case rev < c.revision, rev == c.revision && c.events > 0 && pos <= c.position:
		return true
	case c.revision > 0 && rev > c.revision+1:
		if c.missed++; c.missed%20 != 0 {
			return false
		}
		c.gaps = append(c.gaps, fmt.Sprintf("%d..%d", c.revision+1, rev-1))
	}
	c.revision, c.position = rev, pos
	c.events++
	at := time.Unix(0, ev.GetTimeUnixNano())
	if x := ev.GetEvent().GetOwnerAssigned(); x != nil {
		c.change(x.GetAddress(), Change{At: at, Revision: rev, Node: x.GetNode(), Why: x.GetReason().String()})
	}
	if x := ev.GetEvent().GetOwnerReleased(); x != nil {
		c.change(x.GetAddress(), Change{At: at, Revision: rev, Node: x.GetNode(), Lost: true, Why: x.GetReason().String()})
	}
	if x := ev.GetEvent().GetSessionExpired(); x != nil {
		c.expiries = append(c.expiries, Expiry{At: at, Revision: rev, Node: x.GetNode()})
	}
	return true
}

func (c *chronicle) change(raw []byte, x Change) {
	if addr, ok := netip.AddrFromSlice(raw); ok {
		addr = addr.Unmap()
		c.changes[addr] = append(c.changes[addr], x)
	}
}

// upTo waits until the chronicle has the revision.
func (c *chronicle) upTo(ctx context.Context, revision uint64) error {
	return lab.Poll(ctx, 30*time.Second, func(context.Context) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.revision < revision {
			return fmt.Errorf("the log's events are known up to %d, not %d", c.revision, revision)
		}
		return nil
	})
}

// of copies what happened to an address.
func (c *chronicle) of(addr netip.Addr) []Change {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Change(nil), c.changes[addr]...)
}

// expired copies all expiries.
func (c *chronicle) expired() []Expiry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Expiry(nil), c.expiries...)
}

// ownerAt is who owned the address by the log; empty for nobody.
func ownerAt(changes []Change, at time.Time) (owner string) {
	for _, x := range changes {
		if x.At.After(at) {
			break
		}
		switch {
		case !x.Lost:
			owner = x.Node
		case owner == x.Node:
			owner = ""
		}
	}
	return owner
}
