package fsm_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

var (
	ip1 = netip.MustParseAddr("192.0.2.1")
	ip2 = netip.MustParseAddr("192.0.2.2")
	ip6 = netip.MustParseAddr("2001:db8::1")
	web = fsm.KeyOf("default", "web")
	dns = fsm.KeyOf("default", "dns")
)

// small has pool "a", services web (with ip1, owned by n1) and dns, and open
// sessions of n1 (3) and n2 (4).
func small(t *testing.T) *fsmtest.Log {
	l := fsmtest.NewLog(t)
	l.Apply(fsmtest.PoolDefined("a", "192.0.2.0/24", "2001:db8::/64"), fsmtest.Declared(fsmtest.Service("web", 80)),
		fsmtest.Declared(fsmtest.Service("dns", 53)), fsmtest.AllocatedFor(web, ip1, "a", logv1.AllocationReason_ALLOCATION_REASON_FRESH))
	l.Apply(fsmtest.Opened("n1", 1, nil))
	l.Apply(fsmtest.Opened("n2", 1, nil))
	l.Apply(fsmtest.OwnerAssigned(ip1, "n1"))
	return l
}

// The table has a handler for every event of the contract and no other.
func TestHandlersCoverTheContract(t *testing.T) {
	want := map[int]string{}
	fields := new(logv1.Event).ProtoReflect().Descriptor().Oneofs().ByName("fact").Fields()
	for i := range fields.Len() {
		want[int(fields.Get(i).Number())] = string(fields.Get(i).Message().Name())
	}
	if diff := cmp.Diff(want, fsm.EventTypes()); diff != "" {
		t.Error(diff)
	}
}

func TestImpossibleEvents(t *testing.T) {
	lease := func(d, h, settle time.Duration) *logv1.Event {
		return &logv1.Event{Fact: &logv1.Event_LeaseTimesSet{LeaseTimesSet: &logv1.LeaseTimesSet{Times: &logv1.LeaseTimes{
			DetectionNanos: int64(d), HeartbeatNanos: int64(h), SettleNanos: int64(settle)}}}}
	}
	raised := func(v uint32) *logv1.Event {
		return &logv1.Event{Fact: &logv1.Event_ClusterVersionRaised{ClusterVersionRaised: &logv1.ClusterVersionRaised{ClusterVersion: v}}}
	}
	process := fsmtest.Session(&logv1.SessionOpened{Node: "n3", Process: []byte{1}, Incarnation: 1})
	mac := fsmtest.Session(&logv1.SessionOpened{Node: "n3", Process: make([]byte, 16), Macs: [][]byte{{1}}})
	outside := netip.MustParseAddr("198.51.100.1")
	free := logv1.AllocationReason_ALLOCATION_REASON_FRESH
	mapped := fsmtest.AllocatedFor(dns, ip2, "a", free)
	mapped.GetAddressAllocated().Address = netip.MustParseAddr("::ffff:192.0.2.2").AsSlice()
	short := fsmtest.AllocatedFor(dns, ip2, "a", free)
	short.GetAddressAllocated().Address = []byte{1, 2, 3}
	conflict := fsmtest.Conflict(ip1, "n1", fsm.MAC{1})
	conflict.GetAddressConflictObserved().Mac = []byte{1}
	for _, c := range []struct {
		text   string // part of the message
		events []*logv1.Event
	}{
		{"not the first event", []*logv1.Event{fsmtest.PoolDeleted("a"), fsmtest.Founded()}},
		{"founded twice", []*logv1.Event{fsmtest.Founded()}},
		{"raised from 1 to 1", []*logv1.Event{raised(1)}},
		{"cluster version 0", []*logv1.Event{raised(0)}},
		{"lease times", []*logv1.Event{lease(0, 0, 0)}},
		{"lease times", []*logv1.Event{lease(time.Second, time.Second, 0)}},
		{"lease times", []*logv1.Event{lease(time.Second, time.Millisecond, -1)}},
		{"retention", []*logv1.Event{{Fact: &logv1.Event_RetentionSet{RetentionSet: &logv1.RetentionSet{RetentionNanos: -1}}}}},
		{"cluster id", []*logv1.Event{{Fact: &logv1.Event_RestoreBegun{RestoreBegun: &logv1.RestoreBegun{}}}}},
		{"without a name", []*logv1.Event{fsmtest.PoolDefined("", "192.0.2.0/24")}},
		{"reversed", []*logv1.Event{fsmtest.PoolDefined("b", "198.51.100.9-198.51.100.1")}},
		{"overlaps", []*logv1.Event{fsmtest.PoolDefined("b", "198.51.100.0/24", "198.51.100.9-198.51.100.10")}},
		{"pools b and a overlap", []*logv1.Event{fsmtest.PoolDefined("b", "192.0.2.255-192.0.3.3")}},
		{"pools b and a overlap", []*logv1.Event{fsmtest.PoolDefined("b", "192.0.0.0/16")}},
		{"unknown pool", []*logv1.Event{fsmtest.PoolDeleted("b")}},
		{"192.0.2.1 of default/web is in no pool", []*logv1.Event{fsmtest.PoolDeleted("a")}},
		{"without a name", []*logv1.Event{fsmtest.Ad(&logv1.L2Advertisement{})}},
		{"unknown advertisement", []*logv1.Event{fsmtest.AdDeleted("b")}},
		{"without namespace or name", []*logv1.Event{fsmtest.Declared(&logv1.Service{Name: "x"})}},
		{"deleted while it has 192.0.2.1", []*logv1.Event{fsmtest.Deleted(web)}},
		{"unknown service default/x", []*logv1.Event{fsmtest.Deleted(fsm.KeyOf("default", "x"))}},
		{"unknown service default/x", []*logv1.Event{fsmtest.AllocatedFor(fsm.KeyOf("default", "x"), ip2, "a", free)}},
		{"unknown service default/x", []*logv1.Event{fsmtest.Released(fsm.KeyOf("default", "x"), ip1, 0)}},
		{"unknown service default/x", []*logv1.Event{fsmtest.Refused(fsm.KeyOf("default", "x"), "y")}},
		{"unknown pool", []*logv1.Event{fsmtest.AllocatedFor(dns, ip2, "b", free)}},
		{"does not hold it", []*logv1.Event{fsmtest.AllocatedFor(dns, outside, "a", free)}},
		{"which has [192.0.2.1]", []*logv1.Event{fsmtest.AllocatedFor(web, ip2, "a", free)}},
		{"share no key", []*logv1.Event{fsmtest.AllocatedFor(dns, ip1, "a", free)}},
		{"IPv4-mapped", []*logv1.Event{mapped}},
		{"3 bytes", []*logv1.Event{short}},
		{"does not have it", []*logv1.Event{fsmtest.Released(dns, ip1, 0)}},
		{"while n1 owns it", []*logv1.Event{fsmtest.Released(web, ip1, 0)}},
		{"without a node", []*logv1.Event{fsmtest.Opened("", 1, nil)}},
		{"process id", []*logv1.Event{process}},
		{"MAC of 1 bytes", []*logv1.Event{mac}},
		{"incarnation 0 after 1", []*logv1.Event{fsmtest.Opened("n1", 0, nil)}},
		{"opened twice", []*logv1.Event{fsmtest.Opened("n1", 2, nil), fsmtest.Opened("n1", 3, nil)}},
		{"not its open one", []*logv1.Event{fsmtest.Expired("n1", 4)}},
		{"not its open one", []*logv1.Event{fsmtest.Closed("n1", 0)}},
		{"not its open one", []*logv1.Event{fsmtest.Expired("n1", 3), fsmtest.Closed("n1", 3)}},
		{"unknown node", []*logv1.Event{fsmtest.Expired("n9", 3)}},
		{"unknown node", []*logv1.Event{fsmtest.Links("n9", "eth0")}},
		{"unknown node", []*logv1.Event{fsmtest.Drained("n9", logv1.DrainReason_DRAIN_REASON_ADMIN)}},
		{"unknown node", []*logv1.Event{fsmtest.Undrained("n9")}},
		{"unknown node", []*logv1.Event{fsmtest.Forgotten("n9")}},
		{"without a reason", []*logv1.Event{fsmtest.Drained("n1", 0)}},
		{"with an open session", []*logv1.Event{fsmtest.Forgotten("n1")}},
		{"owns 1 addresses", []*logv1.Event{fsmtest.Expired("n1", 3), fsmtest.Forgotten("n1")}},
		{"owned by \"n1\" in epoch 5", []*logv1.Event{fsmtest.OwnerReleased(ip1, "n1", 4)}},
		{"owned by \"n1\" in epoch 5", []*logv1.Event{fsmtest.OwnerReleased(ip1, "n2", 5)}},
		{"owned by \"\"", []*logv1.Event{fsmtest.OwnerReleased(ip1, "n1", 5), fsmtest.OwnerReleased(ip1, "", 0)}},
		{"not in use", []*logv1.Event{fsmtest.OwnerReleased(ip2, "n1", 5)}},
		{"not in use", []*logv1.Event{fsmtest.OwnerAssigned(ip2, "n1")}},
		{"unknown node", []*logv1.Event{fsmtest.OwnerAssigned(ip1, "n9")}},
		{"no open session", []*logv1.Event{fsmtest.Expired("n2", 4), fsmtest.OwnerAssigned(ip1, "n2")}},
		{"while n1 owns it with an open session", []*logv1.Event{fsmtest.OwnerAssigned(ip1, "n2")}},
		{"while n1 owns it with an open session", []*logv1.Event{fsmtest.OwnerAssigned(ip1, "n1")}},
		{"unknown node", []*logv1.Event{fsmtest.AnnounceFailed(ip1, "n9", "x")}},
		{"not in use", []*logv1.Event{fsmtest.AnnounceFailed(ip2, "n1", "x")}},
		{"not in use", []*logv1.Event{fsmtest.AnnounceRecovered(ip2, "n1")}},
		{"not in use", []*logv1.Event{fsmtest.Conflict(ip2, "n1", fsm.MAC{})}},
		{"not in use", []*logv1.Event{fsmtest.ConflictCleared(ip2)}},
		{"MAC of 1 bytes", []*logv1.Event{conflict}},
		{"not free after use", []*logv1.Event{fsmtest.Quarantined(ip1, "n1", fsm.MAC{1}, 1)}},
		{"not free after use", []*logv1.Event{fsmtest.Quarantined(ip2, "n1", fsm.MAC{1}, 1)}},
		{"in none", []*logv1.Event{fsmtest.QuarantineEnded(ip1)}},
		{`"" moves softly`, []*logv1.Event{fsmtest.SoftMoveEnded(ip1, "n1")}},
		{`"" moves softly`, []*logv1.Event{fsmtest.OwnerReleased(ip1, "n1", 5), fsmtest.OwnerAssignedSoftly(ip1, "n2", "n1")}},
		{`"n1" moves softly`, []*logv1.Event{fsmtest.OwnerReleasedSoftly(ip1, "n1", 5), fsmtest.OwnerAssignedSoftly(ip1, "n2", "n2")}},
		{`"n1" moves softly`, []*logv1.Event{fsmtest.OwnerReleasedSoftly(ip1, "n1", 5), fsmtest.OwnerAssignedSoftly(ip1, "n1", "n1")}},
		{`"n1" moves softly`, []*logv1.Event{fsmtest.OwnerReleasedSoftly(ip1, "n1", 5), fsmtest.SoftMoveEnded(ip1, "n2")}},
		{"1 addresses move away softly", []*logv1.Event{fsmtest.OwnerReleasedSoftly(ip1, "n1", 5), fsmtest.Expired("n1", 3), fsmtest.Forgotten("n1")}},
	} {
		l := small(t)
		err := l.Refuse(c.events...)
		if !errors.Is(err, fsm.ErrCorrupt) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("want %q, got: %v", c.text, err)
		}
		d := l.S.Begin(l.Now)
		for _, ev := range c.events {
			before := l.S.Digest()
			if err := d.Add("x", ev); err != nil && l.S.Digest() != before {
				t.Errorf("%q left a trace in the draft", c.text)
			}
		}
	}
}

func TestNewerClusterVersionIsUnknown(t *testing.T) {
	err := small(t).Refuse(&logv1.Event{Fact: &logv1.Event_ClusterVersionRaised{
		ClusterVersionRaised: &logv1.ClusterVersionRaised{ClusterVersion: fsm.MaxClusterVersion + 1}}})
	if !errors.Is(err, fsm.ErrUnknown) {
		t.Error(err)
	}
}

func TestFirstEventFounds(t *testing.T) {
	s := fsm.New()
	raw := fsm.EncodeBatch(s.NextBatch(1, []string{"x"}, []*logv1.Event{fsmtest.PoolDefined("a", "192.0.2.0/24")}))
	if _, _, err := s.Apply(raw); !errors.Is(err, fsm.ErrCorrupt) {
		t.Error(err)
	}
	l := fsmtest.NewLog(t)
	if l.S.ClusterID != fsmtest.ClusterID || l.S.ClusterVersion != 1 || l.S.Revision != 1 {
		t.Errorf("%+v", l.S)
	}
	if l.S.Lease != fsm.DefaultLeaseTimes || l.S.Retention != fsm.DefaultRetention {
		t.Errorf("defaults: %+v %s", l.S.Lease, l.S.Retention)
	}
}

// A backup that becomes a new cluster gets a new id on top of the old history.
func TestFoundedAnew(t *testing.T) {
	l := small(t)
	ev := fsmtest.Founded()
	ev.GetClusterFounded().ClusterId = []byte("another cluster!")
	l.Apply(ev)
	if string(l.S.ClusterID[:]) != "another cluster!" || l.S.Addresses[ip1].Owner != "n1" {
		t.Errorf("%s, %+v", l.S.ClusterID, l.S.Addresses[ip1])
	}
}

func TestSettings(t *testing.T) {
	l := small(t)
	ch := l.Apply(
		&logv1.Event{Fact: &logv1.Event_LeaseTimesSet{LeaseTimesSet: &logv1.LeaseTimesSet{Times: &logv1.LeaseTimes{
			DetectionNanos: 250e6, HeartbeatNanos: 50e6, SettleNanos: 5e9}}}},
		&logv1.Event{Fact: &logv1.Event_RetentionSet{RetentionSet: &logv1.RetentionSet{RetentionNanos: 3600e9}}})
	want := fsm.LeaseTimes{Detection: 250 * time.Millisecond, Heartbeat: 50 * time.Millisecond, Settle: 5 * time.Second}
	if l.S.Lease != want || l.S.Retention != time.Hour || !ch.All {
		t.Errorf("%+v, %s, %+v", l.S.Lease, l.S.Retention, ch)
	}
	if f := l.S.Lease.Fence(); f != 1500*time.Millisecond {
		t.Errorf("fence %s", f)
	}
}

func TestSessions(t *testing.T) {
	l := small(t)
	n := func() *fsm.Node { return l.S.Nodes["n1"] }
	if n().Session != 3 || n().SessionState != fsm.SessionOpen || n().Incarnation != 1 {
		t.Fatalf("opened: %+v", n())
	}
	old := n()
	ch := l.Apply(fsmtest.Opened("n1", 2, map[string]string{"zone": "b"}))
	if n().Session != 6 || n().Owned != 1 || l.S.Addresses[ip1].Owner != "n1" || n().Labels["zone"] != "b" {
		t.Errorf("a new session ends the old and inherits its addresses: %+v", n())
	}
	if !slices.Equal(n().PriorMACs, old.MACs) || old.Session != 3 {
		t.Errorf("MACs before: %v; the old record: %+v", n().PriorMACs, old)
	}
	if !slices.Equal(ch.Nodes, []string{"n1"}) || len(ch.Addresses) > 0 || ch.All {
		t.Errorf("changes: %+v", ch)
	}
	l.Apply(fsmtest.Expired("n1", 6))
	if n().SessionState != fsm.SessionExpired || n().EndedAt != 7 || n().Owned != 1 {
		t.Errorf("expiry alone takes nothing: %+v", n())
	}
	l.Apply(fsmtest.Closed("n2", 4))
	if got := l.S.Nodes["n2"]; got.SessionState != fsm.SessionClosed || got.EndedAt != 8 {
		t.Errorf("closed: %+v", got)
	}
	l.Apply(fsmtest.Forgotten("n2"))
	if l.S.Nodes["n2"] != nil {
		t.Error("n2 is remembered")
	}
	l.Apply(fsmtest.Links("n1", "eth0", "!eth1"))
	if links := n().Links; len(links) != 2 || !links[0].Up || links[1].Up {
		t.Errorf("links: %v", links)
	}
}

func TestDrains(t *testing.T) {
	const admin, leave = logv1.DrainReason_DRAIN_REASON_ADMIN, logv1.DrainReason_DRAIN_REASON_LEAVE
	l := small(t)
	drained := func() logv1.DrainReason { return l.S.Nodes["n1"].Drained }
	l.Apply(fsmtest.Drained("n1", leave))
	if drained() != leave {
		t.Error("leave")
	}
	l.Apply(fsmtest.Opened("n1", 2, nil))
	if drained() != 0 {
		t.Error("a new session ends a leave")
	}
	l.Apply(fsmtest.Drained("n1", leave), fsmtest.Drained("n1", admin))
	l.Apply(fsmtest.Drained("n1", leave))
	if drained() != admin {
		t.Error("a leave does not end an administrator's drain")
	}
	l.Apply(fsmtest.Opened("n1", 3, nil))
	if drained() != admin {
		t.Error("a new session does not either")
	}
	l.Apply(fsmtest.Undrained("n1"))
	if drained() != 0 {
		t.Error("undrain")
	}
}

func TestOwnership(t *testing.T) {
	l := small(t)
	rec := func() *fsm.Address { return l.S.Addresses[ip1] }
	if rec().Owner != "n1" || rec().Epoch != 5 || rec().Prior != "" || l.S.Nodes["n1"].Owned != 1 {
		t.Fatalf("assigned: %+v", rec())
	}
	ch := l.Apply(fsmtest.OwnerReleased(ip1, "n1", 5))
	want := &fsm.Address{Addr: ip1, Pool: "a", Services: []fsm.ServiceKey{web}, Reason: rec().Reason,
		OwnerTime: l.S.Time, OwnerWhy: logv1.OwnerReason_OWNER_REASON_MOVE,
		Prior: "n1", PriorAt: 6, PriorSession: 3, PriorEpoch: 5}
	if diff := cmp.Diff(want, rec(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("released: %s", diff)
	}
	if n := l.S.Nodes["n1"]; n.Owned != 0 || n.TakenAt != 6 {
		t.Errorf("released: %+v", n)
	}
	if !slices.Equal(ch.Addresses, []netip.Addr{ip1}) || !slices.Equal(ch.Nodes, []string{"n1"}) {
		t.Errorf("changes: %+v", ch)
	}
	l.Apply(fsmtest.OwnerAssigned(ip1, "n2"))
	if rec().Owner != "n2" || rec().Epoch != 7 || rec().Prior != "n1" || rec().PriorAt != 6 || l.S.Nodes["n1"].TakenAt != 6 {
		t.Errorf("moved: %+v", rec())
	}
	// A dead owner is replaced by one event.
	ch = l.Apply(fsmtest.Expired("n2", 4), fsmtest.OwnerAssigned(ip1, "n1"))
	if rec().Owner != "n1" || rec().Epoch != 8 || rec().Prior != "n2" || rec().PriorAt != 8 || rec().PriorSession != 4 || rec().PriorEpoch != 7 {
		t.Errorf("replaced: %+v", rec())
	}
	if n := l.S.Nodes["n2"]; n.Owned != 0 || n.TakenAt != 8 || l.S.Nodes["n1"].Owned != 1 {
		t.Errorf("replaced: %+v", n)
	}
	if !slices.Equal(ch.Nodes, []string{"n1", "n2"}) {
		t.Errorf("changes: %+v", ch)
	}
}

func TestReports(t *testing.T) {
	l := small(t)
	rec := func() *fsm.Address { return l.S.Addresses[ip1] }
	l.Apply(fsmtest.AnnounceFailed(ip1, "n1", "a"), fsmtest.AnnounceFailed(ip1, "n2", "c"))
	first := rec()
	l.Apply(fsmtest.AnnounceFailed(ip1, "n1", "b"))
	want := map[string]fsm.Failure{"n1": {Count: 2, Time: l.S.Time, Reason: "b"}, "n2": {Count: 1, Time: first.Failures["n2"].Time, Reason: "c"}}
	if diff := cmp.Diff(want, rec().Failures); diff != "" {
		t.Error(diff)
	}
	if first.Failures["n1"].Count != 1 {
		t.Error("a record was changed in place")
	}
	l.Apply(fsmtest.AnnounceRecovered(ip1, "n1"), fsmtest.AnnounceRecovered(ip1, "n2"))
	if rec().Failures != nil {
		t.Errorf("recovered: %v", rec().Failures)
	}
	mac := fsm.MAC{2, 0, 0, 0, 0, 7}
	l.Apply(fsmtest.Conflict(ip1, "n1", mac))
	if rec().Conflict != mac || rec().ConflictNode != "n1" {
		t.Errorf("conflict: %+v", rec())
	}
	l.Apply(fsmtest.ConflictCleared(ip1))
	if rec().Conflict != (fsm.MAC{}) || rec().ConflictNode != "" {
		t.Errorf("cleared: %+v", rec())
	}
}
