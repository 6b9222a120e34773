package fsm

import (
	"iter"
	"net/netip"
	"slices"
)

// PoolOf names the pool whose ranges hold a, or, of an address that is leaving,
// the pool that had it; "" for none.
func (s *State) PoolOf(a netip.Addr) string {
	if name := s.idx.poolOf(a); name != "" {
		return name
	}
	if rec := s.Addresses[a]; rec != nil && s.Pools[rec.Pool] != nil {
		return rec.Pool
	}
	return ""
}

// PoolNames are the names of all pools, sorted. Not to be changed.
func (s *State) PoolNames() []string { return s.idx.poolOrder }

// OwnedBy iterates over the addresses that a node owns, in a fixed order.
func (s *State) OwnedBy(node string) iter.Seq[*Address] {
	return func(yield func(*Address) bool) {
		t := s.idx.owners[node]
		if t == nil {
			return
		}
		t.Scan(func(k addrKey) bool { return yield(s.Addresses[k.addr()]) })
	}
}

// Unowned iterates over the addresses in use that nobody owns, in a fixed order.
func (s *State) Unowned() iter.Seq[*Address] { return s.OwnedBy("") }

// InPool iterates over the addresses in use that lie in a pool's ranges, and then
// over those that are leaving it.
func (s *State) InPool(name string) iter.Seq[*Address] {
	return func(yield func(*Address) bool) {
		pool := s.Pools[name]
		if pool == nil {
			return
		}
		for _, r := range pool.Ranges {
			for a := range s.idx.within(r) {
				if rec := s.Addresses[a]; rec != nil && !yield(rec) {
					return
				}
			}
		}
		for rec := range s.LeavingPool(name) {
			if !yield(rec) {
				return
			}
		}
	}
}

// InRange iterates over the addresses in use that lie in a range, in order.
func (s *State) InRange(r Range) iter.Seq[*Address] {
	return func(yield func(*Address) bool) {
		for a := range s.idx.within(r) {
			if rec := s.Addresses[a]; rec != nil && !yield(rec) {
				return
			}
		}
	}
}

// Unused iterates over the addresses of a range that nobody has, in order, and passes
// those in use at no cost.
func (s *State) Unused(r Range) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		at, last := keyOf(r.First), keyOf(r.Last)
		for {
			k, ok := s.idx.firstUntouched(at, last)
			s.idx.freed.Ascend(at, func(free addrKey) bool {
				if !last.less(free) && (!ok || free.less(k)) {
					k, ok = free, true
				}
				return false
			})
			if !ok || !yield(k.addr()) || k == last {
				return
			}
			at = k.plus(1)
		}
	}
}

// WithSharingKey iterates over the addresses in use whose services have the
// sharing key, in a fixed order.
func (s *State) WithSharingKey(key string) iter.Seq[*Address] {
	return func(yield func(*Address) bool) {
		s.idx.sharing.Ascend(textAddr{text: key}, func(t textAddr) bool {
			return t.text == key && yield(s.Addresses[t.addr.addr()])
		})
	}
}

// KeptFor iterates over the free addresses that are kept for the service of
// this key at State.Time, because it had them last.
func (s *State) KeptFor(key ServiceKey) iter.Seq[*Free] {
	return func(yield func(*Free) bool) {
		s.idx.keptKey.Ascend(serviceAddr{key: key}, func(t serviceAddr) bool {
			return t.key == key && yield(s.Free[t.addr.addr()])
		})
	}
}

// KeptForSharing iterates over the free addresses that are kept at State.Time
// and that a service with the sharing key had last.
func (s *State) KeptForSharing(key string) iter.Seq[*Free] {
	return func(yield func(*Free) bool) {
		if key == "" {
			return
		}
		s.idx.keptSharing.Ascend(textAddr{text: key}, func(t textAddr) bool {
			return t.text == key && yield(s.Free[t.addr.addr()])
		})
	}
}

// NextKept is when the next of the free addresses that are kept for deleted
// services falls free, or has rested so that others may have it on request or by a
// promise; nanoseconds since 1970 UTC, false when none is kept.
func (s *State) NextKept() (unixNano int64, ok bool) {
	t, ok := s.idx.kept.Min()
	if r, rests := s.idx.rests.Min(); rests && r.time < t.time {
		t = r
	}
	return t.time, ok
}

// PendingServices iterates over the services whose allocation was refused, the
// longest declared first.
func (s *State) PendingServices() iter.Seq[*Service] {
	return func(yield func(*Service) bool) {
		s.idx.pending.Scan(func(k ageKey) bool { return yield(s.Services[k.key]) })
	}
}

// PoolUse counts the addresses of a pool, by family.
type PoolUse struct {
	// Used are in use; one that services share counts once.
	Used4, Used6 uint64
	// Size is what the pool may hand out, at most 2^63-1.
	Size4, Size6 uint64
	// Quarantined are free, but a foreign station has them.
	Quarantined4, Quarantined6 uint64
}

// PoolUse counts the addresses of a pool; zero for an unknown one.
func (s *State) PoolUse(name string) PoolUse {
	p := s.idx.pools[name]
	if p == nil {
		return PoolUse{}
	}
	v4, v6 := &p.families[0], &p.families[1]
	return PoolUse{
		Used4: uint64(v4.used), Used6: uint64(v6.used), Size4: v4.size, Size6: v6.size,
		Quarantined4: uint64(v4.quarantined), Quarantined6: uint64(v6.quarantined),
	}
}

// PoolHas tells whether the pool has a range of the family.
func (s *State) PoolHas(name string, v4 bool) bool {
	p := s.idx.pools[name]
	return p != nil && len(p.byFamily(v4).ranges) > 0
}

func (p *poolIndex) byFamily(v4 bool) *familyIndex {
	if v4 {
		return &p.families[0]
	}
	return &p.families[1]
}

// handingOut gives the index of a pool, fit to be asked what it hands out; nil for
// an unknown pool. Only the state of an open draft may change by it.
func (s *State) handingOut(pool string) *poolIndex {
	s.idx.refit(s)
	return s.idx.pools[pool]
}

// NextFresh is the lowest address of the pool, in the order of its ranges, that
// was never used; invalid when there is none.
func (s *State) NextFresh(pool string, v4 bool) netip.Addr {
	p := s.handingOut(pool)
	if p == nil {
		return netip.Addr{}
	}
	return p.byFamily(v4).next
}

// Fresh iterates over the addresses of the pool that were never used and are given to
// whoever asks for none by name, in the order of its ranges. NextFresh is the first.
func (s *State) Fresh(pool string, v4 bool) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		p := s.handingOut(pool)
		if p == nil {
			return
		}
		f := p.byFamily(v4)
		if !f.next.IsValid() || !yield(f.next) {
			return
		}
		at := keyOf(f.next)
		for i := f.at; i < len(f.hand); i++ {
			last := keyOf(f.hand[i].Last)
			if i > f.at {
				at = keyOf(f.hand[i].First)
			} else if at == last {
				continue
			} else {
				at = at.plus(1)
			}
			for {
				k, ok := s.idx.firstUntouched(at, last)
				if !ok {
					break
				}
				if a := k.addr(); !f.skips(a) && !yield(a) {
					return
				}
				if k == last {
					break
				}
				at = k.plus(1)
			}
		}
	}
}

// NextKeptOf is the free address of the pool that others may have first, of those that
// are kept from them at State.Time and not excepted; nil when there is none.
func (s *State) NextKeptOf(pool string, v4 bool, except ...netip.Addr) (next *Free) {
	p := s.handingOut(pool)
	if p == nil {
		return nil
	}
	p.byFamily(v4).later.Scan(func(t timeAddr) bool {
		if a := t.addr.addr(); !slices.Contains(except, a) {
			next = s.Free[a]
		}
		return next == nil
	})
	return next
}

// LeastRecent is the free address of the pool that was given up longest ago,
// of those kept for nobody at the time now (nanoseconds since 1970 UTC) and not
// excepted; nil when there is none.
func (s *State) LeastRecent(pool string, v4 bool, now int64, except ...netip.Addr) *Free {
	p := s.handingOut(pool)
	if p == nil {
		return nil
	}
	f := p.byFamily(v4)
	var best *Free
	f.queue.Scan(func(q queued) bool {
		if a := q.addr.addr(); !slices.Contains(except, a) {
			best = s.Free[a]
		}
		return best == nil
	})
	if now <= s.Time {
		return best
	}
	// Those whose time ran out since the newest batch.
	s.idx.kept.Scan(func(t timeAddr) bool {
		if t.time > now {
			return false
		}
		free := s.Free[t.addr.addr()]
		if free.Addr.Is4() != v4 || !p.contains(free.Addr) || f.skips(free.Addr) || s.idx.isReserved(free.Addr) ||
			slices.Contains(except, free.Addr) {
			return true
		}
		if best == nil || lessQueued(queued{free.FreedAt, t.addr}, queued{best.FreedAt, keyOf(best.Addr)}) {
			best = free
		}
		return true
	})
	return best
}
