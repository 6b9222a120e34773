package decider

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// RestoreTo reverts intent and allocations to those of an older state, by events:
// pools, advertisements, namespaces, reservations, services, their addresses, and the settings become what
// they were. Sessions, drains, owners and epochs stay; an address that is
// taken from its service leaves its owner like a deleted one. Errors:
// *PreconditionError for a state of a newer cluster version, and where
// SetLeaseTimes has it.
type RestoreTo struct {
	// Older is the state to return to. It must not be changed afterwards.
	Older  *fsm.State
	DryRun bool
	Actor  string
}

func (c *RestoreTo) kind() string  { return "RestoreTo" }
func (c *RestoreTo) actor() string { return c.Actor }

func (c *RestoreTo) decide(t *tx) (answer, error) {
	if c.Older.ClusterVersion > t.s.ClusterVersion {
		return nil, &PreconditionError{Reason: fmt.Sprintf(
			"the backup has cluster version %d, this cluster %d", c.Older.ClusterVersion, t.s.ClusterVersion)}
	}
	v := &revert{tx: t, old: c.Older, addresses: map[netip.Addr]struct{}{}, services: map[fsm.ServiceKey]struct{}{}}
	begun := t.mark()
	t.emit(&logv1.Event{Fact: &logv1.Event_RestoreBegun{RestoreBegun: &logv1.RestoreBegun{
		FromRevision: c.Older.Revision, FromClusterId: bytes.Clone(c.Older.ClusterID[:]),
	}}})
	v.release()
	v.pools()
	v.ads()
	v.namespaces()
	v.reservations()
	v.declare()
	v.allocate()
	if err := v.settings(); err != nil {
		return nil, err
	}
	result := &RestoreResult{
		FromRevision: c.Older.Revision, ServicesChanged: len(v.services), AddressesChanged: len(v.addresses),
	}
	if t.draft.Len() == begun.events+1 {
		// Nothing differs; there is no need to say so in the log.
		t.dry = true
	}
	return func(_ *fsm.State, r *Result) { r.Restored = result }, nil
}

// revert is one RestoreTo on its way.
type revert struct {
	*tx
	old *fsm.State
	// addresses and services that have changed.
	addresses map[netip.Addr]struct{}
	services  map[fsm.ServiceKey]struct{}
}

// release takes from every service what it did not have, and deletes those that
// did not exist.
func (v *revert) release() {
	for _, key := range sortedKeys(v.s.Services) {
		before := v.old.Services[key]
		for _, a := range slices.Clone(v.s.Services[key].Addresses) {
			switch {
			case before == nil:
				v.addresses[a] = struct{}{}
			case !slices.Contains(before.Addresses, a) || v.strayed(a):
				v.addresses[a] = struct{}{}
				v.tx.release(a, key, 0)
			}
		}
		if before == nil {
			v.services[key] = struct{}{}
			v.deleteService(key)
		}
	}
}

// strayed tells whether an address was leaving its pool then and is another's now.
func (v *revert) strayed(a netip.Addr) bool {
	return v.old.Leaving(a) && v.old.Addresses[a].Pool != v.s.Addresses[a].Pool
}

// pools defines and deletes pools. Every address still in use was in use then, so
// it is in one of the old pools or leaves one.
func (v *revert) pools() {
	for _, name := range slices.Sorted(maps.Keys(v.old.Pools)) {
		if now := v.s.Pools[name]; now == nil || !proto.Equal(now.Spec, v.old.Pools[name].Spec) {
			v.emit(poolDefined(v.old.Pools[name].Spec))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.s.Pools)) {
		if v.old.Pools[name] == nil {
			v.emit(poolDeleted(name))
		}
	}
}

func (v *revert) ads() {
	for _, name := range slices.Sorted(maps.Keys(v.old.Ads)) {
		if now := v.s.Ads[name]; now == nil || !proto.Equal(now.Spec, v.old.Ads[name].Spec) {
			v.emit(adDefined(v.old.Ads[name].Spec))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.s.Ads)) {
		if v.old.Ads[name] == nil {
			v.emit(adDeleted(name))
		}
	}
}

func (v *revert) namespaces() {
	for _, name := range slices.Sorted(maps.Keys(v.old.Namespaces)) {
		if now := v.s.Namespaces[name]; now == nil || !proto.Equal(now.Spec, v.old.Namespaces[name].Spec) {
			v.emit(namespaceDefined(v.old.Namespaces[name].Spec))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.s.Namespaces)) {
		if v.old.Namespaces[name] == nil {
			v.emit(namespaceDeleted(name))
		}
	}
}

// reservations deletes all that differ first, because two of them may have changed
// places.
func (v *revert) reservations() {
	same := func(name string) bool {
		old, now := v.old.Reservations[name], v.s.Reservations[name]
		return old != nil && now != nil && proto.Equal(old.Spec, now.Spec)
	}
	for _, name := range slices.Sorted(maps.Keys(v.s.Reservations)) {
		if !same(name) {
			v.emit(reservationDeleted(name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.old.Reservations)) {
		if !same(name) {
			v.emit(reservationDefined(v.old.Reservations[name].Spec))
		}
	}
}

// declare gives every service its old spec. The generation never goes back, or a
// late retry could undo the revert.
func (v *revert) declare() {
	for _, key := range sortedKeys(v.old.Services) {
		before, now := v.old.Services[key], v.s.Services[key]
		if now != nil && proto.Equal(now.Spec, before.Spec) {
			continue
		}
		generation := before.Generation
		if now != nil && now.Source == before.Source {
			generation = max(generation, now.Generation)
		}
		v.services[key] = struct{}{}
		v.emit(serviceDeclared(before.Spec, before.Source, generation))
	}
}

// allocate gives every service the addresses that it had and lacks now.
func (v *revert) allocate() {
	for _, key := range sortedKeys(v.old.Services) {
		if v.err != nil {
			return
		}
		for _, a := range v.old.Services[key].Addresses {
			if slices.Contains(v.s.Services[key].Addresses, a) {
				continue
			}
			if svc := v.s.Services[key]; svc.CountOf(a) >= fsm.AddressCount(svc.Spec) {
				continue // it had too many then, and was about to give this one up
			}
			if v.old.Leaving(a) {
				// No pool had it then, so none can give it now: it gets another.
				v.work.services = append(v.work.services, key)
				continue
			}
			v.addresses[a] = struct{}{}
			v.emit(addressAllocated(a, key, v.old.PoolOf(a), v.old.Addresses[a].Reason))
			// Its pending reason is out of date.
			v.work.services = append(v.work.services, key)
		}
	}
}

func (v *revert) settings() error {
	if v.s.Retention != v.old.Retention {
		v.emit(retentionSet(v.old.Retention))
	}
	if v.s.Lease != v.old.Lease {
		return v.setLeaseTimes(v.old.Lease)
	}
	return nil
}

func sortedKeys(m map[fsm.ServiceKey]*fsm.Service) []fsm.ServiceKey {
	return slices.SortedFunc(maps.Keys(m), fsm.ServiceKey.Compare)
}
