package fsm

import (
	"maps"
	"math"
	"net/netip"
	"slices"

	"github.com/tidwall/btree"
)

// poolIndex finds the next address of a pool. It covers the addresses that lie
// in the pool's ranges, whatever pool their records name.
type poolIndex struct {
	name     string
	families [2]familyIndex // IPv4, IPv6
	// owned counts the addresses in the pool by their owner, soft those that move
	// softly by their former one.
	owned, soft map[string]int
	// namespaces counts the addresses in use by the namespaces that have them.
	namespaces map[string]int
}

// familyIndex is the part of one family.
type familyIndex struct {
	ranges     []Range
	avoidBuggy bool
	// hand are the ranges without what is reserved.
	hand []Range
	// at and next are the range of hand and the address of the lowest address that was never
	// used; next is invalid when there is none. An address, once touched, stays so
	// for as long as the pool has it, so next only goes forward: every touched
	// address is passed once, and nothing is held for those never used.
	at   int
	next netip.Addr
	// queue holds the free addresses that are kept for nobody, least recently
	// used first.
	queue *btree.BTreeG[queued]
	// used counts the addresses in use, size those that the pool may hand out,
	// at most 2^63-1.
	used int
	size uint64
	// kept counts the free addresses that are kept for deleted services, resting those
	// that are in the pool's quarantine for longer. later holds both, by when the queue
	// will hold them.
	kept, resting int
	later         *btree.BTreeG[timeAddr]
	// quarantined counts the free addresses that a foreign station has.
	quarantined int
}

type queued struct {
	freedAt uint64
	addr    addrKey
}

func lessQueued(a, b queued) bool {
	if a.freedAt != b.freedAt {
		return a.freedAt < b.freedAt
	}
	return a.addr.less(b.addr)
}

func (p *poolIndex) family(a netip.Addr) *familyIndex { return &p.families[fam(a)] }

func (p *poolIndex) clone() *poolIndex {
	c := *p
	c.owned, c.soft = maps.Clone(p.owned), maps.Clone(p.soft)
	c.namespaces = maps.Clone(p.namespaces)
	for i := range c.families {
		c.families[i].queue = p.families[i].queue.Copy()
		c.families[i].later = p.families[i].later.Copy()
	}
	return &c
}

func (p *poolIndex) contains(a netip.Addr) bool {
	for _, r := range p.family(a).ranges {
		if r.Contains(a) {
			return true
		}
	}
	return false
}

func (p *poolIndex) addOwned(node string, delta int) {
	if node == "" {
		return
	}
	p.owned[node] += delta
	if p.owned[node] == 0 {
		delete(p.owned, node)
	}
}

// advance moves next over addresses that are touched or must be avoided.
func (f *familyIndex) advance(s *State) {
	for f.next.IsValid() && (s.touched(f.next) || f.skips(f.next)) {
		if f.next != f.hand[f.at].Last {
			f.next = f.next.Next()
			continue
		}
		f.at++
		f.next = netip.Addr{}
		if f.at < len(f.hand) {
			f.next = f.hand[f.at].First
		}
	}
}

// skips tells whether an address is given to nobody who does not ask for it.
func (f *familyIndex) skips(a netip.Addr) bool {
	if a.Is4() {
		return f.avoidBuggy && Buggy(a)
	}
	if !Anycast(a) {
		return false
	}
	i := slices.IndexFunc(f.ranges, func(r Range) bool { return r.Contains(a) })
	return i >= 0 && f.ranges[i].hasAnycast()
}

func (s *State) touched(a netip.Addr) bool {
	if _, ok := s.Addresses[a]; ok {
		return true
	}
	_, ok := s.Free[a]
	return ok
}

// addPool enters a pool that is new or has new ranges.
func (x *indexes) addPool(s *State, pool *Pool) {
	name := pool.Spec.GetName()
	p := &poolIndex{name: name, owned: map[string]int{}, soft: map[string]int{}, namespaces: map[string]int{}}
	for i := range p.families {
		p.families[i] = familyIndex{avoidBuggy: pool.Spec.GetAvoidBuggyIps(), queue: newTree(lessQueued), later: newTree(lessTime)}
	}
	for _, r := range pool.Ranges {
		x.ranges.Set(poolRange{keyOf(r.First), keyOf(r.Last), name})
		f := p.family(r.First)
		f.ranges = append(f.ranges, r)
		f.size = min(f.size+r.usable(f.avoidBuggy), math.MaxInt64)
		for a := range x.within(r) {
			p.enter(s, a)
		}
		f.hand = append(f.hand, r.without(x.holes(r))...)
	}
	for i := range p.families {
		if f := &p.families[i]; len(f.hand) > 0 {
			f.next = f.hand[0].First
			f.advance(s)
		}
	}
	x.pools[name] = p
	x.leaving.Scan(func(l leaver) bool {
		if l.pool == name {
			p.countLeaver(s.Addresses[l.addr.addr()], 1)
		}
		return true
	})
	if at, found := slices.BinarySearch(x.poolOrder, name); !found {
		x.poolOrder = slices.Insert(slices.Clone(x.poolOrder), at, name)
	}
}

// enter counts a touched address of the pool.
func (p *poolIndex) enter(s *State, a netip.Addr) {
	f := p.family(a)
	if rec := s.Addresses[a]; rec != nil {
		f.used++
		p.addOwned(rec.Owner, 1)
		p.addSoft(rec.SoftNode, 1)
		for i, key := range rec.Services {
			if !hasNamespace(rec.Services[:i], key.Namespace) {
				p.addNamespace(key.Namespace, 1)
			}
		}
		return
	}
	free := s.Free[a]
	if free.Quarantined() {
		f.quarantined++
	}
	f.addFree(s, free)
}

// addFree enters a free address.
func (f *familyIndex) addFree(s *State, free *Free) {
	if free.KeptUntil <= s.Time {
		f.enqueue(&s.idx, free)
		return
	}
	f.countKept(free, 1)
	if f.handsOut(&s.idx, free) {
		f.later.Set(timeAddr{free.KeptUntil, keyOf(free.Addr)})
	}
}

// removeFree takes back what addFree did for the same record.
func (f *familyIndex) removeFree(s *State, free *Free) {
	f.queue.Delete(queued{free.FreedAt, keyOf(free.Addr)})
	if free.KeptUntil > s.Time {
		f.countKept(free, -1)
		f.later.Delete(timeAddr{free.KeptUntil, keyOf(free.Addr)})
	}
}

// enqueue enters a free address that is kept for nobody.
func (f *familyIndex) enqueue(x *indexes, free *Free) {
	if f.handsOut(x, free) {
		f.queue.Set(queued{free.FreedAt, keyOf(free.Addr)})
	}
}

// handsOut tells whether a free address is for those who ask for none by name: it is
// not reserved, and no foreign station has it.
func (f *familyIndex) handsOut(x *indexes, free *Free) bool {
	return !f.skips(free.Addr) && !x.isReserved(free.Addr) && !free.Quarantined()
}

func (f *familyIndex) countKept(free *Free, delta int) {
	if free.Rests() {
		f.resting += delta
	} else {
		f.kept += delta
	}
}

func (x *indexes) removePool(pool *Pool) {
	name := pool.Spec.GetName()
	for _, r := range pool.Ranges {
		x.ranges.Delete(poolRange{keyOf(r.First), keyOf(r.Last), name})
	}
	delete(x.pools, name)
	if at, found := slices.BinarySearch(x.poolOrder, name); found {
		x.poolOrder = slices.Delete(slices.Clone(x.poolOrder), at, at+1)
	}
}

// overlaps names another pool that has an address of the ranges; "" for none.
func (x *indexes) overlaps(name string, ranges []Range) (other string) {
	for _, r := range ranges {
		first, last := keyOf(r.First), keyOf(r.Last)
		x.ranges.Descend(poolRange{first: last, pool: "\xff"}, func(o poolRange) bool {
			if o.pool != name && !o.last.less(first) {
				other = o.pool
				return false
			}
			// The ranges of all other pools are disjoint but in the middle of a batch.
			return o.pool == name || len(x.overlapping) > 0
		})
		if other != "" {
			return other
		}
	}
	return ""
}
