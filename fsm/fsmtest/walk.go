package fsmtest

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Pick chooses a number from 0 to n-1.
type Pick func(n int) int

// Walk makes one random legal batch after another. It does not ask the
// allocator: any address of a pool and any node with a session will do, so that the
// states are stranger than those of a real cluster.
type Walk struct {
	*Log
	pick Pick
}

// NewWalk starts a random history.
func NewWalk(t TB, pick Pick) *Walk { return &Walk{NewLog(t), pick} }

// ranges of the random pools. Within a batch pools may have the same ones.
var walkRanges = []string{
	"192.0.2.0/29", "192.0.2.8-192.0.2.20", "192.0.2.250-192.0.3.5", "198.51.100.0/30",
	"2001:db8::/126", "2001:db8::100-2001:db8::108", "2001:db8:1::/64",
}

var walkNamespaces = []string{"default", "default", "other"}

var walkKeys = []string{"", "", "blue", "green"}

// Step folds one batch of one to four random changes.
func (w *Walk) Step() {
	w.t.Helper()
	w.Now += int64(w.pick(100)) * int64(time.Second)
	d := w.S.Begin(w.Now)
	add := func(events []*logv1.Event) {
		for _, ev := range events {
			if err := d.Add("admin:walk", ev); err != nil {
				w.t.Fatalf("walk made an impossible event: %v", err)
			}
		}
	}
	for range 1 + w.pick(4) {
		add(w.change())
		if w.pick(2) == 0 {
			w.look()
		}
	}
	w.part(add)
	if d.Len() == 0 {
		if err := d.Add("admin:walk", Declared(w.service())); err != nil {
			w.t.Fatalf("declare: %v", err)
		}
	}
	raw, _, _, err := d.Commit()
	if err != nil {
		w.t.Fatalf("walk made an impossible batch: %v", err)
	}
	w.Raw = append(w.Raw, raw)
}

// look reads what a decision would, in the middle of the batch.
func (w *Walk) look() {
	for _, name := range w.S.PoolNames() {
		for _, v4 := range []bool{true, false} {
			w.S.NextFresh(name, v4)
			w.S.LeastRecent(name, v4, w.S.Time)
		}
	}
}

// part ends what may be in the middle of a batch only: pools that have addresses of
// others lose them, and so do reservations.
func (w *Walk) part(add func([]*logv1.Event)) {
	var taken []fsm.Range
	clash := func(ranges []fsm.Range) bool {
		return slices.ContainsFunc(ranges, func(r fsm.Range) bool { return slices.ContainsFunc(taken, r.Overlaps) })
	}
	for i, name := range slices.Clone(w.S.PoolNames()) {
		p := w.S.Pools[name]
		if clash(p.Ranges) {
			spec := &logv1.Pool{Name: name, AvoidBuggyIps: p.Spec.GetAvoidBuggyIps(), ServiceAllocation: p.Spec.GetServiceAllocation()}
			for j, r := range p.Ranges {
				if !slices.ContainsFunc(taken, r.Overlaps) {
					spec.Addresses = append(spec.Addresses, p.Spec.GetAddresses()[j])
				}
			}
			if len(spec.Addresses) == 0 {
				spec.Addresses = []string{fmt.Sprintf("203.0.113.%d/32", i)}
			}
			add([]*logv1.Event{Pool(spec)})
		}
		taken = append(taken, w.S.Pools[name].Ranges...)
	}
	taken = nil
	for _, name := range slices.Sorted(maps.Keys(w.S.Reservations)) {
		switch r := w.S.Reservations[name]; {
		case !r.Holds(w.S.Time):
		case clash(r.Ranges):
			add([]*logv1.Event{ReservationDeleted(name)})
		default:
			taken = append(taken, r.Ranges...)
		}
	}
}

func (w *Walk) namespace() string { return walkNamespaces[w.pick(len(walkNamespaces))] }

func (w *Walk) service() *logv1.Service {
	svc := Service(fmt.Sprintf("s%d", w.pick(12)), uint32(1+w.pick(9)))
	svc.Namespace = w.namespace()
	svc.SharingKey = walkKeys[w.pick(len(walkKeys))]
	svc.AddressCount = uint32(w.pick(4))
	if old := w.S.Services[fsm.KeyOf(svc.Namespace, svc.Name)]; old != nil && len(old.Addresses) > 0 && w.pick(4) > 0 {
		svc.SharingKey = old.Spec.GetSharingKey()
	}
	return svc
}

// change makes the events of one random change to the state, none when there
// is nothing to change.
func (w *Walk) change() []*logv1.Event {
	switch w.pick(19) {
	case 0:
		return w.definePool()
	case 1:
		return w.deletePool()
	case 2:
		ad := &logv1.L2Advertisement{Name: fmt.Sprintf("a%d", w.pick(3))}
		if w.pick(2) == 0 {
			ad.IpAddressPools = []string{fmt.Sprintf("p%d", w.pick(3))}
		}
		return []*logv1.Event{Ad(ad)}
	case 3:
		if name, ok := any1(w.pick, w.S.Ads, cmp.Compare[string]); ok {
			return []*logv1.Event{AdDeleted(name)}
		}
	case 4, 5:
		return []*logv1.Event{Declared(w.service())}
	case 6, 7, 8:
		return w.allocate()
	case 9:
		return w.deleteService()
	case 10:
		return w.release()
	case 11, 12:
		return w.node()
	case 13, 14:
		return w.own()
	case 15:
		return w.report()
	case 16:
		name := fmt.Sprintf("ns%d", w.pick(3))
		if w.S.Namespaces[name] != nil && w.pick(2) == 0 {
			return []*logv1.Event{NamespaceDeleted(name)}
		}
		return []*logv1.Event{NamespaceDefined(name, map[string]string{"tier": walkKeys[w.pick(len(walkKeys))]})}
	case 17, 18:
		return w.reserve()
	}
	return nil
}

var walkReserved = []string{
	"192.0.2.2-192.0.2.9", "2001:db8::102", "192.0.2.250-192.0.3.0", "2001:db8::/127", "2001:db8:1::/65",
	"192.0.2.0/24", "192.0.2.4", "192.0.2.5-192.0.2.6", "192.0.2.12-192.0.2.255", "198.51.100.1",
}

func (w *Walk) reserve() []*logv1.Event {
	name := fmt.Sprintf("r%d", w.pick(4))
	if w.S.Reservations[name] != nil && w.pick(3) == 0 {
		return []*logv1.Event{ReservationDeleted(name)}
	}
	r := &logv1.Reservation{Name: name}
	var have []fsm.Range
	for range 1 + w.pick(3) {
		text := walkReserved[w.pick(len(walkReserved))]
		if one, _ := fsm.ParseReserved(text); !slices.ContainsFunc(have, one.Overlaps) {
			r.Addresses, have = append(r.Addresses, text), append(have, one)
		}
	}
	if w.pick(2) == 0 {
		r.ServiceNamespace, r.ServiceName = w.namespace(), fmt.Sprintf("s%d", w.pick(12))
	}
	if w.pick(3) > 0 {
		r.UntilUnixNano = w.S.Time + int64(w.pick(200)-20)*int64(time.Second)
	}
	return []*logv1.Event{Reservation(r)}
}

// any1 picks a key of a map.
func any1[K comparable, V any](pick Pick, m map[K]V, compare func(a, b K) int) (K, bool) {
	keys := slices.SortedFunc(maps.Keys(m), compare)
	if len(keys) == 0 {
		var none K
		return none, false
	}
	return keys[pick(len(keys))], true
}

func (w *Walk) definePool() []*logv1.Event {
	n := w.pick(3)
	p := &logv1.Pool{Name: fmt.Sprintf("p%d", n), AvoidBuggyIps: w.pick(3) == 0}
	if w.pick(3) == 0 {
		p.ServiceAllocation = &logv1.ServiceAllocation{Priority: uint32(w.pick(3)), Namespaces: [][]string{nil, {"default"}, {"x"}}[w.pick(3)]}
	}
	for i, r := range walkRanges {
		if i%3 == n && w.pick(3) > 0 || w.pick(6) == 0 {
			p.Addresses = append(p.Addresses, r)
		}
	}
	if len(p.Addresses) == 0 {
		p.Addresses = []string{walkRanges[n]}
	}
	events := w.vacate(p.Name, func(a netip.Addr) bool {
		for _, text := range p.Addresses {
			if r, _ := fsm.ParseRange(text); r.Contains(a) {
				return true
			}
		}
		return false
	}, true)
	return append(events, Pool(p))
}

func (w *Walk) deletePool() []*logv1.Event {
	name, ok := any1(w.pick, w.S.Pools, cmp.Compare[string])
	if !ok {
		return nil
	}
	return append(w.vacate(name, func(netip.Addr) bool { return false }, false), PoolDeleted(name))
}

// vacate frees the addresses of a pool that do not stay.
// One in two stays all the same, and leaves the pool.
func (w *Walk) vacate(pool string, stays func(netip.Addr) bool, mayLeave bool) (events []*logv1.Event) {
	for rec := range w.S.InPool(pool) {
		if stays(rec.Addr) || mayLeave && w.pick(2) == 0 {
			continue
		}
		if rec.Owner != "" {
			events = append(events, OwnerReleased(rec.Addr, rec.Owner, rec.Epoch))
		}
		for _, key := range rec.Services {
			events = append(events, w.released(key, rec.Addr))
		}
	}
	return events
}

func (w *Walk) allocate() []*logv1.Event {
	key, ok := any1(w.pick, w.S.Services, fsm.ServiceKey.Compare)
	pool, ok2 := any1(w.pick, w.S.Pools, cmp.Compare[string])
	if !ok || !ok2 {
		return nil
	}
	svc := w.S.Services[key]
	r := w.S.Pools[pool].Ranges[w.pick(len(w.S.Pools[pool].Ranges))]
	a := r.First
	for range w.pick(6) {
		if a == r.Last {
			break
		}
		a = a.Next()
	}
	if slices.Contains(svc.Addresses, a) || svc.CountOf(a) >= fsm.AddressCount(svc.Spec) {
		return nil
	}
	if rec := w.S.Addresses[a]; rec != nil {
		for _, other := range rec.Services {
			if k := svc.Spec.GetSharingKey(); k == "" || k != w.S.Services[other].Spec.GetSharingKey() {
				return nil
			}
		}
	}
	return []*logv1.Event{AllocatedFor(key, a, pool, logv1.AllocationReason_ALLOCATION_REASON_REQUESTED), Refused(key, "")}
}

func (w *Walk) release() []*logv1.Event {
	a, ok := any1(w.pick, w.S.Addresses, netip.Addr.Compare)
	if !ok {
		return nil
	}
	rec := w.S.Addresses[a]
	var events []*logv1.Event
	if rec.Owner != "" && len(rec.Services) == 1 {
		events = append(events, OwnerReleased(a, rec.Owner, rec.Epoch))
	}
	key := rec.Services[w.pick(len(rec.Services))]
	return append(events, w.released(key, a), w.refused(key, a))
}

// released keeps the address for a while, and may have it rest as well.
func (w *Walk) released(key fsm.ServiceKey, a netip.Addr) *logv1.Event {
	until := w.S.Time + int64(w.pick(200))*int64(time.Second)
	ev := Released(key, a, until)
	if w.pick(3) == 0 {
		ev.GetAddressReleased().QuarantinedUntilUnixNano = until
	}
	return ev
}

// refused says anything about why a service lacks an address.
func (w *Walk) refused(key fsm.ServiceKey, a netip.Addr) *logv1.Event {
	var list []*logv1.Refusal
	for range w.pick(4) {
		r := &logv1.Refusal{Pool: fmt.Sprintf("p%d", w.pick(3)), Reason: logv1.RefusalReason(1 + w.pick(15)), Family: logv1.IPFamily(w.pick(3))}
		if w.pick(3) == 0 {
			r = &logv1.Refusal{Address: fsm.FromAddr(a), Reason: logv1.RefusalReason_REFUSAL_REASON_IN_USE}
		}
		list = append(list, r)
	}
	return Refused(key, []string{"", "taken"}[w.pick(2)], list...)
}

func (w *Walk) deleteService() []*logv1.Event {
	key, ok := any1(w.pick, w.S.Services, fsm.ServiceKey.Compare)
	if !ok {
		return nil
	}
	var events []*logv1.Event
	for _, a := range w.S.Services[key].Addresses {
		rec := w.S.Addresses[a]
		if rec.Owner != "" && len(rec.Services) == 1 {
			events = append(events, OwnerReleased(a, rec.Owner, rec.Epoch))
		}
		events = append(events, w.released(key, a))
	}
	return append(events, Deleted(key))
}

func (w *Walk) node() []*logv1.Event {
	name := fmt.Sprintf("n%d", w.pick(4))
	n := w.S.Nodes[name]
	if n == nil {
		return []*logv1.Event{Opened(name, 1, map[string]string{"zone": name})}
	}
	open := n.SessionState == fsm.SessionOpen
	switch w.pick(8) {
	case 0, 1:
		if n.Session > w.S.Revision {
			return nil // a node opens one session in a batch
		}
		return []*logv1.Event{Opened(name, n.Incarnation+1, map[string]string{"zone": name})}
	case 2, 3:
		if open {
			return []*logv1.Event{Expired(name, n.Session)}
		}
	case 4:
		if open && n.Owned == 0 {
			return []*logv1.Event{Closed(name, n.Session)}
		}
	case 5:
		ev := Drained(name, logv1.DrainReason(1+w.pick(2)))
		ev.GetNodeDrained().GraceNanos = int64(w.pick(3)) * int64(time.Minute)
		return []*logv1.Event{ev}
	case 6:
		return []*logv1.Event{Undrained(name), Links(name, "eth0", "!eth1")}
	case 7:
		if !open && n.Owned == 0 {
			var events []*logv1.Event
			for rec := range w.S.SoftAt(name) {
				events = append(events, SoftMoveEnded(rec.Addr, name))
			}
			return append(events, Forgotten(name))
		}
	}
	return nil
}

func (w *Walk) own() []*logv1.Event {
	a, ok := any1(w.pick, w.S.Addresses, netip.Addr.Compare)
	name, ok2 := any1(w.pick, w.S.Nodes, cmp.Compare[string])
	if !ok || !ok2 || w.S.Nodes[name].SessionState != fsm.SessionOpen {
		return nil
	}
	rec := w.S.Addresses[a]
	var events []*logv1.Event
	if rec.Owner != "" && (w.S.Nodes[rec.Owner].SessionState == fsm.SessionOpen || w.pick(2) == 0) {
		if w.pick(3) == 0 {
			return append(events, OwnerReleasedSoftly(a, rec.Owner, rec.Epoch))
		}
		events = append(events, OwnerReleased(a, rec.Owner, rec.Epoch))
		if w.pick(2) == 0 {
			return events
		}
	} else if rec.SoftNode != "" && w.pick(2) == 0 {
		if rec.Owner == "" && rec.SoftNode != name {
			return append(events, OwnerAssignedSoftly(a, name, rec.SoftNode))
		}
		return append(events, SoftMoveEnded(a, rec.SoftNode))
	}
	return append(events, OwnerAssigned(a, name))
}

func (w *Walk) report() []*logv1.Event {
	a, ok := any1(w.pick, w.S.Addresses, netip.Addr.Compare)
	name, ok2 := any1(w.pick, w.S.Nodes, cmp.Compare[string])
	if !ok || !ok2 {
		return nil
	}
	if free, ok := any1(w.pick, w.S.Free, netip.Addr.Compare); ok && w.pick(3) == 0 {
		if w.S.Free[free].Quarantined() && w.pick(2) == 0 {
			return []*logv1.Event{QuarantineEnded(free)}
		}
		return []*logv1.Event{Quarantined(free, name, fsm.MAC{2, 1, 1, 1, 2, byte(w.pick(3))}, w.S.Time+1+int64(w.pick(100)))}
	}
	switch w.pick(4) {
	case 0:
		return []*logv1.Event{AnnounceFailed(a, name, "no buffer space")}
	case 1:
		return []*logv1.Event{AnnounceRecovered(a, name)}
	case 2:
		return []*logv1.Event{Conflict(a, name, fsm.MAC{2, 1, 1, 1, 1, byte(w.pick(3))})}
	default:
		return []*logv1.Event{ConflictCleared(a)}
	}
}
