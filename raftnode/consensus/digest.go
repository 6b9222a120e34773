package consensus

import (
	"context"
	"slices"
	"sync"

	"github.com/quorumlb/quorumlb/fsm"
)

// Digest of a state at a revision.
type Digest struct {
	Revision uint64
	Sum      [32]byte
}

// keepDigests is how many are kept for comparison with members that are ahead
// or behind.
const keepDigests = 16

// digests computes digests beside the apply goroutine.
type digests struct {
	next chan *fsm.State // at most one waits; others are not computed

	mu   sync.Mutex
	list []Digest // oldest first
}

func newDigests() *digests { return &digests{next: make(chan *fsm.State, 1)} }

// offer hands over a clone to be digested, unless one waits already.
func (d *digests) offer(s *fsm.State) {
	select {
	case d.next <- s:
	default:
	}
}

func (d *digests) run(ctx context.Context) {
	for {
		select {
		case s := <-d.next:
			d.add(Digest{Revision: s.Revision, Sum: s.Digest()})
		case <-ctx.Done():
			return
		}
	}
}

func (d *digests) add(x Digest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = append(d.list, x)
	if len(d.list) > keepDigests {
		d.list = slices.Delete(d.list, 0, 1)
	}
}

// Digests are the newest ones that were computed in passing, oldest first, for
// comparison with other members. One is computed every Config.DigestEvery
// revisions, unless the one before is still being computed.
func (n *Node) Digests() []Digest {
	n.digests.mu.Lock()
	defer n.digests.mu.Unlock()
	return slices.Clone(n.digests.list)
}

// DigestNow computes the digest of the state as it is.
func (n *Node) DigestNow() Digest {
	var s *fsm.State
	n.Read(func(now *fsm.State) { s = now.Clone() })
	return Digest{Revision: s.Revision, Sum: s.Digest()}
}
