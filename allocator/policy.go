package allocator

import (
	"net/netip"
	"slices"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Policy is what all L2Advertisements together say about an address.
type Policy struct {
	// Announced: at least one advertisement is for the address's pool.
	Announced bool
	// ControlLoss is the strictest: Release when any says so, else Hold.
	ControlLoss logv1.ControlLoss
	// Placement is Ideal when any says so, else Sticky.
	Placement logv1.Placement
	// Interfaces are those of all advertisements together, sorted; empty means
	// all, because an advertisement without any means all.
	Interfaces []string

	// ads are those that are for the pool, sorted by name.
	ads []*logv1.L2Advertisement
}

// PolicyOf combines the advertisements for the pool that holds addr.
func PolicyOf(s *fsm.State, addr netip.Addr) Policy { return PoolPolicy(s, s.PoolOf(addr)) }

// PoolPolicy combines the advertisements for a pool: all its addresses have the
// same policy.
func PoolPolicy(s *fsm.State, pool string) Policy {
	p := Policy{ControlLoss: logv1.ControlLoss_CONTROL_LOSS_HOLD, Placement: logv1.Placement_PLACEMENT_STICKY}
	def := s.Pools[pool]
	if def == nil {
		return p
	}
	for _, ad := range s.Ads { // order-free: sorted below
		if ad.Selects(def) {
			p.ads = append(p.ads, ad.Spec)
		}
	}
	slices.SortFunc(p.ads, func(a, b *logv1.L2Advertisement) int {
		if a.GetName() < b.GetName() {
			return -1
		}
		return 1
	})
	p.Announced = len(p.ads) > 0
	for _, ad := range p.ads {
		if ad.GetOnControlLoss() == logv1.ControlLoss_CONTROL_LOSS_RELEASE {
			p.ControlLoss = logv1.ControlLoss_CONTROL_LOSS_RELEASE
		}
		if ad.GetPlacement() == logv1.Placement_PLACEMENT_IDEAL {
			p.Placement = logv1.Placement_PLACEMENT_IDEAL
		}
	}
	p.Interfaces, _ = union(p.ads)
	return p
}

// On narrows the policy to a node: the interfaces (sorted, empty means all) of
// the advertisements that admit it, and whether any does.
func (p Policy) On(labels map[string]string) (interfaces []string, admitted bool) {
	ads := make([]*logv1.L2Advertisement, 0, 4)
	for _, ad := range p.ads {
		if fsm.MatchAny(ad.GetNodeSelectors(), labels) {
			ads = append(ads, ad)
		}
	}
	return union(ads)
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

// MatchSelector tells whether labels match, as in Kubernetes.
func MatchSelector(sel *logv1.LabelSelector, labels map[string]string) bool {
	return fsm.MatchSelector(sel, labels)
}
