package decider

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// hope is what has changed since the waiting services were last looked at, as
// far as it may help one of them. Nothing else makes the decider try again.
type hope struct {
	// all: everything may have, because this head is new.
	all bool
	// anyPool: an address of some pool has fallen free by time; pools are those in
	// which one has.
	anyPool bool
	pools   map[string]struct{}
	// defined are pools that were defined or deleted, namespaces those that were
	// given other labels.
	defined, namespaces map[string]struct{}
	// keys are sharing keys whose services, and addresses those that other services
	// have, or no longer have.
	keys      map[string]struct{}
	addresses map[netip.Addr]struct{}
	// held: a reservation or a quarantine may have ended, or what is kept for one be
	// for all. promised are services for which a reservation was declared, or an
	// address of it fell free.
	held     bool
	promised map[fsm.ServiceKey]struct{}
}

func (h *hope) any() bool {
	return h.all || h.anyPool || h.held || len(h.pools)+len(h.defined)+len(h.namespaces)+len(h.keys)+len(h.addresses)+len(h.promised) > 0
}

// add takes in another's hope.
func (h *hope) add(o *hope) {
	h.all, h.anyPool, h.held = h.all || o.all, h.anyPool || o.anyPool, h.held || o.held
	markAll(&h.pools, o.pools)
	markAll(&h.defined, o.defined)
	markAll(&h.namespaces, o.namespaces)
	markAll(&h.keys, o.keys)
	markAll(&h.addresses, o.addresses)
	markAll(&h.promised, o.promised)
}

func markAll[K comparable](set *map[K]struct{}, more map[K]struct{}) {
	for k := range more {
		markIn(set, k)
	}
}

func (h *hope) clone() hope {
	c := *h
	c.pools, c.defined, c.namespaces = maps.Clone(h.pools), maps.Clone(h.defined), maps.Clone(h.namespaces)
	c.keys, c.addresses, c.promised = maps.Clone(h.keys), maps.Clone(h.addresses), maps.Clone(h.promised)
	return c
}

// concerns tells whether what is waited for may be there: an address has fallen free
// in the pool, or its namespace has fewer because another pool took one over.
func (h *hope) concerns(w fsm.Wait) bool {
	_, freed := h.pools[w.Pool]
	return freed || h.anyPool || h.all || w.Namespace != "" && len(h.defined) > 0
}

func markIn[K comparable](set *map[K]struct{}, k K) {
	if *set == nil {
		*set = map[K]struct{}{}
	}
	(*set)[k] = struct{}{}
}

// noteDefined, in the order of events: see work.note.
func (h *hope) noteDefined(pool string) {
	markIn(&h.defined, pool)
	markIn(&h.pools, pool)
}

// noteReleased takes down that a service gave up an address.
func (h *hope) noteReleased(s *fsm.State, addr netip.Addr, key fsm.ServiceKey) {
	h.noteFree(s, addr)
	h.noteShares(s, key)
	if rec := s.Addresses[addr]; rec != nil {
		for _, left := range rec.Services {
			h.noteShares(s, left) // it may have changed its own before it left
		}
	}
}

// noteFree takes down that an address has fallen free.
func (h *hope) noteFree(s *fsm.State, addr netip.Addr) {
	markIn(&h.addresses, addr)
	if pool := s.PoolOf(addr); pool != "" {
		markIn(&h.pools, pool)
	}
	if r := s.ReservationOf(addr); r != nil {
		markIn(&h.promised, r.Key())
	}
}

// noteLeft takes down that a pool no longer counts an address that was leaving it.
func (h *hope) noteLeft(pool string) { markIn(&h.pools, pool) }

// noteChanged takes down that a service that has an address is declared anew: its
// ports, policy or key may let others in.
func (h *hope) noteChanged(s *fsm.State, addr netip.Addr, key fsm.ServiceKey) {
	markIn(&h.addresses, addr)
	h.noteShares(s, key)
}

// noteShares takes down that a service, or what it shares, has changed.
func (h *hope) noteShares(s *fsm.State, key fsm.ServiceKey) {
	if k := s.Services[key].Spec.GetSharingKey(); k != "" {
		markIn(&h.keys, k)
	}
}

// services calls f for the waiting services that hope may concern, short of those
// that wait for a free address of a pool. Some may be named twice, and some in vain:
// they are asked before they are tried.
func (h *hope) services(s *fsm.State, f func(*fsm.Service)) {
	for key := range h.keys {
		for svc := range s.WaitingToShare(key) {
			f(svc)
		}
	}
	for addr := range h.addresses {
		for svc := range s.WaitingForAddress(addr) {
			f(svc)
		}
	}
	for key := range h.promised {
		if svc := s.Services[key]; svc != nil && waits(svc) {
			f(svc)
		}
	}
	h.replacedWithinQuota(s, f)
	if !h.all && !h.held && len(h.defined) == 0 && len(h.namespaces) == 0 {
		return
	}
	defined := slices.Sorted(maps.Keys(h.defined))
	for svc := range s.Waiting() {
		_, relabelled := h.namespaces[svc.Key.Namespace]
		if h.all || relabelled || (h.held || len(defined) > 0) && forItself(s, svc) || len(defined) > 0 && len(svc.Addresses) > 0 ||
			slices.ContainsFunc(defined, func(pool string) bool { return concernsPool(s, svc, pool) }) {
			f(svc)
		}
	}
}

// replacedWithinQuota calls f for those who keep an address that leaves its pool, when
// their namespace has so few of it now that they may have another in its stead. The
// quota does not allow them one more, so they are not found where they wait.
func (h *hope) replacedWithinQuota(s *fsm.State, f func(*fsm.Service)) {
	for pool := range h.pools {
		def := s.Pools[pool]
		if def == nil || !def.Spec.GetReallocate() || def.Spec.GetQuota() == nil {
			continue
		}
		for rec := range s.LeavingPool(pool) {
			for _, key := range rec.Services {
				svc := s.Services[key]
				most, _ := def.Quota(key.Namespace)
				if waits(svc) && s.NamespaceUse(pool, key.Namespace) < int(most)+len(svc.Addresses) {
					f(svc)
				}
			}
		}
	}
}

// waits tells whether a service lacks an address or would take one more.
func waits(svc *fsm.Service) bool { return svc.Pending != "" || len(svc.Refusals) > 0 }

// forItself tells whether a waiting service may have what nobody else is waiting for:
// the address that it asks for, or one that is promised to it, kept for it, or its
// sharing key's.
func forItself(s *fsm.State, svc *fsm.Service) bool {
	return len(svc.Spec.GetAddresses()) > 0 || allocator.HasOwn(s, svc.Spec)
}

// concernsPool tells whether a pool that was defined or deleted may help a waiting
// service, or makes what is said of it untrue. Who only waits until something
// falls free in the pool is found where it waits.
func concernsPool(s *fsm.State, svc *fsm.Service, pool string) bool {
	listed := false
	for _, r := range svc.Refusals {
		switch {
		case r.Reason == logv1.RefusalReason_REFUSAL_REASON_NO_POOLS:
			return true
		case r.Pool == pool:
			listed = true
			if changesRefusal(s, svc, r) {
				return true
			}
		}
	}
	return !listed && allocator.Admits(s, svc.Spec, pool)
}

// changesRefusal tells whether what the pool is now makes a refusal untrue.
func changesRefusal(s *fsm.State, svc *fsm.Service, r fsm.Refusal) bool {
	if s.Pools[r.Pool] == nil {
		return true
	}
	admits := allocator.Admits(s, svc.Spec, r.Pool)
	switch {
	case r.Reason == logv1.RefusalReason_REFUSAL_REASON_NO_SUCH_POOL:
		return true
	case r.Reason == logv1.RefusalReason_REFUSAL_REASON_NO_FAMILY:
		return !admits || s.PoolHas(r.Pool, r.Family == logv1.IPFamily_IP_FAMILY_IPV4)
	case r.Frees():
		return !admits || !s.PoolHas(r.Pool, r.Family == logv1.IPFamily_IP_FAMILY_IPV4) ||
			// It waits for IPv6 only because no pool had IPv4.
			r.Family == logv1.IPFamily_IP_FAMILY_IPV6 && s.PoolHas(r.Pool, true) && allocator.EitherFamily(svc.Spec)
	}
	return admits
}
