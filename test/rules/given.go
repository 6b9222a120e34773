package rules

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// against tells which rule an address is given against, as things are before it is.
func (p *play) against(e *logv1.AddressAllocated) string {
	s, key, addr := p.s, keyOf(e), toAddr(e.GetAddress())
	svc, pool, rec, was := s.Services[key], s.Pools[e.GetPool()], s.Addresses[addr], s.Free[addr]
	if svc == nil || pool == nil {
		return "there is no such service or pool"
	}
	spec := svc.Spec
	asked := e.GetReason() == logv1.AllocationReason_ALLOCATION_REASON_REQUESTED
	promised := e.GetReason() == logv1.AllocationReason_ALLOCATION_REASON_RESERVED
	p.judged["given"]++
	switch {
	case !pool.Contains(addr):
		return "its pool does not have it"
	case !isFor(s, pool, spec):
		return fmt.Sprintf("its pool is not for it: %v", pool.Spec)
	case pool.Spec.GetManualOnly() && !asked && !promised && spec.GetPool() != e.GetPool():
		return "its pool is given only on request"
	case spec.GetPool() != "" && spec.GetPool() != e.GetPool():
		return "it asked for another pool"
	case pool.Spec.GetAvoidBuggyIps() && fsm.Buggy(addr):
		return "it ends in .0 or .255"
	case asked != slices.Contains(wishOf(spec).named, addr):
		return fmt.Sprintf("it asks for %v", spec.GetAddresses())
	}
	if r := reservationOf(s, addr); r != nil && r.Key() != key && !(rec != nil && slices.Contains(rec.Services, r.Key())) {
		return "it is reserved by " + r.Spec.GetName()
	} else if promised && r == nil {
		return "it is not promised to it"
	}
	if rec != nil {
		return p.joins(svc, rec, pool)
	}
	if was != nil && was.Key != key && (spec.GetSharingKey() == "" || was.SharingKey != spec.GetSharingKey()) {
		switch {
		case was.RestsUntil > s.Time:
			return "it rests"
		case was.KeptUntil > s.Time && !asked && !promised:
			return "it is kept for " + was.Key.String()
		}
	}
	if was != nil && was.Quarantined() && !asked {
		return "a foreign station has it"
	}
	if left(s, pool, key.Namespace) <= 0 {
		return "its namespace has as many of " + e.GetPool() + " as it may"
	}
	return ""
}

// joins tells why a service may not have an address together with those that have it.
func (p *play) joins(svc *fsm.Service, rec *fsm.Address, pool *fsm.Pool) string {
	p.judged["joins others"]++
	for _, other := range rec.Services {
		if why := apart(svc.Spec, p.s.Services[other].Spec); why != "" {
			return fmt.Sprintf("%v has it: %s", other, why)
		}
	}
	if !isOf(rec, svc.Key.Namespace) && left(p.s, pool, svc.Key.Namespace) <= 0 {
		return "its namespace has as many of " + rec.Pool + " as it may"
	}
	return ""
}

// gift is all that a service is given at once.
type gift struct {
	svc  *fsm.Service
	wish wish
	list []*logv1.AddressAllocated
	// n counts them by family, IPv4 first.
	n [2]int
	// events is how many events it takes.
	events int
}

// giftOf takes the first events that give something to one service.
func giftOf(s *fsm.State, key fsm.ServiceKey, events []*logv1.Event) *gift {
	g := &gift{svc: s.Services[key], wish: wishOf(s.Services[key].Spec)}
	for _, ev := range events {
		e := ev.GetAddressAllocated()
		if e == nil || keyOf(e) != key {
			break
		}
		g.list = append(g.list, e)
		g.events++
		g.n[family(toAddr(e.GetAddress()))]++
	}
	return g
}

// exchangeOf is a gift together with what the service gives up for it just before; nil when
// the events do not begin with one.
func exchangeOf(s *fsm.State, events []*logv1.Event) *gift {
	var key fsm.ServiceKey
	for i, ev := range events {
		switch f := ev.GetFact().(type) {
		case *logv1.Event_OwnerReleased:
		case *logv1.Event_AddressReleased:
			k := fsm.KeyOf(f.AddressReleased.GetNamespace(), f.AddressReleased.GetName())
			if key != (fsm.ServiceKey{}) && key != k {
				return nil
			}
			key = k
		case *logv1.Event_AddressAllocated:
			if k := keyOf(f.AddressAllocated); key != (fsm.ServiceKey{}) && key != k || s.Services[k] == nil {
				return nil
			}
			g := giftOf(s, keyOf(f.AddressAllocated), events[i:])
			g.events += i
			return g
		default:
			return nil
		}
	}
	return nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// only tells whether all was given for one of the reasons.
func (g *gift) only(reasons ...logv1.AllocationReason) bool {
	return !slices.ContainsFunc(g.list, func(e *logv1.AddressAllocated) bool { return !slices.Contains(reasons, e.GetReason()) })
}

// judge judges what a service is given at once, before it has it.
func (p *play) judge(g *gift, rules ...func(*gift) string) {
	for _, rule := range rules {
		why := rule(g)
		if why != "" {
			var texts []string
			for _, e := range g.list {
				texts = append(texts, fmt.Sprintf("%v of %s (%v)", toAddr(e.GetAddress()), e.GetPool(), e.GetReason()))
			}
			p.wrong("%v, which has %v, was given %v: %s", g.svc.Key, g.svc.Addresses, texts, why)
		}
	}
}

// halves: who needs both families is given none alone. Who names none gets IPv6 only where
// there is no IPv4 for it, or what is its own.
func (p *play) halves(g *gift) string {
	n := g.n
	for _, a := range g.svc.Addresses {
		n[family(a)]++
	}
	if g.wish.both && (n[0] == 0 || n[1] == 0) {
		return "it needs both families"
	}
	if !g.wish.any || g.wish.two || len(g.svc.Addresses) > 0 || !g.only(fresh, reused) {
		return ""
	}
	p.judged["any family"]++
	for name, pool := range p.s.Pools {
		if g.n[1] > 0 && mayTake(p.s, pool, g.svc.Spec) && slices.ContainsFunc(pool.Ranges, func(r fsm.Range) bool { return r.First.Is4() }) {
			return "pool " + name + " has IPv4"
		}
	}
	return ""
}

// pools: what is not asked for by name is of the pool of what it has or asks for, of the
// same family if there is any; else all of it is of one pool.
func (p *play) pools(g *gift) string {
	has := [2]map[string]bool{{}, {}}
	for _, a := range g.svc.Addresses {
		has[family(a)][poolName(p.s, a)] = true
	}
	var rest []*logv1.AddressAllocated
	for _, e := range g.list {
		if e.GetReason() == requested {
			has[family(toAddr(e.GetAddress()))][e.GetPool()] = true
		} else {
			rest = append(rest, e)
		}
	}
	for _, e := range rest {
		f := family(toAddr(e.GetAddress()))
		want := has[f]
		if len(want) == 0 {
			want = has[1-f]
		}
		if len(want) == 0 {
			want = map[string]bool{rest[0].GetPool(): true}
		}
		if len(rest) > 1 || len(g.list) > len(rest) || len(g.svc.Addresses) > 0 {
			p.judged["one pool for all"]++
		}
		if !want[e.GetPool()] {
			return fmt.Sprintf("all has to come from one pool, %v", want)
		}
	}
	return ""
}

const (
	requested = logv1.AllocationReason_ALLOCATION_REASON_REQUESTED
	fresh     = logv1.AllocationReason_ALLOCATION_REASON_FRESH
	reused    = logv1.AllocationReason_ALLOCATION_REASON_REUSED
)

// offer is what a pool has for a service that has nothing, or gave it: the lower the better.
type offer struct {
	// forAll pools come after those with a serviceAllocation.
	forAll int
	// worse is 0 for both families, 1 for the first, 2 for the second.
	worse int
	// lack is how many addresses are missing of all that the service would take.
	lack     int
	priority uint64
	pool     string
}

func (o offer) compare(x offer) int {
	return cmp.Or(cmp.Compare(o.forAll, x.forAll), cmp.Compare(o.worse, x.worse), cmp.Compare(o.lack, x.lack),
		cmp.Compare(o.priority, x.priority), cmp.Compare(o.pool, x.pool))
}

// offerOf judges so many addresses of each family; false when they are not enough.
func (g *gift) offerOf(pool *fsm.Pool, n [2]int) (o offer, ok bool) {
	o = offer{pool: pool.Spec.GetName(), forAll: 1}
	if sa := pool.Spec.GetServiceAllocation(); sa != nil {
		if o.forAll, o.priority = 0, uint64(sa.GetPriority()); o.priority == 0 {
			o.priority = math.MaxUint64
		}
	}
	first := 0
	if !g.wish.v4 {
		first = 1
	}
	o.lack = 2*g.wish.count - n[0] - n[1]
	switch {
	case n[0] > 0 && n[1] > 0:
		return o, true
	case n[first] > 0:
		o.worse = 1
	default:
		o.worse = 2
	}
	return o, !g.wish.both && n[0]+n[1] > 0
}

// first: of a pool, the first address that was never used is given, in the order of the pool's
// ranges, or else the one that was given up longest ago.
func (p *play) first(g *gift) string {
	for _, e := range g.list {
		addr := toAddr(e.GetAddress())
		was := p.s.Free[addr]
		if !(&gift{list: []*logv1.AddressAllocated{e}}).only(fresh, reused) {
			continue
		}
		if (was == nil) != (e.GetReason() == fresh) {
			return fmt.Sprintf("%v was used before: %t", addr, was != nil)
		}
		p.judged["addresses of a pool"]++
		passed := false // addr, in the order of the ranges
		for a := range free(p.s, g.svc.Key, p.s.Pools[e.GetPool()], addr.Is4()) {
			passed = passed || a == addr
			f := p.s.Free[a]
			switch {
			case reservationOf(p.s, a) != nil || f != nil && f.KeptUntil > p.s.Time: // not for anybody
			case slices.ContainsFunc(g.list, func(e *logv1.AddressAllocated) bool { return toAddr(e.GetAddress()) == a }):
			case f == nil && (was != nil || !passed):
				return fmt.Sprintf("%v was never used and comes before %v", a, addr)
			case f != nil && was != nil && f.FreedAt < was.FreedAt:
				return fmt.Sprintf("%v was given up before %v", a, addr)
			}
		}
	}
	return ""
}

// order: a service that has nothing, and asks for no pool and no address, gets from the
// first pool that has as much as any.
func (p *play) order(g *gift) string {
	if len(g.svc.Addresses) > 0 || len(g.wish.named) > 0 || g.svc.Spec.GetPool() != "" || p.lost[g.svc.Key] || !g.only(fresh, reused) {
		return ""
	}
	got, _ := g.offerOf(p.s.Pools[g.list[0].GetPool()], g.n)
	for name, pool := range p.s.Pools {
		if name == got.pool || !mayTake(p.s, pool, g.svc.Spec) {
			continue
		}
		o, ok := p.has(g, pool)
		if !ok {
			continue
		}
		switch {
		case o.forAll != got.forAll:
			p.judged["a pool for it before one for all"]++
		case o.worse != got.worse:
			p.judged["a pool with both families before one with one"]++
		case o.lack != got.lack:
			p.judged["a pool with more before one with fewer"]++
		case o.priority != got.priority:
			p.judged["pools by priority"]++
		default:
			p.judged["pools by name"]++
		}
		if o.compare(got) < 0 {
			return fmt.Sprintf("pool %s comes before it: %+v, not %+v", name, o, got)
		}
	}
	return ""
}

// has is what a pool has for a service that has nothing: of each family as many as it
// asks for, the first family before the second where the quota ends.
func (p *play) has(g *gift, pool *fsm.Pool) (offer, bool) {
	var n [2]int
	for f := range n {
		v4 := f == 0
		if !g.wish.two && v4 != (g.n[0] > 0) {
			continue // the family is another rule's
		}
		for range free(p.s, g.svc.Key, pool, v4) {
			if n[f]++; n[f] == g.wish.count {
				break
			}
		}
	}
	first, second := 0, 1
	if !g.wish.v4 {
		first, second = 1, 0
	}
	most := left(p.s, pool, g.svc.Key.Namespace)
	pair := min(n[0], n[1], 1)
	if most < 2 {
		pair = 0
	}
	if pair == 0 && n[first] > 0 {
		n[second] = 0
	}
	n[first] = min(n[first], most-pair)
	n[second] = min(n[second], most-n[first])
	return g.offerOf(pool, n)
}

// queue: no address that is given was there for one that has waited longer, before what is
// given up for it was. But who is declared and asks for addresses is served at once, so that
// nobody takes them, and so is who has to leave others or a foreign station.
func (p *play) queue(g *gift) string {
	if p.declared[g.svc.Key] && len(g.wish.named) > 0 || p.lost[g.svc.Key] || g.events > len(g.list) && (p.shared[g.svc.Key] || shares(p.s, g.svc)) {
		return ""
	}
	// Who is declared, or lost something, has its turn in the order of the command.
	waits := func(svc *fsm.Service) bool { return svc.Pending != "" || len(svc.Refusals) > 0 }
	for key, svc := range p.s.Services {
		older := cmp.Or(cmp.Compare(svc.CreatedAt, g.svc.CreatedAt), key.Compare(g.svc.Key)) < 0
		if key != g.svc.Key && !older && waits(svc) && waits(g.svc) && slices.ContainsFunc(g.list, func(e *logv1.AddressAllocated) bool {
			return couldTake(p.s, svc, p.s.Pools[e.GetPool()], toAddr(e.GetAddress()))
		}) {
			p.judged["before younger ones that wait for it"]++ // as it should be
		}
		if !waits(svc) || !older || p.declared[key] || p.lost[key] {
			continue
		}
		for _, e := range g.list {
			a := toAddr(e.GetAddress())
			p.judged["before older ones that wait"]++
			if couldTake(p.s, svc, p.s.Pools[e.GetPool()], a) {
				return fmt.Sprintf("%v has waited longer (%q, %v), has %v, and could have %v", key, svc.Pending, svc.Refusals, svc.Addresses, a)
			}
		}
	}
	return ""
}

// shares tells whether a service has an address together with others.
func shares(s *fsm.State, svc *fsm.Service) bool {
	return slices.ContainsFunc(svc.Addresses, func(a netip.Addr) bool { return len(s.Addresses[a].Services) > 1 })
}

// apart counts what keeps a service from an address of its sharing key.
func (p *play) apart(g *gift) string {
	for _, other := range p.s.Services {
		if key := g.svc.Spec.GetSharingKey(); key != "" && key == other.Spec.GetSharingKey() && len(other.Addresses) > 0 && g.only(fresh, reused) {
			if why := apart(g.svc.Spec, other.Spec); why != "" {
				p.judged["kept apart: "+why]++
			}
		}
	}
	return ""
}
