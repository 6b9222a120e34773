package fsm_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func reserve(name string, until int64, addresses ...string) *logv1.Event {
	return fsmtest.Reservation(&logv1.Reservation{Name: name, Addresses: addresses, UntilUnixNano: until})
}

// What is reserved is not handed out, and is again when the time is over.
func TestReservedAddressesAreLeftOut(t *testing.T) {
	l := fsmtest.NewLog(t)
	l.Apply(fsmtest.PoolDefined("p", "192.0.2.0/29", "2001:db8::/64"))
	next := func() string { return l.S.NextFresh("p", true).String() }
	l.Apply(reserve("r", l.Now+int64(time.Minute), "192.0.2.0/31", "192.0.2.3"))
	if got := next(); got != "192.0.2.2" || l.S.PoolReserved("p") != 3 {
		t.Errorf("next is %s, %d reserved", got, l.S.PoolReserved("p"))
	}
	a := netip.MustParseAddr("192.0.2.1")
	if r := l.S.ReservationOf(a); r == nil || r.Spec.GetName() != "r" {
		t.Errorf("%v", r)
	}
	if l.S.ReservationOf(netip.MustParseAddr("192.0.2.2")) != nil {
		t.Error("192.0.2.2 is not reserved")
	}
	l.Now += int64(2 * time.Minute)
	l.Apply(fsmtest.Declared(fsmtest.Service("s", 80)))
	if got := next(); got != "192.0.2.0" || l.S.ReservationOf(a) != nil || l.S.Reservations["r"] == nil {
		t.Errorf("next is %s when the time is over", got)
	}
	// A free address that is reserved is in no queue.
	key := fsm.KeyOf("default", "s")
	l.Apply(fsmtest.Allocated(key, "192.0.2.0", "p"))
	l.Apply(fsmtest.Released(key, netip.MustParseAddr("192.0.2.0"), 0))
	if free := l.S.LeastRecent("p", true, l.Now); free == nil {
		t.Error("no free address")
	}
	l.Apply(reserve("all", 0, "192.0.2.0/24"))
	if free := l.S.LeastRecent("p", true, l.Now); free != nil || l.S.NextFresh("p", true).IsValid() {
		t.Errorf("all is reserved, but %v", free)
	}
	if size := l.S.PoolUse("p").Size4; size != 8 {
		t.Errorf("size %d", size)
	}
	if l.Refuse(reserve("other", 0, "192.0.2.77")) == nil || l.Refuse(fsmtest.ReservationDeleted("none")) == nil {
		t.Error("accepted")
	}
	l.Apply(fsmtest.ReservationDeleted("all"))
	if got := next(); got != "192.0.2.1" {
		t.Errorf("next is %s", got)
	}
}

// Addresses are counted once for each namespace that has them.
func TestNamespaceUse(t *testing.T) {
	l := fsmtest.NewLog(t)
	one, two, other := fsm.KeyOf("default", "one"), fsm.KeyOf("default", "two"), fsm.KeyOf("other", "three")
	l.Apply(fsmtest.PoolDefined("p", "192.0.2.0/29"))
	for i, key := range []fsm.ServiceKey{one, two, other} {
		l.Apply(fsmtest.Declared(&logv1.Service{Namespace: key.Namespace, Name: key.Name, SharingKey: "k", Ports: []*logv1.Port{{Port: uint32(i + 1)}}}))
	}
	a := netip.MustParseAddr("192.0.2.1")
	check := func(def, oth int) {
		t.Helper()
		if l.S.NamespaceUse("p", "default") != def || l.S.NamespaceUse("p", "other") != oth {
			t.Errorf("default has %d, want %d; other %d, want %d", l.S.NamespaceUse("p", "default"), def, l.S.NamespaceUse("p", "other"), oth)
		}
	}
	for _, key := range []fsm.ServiceKey{one, two, other} {
		l.Apply(fsmtest.Allocated(key, "192.0.2.1", "p"))
	}
	check(1, 1)
	l.Apply(fsmtest.Released(one, a, 0))
	check(1, 1)
	l.Apply(fsmtest.Released(two, a, 0))
	check(0, 1)
	l.Apply(fsmtest.Allocated(one, "192.0.2.2", "p"))
	check(1, 1)
	l.Apply(fsmtest.Released(other, a, l.Now+int64(time.Hour)))
	check(1, 0)
	if kept, resting := l.S.PoolKept("p"); kept != 1 || resting != 0 {
		t.Errorf("%d kept, %d resting", kept, resting)
	}
	rests := fsmtest.Released(one, netip.MustParseAddr("192.0.2.2"), l.Now+int64(2*time.Hour))
	rests.GetAddressReleased().QuarantinedUntilUnixNano = l.Now + int64(2*time.Hour)
	l.Apply(rests)
	if kept, resting := l.S.PoolKept("p"); kept != 1 || resting != 1 {
		t.Errorf("%d kept, %d resting", kept, resting)
	}
	if first := l.S.NextKeptOf("p", true); first == nil || first.Addr != a || first.Rests() {
		t.Errorf("%+v falls free first", first)
	}
	if next := l.S.NextKeptOf("p", true, a); next == nil || !next.Rests() {
		t.Errorf("%+v falls free next", next)
	}
	l.Now += int64(3 * time.Hour)
	l.Apply()
	if kept, resting := l.S.PoolKept("p"); kept != 0 || resting != 0 || l.S.NextKeptOf("p", true) != nil {
		t.Errorf("%d kept, %d resting when all may be had", kept, resting)
	}
}

// While two reservations have addresses in common, which may be in the middle of a
// batch, each hides the other from nobody.
func TestReservationsChangePlacesInABatch(t *testing.T) {
	l := fsmtest.NewLog(t)
	l.Apply(fsmtest.PoolDefined("a", "10.0.0.10-10.0.0.13"), fsmtest.PoolDefined("b", "10.0.0.14-10.0.0.20"))
	key := fsm.KeyOf("default", "s")
	l.Apply(fsmtest.Declared(fsmtest.Service("s", 80)), fsmtest.Allocated(key, "10.0.0.15", "b"))
	l.Apply(fsmtest.Released(key, netip.MustParseAddr("10.0.0.15"), 0))
	l.Apply(reserve("y", 0, "10.0.0.12-10.0.0.13"))
	l.Apply(reserve("x", 0, "10.0.0.10-10.0.0.20"), reserve("y", 0, "10.0.1.1"))
	if err := l.S.CheckIndexes(); err != nil {
		t.Error(err)
	}
	if a, free := l.S.NextFresh("b", true), l.S.LeastRecent("b", true, l.Now); a.IsValid() || free != nil {
		t.Errorf("all of b is reserved, but it has %v and %v", a, free)
	}
	// Also to a decision in between.
	d := l.S.Begin(l.Now)
	for _, ev := range []*logv1.Event{reserve("y", 0, "10.0.0.12-10.0.0.13"), fsmtest.Declared(fsmtest.Service("t", 80))} {
		if err := d.Add("admin:test", ev); err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range []string{"10.0.0.10", "10.0.0.12", "10.0.0.14", "10.0.0.20"} {
		if a := netip.MustParseAddr(text); l.S.ReservationOf(a) == nil {
			t.Errorf("%s is not reserved", a)
		}
	}
	if n := l.S.PoolReserved("a"); n != 4 {
		t.Errorf("%d addresses of a are reserved", n)
	}
	if a := l.S.NextFresh("b", true); a.IsValid() {
		t.Errorf("b has %v", a)
	}
}
