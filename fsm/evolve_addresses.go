package fsm

import (
	"cmp"
	"net/netip"
	"slices"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func (f *folding) addressAllocated(e *logv1.AddressAllocated) error {
	a, err := ToAddr(e.GetAddress())
	if err != nil {
		return err
	}
	svc, err := f.service("AddressAllocated", e.GetNamespace(), e.GetName())
	if err != nil {
		return err
	}
	pool := f.s.Pools[e.GetPool()]
	if pool == nil {
		return corruptf("%s allocated from unknown pool %q", a, e.GetPool())
	}
	if !pool.Contains(a) {
		return corruptf("%s allocated from pool %s, which does not hold it", a, e.GetPool())
	}
	if slices.Contains(svc.Addresses, a) || svc.CountOf(a) >= AddressCount(svc.Spec) {
		return corruptf("%s allocated for %s, which has %s", a, svc.Key, svc.Addresses)
	}
	if rec := f.s.Addresses[a]; rec != nil {
		if err := f.joinAddress(rec, svc); err != nil {
			return err
		}
	} else {
		f.takeAddress(a, svc.Key, e)
	}
	f.s.idx.share(svc.sharingKey(), a)
	c := f.editService(svc)
	c.Addresses = append(slices.Clone(svc.Addresses), a)
	slices.SortStableFunc(c.Addresses, func(x, y netip.Addr) int { return cmp.Compare(x.BitLen(), y.BitLen()) }) // IPv4 first
	f.touchAddress(a)
	return nil
}

// joinAddress adds a service to those that share the address. Which ports may
// share is the allocator's decision; that all have one key is the log's.
func (f *folding) joinAddress(rec *Address, svc *Service) error {
	key := svc.sharingKey()
	for _, other := range rec.Services {
		if key == "" || f.s.Services[other].sharingKey() != key {
			return corruptf("%s allocated for %s while %s has it and they share no key", rec.Addr, svc.Key, other)
		}
	}
	c := f.editAddress(rec)
	if !rec.HasNamespace(svc.Key.Namespace) {
		f.s.idx.countNamespace(rec, svc.Key.Namespace, 1)
	}
	at, _ := slices.BinarySearchFunc(rec.Services, svc.Key, ServiceKey.Compare)
	c.Services = slices.Insert(slices.Clone(rec.Services), at, svc.Key)
	f.servicesChanged(c)
	return nil
}

// takeAddress makes the record of an address that nobody has.
func (f *folding) takeAddress(a netip.Addr, key ServiceKey, e *logv1.AddressAllocated) {
	x := &f.s.idx
	rec := &Address{Addr: a, Pool: e.GetPool(), Services: []ServiceKey{key}, Reason: e.GetReason()}
	free := f.s.Free[a]
	if free != nil {
		rec.Prior, rec.PriorAt, rec.PriorSession, rec.PriorEpoch = free.Prior, free.PriorAt, free.PriorSession, free.PriorEpoch
		if free.Quarantined() {
			// Asked for all the same: whoever has it is no news.
			rec.Conflict, rec.ConflictNode, rec.ConflictKind = free.Conflict, free.ConflictNode, logv1.ConflictKind_CONFLICT_KIND_FOREIGN
			x.quarantine.Delete(keyOf(a))
		}
		x.forget(free)
		x.freed.Delete(keyOf(a))
		delete(f.s.Free, a)
	} else {
		x.touched.Set(keyOf(a))
	}
	f.s.Addresses[a] = rec
	if rec.Prior != "" {
		f.servicesChanged(rec)
	}
	x.ownerSet("").Set(keyOf(a))
	var buf [1]*poolIndex
	for _, p := range x.containing(buf[:0], a) {
		fi := p.family(a)
		fi.used++
		p.addNamespace(key.Namespace, 1)
		if free != nil && free.Quarantined() {
			fi.quarantined--
		}
		if free != nil {
			fi.removeFree(f.s, free)
		} else if a == fi.next {
			fi.advance(f.s)
		}
	}
}

func (f *folding) addressReleased(e *logv1.AddressReleased) error {
	a, err := ToAddr(e.GetAddress())
	if err != nil {
		return err
	}
	svc, err := f.service("AddressReleased", e.GetNamespace(), e.GetName())
	if err != nil {
		return err
	}
	at := slices.Index(svc.Addresses, a)
	if at < 0 {
		return corruptf("%s released for %s, which does not have it", a, svc.Key)
	}
	rec := f.s.Addresses[a]
	if len(rec.Services) == 1 && rec.Owner != "" {
		return corruptf("%s released while %s owns it", a, rec.Owner)
	}
	f.editService(svc).Addresses = slices.Delete(slices.Clone(svc.Addresses), at, at+1)
	f.touchAddress(a)
	left := slices.DeleteFunc(slices.Clone(rec.Services), func(k ServiceKey) bool { return k == svc.Key })
	f.s.idx.unshare(f.s, svc.sharingKey(), a, left)
	if !hasNamespace(left, svc.Key.Namespace) {
		f.s.idx.countNamespace(rec, svc.Key.Namespace, -1)
	}
	if len(left) > 0 {
		c := f.editAddress(rec)
		c.Services = left
		f.servicesChanged(c)
		return nil
	}
	f.freeAddress(rec, svc, e)
	return nil
}

// freeAddress remembers an address that its last service gave up.
func (f *folding) freeAddress(rec *Address, svc *Service, e *logv1.AddressReleased) {
	x := &f.s.idx
	keptUntil := e.GetKeptUntilUnixNano()
	if rec.SoftNode != "" {
		// Its old owner is released altogether, as of now.
		c := f.editAddress(rec)
		f.endSoft(c)
		if c.Prior == rec.SoftNode {
			c.PriorAt = f.revision
		}
		rec = c
	}
	free := &Free{
		Addr: rec.Addr, Pool: rec.Pool, FreedAt: f.revision,
		Key: svc.Key, KeptUntil: keptUntil, SharingKey: svc.sharingKey(), RestsUntil: e.GetQuarantinedUntilUnixNano(),
		Prior: rec.Prior, PriorAt: rec.PriorAt, PriorSession: rec.PriorSession, PriorEpoch: rec.PriorEpoch,
	}
	delete(f.s.Addresses, rec.Addr)
	x.dropOwner("", keyOf(rec.Addr))
	if _, left := x.leaving.Delete(leaver{addr: keyOf(rec.Addr)}); left {
		// No pool has it: it is remembered only for its old owner's sake.
		free.Pool, free.KeptUntil, free.RestsUntil = "", 0, 0
		if free.Prior == "" {
			x.touched.Delete(keyOf(rec.Addr))
			return
		}
	}
	f.s.Free[rec.Addr] = free
	x.freed.Set(keyOf(rec.Addr))
	x.remember(f.s, free)
	var buf [1]*poolIndex
	for _, p := range x.containing(buf[:0], rec.Addr) {
		fi := p.family(rec.Addr)
		fi.used--
		fi.addFree(f.s, free)
	}
}

// Contains tells whether the address lies in one of the pool's ranges.
func (p *Pool) Contains(a netip.Addr) bool {
	return slices.ContainsFunc(p.Ranges, func(r Range) bool { return r.Contains(a) })
}

// address finds the record of an address in use that an event names.
func (f *folding) address(event string, b []byte) (*Address, error) {
	a, err := ToAddr(b)
	if err != nil {
		return nil, err
	}
	rec := f.s.Addresses[a]
	if rec == nil {
		return nil, corruptf("%s for %s, which is not in use", event, a)
	}
	return rec, nil
}

// editAddress puts a copy of the record in its place, to be changed before
// anybody else sees it.
func (f *folding) editAddress(rec *Address) *Address {
	c := *rec
	f.s.Addresses[rec.Addr] = &c
	f.touchAddress(rec.Addr)
	return &c
}
