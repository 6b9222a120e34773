package sim

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/speakers/session"
	"github.com/quorumlb/quorumlb/test/rules"
)

// checker holds what must never be, and the history that it is judged by.
type checker struct {
	w *World

	failMu  sync.Mutex
	failure string

	// mu guards what speakers have in force.
	mu sync.Mutex
	by map[netip.Addr]*speaker

	// histMu guards the history: what each revision was when it was first applied.
	histMu  sync.Mutex
	history []revision
	heads   []headAt
	rules   rules.Book
	healthy []wronged
	// policies are those of the newest revision.
	policies allocator.Policies
}

// revision is what the group agreed on at one revision.
type revision struct {
	chain fsm.Hash
	batch *logv1.Batch
	raw   []byte
	// elected is when the leader that decided it was elected.
	elected time.Duration
	digest  [32]byte
	owners  map[netip.Addr]ownership
}

type ownership struct {
	node  string
	epoch uint64
	// soft is the former owner that answers those who ask it alone.
	soft      string
	softEpoch uint64
	// told, softTold: an advertisement has the node announce it. A dead owner keeps an
	// address in name until its fence time has passed, whatever pools and advertisements say.
	told, softTold bool
}

// digestEvery is of how many revisions one has its digest compared; comparing all
// would take longer than all else.
const digestEvery = 4

func newChecker(w *World) *checker {
	return &checker{w: w, by: make(map[netip.Addr]*speaker), history: []revision{{}}}
}

// fail notes the first thing that went wrong.
func (c *checker) fail(format string, args ...any) {
	c.failMu.Lock()
	defer c.failMu.Unlock()
	if c.failure != "" {
		return
	}
	c.failure = fmt.Sprintf("%.4f s: ", c.w.now().Seconds()) + fmt.Sprintf(format, args...)
	c.w.logf("FAIL %s", c.failure)
}

// Failure is the first thing that went wrong; empty if nothing did.
func (c *checker) Failure() string {
	c.failMu.Lock()
	defer c.failMu.Unlock()
	return c.failure
}

// inForce takes a view that a speaker puts in force.
func (c *checker) inForce(s *speaker, v session.View) {
	c.viewIsTrue(s, v)
	c.mu.Lock()
	defer c.mu.Unlock()
	if v.Revision < s.revision {
		c.fail("%s goes back from revision %d to %d", s.p.name, s.revision, v.Revision)
	}
	s.revision = v.Revision
	clear(s.vips)
	for _, vip := range v.Vips {
		if seen := s.epochs[vip.Addr]; vip.Epoch < seen {
			c.fail("%s is given %v with epoch %d after %d", s.p.name, vip.Addr, vip.Epoch, seen)
		}
		s.epochs[vip.Addr] = vip.Epoch
		s.vips[vip.Addr] = vip
	}
	c.look()
}

// confirmed takes a speaker's newest confirmation.
func (c *checker) confirmed(s *speaker, conf session.Confirmation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.until, s.fresh = conf.Until, conf.Fresh
	s.sent = c.w.now() - s.p.mach.span(s.p.Now()-conf.Sent)
	c.w.Stats.Acks++
	c.look()
}

// lookNow is look for those who do not hold mu.
func (c *checker) lookNow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look()
}

// look finds two machines that claim one address at one true time. Whatever may
// begin such a time calls it. mu is held.
func (c *checker) look() {
	clear(c.by)
	for _, s := range c.w.speakers {
		if !s.alive() || s.p.stalled() > 0 {
			continue
		}
		now := s.p.Now()
		for addr, vip := range s.vips {
			if !s.claims(vip, now) {
				continue
			}
			if o := c.by[addr]; o != nil && o.p.mach != s.p.mach && !c.deposed(addr, o, s) {
				c.fail("two answer for %v: %s (epoch %d, revision %d) and %s (epoch %d, revision %d)", addr,
					o.p.name, o.vips[addr].Epoch, o.revision, s.p.name, vip.Epoch, s.revision)
			}
			c.by[addr] = s
			if vip.Predecessor != "" {
				c.quiet(s, addr, vip)
			}
		}
	}
}

// quiet finds a machine that had the address just before an owner that claims
// nothing, and that still answers everybody: under Hold nothing would silence it.
// Those before were silenced by the claims of whoever had it between. mu is held.
func (c *checker) quiet(s *speaker, addr netip.Addr, vip session.Vip) {
	c.histMu.Lock()
	defer c.histMu.Unlock()
	if vip.Epoch >= uint64(len(c.history)) {
		return
	}
	before := c.history[vip.Epoch].owners[addr].softEpoch
	for _, o := range c.w.speakers {
		old, has := o.vips[addr]
		if !has || !o.alive() || o.p.mach == s.p.mach || o.p.stalled() > 0 || old.Epoch != before {
			continue
		}
		if old.OnControlLoss != logv1.ControlLoss_CONTROL_LOSS_RELEASE || o.claims(old, o.p.Now()) {
			c.fail("%s (epoch %d, revision %d) answers everybody for %v beside %s (epoch %d, revision %d), which claims nothing",
				o.p.name, old.Epoch, o.revision, addr, s.p.name, vip.Epoch, s.revision)
		}
	}
}

// deposed tells whether the older of two owners under Hold was heard by a leader that
// has lost its office since, and perhaps by nobody else. Its successor may take the
// node for dead at once.
func (c *checker) deposed(addr netip.Addr, a, b *speaker) bool {
	if a.vips[addr].Epoch > b.vips[addr].Epoch {
		a, b = b, a
	}
	if a.vips[addr].OnControlLoss == logv1.ControlLoss_CONTROL_LOSS_RELEASE {
		return false
	}
	c.histMu.Lock()
	defer c.histMu.Unlock()
	epoch := b.vips[addr].Epoch
	return epoch < uint64(len(c.history)) && a.sent < c.history[epoch].elected
}

// viewIsTrue holds a view against what the log says at its revision. The hub may
// tell the content of the next revision early, to a reader that comes while
// a batch is being applied.
func (c *checker) viewIsTrue(s *speaker, v session.View) {
	c.histMu.Lock()
	defer c.histMu.Unlock()
	var wrong string
	for _, r := range []uint64{v.Revision, v.Revision + 1} {
		if r >= uint64(len(c.history)) {
			if wrong == "" {
				wrong = "nobody has applied it"
			}
			break
		}
		why := differs(c.history[r].owners, s.p.mach.node, v)
		if why == "" {
			return
		}
		if wrong == "" {
			wrong = why
		}
	}
	c.fail("%s has a wrong view at revision %d: %s", s.p.name, v.Revision, wrong)
}

func differs(owners map[netip.Addr]ownership, node string, v session.View) string {
	own, soft := 0, 0
	for _, o := range owners {
		if o.node == node && o.told {
			own++
		}
		if o.soft == node && o.softTold {
			soft++
		}
	}
	for _, vip := range v.Vips {
		if o := owners[vip.Addr]; o.node != node || o.epoch != vip.Epoch || !o.told {
			return fmt.Sprintf("%v with epoch %d, which is %q's with epoch %d (announced: %t)", vip.Addr, vip.Epoch, o.node, o.epoch, o.told)
		}
	}
	if own != len(v.Vips) {
		return fmt.Sprintf("%d addresses, not %d", len(v.Vips), own)
	}
	if soft != len(v.Soft) {
		return fmt.Sprintf("%d addresses that move softly, not %d", len(v.Soft), soft)
	}
	for _, vip := range v.Soft {
		if o := owners[vip.Addr]; o.soft != node || o.softEpoch != vip.Epoch || !o.softTold {
			return fmt.Sprintf("%v moves softly with epoch %d, but from %q with epoch %d (announced: %t)", vip.Addr, vip.Epoch, o.soft, o.softEpoch, o.softTold)
		}
	}
	return ""
}

// applied takes a batch that a member has folded.
func (c *checker) applied(b *brain, batch *logv1.Batch, ch fsm.Changes, e *entry) {
	s := b.state
	c.w.mu.Lock()
	elected := c.w.elected[e.term]
	c.w.mu.Unlock()
	c.histMu.Lock()
	defer c.histMu.Unlock()
	if c.w.opt.Unchecked {
		if s.Revision == uint64(len(c.history)) {
			c.history = append(c.history, revision{})
		}
		return
	}
	switch n := uint64(len(c.history)); {
	case s.Revision > n:
		c.fail("%s is at revision %d, and nobody was at %d", b.m.id, s.Revision, n)
	case s.Revision == n:
		c.history = append(c.history, c.record(s, batch, ch, e.raw))
		c.history[n].elected = elected
	default:
		c.compare(b.m.id, s)
	}
}

// record keeps a revision that is new. histMu is held.
func (c *checker) record(s *fsm.State, batch *logv1.Batch, ch fsm.Changes, raw []byte) revision {
	c.w.Stats.Batches++
	c.wrongs(s)
	for _, wrong := range c.rules.Take(s, batch) {
		c.fail("%s", wrong)
	}
	r := revision{chain: s.Chain, batch: batch, raw: raw, owners: c.history[len(c.history)-1].owners}
	if len(ch.Addresses) > 0 || ch.All {
		if ch.All {
			c.policies.Reset()
		}
		r.owners = make(map[netip.Addr]ownership, len(s.Addresses))
		for a, rec := range s.Addresses {
			r.owners[a] = ownership{rec.Owner, rec.Epoch, rec.SoftNode, rec.SoftEpoch, c.announces(s, a, rec.Owner), c.announces(s, a, rec.SoftNode)}
			if rec.Owner != "" && rec.Owner != c.history[len(c.history)-1].owners[a].node && rec.Epoch != s.Revision {
				c.fail("%s became the owner of %v at revision %d, and its epoch is %d", rec.Owner, a, s.Revision, rec.Epoch)
			}
			c.sharing(s, rec)
		}
	}
	if s.Revision%digestEvery == 0 {
		r.digest = s.Digest()
		c.compareHeads(s.Revision, &r)
	}
	c.w.logf("revision %d: %s", s.Revision, describe(batch))
	return r
}

// announces tells whether an advertisement has the node announce the address.
func (c *checker) announces(s *fsm.State, a netip.Addr, node string) bool {
	n := s.Nodes[node]
	if n == nil {
		return false
	}
	_, admitted := c.policies.Of(s, a).On(n.Labels)
	return admitted
}

// compare holds a member's state against what another was at that revision.
func (c *checker) compare(who string, s *fsm.State) {
	r := &c.history[s.Revision]
	if r.chain != s.Chain {
		c.fail("%s has another history at revision %d", who, s.Revision)
		return
	}
	if r.digest != [32]byte{} && r.digest != s.Digest() {
		c.fail("%s has another digest at revision %d", who, s.Revision)
	}
}

// restored takes a state that came by a snapshot.
func (c *checker) restored(b *brain) {
	c.histMu.Lock()
	defer c.histMu.Unlock()
	if c.w.opt.Unchecked {
		return
	}
	if b.state.Revision >= uint64(len(c.history)) {
		c.fail("%s has a snapshot of revision %d, which nobody has applied", b.m.id, b.state.Revision)
		return
	}
	c.compare(b.m.id+" by a snapshot", b.state)
}

// decided takes the head that a leader is about to propose. If a revision of its
// chain has been applied, its state must be the one that the members have.
func (c *checker) decided(b *brain, head *fsm.State) {
	if head.Revision%digestEvery != 0 || c.w.opt.Unchecked {
		return
	}
	digest := head.Digest()
	c.histMu.Lock()
	defer c.histMu.Unlock()
	if r := head.Revision; r < uint64(len(c.history)) {
		if c.history[r].chain == head.Chain && c.history[r].digest != digest {
			c.fail("the head of %s differs from the state of revision %d", b.m.id, r)
		}
		return
	}
	c.heads = append(c.heads, headAt{b.m.id, head.Revision, head.Chain, digest})
}

// headAt is a leader's head, before anybody had applied it.
type headAt struct {
	who    string
	rev    uint64
	chain  fsm.Hash
	digest [32]byte
}

// compareHeads holds the heads of a revision against its state. histMu is held.
func (c *checker) compareHeads(rev uint64, r *revision) {
	kept := c.heads[:0]
	for _, h := range c.heads {
		if h.rev == rev && h.chain == r.chain && h.digest != r.digest {
			c.fail("the head of %s differs from the state of revision %d", h.who, rev)
		}
		if h.rev > rev {
			kept = append(kept, h)
		}
	}
	c.heads = kept
}

// sharing finds an address that services have who may not share.
func (c *checker) sharing(s *fsm.State, rec *fsm.Address) {
	ports := make(map[string]fsm.ServiceKey)
	for _, key := range rec.Services {
		svc := s.Services[key]
		if svc == nil {
			c.fail("%v is %v's, which does not exist", rec.Addr, key)
			continue
		}
		if k := svc.Spec.GetSharingKey(); len(rec.Services) > 1 && (k == "" || k != s.Services[rec.Services[0]].Spec.GetSharingKey()) {
			c.fail("%v is shared by %v without one key", rec.Addr, rec.Services)
		}
		for _, p := range svc.Spec.GetPorts() {
			at := fmt.Sprint(p.GetProtocol(), p.GetPort())
			if other, taken := ports[at]; taken && len(rec.Services) > 1 {
				c.fail("%v: port %s is of %v and %v", rec.Addr, at, other, key)
			}
			ports[at] = key
		}
	}
}

// last is the newest revision that anybody has applied.
func (c *checker) last() uint64 {
	c.histMu.Lock()
	defer c.histMu.Unlock()
	return uint64(len(c.history) - 1)
}
