package rules

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// wish is what a service asks for.
type wish struct {
	// two families are wanted, both: one is not enough.
	two, both bool
	// v4: the first is IPv4. any: it names none, and the other will do.
	v4, any bool
	// count is how many of each family.
	count int
	// named are the addresses that it asks for.
	named []netip.Addr
}

func wishOf(spec *logv1.Service) (w wish) {
	w.count = max(int(spec.GetAddressCount()), 1)
	n4 := 0
	for _, text := range spec.GetAddresses() {
		a := netip.MustParseAddr(text)
		if w.named = append(w.named, a); a.Is4() {
			n4++
		}
	}
	families := spec.GetIpFamilies()
	switch spec.GetIpFamilyPolicy() {
	case logv1.IPFamilyPolicy_IP_FAMILY_POLICY_PREFER_DUAL_STACK:
		w.two = true
	case logv1.IPFamilyPolicy_IP_FAMILY_POLICY_REQUIRE_DUAL_STACK:
		w.two, w.both = true, true
	case logv1.IPFamilyPolicy_IP_FAMILY_POLICY_UNSPECIFIED:
		w.both = len(families) == 2
		w.two = w.both || n4 > 0 && n4 < len(w.named)
	}
	switch {
	case len(families) > 0:
		w.v4 = families[0] == logv1.IPFamily_IP_FAMILY_IPV4
	case len(w.named) > 0:
		w.v4 = n4 > 0
	default:
		w.v4, w.any = true, true
	}
	return w
}

// family tells whether the service wants addresses of the family of a.
func (w wish) family(a netip.Addr) bool { return w.two || w.any || a.Is4() == w.v4 }

// What keeps services apart that have the same sharingKey.
const (
	samePort      = "same port"
	otherPolicy   = "one is Cluster, one Local"
	otherBackends = "Local with other backends"
)

// apart tells why two services cannot be on one address.
func apart(a, b *logv1.Service) string {
	isLocal := func(spec *logv1.Service) bool {
		return spec.GetExternalTrafficPolicy() == logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_LOCAL
	}
	taken := map[string]bool{}
	for _, p := range a.GetPorts() {
		taken[portText(p)] = true
	}
	switch {
	case a.GetSharingKey() == "" || b.GetSharingKey() == "":
		return "one of them has no sharingKey"
	case a.GetSharingKey() != b.GetSharingKey():
		return "other sharingKey"
	case slices.ContainsFunc(b.GetPorts(), func(p *logv1.Port) bool { return taken[portText(p)] }):
		return samePort
	case isLocal(a) != isLocal(b):
		return otherPolicy
	case isLocal(a) && !maps.Equal(a.GetSelector(), b.GetSelector()):
		return otherBackends
	}
	return ""
}

// portText is TCP/80; TCP is what a port without a protocol is.
func portText(p *logv1.Port) string {
	protocol := p.GetProtocol()
	if protocol == logv1.Protocol_PROTOCOL_UNSPECIFIED {
		protocol = logv1.Protocol_PROTOCOL_TCP
	}
	return fmt.Sprint(protocol, "/", p.GetPort())
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

// mayTake tells whether a service may have of a pool without naming an address.
func mayTake(s *fsm.State, pool *fsm.Pool, spec *logv1.Service) bool {
	named := spec.GetPool() == pool.Spec.GetName()
	return isFor(s, pool, spec) && (named || spec.GetPool() == "" && !pool.Spec.GetManualOnly())
}

func poolOf(s *fsm.State, a netip.Addr) *fsm.Pool {
	for _, p := range s.Pools {
		if p.Contains(a) {
			return p
		}
	}
	return nil
}

// poolName is that of the pool that has a, or which it leaves.
func poolName(s *fsm.State, a netip.Addr) string {
	if pool := poolOf(s, a); pool != nil {
		return pool.Spec.GetName()
	}
	if rec := s.Addresses[a]; rec != nil {
		return rec.Pool
	}
	return ""
}

// left is how many addresses of a pool a namespace may have besides those that it has.
func left(s *fsm.State, pool *fsm.Pool, namespace string) int {
	most, bound := pool.Quota(namespace)
	if !bound {
		return 1 << 20
	}
	n := int(most)
	for a, rec := range s.Addresses {
		if poolName(s, a) == pool.Spec.GetName() && isOf(rec, namespace) {
			n--
		}
	}
	return n
}

// isOf tells whether a namespace has an address.
func isOf(rec *fsm.Address, namespace string) bool {
	return slices.ContainsFunc(rec.Services, func(key fsm.ServiceKey) bool { return key.Namespace == namespace })
}

func reservationOf(s *fsm.State, a netip.Addr) *fsm.Reservation {
	for _, r := range s.Reservations {
		if r.Holds(s.Time) && slices.ContainsFunc(r.Ranges, func(in fsm.Range) bool { return in.Contains(a) }) {
			return r
		}
	}
	return nil
}

// isFree tells whether a service may have an address of a pool that nobody has, as far as
// the address is concerned, without naming it.
func isFree(s *fsm.State, key fsm.ServiceKey, pool *fsm.Pool, a netip.Addr) bool {
	if s.Addresses[a] != nil || pool.Spec.GetAvoidBuggyIps() && fsm.Buggy(a) {
		return false
	}
	for _, r := range pool.Ranges {
		// The Subnet-Router anycast address is no host's, but in a range of one or two.
		if raw := a.As16(); r.Contains(a) && a.Is6() && r.Size() > 2 && [8]byte(raw[8:]) == [8]byte{} {
			return false
		}
	}
	if r := reservationOf(s, a); r != nil && r.Key() != key {
		return false
	}
	f := s.Free[a]
	return f == nil || !f.Quarantined() && (f.Key == key || f.KeptUntil <= s.Time && f.RestsUntil <= s.Time)
}

// free iterates over the addresses of a family of a pool that a service may have without
// naming them, in the order of the pool's ranges.
func free(s *fsm.State, key fsm.ServiceKey, pool *fsm.Pool, v4 bool) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for _, r := range pool.Ranges {
			if r.First.Is4() != v4 {
				continue
			}
			for a := r.First; ; a = a.Next() {
				if isFree(s, key, pool, a) && !yield(a) {
					return
				}
				if a == r.Last {
					break
				}
			}
		}
	}
}

func toAddr(b []byte) netip.Addr { a, _ := netip.AddrFromSlice(b); return a }
