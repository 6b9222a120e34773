// Package rules has the rules of allocation once more, in the plainest way and address by
// address, to hold against them what was decided. It knows nothing of queues and hopes, and
// is slow.
package rules

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Book remembers what is left of the revision before.
type Book struct {
	free map[netip.Addr]*fsm.Free
	used map[share]int
}

// share is what a namespace has of a pool.
type share struct{ pool, namespace string }

// Take finds what no state may have, and what the batch that s is the result of may not
// have given. Batches are taken in their order; one left out makes the next less strict.
func (b *Book) Take(s *fsm.State, batch *logv1.Batch) (wrongs []string) {
	wrong := func(format string, args ...any) { wrongs = append(wrongs, fmt.Sprintf(format, args...)) }
	before, had := b.free, b.used
	b.used = shares(s)
	b.free = make(map[netip.Addr]*fsm.Free, len(s.Free))
	for a, f := range s.Free {
		b.free[a] = f
		if s.Addresses[a] != nil {
			wrong("%v is free and in use", a)
		}
	}
	for a, rec := range s.Addresses {
		switch pool := poolOf(s, a); {
		case pool != nil && pool.Spec.GetName() != rec.Pool:
			wrong("%v is in pool %s, and of pool %s", a, pool.Spec.GetName(), rec.Pool)
		case s.Pools[rec.Pool] == nil:
			wrong("%v is of pool %q, which is gone", a, rec.Pool)
		}
	}
	declared, released := map[fsm.ServiceKey]int{}, map[netip.Addr]bool{}
	for key, svc := range s.Services {
		if why := b.tooMany(s, svc); why != "" {
			wrong("%v %s", key, why)
		}
	}
	for _, ev := range batch.GetEvents() {
		switch f := ev.GetFact().(type) {
		case *logv1.Event_RestoreBegun:
			return wrongs // what was given then is given again
		case *logv1.Event_ServiceDeclared:
			declared[fsm.KeyOf(f.ServiceDeclared.GetService().GetNamespace(), f.ServiceDeclared.GetService().GetName())]++
		case *logv1.Event_AddressReleased:
			released[toAddr(f.AddressReleased.GetAddress())] = true
		case *logv1.Event_QuarantineEnded:
			delete(before, toAddr(f.QuarantineEnded.GetAddress()))
		}
	}
	for _, ev := range batch.GetEvents() {
		e := ev.GetAddressAllocated()
		if e == nil {
			continue
		}
		key, addr := fsm.KeyOf(e.GetNamespace(), e.GetName()), toAddr(e.GetAddress())
		was := before[addr]
		delete(before, addr) // the next one joins this one
		svc, rec, pool := s.Services[key], s.Addresses[addr], s.Pools[e.GetPool()]
		if svc == nil || rec == nil || !slices.Contains(rec.Services, key) || declared[key] > 1 || released[addr] || pool == nil || pool.DefinedAt == s.Revision {
			continue // it did not last, or not what it was given by: the rules, or whom it joined
		}
		if why := against(s, svc, rec, pool, e, was, had); why != "" {
			wrong("%v was given to %v (%v): %s", rec.Addr, key, e.GetReason(), why)
		}
	}
	return wrongs
}

// tooMany tells what is wrong with the number of addresses of a service. One that asks for
// fewer than before, in this revision, may still have them.
func (b *Book) tooMany(s *fsm.State, svc *fsm.Service) string {
	n, most := map[bool]int{}, max(int(svc.Spec.GetAddressCount()), 1)
	for i, a := range svc.Addresses {
		n[a.Is4()]++
		if slices.Contains(svc.Addresses[:i], a) {
			return fmt.Sprintf("has %v twice", a)
		}
	}
	if max(n[true], n[false]) > most && svc.DeclaredAt != s.Revision {
		return fmt.Sprintf("has %v, and asks for %d of each family", svc.Addresses, most)
	}
	return ""
}

// against tells which rule an address was given against.
func against(s *fsm.State, svc *fsm.Service, rec *fsm.Address, pool *fsm.Pool, e *logv1.AddressAllocated, was *fsm.Free, had map[share]int) string {
	spec, now := svc.Spec, s.Time
	asked := e.GetReason() == logv1.AllocationReason_ALLOCATION_REASON_REQUESTED
	promised := e.GetReason() == logv1.AllocationReason_ALLOCATION_REASON_RESERVED
	if n := s.Namespaces[svc.Key.Namespace]; n != nil && n.DefinedAt == s.Revision {
		return ""
	}
	switch {
	case !pool.Contains(rec.Addr):
		return "its pool has it no more"
	case !isFor(s, pool, spec):
		return fmt.Sprintf("its pool is not for it: %v", pool.Spec)
	case pool.Spec.GetManualOnly() && !asked && !promised && spec.GetPool() != rec.Pool:
		return "its pool is given only on request"
	case spec.GetPool() != "" && spec.GetPool() != rec.Pool:
		return "it asked for another pool"
	case pool.Spec.GetAvoidBuggyIps() && fsm.Buggy(rec.Addr):
		return "it ends in .0 or .255"
	}
	if r := reservationOf(s, rec.Addr, now); r != nil && r.DefinedAt != s.Revision && r.Key() != svc.Key && !slices.Contains(rec.Services, r.Key()) {
		return "it is reserved by " + r.Spec.GetName()
	}
	if was != nil && was.Key != svc.Key && (spec.GetSharingKey() == "" || was.SharingKey != spec.GetSharingKey()) {
		switch {
		case was.RestsUntil > now:
			return "it rests"
		case was.KeptUntil > now && !asked && !promised:
			return "it is kept for " + was.Key.String()
		}
	}
	if was != nil && was.Quarantined() && !asked {
		return "a foreign station has it"
	}
	mine := share{rec.Pool, svc.Key.Namespace}
	if most, bound := pool.Quota(svc.Key.Namespace); bound && shares(s)[mine] > max(int(most), had[mine]) {
		return fmt.Sprintf("its namespace has %d of %s, and may have %d", shares(s)[mine], rec.Pool, most)
	}
	return ""
}

// shares counts the addresses of each pool that each namespace has.
func shares(s *fsm.State) map[share]int {
	n := map[share]int{}
	for _, rec := range s.Addresses {
		seen := map[string]bool{}
		for _, key := range rec.Services {
			if !seen[key.Namespace] {
				n[share{rec.Pool, key.Namespace}]++
			}
			seen[key.Namespace] = true
		}
	}
	return n
}

func poolOf(s *fsm.State, a netip.Addr) *fsm.Pool {
	for _, p := range s.Pools {
		if p.Contains(a) {
			return p
		}
	}
	return nil
}

func reservationOf(s *fsm.State, a netip.Addr, now int64) *fsm.Reservation {
	for _, r := range s.Reservations {
		if r.Holds(now) && slices.ContainsFunc(r.Ranges, func(in fsm.Range) bool { return in.Contains(a) }) {
			return r
		}
	}
	return nil
}

// isFor tells whether a pool's serviceAllocation is for a service: the service's labels must
// match, and its namespace. Of what matches either, one is enough; none matches all.
func isFor(s *fsm.State, pool *fsm.Pool, spec *logv1.Service) bool {
	sa := pool.Spec.GetServiceAllocation()
	if n := len(sa.GetServiceSelectors()); n > 0 && !oneMatches(sa.GetServiceSelectors(), spec.GetLabels()) {
		return false
	}
	if len(sa.GetNamespaces())+len(sa.GetNamespaceSelectors()) == 0 || slices.Contains(sa.GetNamespaces(), spec.GetNamespace()) {
		return true
	}
	labels := map[string]string{}
	if n := s.Namespaces[spec.GetNamespace()]; n != nil {
		maps.Copy(labels, n.Spec.GetLabels())
	}
	labels["kubernetes.io/metadata.name"] = spec.GetNamespace()
	return oneMatches(sa.GetNamespaceSelectors(), labels)
}

func oneMatches(selectors []*logv1.LabelSelector, labels map[string]string) bool {
	for _, sel := range selectors {
		all := true
		for k, v := range sel.GetMatchLabels() {
			has, is := labels[k]
			all = all && is && has == v
		}
		for _, req := range sel.GetMatchExpressions() { // Pool draws no other operator
			all = all && req.GetOperator() == "NotIn" && !slices.Contains(req.GetValues(), labels[req.GetKey()])
		}
		if all {
			return true
		}
	}
	return false
}

// Unserved finds a service that could have an address that it lacks at the time now, in
// nanoseconds since 1970 UTC and not before s.Time; empty when there is none. Who asks for
// any address of a named family is judged by the rules above; all, also those that want a
// second address, or another instead of one that leaves its pool, or join others, by what
// the allocator would give them if it was asked at that time. It does not know who has been
// told about what, which is what makes a retry come late.
func Unserved(s *fsm.State, now int64) string {
	for _, key := range slices.SortedFunc(maps.Keys(s.Services), fsm.ServiceKey.Compare) {
		svc := s.Services[key]
		if len(svc.Addresses) >= max(int(svc.Spec.GetAddressCount()), 1) {
			continue
		}
		if a := couldHave(s, svc, now); a.IsValid() {
			return fmt.Sprintf("%v waits (%q), and %v could be its", key, svc.Pending, a)
		}
	}
	s = s.Clone()
	s.Begin(now)
	for _, key := range slices.SortedFunc(maps.Keys(s.Services), fsm.ServiceKey.Compare) {
		svc := s.Services[key]
		plan, refusal := allocator.ChooseAddresses(s, svc.Spec, s.Time)
		if (svc.Pending == "" || refusal != nil) && slices.ContainsFunc(plan.Releases, func(r allocator.Release) bool { return r.Why == allocator.InOtherPool }) {
			continue // its address has another pool now, and is its own until it is declared again
		}
		if len(plan.New()) > 0 {
			return fmt.Sprintf("%v has %v, waits (%q, %v) and could have %v", key, svc.Addresses, svc.Pending, svc.Refusals, plan.New())
		}
		keeps := refusal != nil && strings.HasPrefix(refusal.Error(), "keeps ")
		if keeps != strings.HasPrefix(svc.Pending, "keeps ") {
			return fmt.Sprintf("%v says %q, not %v", key, svc.Pending, refusal)
		}
	}
	return ""
}

// couldHave finds an address for a service that has fewer than it asks for, asks for none by
// name and is content with one family: any that no rule denies it. All of them are of one pool.
func couldHave(s *fsm.State, svc *fsm.Service, now int64) netip.Addr {
	spec := svc.Spec
	if len(spec.GetAddresses()) > 0 || spec.GetSharingKey() != "" ||
		spec.GetIpFamilyPolicy() != logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK || len(spec.GetIpFamilies()) == 0 {
		return netip.Addr{}
	}
	for range s.ReservedFor(svc.Key) {
		return netip.Addr{}
	}
	v4 := spec.GetIpFamilies()[0] == logv1.IPFamily_IP_FAMILY_IPV4
	for name, pool := range s.Pools {
		named := spec.GetPool() == name
		if len(svc.Addresses) > 0 && (s.PoolOf(svc.Addresses[0]) != name || svc.Addresses[0].Is4() != v4) {
			continue
		}
		if !isFor(s, pool, spec) || !named && (spec.GetPool() != "" || pool.Spec.GetManualOnly()) {
			continue
		}
		if most, bound := pool.Quota(svc.Key.Namespace); bound && shares(s)[share{name, svc.Key.Namespace}] >= int(most) {
			continue
		}
		for _, r := range pool.Ranges {
			for a := r.First; v4 == a.Is4(); a = a.Next() {
				if isFree(s, svc, pool, a, now) && (v4 || a != r.First) {
					return a
				}
				if a == r.Last {
					break
				}
			}
		}
	}
	return netip.Addr{}
}

func isFree(s *fsm.State, svc *fsm.Service, pool *fsm.Pool, a netip.Addr, now int64) bool {
	if s.Addresses[a] != nil || pool.Spec.GetAvoidBuggyIps() && fsm.Buggy(a) {
		return false
	}
	if r := reservationOf(s, a, now); r != nil && r.Key() != svc.Key {
		return false
	}
	f := s.Free[a]
	return f == nil || !f.Quarantined() && (f.Key == svc.Key || f.KeptUntil <= now && f.RestsUntil <= now)
}

func toAddr(b []byte) netip.Addr { a, _ := netip.AddrFromSlice(b); return a }
