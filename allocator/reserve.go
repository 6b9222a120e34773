package allocator

import (
	"iter"
	"net/netip"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// reserved finds an address of the family that is promised to the service; in
// one pool, or any that is for it.
func (c *chooser) reserved(f family, pool string) (Choice, bool) { return first(c.promises(f, pool)) }

// promises iterates over addresses that are promised to the service, one of each
// reservation and pool. Pools that give only on request give it, too: the promise is the request.
func (c *chooser) promises(f family, pool string) iter.Seq[Choice] {
	return func(yield func(Choice) bool) {
		for r := range c.s.ReservedFor(c.key) {
			for _, name := range c.s.TryOrder() {
				if pool != "" && name != pool {
					continue
				}
				if why := c.admits(name); why != WhyInvalid && why != ManualOnly {
					continue
				}
				a := c.promised(r, name, f)
				if a.IsValid() && c.withinQuota(name, nil, f) && !yield(Choice{a, name, logv1.AllocationReason_ALLOCATION_REASON_RESERVED, false}) {
					return
				}
			}
		}
	}
}

// promised is the first free address of a reservation in a pool.
func (c *chooser) promised(r *fsm.Reservation, pool string, f family) netip.Addr {
	def := c.s.Pools[pool]
	for _, span := range r.Ranges {
		for _, in := range def.Ranges {
			if familyOf(in.First) != f || !in.Overlaps(span) {
				continue
			}
			first, last := in.First, in.Last
			if first.Less(span.First) {
				first = span.First
			}
			if span.Last.Less(last) {
				last = span.Last
			}
			// A range of a few names hosts, not a subnet (RFC 6164).
			subnet := span.Size() > 2 && in.Size() > 2
			for a := range c.s.Unused(fsm.Range{First: first, Last: last}) {
				if !c.chosen(a) && !(subnet && fsm.Anycast(a)) && !c.quarantined(a) && !c.foreign(a) && !(fsm.Buggy(a) && def.Spec.GetAvoidBuggyIps()) {
					return a
				}
			}
		}
	}
	return netip.Addr{}
}

// reservedAgainst tells whether an address is promised to another service, which
// does not share it yet, or held back.
func (c *chooser) reservedAgainst(a netip.Addr) bool {
	r := c.s.ReservationOf(a)
	if r == nil || r.Key() == c.key {
		return false
	}
	if rec := c.s.Addresses[a]; rec != nil {
		for _, key := range rec.Services {
			if key == r.Key() {
				return false
			}
		}
	}
	return true
}

// quarantined tells whether another service gave the address up lately.
func (c *chooser) quarantined(a netip.Addr) bool {
	free := c.s.Free[a]
	if free == nil || free.RestsUntil <= c.now || free.Key == c.key {
		return false
	}
	return c.spec.GetSharingKey() == "" || free.SharingKey != c.spec.GetSharingKey()
}

// foreign tells whether a foreign station has the address.
func (c *chooser) foreign(a netip.Addr) bool {
	free := c.s.Free[a]
	return free != nil && free.Quarantined()
}

// withinQuota tells whether the quota lets the service have an address that it would
// have otherwise.
func (c *chooser) withinQuota(pool string, rec *fsm.Address, f family) bool {
	over := c.overQuota(pool, rec)
	if over {
		c.vain = append(c.vain, PoolRefusal{Pool: pool, Why: Quota, family: f})
	}
	return !over
}

// overQuota tells whether the service's namespace may have no further address of
// the pool. rec is the address in question when it is in use: one that the
// namespace has already counts once.
func (c *chooser) overQuota(pool string, rec *fsm.Address) bool {
	most, bound := c.s.Pools[pool].Quota(c.key.Namespace)
	if !bound || rec != nil && rec.HasNamespace(c.key.Namespace) {
		return false
	}
	used := c.s.NamespaceUse(pool, c.key.Namespace)
	for _, choice := range c.plan.Choices {
		joins := c.s.Addresses[choice.Addr]
		if !choice.Kept && choice.Pool == pool && (joins == nil || !joins.HasNamespace(c.key.Namespace)) {
			used++
		}
	}
	for _, rel := range c.plan.Releases {
		if c.s.PoolOf(rel.Addr) == pool && c.onlyOfNamespace(c.s.Addresses[rel.Addr]) {
			used--
		}
	}
	return used >= int(most)
}

func (c *chooser) onlyOfNamespace(rec *fsm.Address) bool {
	for _, key := range rec.Services {
		if key != c.key && key.Namespace == c.key.Namespace {
			return false
		}
	}
	return true
}
