package fsm

import (
	"net/netip"
	"slices"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func (f *folding) poolDefined(e *logv1.PoolDefined) error {
	spec := e.GetPool()
	if spec.GetName() == "" {
		return corruptf("PoolDefined without a name")
	}
	pool := &Pool{Spec: spec, DefinedAt: f.revision, Ranges: make([]Range, 0, len(spec.GetAddresses()))}
	for i, text := range spec.GetAddresses() {
		r, err := ParseRange(text)
		if err != nil {
			return corruptf("pool %s: addresses[%d]: %v", spec.GetName(), i, err)
		}
		for _, o := range pool.Ranges {
			if o.Overlaps(r) {
				return corruptf("pool %s: %s overlaps %s", spec.GetName(), r, o)
			}
		}
		pool.Ranges = append(pool.Ranges, r)
	}
	old := f.s.Pools[spec.GetName()]
	f.s.Pools[spec.GetName()] = pool
	same := old != nil && slices.Equal(old.Ranges, pool.Ranges) && old.Spec.GetAvoidBuggyIps() == spec.GetAvoidBuggyIps()
	if !same {
		f.reindex(old, pool)
	}
	f.s.idx.settleOrder(f.s)
	f.takenInPool(spec.GetName())
	f.policyChanged()
	return nil
}

// policyChanged notes that other rules may apply to any address.
func (f *folding) policyChanged() {
	f.s.PolicyAt = f.revision
	f.changes.All = true
}

func (f *folding) poolDeleted(e *logv1.PoolDeleted) error {
	old := f.s.Pools[e.GetName()]
	if old == nil {
		return corruptf("PoolDeleted of unknown pool %q", e.GetName())
	}
	f.takenInPool(e.GetName())
	f.poolsGone = true
	delete(f.s.Pools, e.GetName())
	f.reindex(old, nil)
	f.s.idx.settleOrder(f.s)
	f.policyChanged()
	return nil
}

// reindex changes the ranges of a pool; either may be nil. What the touched
// addresses in them belong to is settled at the end of the batch.
func (f *folding) reindex(old, pool *Pool) {
	x := &f.s.idx
	if old != nil {
		f.moveWithin(old.Ranges)
		// A node whose address leaves the pool's ranges is taken from as well.
		f.takenInPool(old.Spec.GetName())
		x.removePool(old)
	}
	if pool == nil {
		f.leaveWithin(old)
		return
	}
	f.moveWithin(pool.Ranges)
	x.stayWithin(f.s, pool.Ranges)
	x.addPool(f.s, pool)
	if other := x.overlaps(pool.Spec.GetName(), pool.Ranges); other != "" {
		x.overlapping = append(x.overlapping, pool.Spec.GetName(), other)
	}
	if old != nil {
		f.leaveWithin(old)
	}
}

// leaveWithin has those of a pool's addresses leave it that no pool has now.
func (f *folding) leaveWithin(old *Pool) {
	for _, r := range old.Ranges {
		for a := range f.s.idx.within(r) {
			rec := f.s.Addresses[a]
			if rec == nil || f.s.idx.poolOf(a) != "" {
				continue
			}
			if name := old.Spec.GetName(); rec.Pool != name {
				rec = f.editAddress(rec)
				rec.Pool = name
			}
			f.s.idx.leave(rec)
		}
	}
}

func (f *folding) moveWithin(ranges []Range) {
	for _, r := range ranges {
		f.moved = slices.AppendSeq(f.moved, f.s.idx.within(r))
	}
}

// settlePools gives every address in a range that moved to the pool that has it now.
func (f *folding) settlePools() error {
	x := &f.s.idx
	for _, name := range x.overlapping {
		pool := f.s.Pools[name]
		if pool == nil {
			continue
		}
		if other := x.overlaps(name, pool.Ranges); other != "" {
			return corruptf("pools %s and %s overlap", name, other)
		}
	}
	x.overlapping = nil
	for _, a := range f.moved {
		if err := f.rehome(a, x.poolOf(a)); err != nil {
			return err
		}
	}
	f.moved = nil
	if f.poolsGone {
		var lost error
		x.leaving.Scan(func(l leaver) bool {
			if f.s.Pools[l.pool] == nil {
				lost = corruptf("address %s of a pool that is gone, %q, is in no pool any more", l.addr.addr(), l.pool)
			}
			return lost == nil
		})
		return lost
	}
	return nil
}

func (f *folding) rehome(a netip.Addr, pool string) error {
	if rec := f.s.Addresses[a]; rec != nil {
		if pool == "" && f.s.Pools[rec.Pool] == nil {
			return corruptf("address %s of %s is in no pool any more", a, rec.Services[0])
		}
		if pool == "" {
			return nil // it leaves its pool
		}
		if rec.Pool != pool {
			f.editAddress(rec).Pool = pool
		}
		return nil
	}
	free := f.s.Free[a]
	switch {
	case free == nil: // named twice and gone
	case pool == "" && free.Prior == "":
		f.s.idx.forget(free)
		f.s.idx.touched.Delete(keyOf(a))
		f.s.idx.freed.Delete(keyOf(a))
		f.s.idx.quarantine.Delete(keyOf(a))
		delete(f.s.Free, a)
	case free.Pool != pool:
		c := *free
		c.Pool = pool
		f.s.Free[a] = &c
	}
	return nil
}

// takenInPool makes every owner in the pool see this revision before it is
// acked again: the pool may have stopped it from announcing.
func (f *folding) takenInPool(pool string) {
	p := f.s.idx.pools[pool]
	if p == nil {
		return
	}
	for node := range p.owned { // order-free: the changes are sorted
		f.taken(node)
	}
	for node := range p.soft { // order-free: the changes are sorted
		f.taken(node)
	}
}

func (f *folding) taken(node string) {
	if n := f.s.Nodes[node]; n != nil && n.TakenAt != f.revision {
		f.editNode(n).TakenAt = f.revision
	}
}

func (f *folding) advertisementDefined(e *logv1.AdvertisementDefined) error {
	spec := e.GetAdvertisement()
	if spec.GetName() == "" {
		return corruptf("AdvertisementDefined without a name")
	}
	f.takenByAdvertisement(f.s.Ads[spec.GetName()])
	ad := &Advertisement{Spec: spec, DefinedAt: f.revision}
	f.s.Ads[spec.GetName()] = ad
	f.takenByAdvertisement(ad)
	f.policyChanged()
	return nil
}

func (f *folding) advertisementDeleted(e *logv1.AdvertisementDeleted) error {
	old := f.s.Ads[e.GetName()]
	if old == nil {
		return corruptf("AdvertisementDeleted of unknown advertisement %q", e.GetName())
	}
	f.takenByAdvertisement(old)
	delete(f.s.Ads, e.GetName())
	f.policyChanged()
	return nil
}

func (f *folding) takenByAdvertisement(ad *Advertisement) {
	if ad == nil {
		return
	}
	for _, name := range f.s.idx.poolOrder {
		if ad.Selects(f.s.Pools[name]) {
			f.takenInPool(name)
		}
	}
}
