package allocator

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Options of a choice of owner. The zero value is a choice at the state's time
// among all nodes.
type Options struct {
	// Preferred nodes come first, whatever they own: those heard lately. Nil: none.
	Preferred func(node string) bool
	// Exclude is never chosen: the node that has to give the address up.
	Exclude string
	// Now is the time to measure back-off by, nanoseconds since 1970 UTC; 0: the state's.
	Now int64
}

// Back-off of a node that could not announce an address: doubled with every
// failure from the first to the longest.
const (
	FirstBackoff   = 10 * time.Second
	LongestBackoff = 10 * time.Minute
)

// Backoff is how long a node is not tried for an address after so many
// failures in a row.
func Backoff(failures uint32) time.Duration {
	d := FirstBackoff
	for range min(failures, 16) {
		if failures--; failures == 0 || d >= LongestBackoff {
			break
		}
		d *= 2
	}
	return min(d, LongestBackoff)
}

// Eligible tells whether a node may own an address at the state's time.
func Eligible(s *fsm.State, addr netip.Addr, node string) Reason {
	return NewChooser(s).Eligible(addr, node, s.Time)
}

// ChooseOwner chooses the node that should own an address: with Sticky
// placement the eligible one that owns fewest, a tie broken by rendezvous hash;
// with Ideal placement the hash alone. ok is false when no node is eligible.
// A caller with many addresses uses one Chooser for all.
func ChooseOwner(s *fsm.State, addr netip.Addr, opt Options) (node string, ok bool) {
	return NewChooser(s).ChooseOwner(addr, opt)
}

// ShouldMove tells whether an address should leave its owner, and why. It stays
// while the owner is eligible, but for Ideal placement, and while the owner
// merely does badly and no other node is eligible. False when nobody owns it.
func ShouldMove(s *fsm.State, addr netip.Addr) (why logv1.OwnerReason, move bool) {
	return NewChooser(s).ShouldMove(addr, Options{})
}

// Chooser makes many choices from one state and remembers what they have in
// common. Between them the state may change by owner, address and service
// events; after any other event a new Chooser is needed.
type Chooser struct {
	s     *fsm.State
	nodes []string
	pools map[string]*poolChoice
}

// poolChoice is what all addresses of a pool have in common.
type poolChoice struct {
	policy Policy
	// reasons say for each node what stands against it, short of the address's
	// own services and failures. able are the nodes against which nothing does.
	reasons []Reason
	able    []int
}

// NewChooser makes a chooser for s.
func NewChooser(s *fsm.State) *Chooser {
	return &Chooser{
		s:     s,
		nodes: slices.Sorted(maps.Keys(s.Nodes)),
		pools: map[string]*poolChoice{},
	}
}

// Policy is the policy of an address.
func (c *Chooser) Policy(addr netip.Addr) Policy { return c.pool(addr).policy }

func (c *Chooser) pool(addr netip.Addr) *poolChoice {
	name := c.s.PoolOf(addr)
	p := c.pools[name]
	if p == nil {
		p = &poolChoice{policy: PoolPolicy(c.s, name)}
		for i, node := range c.nodes {
			r := nodeReason(p.policy, c.s.Nodes[node])
			p.reasons = append(p.reasons, r)
			if r == OK {
				p.able = append(p.able, i)
			}
		}
		c.pools[name] = p
	}
	return p
}

// nodeReason is what stands against a node for a whole pool.
func nodeReason(p Policy, n *fsm.Node) Reason {
	switch {
	case n.SessionState != fsm.SessionOpen:
		return NoSession
	case n.Drained == logv1.DrainReason_DRAIN_REASON_LEAVE:
		return Leaving
	case n.Drained != logv1.DrainReason_DRAIN_REASON_UNSPECIFIED:
		return Drained
	}
	if _, excluded := n.Labels[LabelExclude]; excluded {
		return ExcludedLabel
	}
	if !p.Announced {
		return NoAdvertisement
	}
	interfaces, admitted := p.On(n.Labels)
	if !admitted {
		return NodeSelector
	}
	if !slices.ContainsFunc(n.Links, func(l *logv1.Link) bool {
		return l.GetUp() && (len(interfaces) == 0 || slices.Contains(interfaces, l.GetName()))
	}) {
		return LinkDown
	}
	return OK
}

// Eligible tells whether a node may own an address at a time (nanoseconds since
// 1970 UTC).
func (c *Chooser) Eligible(addr netip.Addr, node string, now int64) Reason {
	rec := c.s.Addresses[addr]
	if rec == nil {
		return NotInUse
	}
	at, found := slices.BinarySearch(c.nodes, node)
	if !found {
		return UnknownNode
	}
	r := c.pool(addr).reasons[at]
	switch {
	case r != OK && r != LinkDown:
		return r
	case !admits(c.selectors(rec), c.s.Nodes[node]):
		return ServiceNodeSelector
	case r == OK && failing(rec, node, now):
		return AnnounceFailed
	}
	return r
}

// Forbids tells whether a rule of the operator's keeps the address from a node,
// whatever becomes of the node: it must not answer for it then even in a soft move.
func (c *Chooser) Forbids(addr netip.Addr, node string) bool {
	rec, n := c.s.Addresses[addr], c.s.Nodes[node]
	if rec == nil || n == nil {
		return true
	}
	_, excluded := n.Labels[LabelExclude]
	_, admitted := c.pool(addr).policy.On(n.Labels)
	return excluded || !admitted || !admits(c.selectors(rec), n)
}

// selectors are those of the services that have the address and select nodes. An
// address has them once for all nodes, and most have none.
func (c *Chooser) selectors(rec *fsm.Address) (all [][]*logv1.LabelSelector) {
	for _, key := range rec.Services {
		if sels := c.s.Services[key].Spec.GetNodeSelectors(); len(sels) > 0 {
			all = append(all, sels)
		}
	}
	return all
}

// admits tells whether every service admits the node.
func admits(selectors [][]*logv1.LabelSelector, n *fsm.Node) bool {
	for _, sels := range selectors {
		if !fsm.MatchAny(sels, n.Labels) {
			return false
		}
	}
	return true
}

// failing tells whether the node could not announce the address lately.
func failing(rec *fsm.Address, node string, now int64) bool {
	if len(rec.Failures) == 0 {
		return false
	}
	f, ok := rec.Failures[node]
	return ok && now < f.Time+int64(Backoff(f.Count))
}

// ChooseOwner is the function of this name.
func (c *Chooser) ChooseOwner(addr netip.Addr, opt Options) (node string, ok bool) {
	rec := c.s.Addresses[addr]
	if rec == nil {
		return "", false
	}
	p := c.pool(addr)
	now := opt.Now
	if now == 0 {
		now = c.s.Time
	}
	ideal := p.policy.Placement == logv1.Placement_PLACEMENT_IDEAL
	selectors := c.selectors(rec)
	var best candidate
	for _, i := range p.able {
		name := c.nodes[i]
		if name == opt.Exclude || failing(rec, name, now) {
			continue
		}
		n := candidate{node: name}
		if !ideal || len(selectors) > 0 {
			node := c.s.Nodes[name] // what it owns changes from one choice to the next
			if !admits(selectors, node) {
				continue
			}
			n.owned = node.Owned
			if rec.Owner == name {
				n.owned-- // it is to be compared with what it would own without
			}
		}
		if ideal {
			n.owned = 0
		}
		if opt.Preferred != nil && opt.Preferred(name) {
			n.preferred = true
		}
		if best.node == "" || n.better(&best, addr) {
			best = n
		}
	}
	return best.node, best.node != ""
}

type candidate struct {
	node      string
	preferred bool
	owned     int
	hash      uint64
	hashed    bool
}

func (n *candidate) better(o *candidate, addr netip.Addr) bool {
	if n.preferred != o.preferred {
		return n.preferred
	}
	if n.owned != o.owned {
		return n.owned < o.owned
	}
	if a, b := n.rank(addr), o.rank(addr); a != b {
		return a > b
	}
	return n.node < o.node
}

func (n *candidate) rank(addr netip.Addr) uint64 {
	if !n.hashed {
		n.hash, n.hashed = Rank(n.node, addr), true
	}
	return n.hash
}

// Rank is the rendezvous hash: of several nodes the one with the highest rank
// wins an address. It is XXH64 with seed 0 over the node's name, a zero byte and
// the 4 or 16 bytes of the address, and stays so for ever.
func Rank(node string, addr netip.Addr) uint64 {
	var buf [96]byte
	b := append(append(buf[:0], node...), 0)
	if addr.Is4() {
		a := addr.As4()
		b = append(b, a[:]...)
	} else {
		a := addr.As16()
		b = append(b, a[:]...)
	}
	return xxhash.Sum64(b)
}

// ShouldMove is the function of this name, with options for the successor.
func (c *Chooser) ShouldMove(addr netip.Addr, opt Options) (why logv1.OwnerReason, move bool) {
	rec := c.s.Addresses[addr]
	if rec == nil || rec.Owner == "" {
		return 0, false
	}
	now := opt.Now
	if now == 0 {
		now = c.s.Time
	}
	r := c.Eligible(addr, rec.Owner, now)
	if r == OK && c.pool(addr).policy.Placement != logv1.Placement_PLACEMENT_IDEAL {
		return 0, false
	}
	if r.forbids() {
		return r.OwnerReason(), true
	}
	if r != OK {
		opt.Exclude = rec.Owner
	}
	next, ok := c.ChooseOwner(addr, opt)
	switch {
	case !ok || next == rec.Owner:
		return 0, false
	case r == OK:
		return logv1.OwnerReason_OWNER_REASON_IDEAL, true
	default:
		return r.OwnerReason(), true
	}
}
