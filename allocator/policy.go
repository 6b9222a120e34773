package allocator

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Policy is what all L2Advertisements together say about an address.
type Policy struct {
	// Announced: at least one advertisement is for the address.
	Announced bool
	// Unselected: advertisements are for the address's pool, but none of them is
	// for all of the services that have it.
	Unselected bool
	// ControlLoss is the strictest: Release when any says so, else Hold.
	ControlLoss logv1.ControlLoss
	// Placement is Ideal when any says so, else Sticky.
	Placement logv1.Placement
	// RebalancePerMinute is the slowest pace of those that say Gradual; 0: none does.
	RebalancePerMinute uint32
	// Interfaces are those of all advertisements together, sorted; empty means
	// all, because an advertisement without any means all.
	Interfaces []string

	// ads are those that are for the address, sorted by name.
	ads []*logv1.L2Advertisement
}

// Policies combines advertisements and remembers what it found. The zero value is
// ready. After a change of a pool or an advertisement it has to be Reset.
type Policies struct {
	pools map[string]*poolAds
}

// poolAds are the advertisements for a pool, sorted by name.
type poolAds struct {
	ads []*fsm.Advertisement
	// picky: at least one of them selects services. Then an address's policy
	// depends on which of them select its services, a bit for each.
	picky bool
	all   *Policy
	sets  map[string]*Policy
}

// Reset forgets everything.
func (p *Policies) Reset() { p.pools = nil }

// Of is the policy of an address, of the advertisements for its pool that select every
// service that has it. Addresses with the same one share it; it is not to be changed.
func (p *Policies) Of(s *fsm.State, addr netip.Addr) *Policy {
	pool := p.pool(s, s.PoolOf(addr))
	rec := s.Addresses[addr]
	if !pool.picky || rec == nil {
		return pool.all
	}
	var buf [32]byte
	set := buf[:min((len(pool.ads)+7)/8, len(buf))]
	if len(pool.ads) > 8*len(buf) {
		set = make([]byte, (len(pool.ads)+7)/8)
	}
	for i, ad := range pool.ads {
		if selectsAll(s, ad, rec) {
			set[i/8] |= 1 << (i % 8)
		}
	}
	policy := pool.sets[string(set)]
	if policy == nil {
		var ads []*fsm.Advertisement
		for i, ad := range pool.ads {
			if set[i/8]&(1<<(i%8)) != 0 {
				ads = append(ads, ad)
			}
		}
		policy = combine(ads)
		policy.Unselected = !policy.Announced
		pool.sets[string(set)] = policy
	}
	return policy
}

// selectsAll tells whether the advertisement selects all who have the address.
func selectsAll(s *fsm.State, ad *fsm.Advertisement, rec *fsm.Address) bool {
	for _, key := range rec.Services {
		if !ad.SelectsService(s.Services[key].Spec.GetLabels()) {
			return false
		}
	}
	return true
}

func (p *Policies) pool(s *fsm.State, name string) *poolAds {
	if pool := p.pools[name]; pool != nil {
		return pool
	}
	pool := &poolAds{sets: map[string]*Policy{}}
	if def := s.Pools[name]; def != nil {
		for _, ad := range s.Ads { // order-free: sorted below
			if ad.Selects(def) {
				pool.ads = append(pool.ads, ad)
				pool.picky = pool.picky || len(ad.Spec.GetServiceSelectors()) > 0
			}
		}
	}
	slices.SortFunc(pool.ads, func(a, b *fsm.Advertisement) int { return cmp.Compare(a.Spec.GetName(), b.Spec.GetName()) })
	pool.all = combine(pool.ads)
	if p.pools == nil {
		p.pools = map[string]*poolAds{}
	}
	p.pools[name] = pool
	return pool
}

// combine makes one policy of advertisements.
func combine(ads []*fsm.Advertisement) *Policy {
	p := &Policy{
		Announced:   len(ads) > 0,
		ControlLoss: logv1.ControlLoss_CONTROL_LOSS_HOLD, Placement: logv1.Placement_PLACEMENT_STICKY,
	}
	for _, ad := range ads {
		p.ads = append(p.ads, ad.Spec)
		if ad.Spec.GetOnControlLoss() == logv1.ControlLoss_CONTROL_LOSS_RELEASE {
			p.ControlLoss = logv1.ControlLoss_CONTROL_LOSS_RELEASE
		}
		if ad.Spec.GetPlacement() == logv1.Placement_PLACEMENT_IDEAL {
			p.Placement = logv1.Placement_PLACEMENT_IDEAL
		}
		if n := ad.Spec.GetRebalancePerMinute(); ad.Spec.GetRebalance() == logv1.Rebalance_REBALANCE_GRADUAL &&
			(p.RebalancePerMinute == 0 || n < p.RebalancePerMinute) {
			p.RebalancePerMinute = n
		}
	}
	p.Interfaces, _ = union(p.ads)
	return p
}

// On narrows the policy to a node: the interfaces (sorted, empty means all) of
// the advertisements that admit it, and whether any does.
func (p *Policy) On(labels map[string]string) (interfaces []string, admitted bool) {
	ads := make([]*logv1.L2Advertisement, 0, 4)
	for _, ad := range p.ads {
		if fsm.MatchAny(ad.GetNodeSelectors(), labels) {
			ads = append(ads, ad)
		}
	}
	return union(ads)
}

// Weight is how much the advertisements together prefer a node with these labels.
func (p *Policy) Weight(labels map[string]string) (sum int) {
	for _, ad := range p.ads {
		for _, term := range ad.GetPreferredNodeSelectors() {
			if fsm.MatchSelector(term.GetPreference(), labels) {
				sum += int(term.GetWeight())
			}
		}
	}
	return sum
}

// union gives the interfaces of the advertisements, empty for all.
func union(ads []*logv1.L2Advertisement) (interfaces []string, any bool) {
	for _, ad := range ads {
		if len(ad.GetInterfaces()) == 0 {
			return nil, true
		}
		interfaces = append(interfaces, ad.GetInterfaces()...)
	}
	slices.Sort(interfaces)
	return slices.Compact(interfaces), len(ads) > 0
}
