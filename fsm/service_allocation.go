package fsm

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// TryOrder are the names of all pools in the order in which they are tried for
// a service that names none: those for certain services first, by priority and
// name, then those for all, by name. Not to be changed.
func (s *State) TryOrder() []string { return s.idx.tryOrder }

// settleOrder makes TryOrder anew.
func (x *indexes) settleOrder(s *State) {
	x.tryOrder = slices.Clone(x.poolOrder)
	slices.SortStableFunc(x.tryOrder, func(a, b string) int {
		return cmp.Compare(tryRank(s.Pools[a].Spec), tryRank(s.Pools[b].Spec))
	})
}

// tryRank is the place of a pool among others: priority 0 comes after all others.
func tryRank(p *logv1.Pool) uint64 {
	switch {
	case p.GetServiceAllocation() == nil:
		return math.MaxUint64
	case p.GetServiceAllocation().GetPriority() == 0:
		return math.MaxUint32 + 1
	default:
		return uint64(p.GetServiceAllocation().GetPriority())
	}
}

// PoolSelects tells whether the pool's serviceAllocation, if it has any, is for
// a service.
func (s *State) PoolSelects(pool *logv1.Pool, spec *logv1.Service) bool {
	a := pool.GetServiceAllocation()
	if a == nil {
		return true
	}
	if len(a.GetServiceSelectors()) > 0 && !MatchAny(a.GetServiceSelectors(), spec.GetLabels()) {
		return false
	}
	switch {
	case len(a.GetNamespaces()) == 0 && len(a.GetNamespaceSelectors()) == 0,
		slices.Contains(a.GetNamespaces(), spec.GetNamespace()):
		return true
	case len(a.GetNamespaceSelectors()) == 0:
		return false
	}
	return MatchAny(a.GetNamespaceSelectors(), s.NamespaceLabels(spec.GetNamespace()))
}

func (e *encoder) serviceAllocation(a *logv1.ServiceAllocation) {
	e.bool(a != nil)
	if a == nil {
		return
	}
	e.uint(uint64(a.GetPriority()))
	e.strs(a.GetNamespaces())
	encodeList(e, a.GetNamespaceSelectors(), (*encoder).selector)
	encodeList(e, a.GetServiceSelectors(), (*encoder).selector)
}

func (d *decoder) serviceAllocation() *logv1.ServiceAllocation {
	if !d.bool() {
		return nil
	}
	return &logv1.ServiceAllocation{
		Priority:           d.uint32(),
		Namespaces:         d.strs(),
		NamespaceSelectors: decodeList(d, (*decoder).selector),
		ServiceSelectors:   decodeList(d, (*decoder).selector),
	}
}

func (f *faults) serviceAllocation(path string, a *logv1.ServiceAllocation) {
	for i, ns := range a.GetNamespaces() {
		if ns != "" {
			f.label(fmt.Sprintf("%s.namespaces[%d]", path, i), ns)
		}
	}
	f.distinct(path+".namespaces", a.GetNamespaces(), 63)
	f.selectors(path+".namespaceSelectors", a.GetNamespaceSelectors())
	f.selectors(path+".serviceSelectors", a.GetServiceSelectors())
}
