package allocator_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func count(n uint32) func(*logv1.Service) { return func(s *logv1.Service) { s.AddressCount = n } }

// A service gets as many addresses of each family as it asks for, from one pool, or as
// many as there are and the rest later.
func TestChooseSeveralAddresses(t *testing.T) {
	small := fsmtest.PoolDefined("a", "192.0.2.0/31", "2001:db8::/127")
	large := fsmtest.PoolDefined("b", "198.51.100.0/29", "2001:db8:1::1-2001:db8:1::3")
	quota := fsmtest.Pool(&logv1.Pool{Name: "q", Addresses: []string{"203.0.113.0/28"}, Quota: &logv1.Quota{PerNamespace: 2}})
	pinned := fsmtest.Pool(&logv1.Pool{Name: "p", Addresses: []string{"203.0.113.0/31"}, ServiceAllocation: &logv1.ServiceAllocation{Priority: 1}})
	for name, c := range map[string]struct {
		pools []*logv1.Event
		steps []step
	}{
		"the first pool that has all": {[]*logv1.Event{small, large}, []step{
			{svc("1", count(2)), "+192.0.2.0 fresh, +192.0.2.1 fresh"},
			{svc("2", count(3)), "+198.51.100.0 fresh, +198.51.100.1 fresh, +198.51.100.2 fresh"},
			{svc("3", count(3), families(v6)), "+2001:db8:1::1 fresh, +2001:db8:1::2 fresh, +2001:db8:1::3 fresh"},
		}},
		"a later pool that has all": {[]*logv1.Event{small, large}, []step{
			{svc("1", count(3)), "+198.51.100.0 fresh, +198.51.100.1 fresh, +198.51.100.2 fresh"},
		}},
		"the pool that has most": {[]*logv1.Event{small, large}, []step{
			{svc("1", count(6), pool("b")), "+198.51.100.0 fresh, +198.51.100.1 fresh, +198.51.100.2 fresh, +198.51.100.3 fresh, +198.51.100.4 fresh, +198.51.100.5 fresh"},
			{svc("2", count(3)), "+192.0.2.0 fresh, +192.0.2.1 fresh, !has 2 of 3 IPv4 addresses: pool a: full"},
			{svc("3", count(3)), "+198.51.100.6 fresh, +198.51.100.7 fresh, !has 2 of 3 IPv4 addresses: pool b: full"},
			{svc("4", count(3)), "!no IPv4 address: pool a: full; pool b: full"},
		}},
		"a pool for certain services, though it has fewer": {[]*logv1.Event{large, pinned}, []step{
			{svc("1", count(3)), "+203.0.113.0 fresh, +203.0.113.1 fresh, !has 2 of 3 IPv4 addresses: pool p: full"},
		}},
		"more and fewer": {[]*logv1.Event{large}, []step{
			{svc("1"), "+198.51.100.0 fresh"},
			{svc("2"), "+198.51.100.1 fresh"},
			{svc("1", count(3)), "=198.51.100.0, +198.51.100.2 fresh, +198.51.100.3 fresh"},
			{svc("1", count(2)), "-198.51.100.3 (more than the service asks for), =198.51.100.0, =198.51.100.2"},
			{svc("1", count(2), addresses("198.51.100.2")), "=198.51.100.0, =198.51.100.2"},
			{svc("1", addresses("198.51.100.2")), "-198.51.100.0 (more than the service asks for), =198.51.100.2"},
		}},
		"the last given is the first given up": {[]*logv1.Event{large}, []step{
			{svc("1", addresses("198.51.100.5")), "+198.51.100.5 requested"},
			{svc("1", count(2)), "=198.51.100.5, +198.51.100.0 fresh"},
			{svc("1"), "-198.51.100.0 (more than the service asks for), =198.51.100.5"},
		}},
		"asked for": {[]*logv1.Event{large}, []step{
			{svc("1", addresses("198.51.100.4", "198.51.100.6"), count(3)), "+198.51.100.4 requested, +198.51.100.6 requested, +198.51.100.0 fresh"},
			{svc("1", addresses("198.51.100.4", "198.51.100.7"), count(2)),
				"-198.51.100.6 (more than the service asks for), -198.51.100.0 (more than the service asks for), =198.51.100.4, +198.51.100.7 requested"},
			{svc("2", addresses("198.51.100.1", "198.51.100.7"), count(2)), "!requested address 198.51.100.7: in use (default/1)"},
		}},
		"two families": {[]*logv1.Event{small, large}, []step{
			{svc("1", count(2), policy(require)), "+192.0.2.0 fresh, +192.0.2.1 fresh, +2001:db8:: fresh, +2001:db8::1 fresh"},
			{svc("2", count(4), policy(require)), "+198.51.100.0 fresh, +198.51.100.1 fresh, +198.51.100.2 fresh, +198.51.100.3 fresh, " +
				"+2001:db8:1::1 fresh, +2001:db8:1::2 fresh, +2001:db8:1::3 fresh, !has 3 of 4 IPv6 addresses: pool b: full"},
			{svc("3", count(2), policy(require)), "!no IPv4 and IPv6 address: pool a: full; pool b: full"},
			{svc("3", count(2), policy(prefer)), "+198.51.100.4 fresh, +198.51.100.5 fresh"},
			{svc("4", count(4), policy(prefer)), "+198.51.100.6 fresh, +198.51.100.7 fresh, !has 2 of 4 IPv4 addresses: pool b: full"},
		}},
		"two families preferred, fewer of the second": {[]*logv1.Event{large}, []step{
			{svc("1", count(4), policy(prefer)), "+198.51.100.0 fresh, +198.51.100.1 fresh, +198.51.100.2 fresh, +198.51.100.3 fresh, " +
				"+2001:db8:1::1 fresh, +2001:db8:1::2 fresh, +2001:db8:1::3 fresh"},
			{svc("1", count(3), policy(prefer)), "-198.51.100.3 (more than the service asks for), =198.51.100.0, =198.51.100.1, =198.51.100.2, " +
				"=2001:db8:1::1, =2001:db8:1::2, =2001:db8:1::3"},
			{svc("1", count(3)), "-2001:db8:1::1 (family not wanted by the service), -2001:db8:1::2 (family not wanted by the service), " +
				"-2001:db8:1::3 (family not wanted by the service), =198.51.100.0, =198.51.100.1, =198.51.100.2"},
			{svc("1", count(2), families(v6)), "-198.51.100.0 (family not wanted by the service), -198.51.100.1 (family not wanted by the service), " +
				"-198.51.100.2 (family not wanted by the service), +2001:db8:1::1 reused, +2001:db8:1::2 reused"},
		}},
		"two families preferred, fewer of the first": {[]*logv1.Event{large}, []step{
			{svc("1", count(4), families(v6, v4), policy(prefer)), "+198.51.100.0 fresh, +198.51.100.1 fresh, +198.51.100.2 fresh, +198.51.100.3 fresh, " +
				"+2001:db8:1::1 fresh, +2001:db8:1::2 fresh, +2001:db8:1::3 fresh"},
		}},
		"a quota counts each": {[]*logv1.Event{quota}, []step{
			{svc("1", count(3)), "+203.0.113.0 fresh, +203.0.113.1 fresh, !has 2 of 3 IPv4 addresses: pool q: the namespace has as many as it may"},
			{svc("2"), "!no IPv4 address: pool q: the namespace has as many as it may"},
			{svc("1"), "-203.0.113.1 (more than the service asks for), =203.0.113.0"},
			{svc("2"), "+203.0.113.2 fresh"},
		}},
		"sharing": {[]*logv1.Event{large}, []step{
			{svc("1", port(53), sharing("k"), count(3)), "+198.51.100.0 fresh, +198.51.100.1 fresh, +198.51.100.2 fresh"},
			{svc("2", port(54), sharing("k"), count(2)), "+198.51.100.0 shared, +198.51.100.1 shared"},
			{svc("3", port(55), sharing("k"), count(4)), "+198.51.100.0 shared, +198.51.100.1 shared, +198.51.100.2 shared, +198.51.100.3 fresh"},
			{svc("2", port(53), sharing("k"), count(2)), "-198.51.100.0 (port taken by a service that shares the address), " +
				"-198.51.100.1 (port taken by a service that shares the address), +198.51.100.3 shared, +198.51.100.4 fresh"},
		}},
		"reserved": {[]*logv1.Event{large, fsmtest.Reservation(&logv1.Reservation{Name: "r", Addresses: []string{"198.51.100.4-198.51.100.5"},
			ServiceNamespace: "default", ServiceName: "1"})}, []step{
			{svc("2", count(7)), "+198.51.100.0 fresh, +198.51.100.1 fresh, +198.51.100.2 fresh, +198.51.100.3 fresh, +198.51.100.6 fresh, +198.51.100.7 fresh, " +
				"!has 6 of 7 IPv4 addresses: pool b: reserved"},
			{svc("2", count(5)), "-198.51.100.7 (more than the service asks for), =198.51.100.0, =198.51.100.1, =198.51.100.2, =198.51.100.3, =198.51.100.6"},
			{svc("1", count(3)), "+198.51.100.4 reserved, +198.51.100.5 reserved, +198.51.100.7 reused"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDecider(t, c.pools...)
			for i, s := range c.steps {
				if got := d.declare(s.spec); got != s.want {
					t.Fatalf("step %d, service %s:\n got %s\nwant %s", i+1, s.spec.Name, got, s.want)
				}
				_, refusal, refused := strings.Cut(s.want, "!")
				switch _, again, _ := strings.Cut(d.fit(s.spec), "!"); {
				case refused && again != refusal:
					t.Fatalf("step %d: a second look says %q, not %q", i+1, again, refusal)
				case strings.ContainsAny(d.fit(s.spec), "+-"):
					t.Fatalf("step %d: a second look changes: %s", i+1, d.fit(s.spec))
				}
			}
		})
	}
}

// What falls free goes to who has fewer than it asks for; a deleted service finds all that
// it had.
func TestSeveralAddressesComeBack(t *testing.T) {
	d := newDecider(t, fsmtest.PoolDefined("a", "192.0.2.0/30", "2001:db8::1-2001:db8::4"))
	for _, s := range []step{
		{svc("other"), "+192.0.2.0 fresh"},
		{svc("web", count(4)), "+192.0.2.1 fresh, +192.0.2.2 fresh, +192.0.2.3 fresh, !has 3 of 4 IPv4 addresses: pool a: full"},
	} {
		if got := d.declare(s.spec); got != s.want {
			t.Fatal(got)
		}
	}
	d.remove("other", 0)
	if got := d.fit(svc("web", count(4))); got != "=192.0.2.1, =192.0.2.2, =192.0.2.3, +192.0.2.0 reused" {
		t.Fatal(got)
	}
	d.remove("web", time.Hour)
	if got := d.declare(svc("other")); got != "!no IPv4 address: pool a: full but for addresses kept for deleted services" {
		t.Fatal(got)
	}
	if got := d.declare(svc("web", count(4))); got != "+192.0.2.0 retained, +192.0.2.1 retained, +192.0.2.2 retained, +192.0.2.3 retained" {
		t.Fatal(got)
	}
}

// A service that asks for fewer gives up first what its pool no longer has, then what a
// foreign station has.
func TestWhichAddressesAreTooMany(t *testing.T) {
	d := newDecider(t, fsmtest.PoolDefined("a", "192.0.2.1-192.0.2.4"), fsmtest.Ad(&logv1.L2Advertisement{Name: "all"}), fsmtest.Opened("n1", 1, nil))
	d.declare(svc("web", count(4)))
	third := netip.MustParseAddr("192.0.2.3")
	foreign := fsmtest.Conflict(third, "n1", fsm.MAC{2, 0, 0, 0, 0, 9})
	foreign.GetAddressConflictObserved().Kind = logv1.ConflictKind_CONFLICT_KIND_FOREIGN
	d.Apply(fsmtest.OwnerAssigned(third, "n1"), foreign, fsmtest.PoolDefined("a", "192.0.2.2-192.0.2.9"))
	d.Apply(fsmtest.OwnerReleased(third, "n1", d.S.Addresses[third].Epoch))
	if got := d.declare(svc("web", count(3))); got != "-192.0.2.1 (more than the service asks for), =192.0.2.2, =192.0.2.3, =192.0.2.4" {
		t.Fatal(got)
	}
	if got := d.declare(svc("web", count(2))); got != "-192.0.2.3 (more than the service asks for), =192.0.2.2, =192.0.2.4" {
		t.Fatal(got)
	}
}

// One that cannot replace them all does not stand before a general pool that can.
func TestAddressesAreReplacedWhereThereAreEnough(t *testing.T) {
	leaving := func(addresses ...string) *logv1.Event {
		return fsmtest.Pool(&logv1.Pool{Name: "a", Addresses: addresses, Reallocate: true})
	}
	d := newDecider(t, leaving("192.0.2.0/31"))
	web := svc("web", count(2))
	d.declare(web)
	d.Apply(leaving("203.0.113.0/32"), fsmtest.PoolDefined("c", "198.51.100.8/32"), fsmtest.Pool(&logv1.Pool{
		Name: "b", Addresses: []string{"198.51.100.0/32"}, ServiceAllocation: &logv1.ServiceAllocation{Namespaces: []string{"default"}},
	}))
	if got := d.fit(web); got != "=192.0.2.0, =192.0.2.1, !keeps 192.0.2.1, which is to be replaced: would have 1 of 2 IPv4 addresses: pool b: full; pool a: full" {
		t.Error(got)
	}
	d.Apply(fsmtest.PoolDefined("c", "198.51.100.8/31"))
	if got := d.fit(web); got != "-192.0.2.0 (its pool lets it go), -192.0.2.1 (its pool lets it go), +198.51.100.8 fresh, +198.51.100.9 fresh" {
		t.Error(got)
	}
}

// With reallocate a service moves to another pool when that has as many, and not before.
func TestSeveralAddressesAreReplacedTogether(t *testing.T) {
	leaving := func(addresses ...string) *logv1.Event {
		return fsmtest.Pool(&logv1.Pool{Name: "a", Addresses: addresses, Reallocate: true})
	}
	d := newDecider(t, leaving("192.0.2.0/30"), fsmtest.PoolDefined("b", "198.51.100.0/31"))
	web := svc("web", count(3))
	d.declare(web)
	d.Apply(leaving("203.0.113.0/32"))
	if got := d.fit(web); got != "=192.0.2.0, =192.0.2.1, =192.0.2.2, !keeps 192.0.2.2, which is to be replaced: would have 2 of 3 IPv4 addresses: pool b: full" {
		t.Fatal(got)
	}
	d.Apply(fsmtest.PoolDefined("b", "198.51.100.0/30"))
	if got := d.fit(web); !strings.HasSuffix(got, "+198.51.100.0 fresh, +198.51.100.1 fresh, +198.51.100.2 fresh") || strings.Contains(got, "=") {
		t.Fatal(got)
	}
	// One of several goes: another of its pool takes its place, and no other pool's.
	d.Apply(fsmtest.Pool(&logv1.Pool{Name: "b", Addresses: []string{"198.51.100.0/31"}, Reallocate: true}))
	if got := d.fit(web); got != "=198.51.100.0, =198.51.100.1, =198.51.100.2, !keeps 198.51.100.2, which is to be replaced: would have 2 of 3 IPv4 addresses: pool b: full" {
		t.Fatal(got)
	}
	d.Apply(fsmtest.Pool(&logv1.Pool{Name: "b", Addresses: []string{"198.51.100.0/31", "198.51.100.9/32"}, Reallocate: true}))
	if got := d.fit(web); got != "-198.51.100.2 (its pool lets it go), =198.51.100.0, =198.51.100.1, +198.51.100.9 fresh" {
		t.Fatal(got)
	}
}
