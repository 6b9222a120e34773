package allocator_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func reserved(name, service string, until int64, addresses ...string) *logv1.Event {
	r := &logv1.Reservation{Name: name, Addresses: addresses, UntilUnixNano: until}
	if service != "" {
		r.ServiceNamespace, r.ServiceName = "default", service
	}
	return fsmtest.Reservation(r)
}

// play declares one service after the other, in one namespace or another.
func (d *decider) play(t *testing.T, steps []step) {
	t.Helper()
	for i, s := range steps {
		if got := d.declare(s.spec); got != s.want {
			t.Errorf("step %d, service %s:\n got %s\nwant %s", i+1, s.spec.Name, got, s.want)
		}
	}
}

func in(namespace string) func(*logv1.Service) {
	return func(s *logv1.Service) { s.Namespace = namespace }
}

func TestReservations(t *testing.T) {
	d := newDecider(t, fsmtest.PoolDefined("a", "192.0.2.0/30", "2001:db8::/64"),
		fsmtest.Pool(&logv1.Pool{Name: "m", Addresses: []string{"203.0.113.0/24"}, ManualOnly: true}))
	d.Apply(reserved("one", "vip", 0, "192.0.2.1"), reserved("held", "", d.Now+int64(time.Hour), "192.0.2.0", "2001:db8::/48"),
		reserved("manual", "quiet", 0, "203.0.112.0-203.0.113.7"))
	d.play(t, []step{
		{svc("x"), "+192.0.2.2 fresh"},
		{svc("y", addresses("192.0.2.1")), "!requested address 192.0.2.1: reserved"},
		{svc("y", addresses("192.0.2.0")), "!requested address 192.0.2.0: reserved"},
		{svc("y"), "+192.0.2.3 fresh"},
		{svc("z"), "!no IPv4 address: pool a: reserved; pool m: only on request"},
		{svc("six", families(v6)), "!no IPv6 address: pool a: reserved; pool m: only on request"},
		{svc("vip", port(80), sharing("k")), "+192.0.2.1 reserved"},
		{svc("friend", port(81), sharing("k")), "+192.0.2.1 shared"}, // who has it may share it
		{svc("quiet"), "+203.0.113.0 reserved"},
	})
	d.remove("vip", 0)
	d.remove("friend", 0)
	d.play(t, []step{{svc("z"), "!no IPv4 address: pool a: reserved; pool m: only on request"}})
	d.Now += int64(2 * time.Hour)
	d.play(t, []step{
		{svc("z"), "+192.0.2.0 fresh"},
		{svc("six", families(v6)), "+2001:db8::1 fresh"},
		{svc("vip", policy(require)), "+192.0.2.1 reserved, +2001:db8::2 fresh"},
	})
	// Who had it before keeps it, and another who is promised it waits.
	d.Apply(reserved("late", "later", 0, "192.0.2.2"))
	d.play(t, []step{
		{svc("x"), "=192.0.2.2"},
		{svc("later"), "!no IPv4 address: pool a: full; pool m: only on request"},
	})
	d.remove("x", 0)
	d.play(t, []step{{svc("later"), "+192.0.2.2 reserved"}})
}

func TestQuotas(t *testing.T) {
	d := newDecider(t, fsmtest.Pool(&logv1.Pool{Name: "a", Addresses: []string{"192.0.2.0/28", "2001:db8::/64"},
		Quota: &logv1.Quota{PerNamespace: 2, Namespaces: map[string]uint32{"big": 3, "none": 0}}}))
	d.play(t, []step{
		{svc("1", port(80), sharing("k")), "+192.0.2.0 fresh"},
		{svc("2", port(81), sharing("k")), "+192.0.2.0 shared"}, // counts once
		{svc("3"), "+192.0.2.1 fresh"},
		{svc("4"), "!no IPv4 address: pool a: the namespace has as many as it may"},
		{svc("4", addresses("192.0.2.9")), "!requested address 192.0.2.9: the namespace has as many as it may"},
		{svc("4", port(82), sharing("k"), addresses("192.0.2.0")), "+192.0.2.0 requested"},
		{svc("3", addresses("192.0.2.7")), "-192.0.2.1 (more than the service asks for), +192.0.2.7 requested"},
		{svc("1", in("none")), "!no IPv4 address: pool a: the namespace has as many as it may"},
		{svc("1", in("big"), policy(require)), "+192.0.2.2 fresh, +2001:db8::1 fresh"},
		{svc("2", in("big"), policy(require)), "!no IPv4 and IPv6 address: pool a: the namespace has as many as it may"},
		{svc("3", in("big"), policy(prefer)), "+192.0.2.3 fresh"},
		{svc("1", in("other"), port(83), sharing("k"), addresses("192.0.2.0")), "+192.0.2.0 requested"},
	})
	d.play(t, []step{
		{svc("1", in("two"), addresses("192.0.2.8")), "+192.0.2.8 requested"},
		{svc("2", in("two"), addresses("192.0.2.9", "2001:db8::9")), "!requested address 2001:db8::9: the namespace has as many as it may"},
		{svc("2", in("two"), addresses("192.0.2.9")), "+192.0.2.9 requested"},
	})
	// What it joins is its namespace's already.
	d.play(t, []step{
		{svc("1", in("dual"), port(80), sharing("d"), families(v4)), "+192.0.2.4 fresh"},
		{svc("2", in("dual"), port(81), sharing("d"), policy(require)), "+192.0.2.4 shared, +2001:db8::2 fresh"},
	})
	if got := d.S.NamespaceUse("a", "big"); got != 3 {
		t.Errorf("big has %d", got)
	}
}

// Of a promised prefix the Subnet-Router anycast address is given to nobody who is not
// promised it by name.
func TestPromisedPrefixBeginsWithAnycast(t *testing.T) {
	d := newDecider(t, fsmtest.PoolDefined("a", "2001:db8::/64", "2001:db8:1::/127", "2001:db8:2::/64"))
	d.Apply(reserved("prefix", "1", 0, "2001:db8::/96"), reserved("pair", "2", 0, "2001:db8:1::/64"), reserved("one", "3", 0, "2001:db8:2::"))
	d.play(t, []step{
		{svc("1"), "+2001:db8::1 reserved"},
		{svc("2"), "+2001:db8:1:: reserved"},
		{svc("3"), "+2001:db8:2:: reserved"},
	})
}

// A promise decides the family, and one family of two is enough for it.
func TestPromiseDecidesTheFamily(t *testing.T) {
	d := newDecider(t, fsmtest.PoolDefined("a", "192.0.2.0/24", "2001:db8::/64"), fsmtest.PoolDefined("four", "198.51.100.0/24"),
		fsmtest.PoolDefined("six", "2001:db8:6::/64"))
	d.Apply(reserved("six", "six", 0, "2001:db8::66"), reserved("both", "both", 0, "192.0.2.44", "2001:db8::44"),
		reserved("four", "four", 0, "198.51.100.4"), reserved("sixth", "sixth", 0, "2001:db8:6::6"),
		reserved("strict", "strict", 0, "198.51.100.5"), reserved("strict6", "strict6", 0, "2001:db8::77"))
	d.play(t, []step{
		{svc("six"), "+2001:db8::66 reserved"},
		{svc("both"), "+192.0.2.44 reserved"},
		{svc("four", policy(prefer)), "+198.51.100.4 reserved"},
		{svc("sixth", policy(prefer)), "+2001:db8:6::6 reserved"},
		{svc("strict", policy(require)), "+192.0.2.0 fresh, +2001:db8::1 fresh"}, // both or none
		{svc("strict6", policy(require)), "+192.0.2.1 fresh, +2001:db8::77 reserved"},
		{svc("six", families(v4)), "-2001:db8::66 (family not wanted by the service), +192.0.2.2 fresh"},
	})
}

// Who would take a second family loses nothing by having one replaced.
func TestReplacesOneOfPreferDualStack(t *testing.T) {
	pool := func(reallocate bool, addresses ...string) *logv1.Event {
		return fsmtest.Pool(&logv1.Pool{Name: "a", Addresses: addresses, Reallocate: reallocate})
	}
	d := newDecider(t, pool(false, "192.0.2.0/32"))
	d.play(t, []step{{svc("1", policy(prefer)), "+192.0.2.0 fresh"}})
	d.Apply(pool(true, "192.0.2.1/32"))
	d.play(t, []step{{svc("1", policy(prefer)), "-192.0.2.0 (its pool lets it go), +192.0.2.1 fresh"}})
	d.Apply(pool(true, "192.0.2.1/32", "2001:db8::1/128"))
	d.play(t, []step{{svc("1", policy(prefer)), "=192.0.2.1, +2001:db8::1 fresh"}})
	d.Apply(pool(true, "2001:db8::1/128"))
	d.play(t, []step{{svc("1", policy(prefer)), "=192.0.2.1, =2001:db8::1, !keeps 192.0.2.1, which is to be replaced: no IPv4 address: pool a: has none"}})
}

// Both of two that are to be replaced are, also where a pool that is tried first could
// replace one of them.
func TestReplacesBothOfPreferDualStack(t *testing.T) {
	pool := func(addresses ...string) *logv1.Event {
		return fsmtest.Pool(&logv1.Pool{Name: "a", Addresses: addresses, Reallocate: true})
	}
	d := newDecider(t, pool("192.0.2.0/32", "2001:db8::1/128"))
	d.play(t, []step{{svc("1", policy(prefer)), "+192.0.2.0 fresh, +2001:db8::1 fresh"}})
	d.Apply(fsmtest.Pool(&logv1.Pool{Name: "six", Addresses: []string{"2001:db8:6::1/128"}, ServiceAllocation: &logv1.ServiceAllocation{Namespaces: []string{"default"}}}),
		pool("192.0.2.1/32", "2001:db8::2/128"))
	d.play(t, []step{{svc("1", policy(prefer)), "-192.0.2.0 (its pool lets it go), -2001:db8::1 (its pool lets it go), +192.0.2.1 fresh, +2001:db8::2 fresh"}})
}

// Of what is promised to a service, or may be joined, it takes that of which there is the
// other family, too.
func TestBothOfItsOwn(t *testing.T) {
	d := newDecider(t, fsmtest.PoolDefined("a", "192.0.2.0/31"), fsmtest.PoolDefined("b", "198.51.100.0/31", "2001:db8::/127"),
		reserved("1", "both", 0, "192.0.2.0"), reserved("2", "both", 0, "198.51.100.1"))
	d.play(t, []step{{svc("both", policy(require)), "+198.51.100.1 reserved, +2001:db8:: fresh"}})
	d = newDecider(t, fsmtest.PoolDefined("a", "192.0.2.0/31"), fsmtest.PoolDefined("b", "198.51.100.0/32", "2001:db8::/127"))
	d.play(t, []step{
		{svc("1", port(80), sharing("k")), "+192.0.2.0 fresh"},
		{svc("2", port(80), sharing("k"), pool("b")), "+198.51.100.0 fresh"},
		{svc("both", port(81), sharing("k"), policy(require)), "+198.51.100.0 shared, +2001:db8:: fresh"},
	})
}

// A refusal names, for the next try, whatever was asked in vain on the way.
func TestRefusalNamesTheOtherHalf(t *testing.T) {
	d := newDecider(t, fsmtest.PoolDefined("a", "192.0.2.0/32", "2001:db8::1/128"))
	d.play(t, []step{{svc("1", port(80), sharing("k")), "+192.0.2.0 fresh"}, {svc("six", families(v6)), "+2001:db8::1 fresh"}})
	both := svc("both", port(81), sharing("k"), policy(require))
	d.Apply(fsmtest.Declared(both))
	_, err := allocator.ChooseAddresses(d.S, both, d.S.Time)
	var r *allocator.Refusal
	if !errors.As(err, &r) {
		t.Fatalf("no refusal: %v", err)
	}
	full := logv1.RefusalReason_REFUSAL_REASON_FULL
	want := []fsm.Refusal{{Pool: "a", Reason: full, Family: v4}, {Pool: "a", Reason: full, Family: v6}}
	if got := r.Refusals(); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// rest deletes a service whose address is in quarantine after use for as long, and kept
// for its name.
func (d *decider) rest(name string, quarantine, kept time.Duration) (until int64) {
	key := fsm.KeyOf("default", name)
	end := d.Now + int64(quarantine)
	ev := fsmtest.Released(key, d.S.Services[key].Addresses[0], max(end, d.Now+int64(kept)))
	ev.GetAddressReleased().QuarantinedUntilUnixNano = end
	d.Apply(ev, fsmtest.Deleted(key))
	return end
}

func TestQuarantine(t *testing.T) {
	d := newDecider(t, fsmtest.PoolDefined("a", "192.0.2.0/31"))
	d.play(t, []step{{svc("1"), "+192.0.2.0 fresh"}, {svc("2"), "+192.0.2.1 fresh"}})
	d.rest("1", time.Hour, 0)
	d.play(t, []step{
		{svc("3"), "!no IPv4 address: pool a: full but for addresses in its quarantine after use"},
		{svc("3", addresses("192.0.2.0")), "!requested address 192.0.2.0: in quarantine after another service gave it up"},
		{svc("1"), "+192.0.2.0 retained"}, // it may come back
	})
	d.rest("1", time.Hour, 0)
	d.Now += int64(2 * time.Hour)
	d.play(t, []step{{svc("3", addresses("192.0.2.0")), "+192.0.2.0 requested"}})
}

// What a pool lacks is told by the address that others may have first: one that is kept
// for its last service, or one that rests.
func TestWhatFallsFreeFirst(t *testing.T) {
	d := newDecider(t, fsmtest.PoolDefined("a", "192.0.2.0/29", "2001:db8::1/128"))
	for _, name := range []string{"0", "1", "2", "3", "4", "5", "6", "7"} {
		d.declare(svc(name))
	}
	d.declare(svc("six", families(v6)))
	lacks := func(why allocator.Why, until int64) {
		t.Helper()
		_, err := allocator.ChooseAddresses(d.S, svc("w"), d.Now)
		var r *allocator.Refusal
		want := []fsm.Refusal{{Pool: "a", Reason: why.Reason(), Family: v4, Until: until}}
		if !errors.As(err, &r) || !slices.Equal(r.Refusals(), want) {
			t.Errorf("%v, want %v", r.Refusals(), want)
		}
	}
	lacks(allocator.Full, 0)
	d.remove("six", time.Minute)
	lacks(allocator.Full, 0) // it is of another family
	late := d.rest("0", 5*time.Hour, 0)
	lacks(allocator.Resting, late)
	d.rest("1", time.Hour, 6*time.Hour) // the retention is longer
	lacks(allocator.Resting, late)
	early := d.rest("2", 4*time.Hour, 4*time.Hour) // a shorter one would not help
	lacks(allocator.Resting, early)
	d.rest("3", time.Minute, time.Hour)
	lacks(allocator.Kept, 0)
	// What is promised to another, or a foreign station has, is nothing to wait for.
	d.Apply(reserved("r", "else", 0, "192.0.2.3"))
	lacks(allocator.Resting, early)
	d.Apply(fsmtest.Quarantined(netip.MustParseAddr("192.0.2.2"), "n1", fsm.MAC{2}, d.Now+int64(time.Minute)))
	lacks(allocator.Resting, late)
	d.Now += int64(5 * time.Hour)
	d.play(t, []step{{svc("w"), "+192.0.2.0 reused"}, {svc("x"), "!no IPv4 address: pool a: full but for addresses kept for deleted services"}})
	// What it takes itself is nothing to wait for.
	d = newDecider(t, fsmtest.PoolDefined("a", "192.0.2.0/31"))
	d.play(t, []step{{svc("1"), "+192.0.2.0 fresh"}, {svc("2"), "+192.0.2.1 fresh"}})
	d.rest("1", time.Hour, 0)
	d.play(t, []step{{svc("1", count(2)), "+192.0.2.0 retained, !has 1 of 2 IPv4 addresses: pool a: full"}})
}
