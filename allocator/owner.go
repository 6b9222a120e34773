package allocator

import (
	"cmp"
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
	// Serving: only nodes that can serve all services of the address, as far as that is
	// known. Else, where no node can, one of those that can serve the most is chosen.
	Serving bool
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

// Chooser makes many choices from one state and remembers what they have in
// common. Between them the state may change by owner, address and service
// events; after any other event a new Chooser is needed.
type Chooser struct {
	s        *fsm.State
	nodes    []string
	policies Policies
	choices  map[*Policy]*policyChoice
}

// policyChoice is what all addresses of a policy have in common.
type policyChoice struct {
	policy *Policy
	// reasons say for each node what stands against it, short of the address's
	// own services and failures. able are the nodes against which nothing does.
	reasons []Reason
	able    []int
	// weights are the advertisements' preference for each node.
	weights []int
	// flat: they prefer none.
	flat bool
	// nets are the subnets on each node's interfaces to announce on.
	nets [][]netip.Prefix
}

// NewChooser makes a chooser for s.
func NewChooser(s *fsm.State) *Chooser {
	return &Chooser{
		s:       s,
		nodes:   slices.Sorted(maps.Keys(s.Nodes)),
		choices: map[*Policy]*policyChoice{},
	}
}

// Policy is the policy of an address; not to be changed.
func (c *Chooser) Policy(addr netip.Addr) *Policy { return c.policies.Of(c.s, addr) }

func (c *Chooser) choice(addr netip.Addr) *policyChoice {
	policy := c.Policy(addr)
	p := c.choices[policy]
	if p == nil {
		p = &policyChoice{policy: policy, flat: true}
		for i, name := range c.nodes {
			node := c.s.Nodes[name]
			r := nodeReason(policy, node)
			p.reasons = append(p.reasons, r)
			p.weights = append(p.weights, policy.Weight(node.Labels))
			nets, _ := subnets(policy, node, true)
			p.nets = append(p.nets, nets)
			p.flat = p.flat && p.weights[i] == p.weights[0]
			if r == OK {
				p.able = append(p.able, i)
			}
		}
		c.choices[policy] = p
	}
	return p
}

// nodeReason is what stands against a node for a whole pool.
func nodeReason(p *Policy, n *fsm.Node) Reason {
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
	switch {
	case p.Unselected:
		return ServiceUnselected
	case !p.Announced:
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
	r := c.choice(addr).reasons[at]
	switch {
	case r != OK && r != LinkDown:
		return r
	case !admits(c.selectors(rec), c.s.Nodes[node]):
		return ServiceNodeSelector
	case r != OK:
		return r
	}
	q := question{policyChoice: c.choice(addr), rec: rec, now: now}
	for _, key := range rec.Services {
		if why := c.serves(&q, c.s.Services[key], node); why != OK {
			return why
		}
	}
	if failing(rec, node, now) {
		return AnnounceFailed
	}
	return OK
}

// Forbids tells whether a rule of the operator's keeps the address from a node,
// whatever becomes of the node: it must not answer for it then even in a soft move.
func (c *Chooser) Forbids(addr netip.Addr, node string) bool {
	rec, n := c.s.Addresses[addr], c.s.Nodes[node]
	if rec == nil || n == nil {
		return true
	}
	_, excluded := n.Labels[LabelExclude]
	_, admitted := c.Policy(addr).On(n.Labels)
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

// ChooseOwner chooses the node that should own an address, of the eligible ones:
// first by preference, that of its services for one node and then that of the
// advertisements; then, with Sticky placement, the one that owns fewest; then by
// rendezvous hash. Where no node is, it is one that is eligible but for what it can serve;
// see Options.Serving. ok is false when there is none either.
func (c *Chooser) ChooseOwner(addr netip.Addr, opt Options) (node string, ok bool) {
	q := c.question(addr, opt)
	if q.rec == nil {
		return "", false
	}
	node = c.best(&q).node
	return node, node != ""
}

// best is the best of the nodes that may own the address; without a name for none. A node
// that cannot serve is better than none, but not for an address that nobody has owned.
func (c *Chooser) best(q *question) (best candidate) {
	for _, i := range q.able {
		n, ok := c.candidate(q, i)
		if !ok {
			continue
		}
		switch {
		case !q.serves(&n), best.node != "" && best.unserved == 0 && n.unserved > 0:
		case best.node == "", best.unserved > 0 && n.unserved == 0, n.better(&best, q.rec.Addr):
			best = n
		}
	}
	return best
}

// serves tells whether the node can serve, or is to be chosen although it cannot.
func (q *question) serves(n *candidate) bool {
	return n.unserved == 0 ||
		!q.opt.Serving && (n.unserved < len(q.rec.Services) || q.rec.OwnerWhy != logv1.OwnerReason_OWNER_REASON_UNSPECIFIED)
}

// question is what a choice of owner is about.
type question struct {
	*policyChoice
	rec *fsm.Address // nil: not in use
	opt Options
	now int64
	// ideal: what a node owns makes no difference.
	ideal bool
	// selectors are those of the address's services, wanted the nodes that they prefer.
	selectors [][]*logv1.LabelSelector
	wanted    []string
	// owned, if set, counts what each node owns in place of the state.
	owned []int
	// beside counts for each node the other addresses of a service and this family that it
	// owns; nil when there are none.
	beside []int
	// flapped: the address was forced to move lately.
	flapped bool
	// serving are those of the address's services of which it is known where they can
	// be served.
	serving []*fsm.Service
}

func (c *Chooser) question(addr netip.Addr, opt Options) question {
	rec := c.s.Addresses[addr]
	if rec == nil {
		return question{opt: opt}
	}
	q := c.alone(rec, opt)
	q.beside = c.countBeside(&q, func(other *fsm.Address) string { return other.Owner })
	return q
}

// alone is the question as if the services had no other address.
func (c *Chooser) alone(rec *fsm.Address, opt Options) question {
	q := question{rec: rec, opt: opt, now: opt.Now}
	if q.now == 0 {
		q.now = c.s.Time
	}
	q.policyChoice = c.choice(rec.Addr)
	q.ideal = q.policy.Placement == logv1.Placement_PLACEMENT_IDEAL
	q.flapped = !q.ideal && q.rec.Flaps > 0 && q.rec.FlapsAt(q.now) > 0
	q.selectors = c.selectors(q.rec)
	for _, key := range q.rec.Services {
		svc := c.s.Services[key]
		if node := svc.Spec.GetPreferredNode(); node != "" {
			q.wanted = append(q.wanted, node)
		}
		if svc.Endpoints != nil || svc.Spec.GetHealthCheck() != nil {
			q.serving = append(q.serving, svc)
		}
	}
	return q
}

// wantedWeight is that of a node which a service prefers by name: more than any
// number of advertisements gives.
const wantedWeight = 1 << 32

// candidate tells what speaks for a node, one of the able; false when it may not
// own the address.
func (c *Chooser) candidate(q *question, i int) (candidate, bool) {
	n := candidate{node: c.nodes[i], weight: q.weights[i]}
	if n.node == q.opt.Exclude || failing(q.rec, n.node, q.now) {
		return n, false
	}
	if q.flapped {
		n.session = c.s.Nodes[n.node].Session
	}
	if !q.ideal || len(q.selectors) > 0 {
		node := c.s.Nodes[n.node] // what it owns changes from one choice to the next
		if !admits(q.selectors, node) {
			return n, false
		}
		n.owned = node.Owned
		if q.owned != nil {
			n.owned = q.owned[i]
		}
		if q.rec.Owner == n.node {
			n.owned-- // it is to be compared with what it would own without
		}
	}
	if q.ideal {
		n.owned = 0
	}
	for _, svc := range q.serving {
		if c.serves(q, svc, n.node) != OK {
			n.unserved++
		}
		if _, said := svc.Health[n.node]; !said && svc.Spec.GetHealthCheck() != nil {
			n.unchecked++
		}
	}
	n.foreign = !onLink(q.nets[i], q.rec.Addr)
	if q.beside != nil {
		n.beside = q.beside[i]
	}
	for _, name := range q.wanted {
		if name == n.node {
			n.weight += wantedWeight
		}
	}
	n.heard = q.opt.Preferred != nil && q.opt.Preferred(n.node)
	return n, true
}

// candidate is a node that may own an address. Of two the better is the one that
// was heard lately; then the one that can serve more of the address's services; then the
// one of which that is known; then the one
// that has the address's subnet; then the one that owns fewer of the other addresses of
// its services; then the one that services and advertisements prefer;
// then the one that owns fewer; then, for an address that was forced to move lately,
// the one that started last; then the one of the higher rank.
type candidate struct {
	node  string
	heard bool
	// unserved counts the address's services that the node cannot serve, as far as is known.
	unserved int
	// unchecked counts the services whose health check has not said anything yet.
	unchecked int
	// foreign: the address's subnet is on no interface of the node.
	foreign bool
	// beside counts the other addresses of its services and family on the node.
	beside int
	// session is the node's, for an address that was forced to move lately: of nodes that
	// are equal the one that started last is the least likely to be restarted next.
	session uint64
	weight  int
	owned   int
	hash    uint64
	hashed  bool
}

func (n *candidate) better(o *candidate, addr netip.Addr) bool {
	if c := n.compare(o); c != 0 {
		return c < 0
	}
	if n.session != o.session {
		return n.session > o.session
	}
	if a, b := n.rank(addr), o.rank(addr); a != b {
		return a > b
	}
	return n.node < o.node
}

// compare is negative when n is better, whatever the hash says.
func (n *candidate) compare(o *candidate) int {
	switch {
	case n.heard != o.heard:
		if n.heard {
			return -1
		}
		return 1
	case n.unserved != o.unserved:
		return cmp.Compare(n.unserved, o.unserved)
	case n.unchecked != o.unchecked:
		return cmp.Compare(n.unchecked, o.unchecked)
	case n.foreign != o.foreign:
		if o.foreign {
			return -1
		}
		return 1
	case n.beside != o.beside:
		return cmp.Compare(n.beside, o.beside)
	case n.weight != o.weight:
		return cmp.Compare(o.weight, n.weight)
	}
	return cmp.Compare(n.owned, o.owned)
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

// ShouldMove tells whether an address should leave its owner, and why; the options are
// for the successor. It stays while the owner is eligible, but for Ideal placement or a
// subnet that only others have, and while the owner merely does badly and no other node
// would do better. False when nobody owns it.
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
	ideal := c.Policy(addr).Placement == logv1.Placement_PLACEMENT_IDEAL
	if r == OK && !ideal && !c.OffSubnet(addr) {
		return 0, false
	}
	if r.forbids() {
		return r.OwnerReason(), true
	}
	if r != OK {
		opt.Exclude = rec.Owner
	}
	q := c.question(addr, opt)
	next := c.best(&q)
	switch {
	case next.node == "" || next.node == rec.Owner || !c.worth(&q, r, next.unserved):
		return 0, false
	case r == OK && c.OffSubnet(addr) && c.OnLink(addr, next.node) && c.lostLink(rec):
		return logv1.OwnerReason_OWNER_REASON_LINK_DOWN, true
	case r == OK && ideal:
		return logv1.OwnerReason_OWNER_REASON_IDEAL, true
	case r == OK && c.OffSubnet(addr) && c.OnLink(addr, next.node):
		return logv1.OwnerReason_OWNER_REASON_OFF_SUBNET, true
	case r == OK:
		return 0, false
	default:
		return r.OwnerReason(), true
	}
}

// worth tells whether an owner against whom there is a reason is left for a node that
// cannot serve so many of the services: if it can serve no more itself, or not even answer.
func (c *Chooser) worth(q *question, r Reason, unserved int) bool {
	if unserved == 0 {
		return true
	}
	own := 0
	for _, svc := range q.serving {
		if c.serves(q, svc, q.rec.Owner) != OK {
			own++
		}
	}
	switch r {
	case Drained:
		return unserved <= own
	case NoEndpoint, OnlyTerminating, Unhealthy:
		return unserved < own
	}
	return true
}
