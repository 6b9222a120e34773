package fsm

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/tidwall/btree"
)

// indexes are derived from the maps of State. Each is a copy-on-write tree, so
// that a Clone shares it. They are rebuilt by a restore and are no part of the
// digest; a property test holds them against a rebuild.
type indexes struct {
	// copying serialises Clone: a tree marks its source when it is copied.
	copying *sync.Mutex

	// touched holds every address that is in use or free after use.
	touched *btree.BTreeG[addrKey]
	// freed holds those of them that are free.
	freed *btree.BTreeG[addrKey]
	// owners holds the addresses in use by owner; "" for those without one.
	owners map[string]*btree.BTreeG[addrKey]
	// soft holds the addresses that move softly by their former owner.
	soft map[string]*btree.BTreeG[addrKey]
	// quarantine holds the free addresses that a foreign station has.
	quarantine *btree.BTreeG[addrKey]
	// sharing holds the addresses in use by the sharing keys of their services.
	sharing *btree.BTreeG[textAddr]
	// kept holds the free addresses whose KeptUntil lies after State.Time; the
	// others are in their pool's queue. keptKey and keptSharing hold the same by
	// the service and by the sharing key that had them last.
	kept        *btree.BTreeG[timeAddr]
	keptKey     *btree.BTreeG[serviceAddr]
	keptSharing *btree.BTreeG[textAddr]
	// rests holds those of them whose RestsUntil lies after State.Time.
	rests *btree.BTreeG[timeAddr]
	// pending holds the services that wait for an address, oldest first; waiting
	// those and the ones that would take one more. Of the latter, waitPool holds
	// what they wait for in each pool, waitAddr the addresses that they ask for,
	// and waitKey those that have a sharing key.
	pending  *btree.BTreeG[ageKey]
	waiting  *btree.BTreeG[ageKey]
	waitPool *btree.BTreeG[poolWait]
	waitAddr *btree.BTreeG[addrWait]
	waitKey  *btree.BTreeG[textWait]
	// ranges holds the ranges of all pools by first address.
	ranges *btree.BTreeG[poolRange]
	pools  map[string]*poolIndex
	// poolOrder are the names of the pools, sorted. The slice is replaced, never changed.
	poolOrder []string
	// tryOrder are the same in the order of TryOrder; replaced, never changed.
	tryOrder []string
	// leaving holds the addresses in use that no pool has any more, by address.
	leaving *btree.BTreeG[leaver]
	// reserved holds the ranges of the reservations in force, reservationEnds when
	// they end, reservedFor their names by service (the slices are replaced, never
	// changed). crossing: two of the reservations may have an address in common. That
	// may be while a batch redefines several, and no longer at its end.
	reserved *btree.BTreeG[poolRange]
	crossing bool
	// unfit are ranges of reservations that came or went since the pools were fitted to
	// them; empty but in the middle of a batch.
	unfit           []Range
	reservationEnds *btree.BTreeG[textTime]
	reservedFor     map[ServiceKey][]string
	// overlapping are pools that share addresses with another. That may be while
	// a batch redefines several, and no longer at its end.
	overlapping []string
}

type textAddr struct {
	text string
	addr addrKey
}

type serviceAddr struct {
	key  ServiceKey
	addr addrKey
}

type timeAddr struct {
	time int64
	addr addrKey
}

type textTime struct {
	time int64
	text string
}

func lessTextTime(a, b textTime) bool {
	if a.time != b.time {
		return a.time < b.time
	}
	return a.text < b.text
}

type ageKey struct {
	createdAt uint64
	key       ServiceKey
}

type poolRange struct {
	first, last addrKey
	pool        string
}

func lessText(a, b textAddr) bool {
	if c := strings.Compare(a.text, b.text); c != 0 {
		return c < 0
	}
	return a.addr.less(b.addr)
}

func lessService(a, b serviceAddr) bool {
	if c := a.key.Compare(b.key); c != 0 {
		return c < 0
	}
	return a.addr.less(b.addr)
}

func lessTime(a, b timeAddr) bool {
	if a.time != b.time {
		return a.time < b.time
	}
	return a.addr.less(b.addr)
}

func lessAge(a, b ageKey) bool {
	if a.createdAt != b.createdAt {
		return a.createdAt < b.createdAt
	}
	return a.key.Compare(b.key) < 0
}

func lessRange(a, b poolRange) bool {
	if a.first != b.first {
		return a.first.less(b.first)
	}
	return a.pool < b.pool
}

func newTree[T any](less func(a, b T) bool) *btree.BTreeG[T] {
	return btree.NewBTreeGOptions(less, btree.Options{NoLocks: true, Degree: 32})
}

func newIndexes() indexes {
	return indexes{
		copying:         new(sync.Mutex),
		touched:         newTree(addrKey.less),
		freed:           newTree(addrKey.less),
		owners:          map[string]*btree.BTreeG[addrKey]{},
		sharing:         newTree(lessText),
		keptKey:         newTree(lessService),
		keptSharing:     newTree(lessText),
		kept:            newTree(lessTime),
		rests:           newTree(lessTime),
		pending:         newTree(lessAge),
		waiting:         newTree(lessAge),
		waitPool:        newTree(lessPoolWait),
		waitAddr:        newTree(lessAddrWait),
		waitKey:         newTree(lessTextWait),
		ranges:          newTree(lessRange),
		leaving:         newTree(lessLeaver),
		reserved:        newTree(lessRange),
		reservationEnds: newTree(lessTextTime),
		reservedFor:     map[ServiceKey][]string{},
		pools:           map[string]*poolIndex{},
		soft:            map[string]*btree.BTreeG[addrKey]{},
		quarantine:      newTree(addrKey.less),
	}
}

func (x *indexes) clone() indexes {
	x.copying.Lock()
	defer x.copying.Unlock()
	c := indexes{
		copying:         new(sync.Mutex),
		touched:         x.touched.Copy(),
		freed:           x.freed.Copy(),
		owners:          make(map[string]*btree.BTreeG[addrKey], len(x.owners)),
		sharing:         x.sharing.Copy(),
		keptKey:         x.keptKey.Copy(),
		keptSharing:     x.keptSharing.Copy(),
		kept:            x.kept.Copy(),
		rests:           x.rests.Copy(),
		pending:         x.pending.Copy(),
		waiting:         x.waiting.Copy(),
		waitPool:        x.waitPool.Copy(),
		waitAddr:        x.waitAddr.Copy(),
		waitKey:         x.waitKey.Copy(),
		ranges:          x.ranges.Copy(),
		pools:           make(map[string]*poolIndex, len(x.pools)),
		poolOrder:       x.poolOrder,
		tryOrder:        x.tryOrder,
		leaving:         x.leaving.Copy(),
		reserved:        x.reserved.Copy(),
		crossing:        x.crossing,
		unfit:           slices.Clone(x.unfit),
		reservationEnds: x.reservationEnds.Copy(),
		reservedFor:     maps.Clone(x.reservedFor),
		overlapping:     slices.Clone(x.overlapping),
		soft:            make(map[string]*btree.BTreeG[addrKey], len(x.soft)),
		quarantine:      x.quarantine.Copy(),
	}
	for node, t := range x.owners { // order-free: fills a map
		c.owners[node] = t.Copy()
	}
	for node, t := range x.soft { // order-free: fills a map
		c.soft[node] = t.Copy()
	}
	for name, p := range x.pools { // order-free: fills a map
		c.pools[name] = p.clone()
	}
	return c
}

// rebuild derives all indexes from the maps.
func (s *State) rebuild() {
	s.idx = newIndexes()
	x := &s.idx
	for a, rec := range s.Addresses { // order-free: fills ordered trees
		x.touched.Set(keyOf(a))
		x.ownerSet(rec.Owner).Set(keyOf(a))
		if rec.SoftNode != "" {
			x.setSoft(rec.SoftNode, keyOf(a))
		}
		for _, key := range rec.Services {
			x.share(s.Services[key].Spec.GetSharingKey(), a)
		}
	}
	for a, free := range s.Free { // order-free: fills ordered trees
		x.touched.Set(keyOf(a))
		x.freed.Set(keyOf(a))
		if free.Quarantined() {
			x.quarantine.Set(keyOf(a))
		}
		x.remember(s, free)
	}
	for _, svc := range s.Services { // order-free: fills ordered trees
		x.wait(svc)
	}
	for _, r := range s.Reservations { // order-free: fills ordered trees, and a map of sorted lists
		x.reserve(s, r)
	}
	x.unfit = nil               // the pools come now
	for _, p := range s.Pools { // order-free: fills an ordered tree and a map
		x.addPool(s, p)
	}
	for _, rec := range s.Addresses { // order-free: fills an ordered tree, and counts
		if x.poolOf(rec.Addr) == "" {
			x.leave(rec)
		}
	}
	x.settleOrder(s)
}

func (x *indexes) ownerSet(node string) *btree.BTreeG[addrKey] {
	t := x.owners[node]
	if t == nil {
		t = newTree(addrKey.less)
		x.owners[node] = t
	}
	return t
}

func (x *indexes) dropOwner(node string, a addrKey) {
	if t := x.owners[node]; t != nil {
		t.Delete(a)
		if t.Len() == 0 {
			delete(x.owners, node)
		}
	}
}

func (x *indexes) share(key string, a netip.Addr) {
	if key != "" {
		x.sharing.Set(textAddr{key, keyOf(a)})
	}
}

// unshare forgets that the address has the sharing key, unless one of the
// services has it too.
func (x *indexes) unshare(s *State, key string, a netip.Addr, services []ServiceKey) {
	if key == "" {
		return
	}
	for _, k := range services {
		if s.Services[k].Spec.GetSharingKey() == key {
			return
		}
	}
	x.sharing.Delete(textAddr{key, keyOf(a)})
}

// remember enters a free address that is kept for somebody after State.Time. The
// others are in their pool's queue only: what nobody waits for must not slow
// down those who look for what is kept for them.
func (x *indexes) remember(s *State, f *Free) {
	if f.KeptUntil <= s.Time {
		return
	}
	k := keyOf(f.Addr)
	x.kept.Set(timeAddr{f.KeptUntil, k})
	if f.RestsUntil > s.Time {
		x.rests.Set(timeAddr{f.RestsUntil, k})
	}
	x.keptKey.Set(serviceAddr{f.Key, k})
	if f.SharingKey != "" {
		x.keptSharing.Set(textAddr{f.SharingKey, k})
	}
}

func (x *indexes) forget(f *Free) {
	k := keyOf(f.Addr)
	x.kept.Delete(timeAddr{f.KeptUntil, k})
	x.rests.Delete(timeAddr{f.RestsUntil, k})
	x.keptKey.Delete(serviceAddr{f.Key, k})
	if f.SharingKey != "" {
		x.keptSharing.Delete(textAddr{f.SharingKey, k})
	}
}

// releaseKept lets go of the free addresses that were kept until now or before.
func (x *indexes) releaseKept(s *State) {
	for t, ok := x.rests.Min(); ok && t.time <= s.Time; t, ok = x.rests.Min() {
		x.rests.Delete(t)
	}
	for {
		t, ok := x.kept.Min()
		if !ok || t.time > s.Time {
			return
		}
		f := s.Free[t.addr.addr()]
		x.forget(f)
		for _, p := range x.containing(nil, f.Addr) {
			fi := p.family(f.Addr)
			fi.countKept(f, -1)
			fi.later.Delete(t)
			fi.enqueue(x, f)
		}
	}
}

// within iterates over the touched addresses of a range, in order.
func (x *indexes) within(r Range) iter.Seq[netip.Addr] {
	last := keyOf(r.Last)
	return func(yield func(netip.Addr) bool) {
		x.touched.Ascend(keyOf(r.First), func(k addrKey) bool {
			return !last.less(k) && yield(k.addr())
		})
	}
}

// search finds the lowest number under n from which on yes is true; n for none.
func search(n int, yes func(int) bool) int {
	low := 0
	for low < n {
		if mid := low + (n-low)/2; yes(mid) {
			n = mid
		} else {
			low = mid + 1
		}
	}
	return low
}

// firstUntouched finds the lowest address from first to last that was never used, or is
// forgotten.
func (x *indexes) firstUntouched(first, last addrKey) (addrKey, bool) {
	n := x.touched.Len()
	at := func(i int) addrKey { k, _ := x.touched.GetAt(i); return k }
	from := search(n, func(i int) bool { return !at(i).less(first) })
	// Without a gap the i-th touched address from there is i above first.
	run := search(n-from, func(i int) bool { return at(from+i) != first.plus(uint64(i)) })
	k := first.plus(uint64(run))
	return k, !k.less(first) && !last.less(k)
}

// containing appends the indexes of the pools that hold a, or that it leaves: none
// or one, or more while a batch moves ranges between pools.
func (x *indexes) containing(buf []*poolIndex, a netip.Addr) []*poolIndex {
	if len(x.overlapping) > 0 {
		for _, name := range x.poolOrder {
			if p := x.pools[name]; p.contains(a) {
				buf = append(buf, p)
			}
		}
		if len(buf) > 0 {
			return buf
		}
	}
	name := x.poolOf(a)
	if name == "" {
		l, _ := x.leaving.Get(leaver{addr: keyOf(a)})
		name = l.pool
	}
	if p := x.pools[name]; p != nil {
		buf = append(buf, p)
	}
	return buf
}

// poolOf names a pool that holds a; "" for none.
func (x *indexes) poolOf(a netip.Addr) (name string) {
	if len(x.overlapping) > 0 {
		for _, name := range x.poolOrder {
			if x.pools[name].contains(a) {
				return name
			}
		}
		return ""
	}
	k := keyOf(a)
	x.ranges.Descend(poolRange{first: k, pool: "\xff"}, func(r poolRange) bool {
		if !r.last.less(k) {
			name = r.pool
		}
		return false
	})
	return name
}
