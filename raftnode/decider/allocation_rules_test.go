package decider

import (
	"testing"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// allocatesFor makes a pool for certain services.
func allocatesFor(a *logv1.ServiceAllocation) func(*logv1.Pool) {
	return func(p *logv1.Pool) { p.ServiceAllocation = a }
}

func ofFamilies(f ...logv1.IPFamily) func(*logv1.Service) {
	return func(s *logv1.Service) { s.IpFamilies = f }
}

func requiresBoth(s *logv1.Service) {
	s.IpFamilyPolicy = logv1.IPFamilyPolicy_IP_FAMILY_POLICY_REQUIRE_DUAL_STACK
}

// Given pools and who has what of them, when somebody declares or deletes something,
// then these events follow: which pool, which address, or why none.
func TestRulesOfAllocation(t *testing.T) {
	type given []*adminv1.Resource
	ipv4, ipv6 := logv1.IPFamily_IP_FAMILY_IPV4, logv1.IPFamily_IP_FAMILY_IPV6
	app := func(name string) []*logv1.LabelSelector {
		return []*logv1.LabelSelector{{MatchLabels: map[string]string{"app": name}}}
	}
	manual := poolWith("m", "10.0.0.1-10.0.0.9", func(p *logv1.Pool) { p.ManualOnly = true })
	buggy := poolWith("p", "10.0.0.0/24", func(p *logv1.Pool) { p.AvoidBuggyIps = true })
	both := pool("p", "10.0.0.1-10.0.0.2", "2001:db8::1-2001:db8::1")
	for name, c := range map[string]struct {
		given given
		when  Command
		then  []string
	}{
		"autoAssign: false gives nothing unasked": {given{manual}, apply(service("w")),
			[]string{"ServiceDeclared w", `AllocationRefused w "no IPv4 address: pool m: only on request"`}},
		"autoAssign: false gives to who asks for the pool": {given{manual}, apply(service("w", inPool("m"))),
			[]string{"ServiceDeclared w", "AddressAllocated 10.0.0.1 w FRESH"}},
		"autoAssign: false gives to who asks for the address": {given{manual}, apply(service("w", at("10.0.0.7"))),
			[]string{"ServiceDeclared w", "AddressAllocated 10.0.0.7 w REQUESTED"}},
		"autoAssign: false takes nothing back": {given{pool("m", "10.0.0.1-10.0.0.9"), service("w")}, apply(manual),
			[]string{"PoolDefined m"}},
		"avoidBuggyIPs leaves .0 out": {given{buggy}, apply(service("w")),
			[]string{"ServiceDeclared w", "AddressAllocated 10.0.0.1 w FRESH"}},
		"pools for all go by name": {given{pool("q", "10.1.0.1-10.1.0.9"), pool("p", "10.0.0.1-10.0.0.1")}, apply(service("v"), service("w")),
			[]string{"ServiceDeclared v", "ServiceDeclared w", "AddressAllocated 10.0.0.1 v FRESH", "AddressAllocated 10.1.0.1 w FRESH"}},
		"the lower priority goes first, and no priority last": {given{
			pool("all", "10.0.0.1-10.0.0.9"),
			poolWith("a", "10.1.0.1-10.1.0.1", allocatesFor(&logv1.ServiceAllocation{Namespaces: []string{"default"}})),
			poolWith("b", "10.2.0.1-10.2.0.1", allocatesFor(&logv1.ServiceAllocation{Priority: 9, Namespaces: []string{"default"}})),
			poolWith("c", "10.3.0.1-10.3.0.1", allocatesFor(&logv1.ServiceAllocation{Priority: 3, Namespaces: []string{"default"}})),
		}, apply(service("1"), service("2"), service("3"), service("4")), []string{
			"ServiceDeclared 1", "ServiceDeclared 2", "ServiceDeclared 3", "ServiceDeclared 4",
			"AddressAllocated 10.3.0.1 1 FRESH", "AddressAllocated 10.2.0.1 2 FRESH", "AddressAllocated 10.1.0.1 3 FRESH", "AddressAllocated 10.0.0.1 4 FRESH"}},
		"of one priority the name decides": {given{
			poolWith("b", "10.2.0.1-10.2.0.1", allocatesFor(&logv1.ServiceAllocation{Priority: 3})),
			poolWith("a", "10.1.0.1-10.1.0.1", allocatesFor(&logv1.ServiceAllocation{Priority: 3})),
		}, apply(service("w")), []string{"ServiceDeclared w", "AddressAllocated 10.1.0.1 w FRESH"}},
		"serviceSelectors": {given{poolWith("p", "10.0.0.1-10.0.0.9", allocatesFor(&logv1.ServiceAllocation{ServiceSelectors: app("web")}))},
			apply(service("no", labelled("app", "db")), service("yes", labelled("app", "web"))), []string{
				"ServiceDeclared no", "ServiceDeclared yes",
				`AllocationRefused no "no IPv4 address: pool p: not for this service"`, "AddressAllocated 10.0.0.1 yes FRESH"}},
		"serviceSelectors bind who asks for the pool": {
			given{poolWith("p", "10.0.0.1-10.0.0.9", allocatesFor(&logv1.ServiceAllocation{ServiceSelectors: app("web")}))},
			apply(service("w", inPool("p"))), []string{"ServiceDeclared w", `AllocationRefused w "no IPv4 address: pool p: not for this service"`}},
		"the second address comes later from the same pool": {
			given{both, pool("a6", "2001:db8:6::1-2001:db8:6::9"), service("six", inPool("p"), ofFamilies(ipv6)), service("w", prefers)},
			remove(KindService, "six"), []string{"AddressReleased 2001:db8::1 six", "ServiceDeleted six", "AddressAllocated 2001:db8::1 w REUSED", `AllocationRefused w ""`}},
		"PreferDualStack takes one pool with both before any other": {given{pool("a", "10.9.0.1-10.9.0.9"), both}, apply(service("w", prefers)),
			[]string{"ServiceDeclared w", "AddressAllocated 10.0.0.1 w FRESH", "AddressAllocated 2001:db8::1 w FRESH"}},
		"RequireDualStack takes both or none": {given{both, service("six", ofFamilies(ipv6))}, apply(service("w", requiresBoth)),
			[]string{"ServiceDeclared w", `AllocationRefused w "no IPv4 and IPv6 address: pool p: full"`}},
		"a family that no longer is wanted is given up": {given{both, service("w", requiresBoth)}, apply(service("w", ofFamilies(ipv4))),
			[]string{"ServiceDeclared w", "AddressReleased 2001:db8::1 w"}},
		"a reservation for a service": {given{pool("p", "10.0.0.1-10.0.0.9"), reservation("r", "w", 0, "10.0.0.5")}, apply(service("w"), service("x")),
			[]string{"ServiceDeclared w", "ServiceDeclared x", "AddressAllocated 10.0.0.5 w RESERVED", "AddressAllocated 10.0.0.1 x FRESH"}},
		"a quota counts a shared address once": {
			given{poolWith("p", "10.0.0.1-10.0.0.9", atMost(1)), service("a", shares(80))},
			apply(service("b", shares(81)), service("c")), []string{"ServiceDeclared b", "ServiceDeclared c", "AddressAllocated 10.0.0.1 b SHARED",
				`AllocationRefused c "no IPv4 address: pool p: the namespace has as many as it may"`}},
		"sharing: the port is taken": {given{pool("p", "10.0.0.1-10.0.0.9"), service("a", shares(80))}, apply(service("b", shares(80))),
			[]string{"ServiceDeclared b", "AddressAllocated 10.0.0.2 b FRESH"}},
		"sharing: one Cluster, one Local": {given{pool("p", "10.0.0.1-10.0.0.9"), service("a", shares(80))}, apply(service("b", shares(81), local)),
			[]string{"ServiceDeclared b", "AddressAllocated 10.0.0.2 b FRESH"}},
		"what one service of a command gives up is for who waits, before the next": {
			given{pool("p", "10.0.0.1-10.0.0.1"), pool("q", "10.1.0.1-10.1.0.1"), service("a", inPool("p")), service("w", inPool("p"))},
			apply(service("a", inPool("q")), service("new", inPool("p"))), []string{"ServiceDeclared a", "ServiceDeclared new",
				"AddressReleased 10.0.0.1 a", "AddressAllocated 10.1.0.1 a FRESH", "AddressAllocated 10.0.0.1 w REUSED", `AllocationRefused w ""`,
				`AllocationRefused new "no IPv4 address: pool p: full"`}},
		"who shares an address and wants a further one has its turn after those that wait": {
			given{pool("p", "10.0.0.1-10.0.0.1"), service("a", shares(80)), service("b", shares(25)), service("w", inPool("p"))},
			apply(pool("p", "10.0.0.1-10.0.0.2"), service("a", shares(80), count(2))), []string{"PoolDefined p", "ServiceDeclared a",
				"AddressAllocated 10.0.0.2 w FRESH", `AllocationRefused w ""`, `AllocationRefused a "has 1 of 2 IPv4 addresses: pool p: full"`}},
		"a further address shows the pool in which there is one for that which leaves": {
			given{pool("q", "10.1.0.1-10.1.0.1", "2001:db8::1-2001:db8::1"), service("w", requiresBoth), pool("q", "2001:db8::1-2001:db8::1"),
				pool("p", "10.0.0.1-10.0.0.9", "10.1.0.1-10.1.0.1"), poolWith("p", "10.0.0.1-10.0.0.9", func(p *logv1.Pool) { p.Reallocate = true })},
			apply(service("w", requiresBoth, count(2))), []string{
				"ServiceDeclared w", "AddressAllocated 10.0.0.1 w FRESH", `AllocationRefused w "has 1 of 2 IPv6 addresses: pool q: full"`,
				"AddressReleased 10.1.0.1 w", "AddressAllocated 10.0.0.2 w FRESH", `AllocationRefused w "has 1 of 2 IPv6 addresses: pool q: full"`}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				h.must(&SetRetention{})
				for _, r := range c.given {
					h.must(apply(r))
				}
				h.then(h.when(func() { h.must(c.when) }), c.then...)
				h.nothingMissed()
				h.checkHead()
			})
		})
	}
}

// Given the same, when somebody asks for an address against a rule, then it is
// refused before anything changes.
func TestRulesBindRequests(t *testing.T) {
	held := func(h *harness) *adminv1.Resource {
		return reservation("r", "", h.wall.now().Add(time.Hour).UnixNano(), "10.0.0.5")
	}
	forWeb := allocatesFor(&logv1.ServiceAllocation{ServiceSelectors: []*logv1.LabelSelector{{MatchLabels: map[string]string{"app": "web"}}}})
	for name, c := range map[string]struct {
		pool  func(*logv1.Pool)
		given func(h *harness)
	}{
		"avoidBuggyIPs":   {func(p *logv1.Pool) { p.AvoidBuggyIps, p.Addresses = true, []string{"10.0.0.0/29"} }, nil},
		"serviceSelector": {forWeb, nil},
		"namespace":       {allocatesFor(&logv1.ServiceAllocation{Namespaces: []string{"other"}}), nil},
		"namespace label": {forGold, nil},
		"reservation":     {nil, func(h *harness) { h.must(apply(held(h))) }},
		"quota":           {atMost(1), func(h *harness) { h.must(apply(service("a"))) }},
		"quarantine": {func(p *logv1.Pool) { p.QuarantineNanos = int64(time.Hour) }, func(h *harness) {
			h.must(apply(service("a", at("10.0.0.5"))))
			h.must(remove(KindService, "a"))
		}},
		"in use": {nil, func(h *harness) { h.must(apply(service("a", at("10.0.0.5")))) }},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				p := pool("p", "10.0.0.1-10.0.0.9")
				if c.pool != nil {
					c.pool(p.GetPool())
				}
				h.must(apply(p))
				if c.given != nil {
					c.given(h)
				}
				h.settle()
				addr := "10.0.0.5"
				if p.GetPool().GetAvoidBuggyIps() {
					addr = "10.0.0.0"
				}
				h.refused(apply(service("w", at(addr)), service("fine")), new(*InvalidError)) // all of it
			})
		})
	}
}

// A service that loses the address that it asks for waits for it, and may be declared
// again meanwhile; another that asks for it is refused.
func TestRequestWaitsOnceItIsLost(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), service("w", at("10.0.0.5"))))
		force := apply(pool("p", "10.0.0.1-10.0.0.4"))
		force.Force = true
		h.must(force)
		h.must(apply(service("w", at("10.0.0.5")), service("fine")))
		h.refused(apply(service("x", at("10.0.0.5"))), new(*InvalidError))
		if h.addressesOf("w") != 0 {
			t.Error("w has what no pool has")
		}
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9")))
		if h.addressesOf("w") != 1 {
			t.Error("w waits for what is there again")
		}
		h.nothingMissed()
		h.checkHead()
	})
}
