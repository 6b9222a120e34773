package allocator_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

const (
	v4, v6  = logv1.IPFamily_IP_FAMILY_IPV4, logv1.IPFamily_IP_FAMILY_IPV6
	single  = logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK
	prefer  = logv1.IPFamilyPolicy_IP_FAMILY_POLICY_PREFER_DUAL_STACK
	require = logv1.IPFamilyPolicy_IP_FAMILY_POLICY_REQUIRE_DUAL_STACK
	local   = logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_LOCAL
)

// decider does what a leader does: it declares services and folds what the
// allocator says.
type decider struct {
	*fsmtest.Log
	t fsmtest.TB
}

func newDecider(t fsmtest.TB, events ...*logv1.Event) *decider {
	d := &decider{fsmtest.NewLog(t), t}
	if len(events) > 0 {
		d.Apply(events...)
	}
	return d
}

// declare declares a service and gives it what it should have. It gives the
// plan in words: "+" a new address and why, "=" one it keeps, "-" one it gives
// up and why, "!" a refusal.
func (d *decider) declare(spec *logv1.Service) string {
	d.Apply(fsmtest.Declared(spec))
	return d.fit(spec)
}

func (d *decider) fit(spec *logv1.Service) string {
	plan, err := allocator.ChooseAddresses(d.S, spec, d.S.Time)
	key := fsm.KeyOf(spec.GetNamespace(), spec.GetName())
	var events []*logv1.Event
	var words []string
	for _, r := range plan.Releases {
		events = append(events, fsmtest.Released(key, r.Addr, 0))
		words = append(words, fmt.Sprintf("-%s (%s)", r.Addr, r.Why))
	}
	for _, c := range plan.Choices {
		if c.Kept {
			words = append(words, "="+c.Addr.String())
			continue
		}
		events = append(events, fsmtest.AllocatedFor(key, c.Addr, c.Pool, c.Reason))
		words = append(words, fmt.Sprintf("+%s %s", c.Addr, strings.ToLower(strings.TrimPrefix(c.Reason.String(), "ALLOCATION_REASON_"))))
	}
	if err != nil {
		var r *allocator.Refusal
		if !errors.As(err, &r) {
			d.t.Fatalf("not a refusal: %v", err)
		}
		words = append(words, "!"+err.Error())
	}
	if len(events) > 0 {
		d.Apply(events...)
	}
	return strings.Join(words, ", ")
}

// remove deletes a service and keeps its addresses for so long.
func (d *decider) remove(name string, keep time.Duration) {
	key := fsm.KeyOf("default", name)
	var events []*logv1.Event
	for _, a := range d.S.Services[key].Addresses {
		events = append(events, fsmtest.Released(key, a, d.Now+int64(keep)))
	}
	d.Apply(append(events, fsmtest.Deleted(key))...)
}

func svc(name string, change ...func(*logv1.Service)) *logv1.Service {
	s := fsmtest.Service(name, 80)
	for _, c := range change {
		c(s)
	}
	return s
}

func addresses(a ...string) func(*logv1.Service) { return func(s *logv1.Service) { s.Addresses = a } }
func pool(name string) func(*logv1.Service)      { return func(s *logv1.Service) { s.Pool = name } }
func sharing(key string) func(*logv1.Service)    { return func(s *logv1.Service) { s.SharingKey = key } }
func families(f ...logv1.IPFamily) func(*logv1.Service) {
	return func(s *logv1.Service) { s.IpFamilies = f }
}
func policy(p logv1.IPFamilyPolicy) func(*logv1.Service) {
	return func(s *logv1.Service) { s.IpFamilyPolicy = p }
}
func labelled(k, v string) func(*logv1.Service) {
	return func(s *logv1.Service) { s.Labels = map[string]string{k: v} }
}
func selects(k, v string) func(*logv1.Service) {
	return func(s *logv1.Service) { s.Selector = map[string]string{k: v} }
}
func traffic(p logv1.ExternalTrafficPolicy) func(*logv1.Service) {
	return func(s *logv1.Service) { s.ExternalTrafficPolicy = p }
}
func port(n uint32) func(*logv1.Service) {
	return func(s *logv1.Service) { s.Ports = []*logv1.Port{{Port: n}} }
}

// step declares a service and says what the plan must be.
type step struct {
	spec *logv1.Service
	want string
}

func TestChooseAddresses(t *testing.T) {
	two := []*logv1.Event{fsmtest.PoolDefined("b", "198.51.100.0/31", "2001:db8::/127"), fsmtest.PoolDefined("a", "192.0.2.0/31")}
	manual := fsmtest.Pool(&logv1.Pool{Name: "m", Addresses: []string{"203.0.113.0/24"}, ManualOnly: true})
	buggy := fsmtest.Pool(&logv1.Pool{Name: "g", Addresses: []string{"203.0.113.0/24"}, AvoidBuggyIps: true})
	only6 := fsmtest.PoolDefined("six", "2001:db8:6::/64")
	pinned := func(name, cidr string, a *logv1.ServiceAllocation) *logv1.Event {
		return fsmtest.Pool(&logv1.Pool{Name: name, Addresses: strings.Split(cidr, ","), ServiceAllocation: a})
	}
	for name, c := range map[string]struct {
		pools []*logv1.Event
		steps []step
	}{
		"pools by name, lowest first": {two, []step{
			{svc("1"), "+192.0.2.0 fresh"},
			{svc("2"), "+192.0.2.1 fresh"},
			{svc("3"), "+198.51.100.0 fresh"},
			{svc("4"), "+198.51.100.1 fresh"},
			{svc("5"), "!no IPv4 address: pool a: full; pool b: full"},
		}},
		"declared again": {two, []step{
			{svc("1"), "+192.0.2.0 fresh"},
			{svc("1", port(81)), "=192.0.2.0"},
			{svc("1", policy(single)), "=192.0.2.0"},
			{svc("1", families(v4)), "=192.0.2.0"},
			{svc("1", pool("a")), "=192.0.2.0"},
			{svc("1", addresses("192.0.2.0")), "=192.0.2.0"},
		}},
		"no pools": {nil, []step{{svc("1"), "!no IPv4 address: no pool is defined"}}},
		"pool asked for": {two, []step{
			{svc("1", pool("b")), "+198.51.100.0 fresh"},
			{svc("2", pool("none")), "!no IPv4 address: pool none: no such pool"},
			{svc("1", pool("a")), "-198.51.100.0 (not in the requested pool), +192.0.2.0 fresh"},
		}},
		"pools for certain services": {[]*logv1.Event{
			fsmtest.PoolDefined("a", "192.0.2.0/32"), fsmtest.PoolDefined("b", "192.0.2.1/32"),
			pinned("late", "203.0.113.0/32", &logv1.ServiceAllocation{Namespaces: []string{"default"}}),
			pinned("second", "203.0.113.1/32", &logv1.ServiceAllocation{Priority: 9, ServiceSelectors: selector("app", "web")}),
			pinned("first", "203.0.113.2/32", &logv1.ServiceAllocation{Priority: 3, ServiceSelectors: selector("app", "web")}),
			pinned("others", "203.0.113.3/32", &logv1.ServiceAllocation{Priority: 1, Namespaces: []string{"other"}}),
		}, []step{
			{svc("1", labelled("app", "web")), "+203.0.113.2 fresh"},
			{svc("2", labelled("app", "web")), "+203.0.113.1 fresh"},
			{svc("3", labelled("app", "web")), "+203.0.113.0 fresh"},
			{svc("4"), "+192.0.2.0 fresh"},
			{svc("5", pool("others")), "!no IPv4 address: pool others: not for this service"},
			{svc("5", addresses("203.0.113.3")), "!requested address 203.0.113.3: not for this service"},
			{svc("5", pool("b")), "+192.0.2.1 fresh"},
			{svc("6"), "!no IPv4 address: pool late: full; pool a: full; pool b: full; pool others: not for this service; pool first: not for this service; pool second: not for this service"},
			{svc("1"), "=203.0.113.2"}, // the label is gone, the address stays
		}},
		"a namespace's labels": {[]*logv1.Event{
			fsmtest.NamespaceDefined("default", map[string]string{"tier": "gold"}),
			pinned("gold", "203.0.113.0/31", &logv1.ServiceAllocation{NamespaceSelectors: selector("tier", "gold")}),
			pinned("silver", "203.0.113.2/31", &logv1.ServiceAllocation{NamespaceSelectors: selector("tier", "silver")}),
		}, []step{
			{svc("1"), "+203.0.113.0 fresh"},
			{svc("2", pool("silver")), "!no IPv4 address: pool silver: not for this service"},
		}},
		"dual stack among pools for certain services": {[]*logv1.Event{
			fsmtest.PoolDefined("both", "192.0.2.0/31", "2001:db8::/127"),
			pinned("four", "203.0.113.0/32", &logv1.ServiceAllocation{Priority: 1}),
			pinned("six", "2001:db8:6::/127", &logv1.ServiceAllocation{Priority: 2}),
		}, []step{
			// A pool for certain services comes before one for all, even with one family.
			{svc("1", policy(prefer)), "+203.0.113.0 fresh"},
			{svc("2", policy(prefer)), "+2001:db8:6:: fresh"},
			{svc("3", policy(require)), "+192.0.2.0 fresh, +2001:db8:: fresh"},
			{svc("4"), "+192.0.2.1 fresh"},
		}},
		"manual only": {[]*logv1.Event{manual}, []step{
			{svc("1"), "!no IPv4 address: pool m: only on request"},
			{svc("1", pool("m")), "+203.0.113.0 fresh"},
			{svc("2", addresses("203.0.113.7")), "+203.0.113.7 requested"},
			{svc("1"), "=203.0.113.0"}, // it has it, and may keep it
		}},
		"buggy addresses": {[]*logv1.Event{buggy}, []step{
			{svc("1"), "+203.0.113.1 fresh"},
			{svc("2", addresses("203.0.113.255")), "!requested address 203.0.113.255: ends in .0 or .255, which its pool avoids"},
		}},
		"address asked for": {two, []step{
			{svc("1", addresses("198.51.100.1")), "+198.51.100.1 requested"},
			{svc("2", addresses("198.51.100.1")), "!requested address 198.51.100.1: in use (default/1)"},
			{svc("3", addresses("10.0.0.1")), "!requested address 10.0.0.1: in no pool"},
			{svc("4", addresses("198.51.100.0"), pool("a")), "!requested address 198.51.100.0: not in the requested pool"},
			{svc("5", addresses("nonsense")), "!requested address nonsense: not an IP address"},
			{svc("6", addresses("198.51.100.0"), families(v6), policy(single)), "!requested address 198.51.100.0: family not wanted by the service"},
			{svc("7", addresses("2001:db8::1")), "+2001:db8::1 requested"},
			{svc("8", addresses("192.0.2.1", "2001:db8::")), "+192.0.2.1 requested, +2001:db8:: requested"},
			{svc("1", addresses("198.51.100.0")), "-198.51.100.1 (more than the service asks for), +198.51.100.0 requested"},
		}},
		"two addresses asked for, one in use": {two, []step{
			{svc("1", addresses("198.51.100.1")), "+198.51.100.1 requested"},
			{svc("2", addresses("198.51.100.1", "2001:db8::")), "!requested address 198.51.100.1: in use (default/1)"},
			{svc("2", addresses("198.51.100.0", "2001:db8::")), "+198.51.100.0 requested, +2001:db8:: requested"},
		}},
		"one family": {two, []step{
			{svc("1", families(v6)), "+2001:db8:: fresh"},
			{svc("2", policy(single), families(v6)), "+2001:db8::1 fresh"},
			{svc("3", families(v6)), "!no IPv6 address: pool a: has none; pool b: full"},
			{svc("1", families(v4)), "-2001:db8:: (family not wanted by the service), +192.0.2.0 fresh"},
		}},
		"the anycast address of a subnet": {[]*logv1.Event{only6}, []step{
			{svc("1", addresses("2001:db8:6::")), "+2001:db8:6:: requested"},
			{svc("1", addresses("2001:db8:6::9")), "-2001:db8:6:: (more than the service asks for), +2001:db8:6::9 requested"},
			{svc("2"), "+2001:db8:6::1 fresh"},
		}},
		"no family named": {[]*logv1.Event{only6}, []step{
			{svc("1"), "+2001:db8:6::1 fresh"},
			{svc("2", families(v4)), "!no IPv4 address: pool six: has none"},
		}},
		"no family named, IPv4 full": {[]*logv1.Event{only6, fsmtest.PoolDefined("four", "192.0.2.0/32")}, []step{
			{svc("1"), "+192.0.2.0 fresh"},
			{svc("2"), "!no IPv4 address: pool four: full; pool six: has none"},
			{svc("3", pool("six")), "+2001:db8:6::1 fresh"},
		}},
		"dual stack preferred": {two, []step{
			{svc("1", policy(prefer)), "+198.51.100.0 fresh, +2001:db8:: fresh"},
			{svc("2", policy(prefer), families(v6, v4)), "+198.51.100.1 fresh, +2001:db8::1 fresh"},
			{svc("3", policy(prefer)), "+192.0.2.0 fresh"},
			{svc("4", policy(prefer), families(v6)), "+192.0.2.1 fresh"},
			{svc("5", policy(prefer)), "!no IPv4 or IPv6 address: pool a: full; pool b: full"},
		}},
		"dual stack preferred, second later": {[]*logv1.Event{fsmtest.PoolDefined("a", "192.0.2.0/31", "2001:db8::/128")}, []step{
			{svc("1", families(v6)), "+2001:db8:: fresh"},
			{svc("2", policy(prefer)), "+192.0.2.0 fresh"},
			{svc("1", families(v4)), "-2001:db8:: (family not wanted by the service), +192.0.2.1 fresh"},
			{svc("2", policy(prefer)), "=192.0.2.0, +2001:db8:: reused"},
			{svc("2"), "-2001:db8:: (family not wanted by the service), =192.0.2.0"},
		}},
		"dual stack required": {two, []step{
			{svc("1", policy(require)), "+198.51.100.0 fresh, +2001:db8:: fresh"},
			{svc("2", pool("b"), families(v6)), "+2001:db8::1 fresh"},
			{svc("3", policy(require)), "!no IPv4 and IPv6 address: pool a: has none; pool b: full"},
			{svc("4", families(v6, v4)), "!no IPv4 and IPv6 address: pool a: has none; pool b: full"},
			{svc("5", policy(require), addresses("198.51.100.1")), "!no IPv6 address: pool b: full"},
			{svc("6"), "+192.0.2.0 fresh"},
			{svc("6", policy(require)), "=192.0.2.0, !no IPv6 address: pool a: has none"},
			{svc("1", policy(single), families(v6)), "-198.51.100.0 (family not wanted by the service), =2001:db8::"},
		}},
		"sharing": {two, []step{
			{svc("1", port(80), sharing("k")), "+192.0.2.0 fresh"},
			{svc("2", port(81), sharing("k")), "+192.0.2.0 shared"},
			{svc("3", port(80), sharing("k")), "+192.0.2.1 fresh"}, // the port is taken on the first
			{svc("4", port(82), sharing("k"), traffic(local)), "+198.51.100.0 fresh"},
			{svc("5", port(83), sharing("k"), traffic(local)), "+198.51.100.0 shared"},
			{svc("6", port(83), sharing("j")), "+198.51.100.1 fresh"},
			{svc("7", port(84), sharing("k"), addresses("198.51.100.1")), "!requested address 198.51.100.1: in use (default/6)"},
			{svc("7", port(80), sharing("k"), addresses("192.0.2.1")), "!requested address 192.0.2.1: port taken by a service that shares the address (default/3)"},
			{svc("7", port(85), sharing("k"), addresses("198.51.100.0")), "!requested address 198.51.100.0: externalTrafficPolicy differs from that of a service that shares the address (default/4)"},
			{svc("7", port(85), sharing("k"), addresses("192.0.2.1")), "+192.0.2.1 requested"},
			// What no longer goes together parts: the one that changed leaves.
			{svc("2", port(80), sharing("k")), "-192.0.2.0 (port taken by a service that shares the address), !no IPv4 address: pool a: full; pool b: full"},
		}},
		"sharing under Local with a selector": {two, []step{
			{svc("1", port(80), sharing("k"), traffic(local), selects("app", "web")), "+192.0.2.0 fresh"},
			{svc("2", port(81), sharing("k"), traffic(local), selects("app", "web")), "+192.0.2.0 shared"},
			{svc("3", port(82), sharing("k"), traffic(local), selects("app", "api")), "+192.0.2.1 fresh"},
			{svc("4", port(83), sharing("k"), traffic(local)), "+198.51.100.0 fresh"},
			{svc("5", port(84), sharing("k"), traffic(local), selects("app", "api"), addresses("192.0.2.0")),
				"!requested address 192.0.2.0: selector differs from that of a service that shares the address, under externalTrafficPolicy Local (default/1)"},
			// Under Cluster every node reaches every backend.
			{svc("6", port(85), sharing("k"), selects("app", "web")), "+198.51.100.1 fresh"},
			{svc("7", port(86), sharing("k"), selects("app", "api")), "+198.51.100.1 shared"},
			// One of two changes: it leaves.
			{svc("2", port(81), sharing("k"), traffic(local), selects("app", "api")), "-192.0.2.0 (selector differs from that of a service that shares the address, under externalTrafficPolicy Local), +192.0.2.1 shared"},
		}},
		"protocols part ports": {two, []step{
			{svc("1", port(53), sharing("k")), "+192.0.2.0 fresh"},
			{svc("2", sharing("k"), func(s *logv1.Service) {
				s.Ports = []*logv1.Port{{Port: 53, Protocol: logv1.Protocol_PROTOCOL_UDP}}
			}), "+192.0.2.0 shared"},
			{svc("3", sharing("k"), func(s *logv1.Service) {
				s.Ports = []*logv1.Port{{Port: 53, Protocol: logv1.Protocol_PROTOCOL_TCP}}
			}), "+192.0.2.1 fresh"},
		}},
		"sharing of both families": {two, []step{
			{svc("1", port(80), sharing("k"), policy(require)), "+198.51.100.0 fresh, +2001:db8:: fresh"},
			{svc("2", port(81), sharing("k"), policy(require)), "+198.51.100.0 shared, +2001:db8:: shared"},
			{svc("3", port(82), sharing("k"), pool("a")), "+192.0.2.0 fresh"},
			{svc("4", port(83), sharing("k"), families(v6)), "+2001:db8:: shared"},
		}},
		"sharing key lost": {two, []step{
			{svc("1", port(80), sharing("k")), "+192.0.2.0 fresh"},
			{svc("2", port(81), sharing("k")), "+192.0.2.0 shared"},
			{svc("2", port(81)), "-192.0.2.0 (in use), +192.0.2.1 fresh"},
			{svc("1", port(80)), "=192.0.2.0"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDecider(t, c.pools...)
			for i, s := range c.steps {
				want := s.want
				if got := d.declare(s.spec); got != want {
					t.Fatalf("step %d, service %s:\n got %s\nwant %s", i+1, s.spec.Name, got, want)
				}
				if i, a := strings.Index(want, "!"), d.fit(s.spec); i < 0 && strings.ContainsAny(a, "+-!") {
					t.Fatalf("step %d: a second look changes: %s", i+1, a)
				}
			}
		})
	}
}

func TestRetention(t *testing.T) {
	d := newDecider(t, fsmtest.PoolDefined("a", "192.0.2.0/30", "2001:db8::/64"))
	if got := d.declare(svc("web", policy(require))); got != "+192.0.2.0 fresh, +2001:db8::1 fresh" {
		t.Fatal(got)
	}
	d.declare(svc("x1"))
	d.remove("web", time.Hour)
	if got := d.declare(svc("x2")); got != "+192.0.2.2 fresh" {
		t.Error("others do not get what is kept:", got)
	}
	if got := d.declare(svc("web", policy(require))); got != "+192.0.2.0 retained, +2001:db8::1 retained" {
		t.Error("a reinstall changes nothing:", got)
	}
	d.remove("web", time.Hour)
	d.declare(svc("x3"))
	if got := d.declare(svc("x4")); got != "!no IPv4 address: pool a: full but for addresses kept for deleted services" {
		t.Error("kept stays kept:", got)
	}
	if got := d.declare(svc("x4", addresses("192.0.2.0"))); got != "+192.0.2.0 requested" {
		t.Error("a request outranks:", got)
	}
	d.remove("x4", time.Hour)
	d.Now += int64(2 * time.Hour)
	if got := d.declare(svc("x5")); got != "+192.0.2.0 reused" {
		t.Error("the time is over:", got)
	}
	if got := d.declare(svc("web", pool("a"), families(v6))); got != "+2001:db8::2 fresh" {
		t.Error("nothing is kept any more:", got)
	}
}

// Services that shared an address get it back together, whichever returns first.
func TestRetentionOfASharedAddress(t *testing.T) {
	for _, order := range [][2]string{{"a", "b"}, {"b", "a"}} {
		d := newDecider(t, fsmtest.PoolDefined("a", "192.0.2.0/24"))
		specs := map[string]*logv1.Service{"a": svc("a", port(1), sharing("k")), "b": svc("b", port(2), sharing("k"))}
		d.declare(svc("other"))
		d.declare(specs["a"])
		d.declare(specs["b"])
		d.remove("a", time.Hour)
		d.remove("b", time.Hour)
		if got := d.declare(specs[order[0]]); got != "+192.0.2.1 retained" {
			t.Errorf("%s first: %s", order[0], got)
		}
		if got := d.declare(specs[order[1]]); got != "+192.0.2.1 shared" {
			t.Errorf("then %s: %s", order[1], got)
		}
	}
}

func TestReleasedAddressesComeBackOldestFirst(t *testing.T) {
	d := newDecider(t, fsmtest.PoolDefined("a", "192.0.2.0/30"))
	for i := range 4 {
		d.declare(svc(fmt.Sprint("s", i)))
	}
	for _, i := range []int{2, 0, 3} {
		d.remove(fmt.Sprint("s", i), 0)
		d.Now += int64(time.Second)
	}
	for i, want := range []string{"192.0.2.2", "192.0.2.0", "192.0.2.3"} {
		if got := d.declare(svc(fmt.Sprint("t", i))); got != "+"+want+" reused" {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// An address that its pool no longer has stays with its service, and nobody else
// gets it; with reallocate it goes as soon as there is another.
func TestPoolShrinks(t *testing.T) {
	d := newDecider(t, fsmtest.PoolDefined("a", "192.0.2.0/31", "2001:db8::/64"))
	d.declare(svc("s0", port(80), sharing("k")))
	d.declare(svc("both", policy(require)))
	shrink := func(reallocate bool, addresses ...string) {
		d.Apply(fsmtest.Pool(&logv1.Pool{Name: "a", Addresses: addresses, Reallocate: reallocate}))
	}
	shrink(false, "192.0.2.1-192.0.2.2")
	d.play(t, []step{
		{svc("s0", port(80), sharing("k")), "=192.0.2.0"},
		{svc("both", policy(require)), "=192.0.2.1, =2001:db8::1"},
		{svc("x", port(81), sharing("k"), addresses("192.0.2.0")), "!requested address 192.0.2.0: in no pool"},
		{svc("x", port(81), sharing("k")), "+192.0.2.2 fresh"},
	})
	shrink(true, "192.0.2.1-192.0.2.2")
	d.play(t, []step{
		{svc("s0"), "=192.0.2.0, !keeps 192.0.2.0, which is to be replaced: no IPv4 address: pool a: full"},
		{svc("both", policy(require)), "=192.0.2.1, =2001:db8::1, !keeps 2001:db8::1, which is to be replaced: no IPv6 address: pool a: has none"},
		{svc("s0", addresses("192.0.2.0")), "=192.0.2.0, !keeps 192.0.2.0, which is to be replaced: requested address 192.0.2.0: in no pool"},
	})
	d.Apply(fsmtest.PoolDefined("b", "198.51.100.0/31", "2001:db8:b::/64"))
	d.play(t, []step{
		{svc("s0"), "-192.0.2.0 (its pool lets it go), +198.51.100.0 fresh"},
		// The IPv4 address stays where it is, so both do.
		{svc("both", policy(require)), "=192.0.2.1, =2001:db8::1, !keeps 2001:db8::1, which is to be replaced: no IPv6 address: pool a: has none"},
	})
	shrink(true, "192.0.2.7-192.0.2.8")
	d.play(t, []step{
		{svc("both", policy(require)), "-192.0.2.1 (its pool lets it go), -2001:db8::1 (its pool lets it go), +198.51.100.1 fresh, +2001:db8:b::1 fresh"},
		{svc("s0"), "=198.51.100.0"},
	})
	restore(t, d.S)
	// No longer for the service is the same.
	d.Apply(fsmtest.Pool(&logv1.Pool{Name: "b", Addresses: []string{"198.51.100.0/31", "2001:db8:b::/64"}, Reallocate: true,
		ServiceAllocation: &logv1.ServiceAllocation{Namespaces: []string{"other"}}}))
	d.play(t, []step{{svc("s0"), "-198.51.100.0 (its pool lets it go), +192.0.2.7 fresh"}})
}

func TestRefusalNamesAFewPools(t *testing.T) {
	d := newDecider(t)
	for i := range 11 {
		d.Apply(fsmtest.PoolDefined(fmt.Sprintf("p%02d", i), fmt.Sprintf("2001:db8:%d::/64", i)))
	}
	got := d.declare(svc("s", families(v4)))
	if !strings.HasSuffix(got, "pool p07: has none; and 3 more pools") {
		t.Error(got)
	}
}
