package fsm

import (
	"net/netip"
	"slices"
)

// check tells whether the rows of a restored state fit together. What events
// build always does.
func (s *State) check() error {
	if err := s.checkPools(); err != nil {
		return err
	}
	if err := s.checkReservations(); err != nil {
		return err
	}
	for key, svc := range s.Services { // order-free: any damage is an error
		for _, a := range svc.Addresses {
			if rec := s.Addresses[a]; rec == nil || !slices.Contains(rec.Services, key) {
				return corruptf("service %s has %s, which does not have it", key, a)
			}
		}
	}
	owned := make(map[string]int, len(s.Nodes))
	for a, rec := range s.Addresses { // order-free: any damage is an error
		if err := s.checkAddress(a, rec); err != nil {
			return err
		}
		if rec.Owner != "" {
			owned[rec.Owner]++
		}
	}
	for a, free := range s.Free { // order-free: any damage is an error
		if s.Addresses[a] != nil {
			return corruptf("%s is in use and free", a)
		}
		if p := s.Pools[free.Pool]; free.Pool != "" && (p == nil || !p.Contains(a)) {
			return corruptf("free %s is not in pool %s", a, free.Pool)
		}
	}
	for name, n := range s.Nodes { // order-free: any damage is an error
		if n.Owned != owned[name] {
			return corruptf("node %s owns %d addresses, not %d", name, owned[name], n.Owned)
		}
	}
	return nil
}

func (s *State) checkPools() error {
	var all []poolRange
	for name, p := range s.Pools { // order-free: sorted below
		for _, r := range p.Ranges {
			all = append(all, poolRange{keyOf(r.First), keyOf(r.Last), name})
		}
	}
	slices.SortFunc(all, compareRange)
	for i := 1; i < len(all); i++ {
		if !all[i-1].last.less(all[i].first) {
			return corruptf("pools %s and %s overlap", all[i-1].pool, all[i].pool)
		}
	}
	return nil
}

func (s *State) checkAddress(a netip.Addr, rec *Address) error {
	p := s.Pools[rec.Pool]
	if p == nil {
		return corruptf("%s is in no pool, but %q", a, rec.Pool)
	}
	if !p.Contains(a) {
		// It leaves the pool, unless another has it.
		for name, other := range s.Pools { // order-free: at most one has it
			if other.Contains(a) {
				return corruptf("%s is in pool %q, not in %q", a, name, rec.Pool)
			}
		}
	}
	if len(rec.Services) == 0 {
		return corruptf("%s is in use by nobody", a)
	}
	for _, key := range rec.Services {
		if svc := s.Services[key]; svc == nil || !slices.Contains(svc.Addresses, a) {
			return corruptf("%s has service %s, which does not have it", a, key)
		}
	}
	if rec.Owner != "" && s.Nodes[rec.Owner] == nil {
		return corruptf("%s is owned by unknown node %s", a, rec.Owner)
	}
	if rec.SoftNode != "" && (s.Nodes[rec.SoftNode] == nil || rec.SoftNode == rec.Owner) {
		return corruptf("%s moves softly away from %s, which is unknown or owns it", a, rec.SoftNode)
	}
	return nil
}
