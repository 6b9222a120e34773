package fsm_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

const fresh = logv1.AllocationReason_ALLOCATION_REASON_FRESH

func TestServices(t *testing.T) {
	l := small(t)
	svc := func() *fsm.Service { return l.S.Services[web] }
	created := svc().CreatedAt
	again := fsmtest.Declared(fsmtest.Service("web", 8080))
	again.GetServiceDeclared().Generation = 7
	ch := l.Apply(again)
	if svc().CreatedAt != created || svc().DeclaredAt != 6 || svc().Generation != 7 || svc().Spec.Ports[0].Port != 8080 {
		t.Errorf("declared again: %+v", svc())
	}
	if !slices.Equal(svc().Addresses, []netip.Addr{ip1}) {
		t.Errorf("its addresses: %v", svc().Addresses)
	}
	if !slices.Equal(ch.Services, []fsm.ServiceKey{web}) || !slices.Equal(ch.Addresses, []netip.Addr{ip1}) {
		t.Errorf("changes: %+v", ch)
	}
	l.Apply(fsmtest.AllocatedFor(web, ip6, "a", fresh))
	if !slices.Equal(svc().Addresses, []netip.Addr{ip1, ip6}) {
		t.Errorf("IPv4 first: %v", svc().Addresses)
	}
	l.Apply(fsmtest.Refused(dns, "full"))
	l.Apply(fsmtest.Refused(web, "later"))
	var pending []string
	for s := range l.S.PendingServices() {
		pending = append(pending, s.Key.Name+" "+s.Pending)
	}
	if !slices.Equal(pending, []string{"dns full", "web later"}) {
		t.Errorf("pending: %v", pending)
	}
	l.Apply(fsmtest.Refused(web, ""), fsmtest.Deleted(dns))
	for s := range l.S.PendingServices() {
		t.Errorf("%s still waits", s.Key)
	}
}

func TestReleaseAndReturn(t *testing.T) {
	l := small(t)
	kept := l.Now + int64(time.Hour)
	l.Apply(fsmtest.OwnerReleased(ip1, "n1", 5), fsmtest.Released(web, ip1, kept), fsmtest.Deleted(web))
	want := fsm.Free{Addr: ip1, Pool: "a", FreedAt: 6, Key: web, KeptUntil: kept,
		Prior: "n1", PriorAt: 6, PriorSession: 3, PriorEpoch: 5}
	if got := l.S.Free[ip1]; got == nil || *got != want || l.S.Addresses[ip1] != nil {
		t.Fatalf("freed: %+v", got)
	}
	if got := l.S.LeastRecent("a", true, l.S.Time); got != nil {
		t.Errorf("%s is kept, and offered", got.Addr)
	}
	if at, ok := l.S.NextKept(); !ok || at != kept {
		t.Errorf("kept until %d, %t", at, ok)
	}
	for free := range l.S.KeptFor(web) {
		if free.Addr != ip1 {
			t.Errorf("%s is kept for %s", free.Addr, web)
		}
	}
	if got := l.S.LeastRecent("a", true, kept); got == nil || got.Addr != ip1 {
		t.Error("it is not offered after its time")
	}
	l.Apply(fsmtest.AllocatedFor(dns, ip1, "a", logv1.AllocationReason_ALLOCATION_REASON_REUSED))
	rec := l.S.Addresses[ip1]
	if rec.Prior != "n1" || rec.PriorAt != 6 || rec.PriorSession != 3 || rec.PriorEpoch != 5 || rec.Owner != "" {
		t.Errorf("an address that returns waits for its old owner: %+v", rec)
	}
	if l.S.Free[ip1] != nil {
		t.Error("it is free as well")
	}
}

// What is kept comes into the queue when a batch brings the time, in the order
// of release.
func TestQueueIsLeastRecentlyUsedFirst(t *testing.T) {
	l := fsmtest.NewLog(t)
	l.Apply(fsmtest.PoolDefined("a", "192.0.2.0/30"))
	addr := func(i byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, i}) }
	key := func(i byte) fsm.ServiceKey { return fsm.KeyOf("default", string('a'+rune(i))) }
	for i := range byte(4) {
		l.Apply(fsmtest.Declared(fsmtest.Service(key(i).Name)), fsmtest.AllocatedFor(key(i), addr(i), "a", fresh))
	}
	if got := l.S.NextFresh("a", true); got.IsValid() {
		t.Fatalf("a used up pool offers %s", got)
	}
	l.Apply(fsmtest.Released(key(2), addr(2), l.Now+int64(100*time.Second))) // kept longest
	l.Apply(fsmtest.Released(key(0), addr(0), l.Now+int64(10*time.Second)))
	l.Apply(fsmtest.Released(key(3), addr(3), 0), fsmtest.Released(key(1), addr(1), 0))
	next := func(now int64) byte {
		free := l.S.LeastRecent("a", true, now)
		if free == nil {
			return 255
		}
		return free.Addr.As4()[3]
	}
	if got := next(l.S.Time); got != 1 {
		t.Errorf("of two freed together the lower comes first: %d", got)
	}
	if got := next(l.S.Time + int64(20*time.Second)); got != 0 {
		t.Errorf("0 was freed earlier and is kept no more: %d", got)
	}
	l.Now += int64(20 * time.Second)
	l.Apply(fsmtest.AllocatedFor(key(1), addr(1), "a", fresh))
	if got := next(l.S.Time); got != 0 {
		t.Errorf("a batch brings the time: %d", got)
	}
	if got := next(l.S.Time + int64(200*time.Second)); got != 2 {
		t.Errorf("2 was freed first of all: %d", got)
	}
}

func TestSharing(t *testing.T) {
	l := fsmtest.NewLog(t)
	a, b := fsmtest.Service("a", 80), fsmtest.Service("b", 81)
	a.SharingKey, b.SharingKey = "k", "k"
	ka, kb := fsm.KeyOf("default", "a"), fsm.KeyOf("default", "b")
	l.Apply(fsmtest.PoolDefined("a", "192.0.2.0/24"), fsmtest.Declared(b), fsmtest.Declared(a),
		fsmtest.AllocatedFor(kb, ip1, "a", fresh), fsmtest.AllocatedFor(ka, ip1, "a", logv1.AllocationReason_ALLOCATION_REASON_SHARED))
	if rec := l.S.Addresses[ip1]; !slices.Equal(rec.Services, []fsm.ServiceKey{ka, kb}) || rec.Reason != fresh {
		t.Errorf("%+v", rec)
	}
	count := func(key string) (n int) {
		for range l.S.WithSharingKey(key) {
			n++
		}
		return n
	}
	if count("k") != 1 || count("") != 0 || count("j") != 0 {
		t.Error("by sharing key")
	}
	l.Apply(fsmtest.Released(kb, ip1, 0))
	if rec := l.S.Addresses[ip1]; !slices.Equal(rec.Services, []fsm.ServiceKey{ka}) || count("k") != 1 {
		t.Errorf("one left: %+v", rec)
	}
	a2 := fsmtest.Service("a", 80)
	a2.SharingKey = "j"
	l.Apply(fsmtest.Declared(a2))
	if count("k") != 0 || count("j") != 1 {
		t.Error("the key changed")
	}
	l.Apply(fsmtest.Released(ka, ip1, l.Now+1))
	if count("j") != 0 || l.S.Free[ip1].SharingKey != "j" {
		t.Errorf("freed: %+v", l.S.Free[ip1])
	}
	for free := range l.S.KeptForSharing("j") {
		if free.Addr != ip1 {
			t.Error(free.Addr)
		}
	}
}

// Every owner in a pool has to see a change of the pool or of an advertisement
// that is, or was, for it; nobody else has.
func TestPoolAndAdvertisementChangesTake(t *testing.T) {
	l := small(t)
	l.Apply(fsmtest.PoolDefined("b", "198.51.100.0/24"), fsmtest.AllocatedFor(dns, netip.MustParseAddr("198.51.100.1"), "b", fresh))
	l.Apply(fsmtest.OwnerAssigned(netip.MustParseAddr("198.51.100.1"), "n2"))
	taken := func() [2]uint64 { return [2]uint64{l.S.Nodes["n1"].TakenAt, l.S.Nodes["n2"].TakenAt} }
	ad := func(name string, pools ...string) *logv1.Event {
		return fsmtest.Ad(&logv1.L2Advertisement{Name: name, IpAddressPools: pools})
	}
	labelled := fsmtest.Ad(&logv1.L2Advertisement{Name: "y",
		IpAddressPoolSelectors: []*logv1.LabelSelector{{MatchLabels: map[string]string{"tier": "gold"}}}})
	gold := fsmtest.Pool(&logv1.Pool{Name: "b", Addresses: []string{"198.51.100.0/24"}, Labels: map[string]string{"tier": "gold"}})
	for _, c := range []struct {
		name string
		ev   *logv1.Event
		want [2]bool
	}{
		{"pool a again", fsmtest.PoolDefined("a", "192.0.2.0/24", "2001:db8::/64"), [2]bool{true, false}},
		{"pool b grows", fsmtest.PoolDefined("b", "198.51.100.0/24", "198.51.101.0/24"), [2]bool{false, true}},
		{"ad for all", ad("x"), [2]bool{true, true}},
		{"ad for all becomes one for a", ad("x", "a"), [2]bool{true, true}},
		{"ad for a becomes one for none", ad("x", "c"), [2]bool{true, false}},
		{"ad for none is deleted", fsmtest.AdDeleted("x"), [2]bool{false, false}},
		{"ad by label, nothing labelled", labelled, [2]bool{false, false}},
		{"pool b is labelled", gold, [2]bool{false, true}},
		{"ad by label is deleted", fsmtest.AdDeleted("y"), [2]bool{false, true}},
		{"pool without owners", fsmtest.PoolDefined("c", "203.0.113.0/24"), [2]bool{false, false}},
	} {
		want := taken()
		for i := range want {
			if c.want[i] {
				want[i] = l.S.Revision + 1
			}
		}
		if ch := l.Apply(c.ev); !ch.All {
			t.Errorf("%s: not a change of all", c.name)
		}
		if got := taken(); got != want {
			t.Errorf("%s: taken at %v, want %v", c.name, got, want)
		}
	}
}

// A range can move from a pool to another in one batch, whichever comes first,
// and its addresses go with it.
func TestRangeMovesBetweenPools(t *testing.T) {
	shrink := fsmtest.PoolDefined("a", "192.0.2.128/25", "2001:db8::/64")
	grow := fsmtest.PoolDefined("b", "192.0.2.0/25")
	for name, events := range map[string][]*logv1.Event{
		"shrink first": {shrink, grow},
		"grow first":   {grow, shrink},
	} {
		l := small(t)
		l.Apply(fsmtest.AllocatedFor(dns, ip2, "a", fresh))
		l.Apply(fsmtest.Released(dns, ip2, 0))
		l.Apply(events...)
		if got := l.S.Addresses[ip1]; got.Pool != "b" || got.Owner != "n1" {
			t.Errorf("%s: in use: %+v", name, got)
		}
		if got := l.S.Free[ip2]; got == nil || got.Pool != "b" {
			t.Errorf("%s: free: %+v", name, got)
		}
		if got := l.S.Nodes["n1"].TakenAt; got != l.S.Revision {
			t.Errorf("%s: taken at %d", name, got)
		}
		if err := l.S.CheckIndexes(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if use := l.S.PoolUse("b"); use.Used4 != 1 || use.Size4 != 128 {
			t.Errorf("%s: %+v", name, use)
		}
	}
}

// Free addresses outside every pool are forgotten, but for those whose old
// owner may still answer.
func TestFreeAddressesOutliveTheirPool(t *testing.T) {
	l := small(t)
	l.Apply(fsmtest.AllocatedFor(dns, ip2, "a", fresh))
	l.Apply(fsmtest.Released(dns, ip2, 0), fsmtest.OwnerReleased(ip1, "n1", 5), fsmtest.Released(web, ip1, l.Now+1))
	l.Apply(fsmtest.PoolDeleted("a"))
	if l.S.Free[ip2] != nil {
		t.Error("192.0.2.2 was never owned and is remembered")
	}
	if got := l.S.Free[ip1]; got == nil || got.Pool != "" || got.Prior != "n1" {
		t.Fatalf("192.0.2.1 was owned: %+v", got)
	}
	l.Apply(fsmtest.PoolDefined("b", "192.0.2.0/24"))
	if got := l.S.Free[ip1]; got.Pool != "b" || got.Prior != "n1" {
		t.Errorf("in the new pool: %+v", got)
	}
	if got := l.S.NextFresh("b", true); got != netip.MustParseAddr("192.0.2.0") {
		t.Errorf("lowest unused: %s", got)
	}
	if err := l.S.CheckIndexes(); err != nil {
		t.Error(err)
	}
}

func TestNeverUsedAddressesComeInOrder(t *testing.T) {
	l := fsmtest.NewLog(t)
	l.Apply(fsmtest.Pool(&logv1.Pool{Name: "a", AvoidBuggyIps: true, Addresses: []string{"192.0.2.254-192.0.3.1", "192.0.2.0/31", "2001:db8::/64"}}),
		fsmtest.Declared(fsmtest.Service("web")))
	var got []string
	for a := l.S.NextFresh("a", true); a.IsValid() && len(got) < 9; a = l.S.NextFresh("a", true) {
		got = append(got, a.String())
		l.Apply(fsmtest.AllocatedFor(web, a, "a", fresh))
		l.Apply(fsmtest.Released(web, a, 0))
	}
	if !slices.Equal(got, []string{"192.0.2.254", "192.0.3.1", "192.0.2.1"}) {
		t.Errorf("%v", got)
	}
	if use := l.S.PoolUse("a"); use.Size4 != 3 || use.Used4 != 0 || use.Size6 != 1<<63-1 {
		t.Errorf("%+v", use)
	}
	if got := l.S.NextFresh("a", false); got != netip.MustParseAddr("2001:db8::1") {
		t.Errorf("IPv6: %s", got)
	}
	if l.S.NextFresh("none", true).IsValid() || l.S.LeastRecent("none", true, 0) != nil {
		t.Error("an unknown pool has addresses")
	}
}
