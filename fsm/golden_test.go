package fsm_test

import (
	"bytes"
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

var record = flag.Bool("record", false, "record the log and snapshot of this release in testdata/v1 (only while it is not released)")

// Every released log and snapshot has to give the same state for ever. A new
// release adds a directory; the old ones are never recorded again.
func TestReleasedLogsAndSnapshots(t *testing.T) {
	if *record {
		recordRelease(t, filepath.Join("testdata", "v1"))
	}
	releases, err := filepath.Glob(filepath.Join("testdata", "v*"))
	if err != nil || len(releases) == 0 {
		t.Fatalf("no recorded release: %v", err)
	}
	for _, dir := range releases {
		replayed := fsmtest.Replay(t, readLog(t, filepath.Join(dir, "log.bin")))
		f, err := os.Open(filepath.Join(dir, "snapshot.bin"))
		if err != nil {
			t.Fatal(err)
		}
		restored, err := fsm.ReadSnapshot(f)
		if err != nil {
			t.Fatalf("%s: %v", dir, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(dir, "dump.txt"))
		if err != nil {
			t.Fatal(err)
		}
		for name, s := range map[string]*fsm.State{"replayed": replayed, "restored": restored} {
			if got := dump(t, s); got != string(want) {
				t.Errorf("%s, %s: the state differs from dump.txt:\n%s", dir, name, got)
			}
		}
		if replayed.Digest() != restored.Digest() {
			t.Errorf("%s: digests differ", dir)
		}
		if raw, _ := os.ReadFile(filepath.Join(dir, "snapshot.bin")); !bytes.Equal(raw, snapshot(t, restored)) {
			t.Errorf("%s: the snapshot is written differently now", dir)
		}
	}
}

func dump(t *testing.T, s *fsm.State) string {
	t.Helper()
	var b bytes.Buffer
	if err := s.Dump(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// readLog reads batches with a length of four bytes before each.
func readLog(t *testing.T, path string) (raw [][]byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for len(b) > 0 {
		n := binary.BigEndian.Uint32(b)
		raw = append(raw, b[4:4+n])
		b = b[4+n:]
	}
	return raw
}

// recordRelease makes a history that has every event and field.
func recordRelease(t *testing.T, dir string) {
	random := rand.New(rand.NewPCG(3, 4))
	w := fsmtest.NewWalk(t, random.IntN)
	for range 300 {
		w.Step()
	}
	a4, a6 := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:9::1")
	shop, spare := fsm.KeyOf("prod", "shop"), netip.MustParseAddr("203.0.113.2")
	w.Apply(
		&logv1.Event{Fact: &logv1.Event_LeaseTimesSet{LeaseTimesSet: &logv1.LeaseTimesSet{Times: &logv1.LeaseTimes{
			DetectionNanos: 3e9, HeartbeatNanos: 6e8, SettleNanos: 2e10}}}},
		&logv1.Event{Fact: &logv1.Event_RetentionSet{RetentionSet: &logv1.RetentionSet{RetentionNanos: 36e11}}},
		&logv1.Event{Fact: &logv1.Event_RestoreBegun{RestoreBegun: &logv1.RestoreBegun{FromRevision: 1, FromClusterId: make([]byte, 16)}}},
		fsmtest.Pool(&logv1.Pool{Name: "gold", Labels: map[string]string{"tier": "gold", "site": "a"}, ManualOnly: true,
			Addresses: []string{"203.0.113.0/28", "2001:db8:9::/64"},
			ServiceAllocation: &logv1.ServiceAllocation{Priority: 7, Namespaces: []string{"prod"},
				NamespaceSelectors: []*logv1.LabelSelector{{MatchLabels: map[string]string{"tier": "gold"}}},
				ServiceSelectors:   []*logv1.LabelSelector{{MatchLabels: map[string]string{"app": "shop"}}}},
			Quota: &logv1.Quota{PerNamespace: 5, Namespaces: map[string]uint32{"prod": 9, "test": 0}}, QuarantineNanos: 6e11}),
		fsmtest.Reservation(&logv1.Reservation{Name: "vault", Labels: map[string]string{"x": "y"}, Addresses: []string{"203.0.113.9", "203.0.113.12/31"},
			ServiceNamespace: "prod", ServiceName: "vault", UntilUnixNano: w.Now + 1e18}),
		fsmtest.Reservation(&logv1.Reservation{Name: "gone", Addresses: []string{"2001:db8:9::9"}}), fsmtest.ReservationDeleted("gone"),
		fsmtest.NamespaceDefined("prod", map[string]string{"tier": "gold"}), fsmtest.NamespaceDefined("gone", nil), fsmtest.NamespaceDeleted("gone"),
		fsmtest.Ad(&logv1.L2Advertisement{Name: "gold", Labels: map[string]string{"x": "y"}, IpAddressPools: []string{"gold"},
			IpAddressPoolSelectors: []*logv1.LabelSelector{{MatchLabels: map[string]string{"tier": "gold"}}},
			NodeSelectors:          []*logv1.LabelSelector{{MatchExpressions: []*logv1.LabelRequirement{{Key: "zone", Operator: "NotIn", Values: []string{"n9"}}}}},
			Interfaces:             []string{"eth0", "eth1"}, OnControlLoss: logv1.ControlLoss_CONTROL_LOSS_RELEASE, Placement: logv1.Placement_PLACEMENT_IDEAL,
			Rebalance: logv1.Rebalance_REBALANCE_GRADUAL, RebalancePerMinute: 12,
			ServiceSelectors: []*logv1.LabelSelector{{MatchLabels: map[string]string{"app": "shop"}}},
			PreferredNodeSelectors: []*logv1.PreferredNodeSelector{{Weight: 7, Preference: &logv1.LabelSelector{
				MatchLabels: map[string]string{"rack": "1"}}}}}),
		fsmtest.Declared(&logv1.Service{Namespace: "prod", Name: "shop", Labels: map[string]string{"app": "shop"},
			Ports:     []*logv1.Port{{Name: "http", Protocol: logv1.Protocol_PROTOCOL_TCP, Port: 80}, {Name: "quic", Protocol: logv1.Protocol_PROTOCOL_UDP, Port: 443}},
			Addresses: []string{"203.0.113.1", "2001:db8:9::1"}, Pool: "gold", IpFamilyPolicy: logv1.IPFamilyPolicy_IP_FAMILY_POLICY_REQUIRE_DUAL_STACK,
			IpFamilies:            []logv1.IPFamily{logv1.IPFamily_IP_FAMILY_IPV6, logv1.IPFamily_IP_FAMILY_IPV4},
			ExternalTrafficPolicy: logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_LOCAL, SharingKey: "shop",
			NodeSelectors: []*logv1.LabelSelector{{MatchLabels: map[string]string{"zone": "n1"}}}, Delivery: logv1.Delivery_DELIVERY_HOST, PreferredNode: "n8",
			HealthCheck: &logv1.HealthCheck{Http: &logv1.HttpCheck{Port: 8080, Path: "/healthz", Host: "shop"},
				IntervalNanos: 2e9, TimeoutNanos: 1e9, Rise: 2, Fall: 3},
			Selector: map[string]string{"app": "shop"}, AddressCount: 3}))
	w.Apply(fsmtest.Declared(fsmtest.Service("spare", 1)), fsmtest.AllocatedFor(fsm.KeyOf("default", "spare"), spare, "gold", fresh),
		fsmtest.Opened("n8", 1, map[string]string{"zone": "n8", "rack": "1"}), fsmtest.Opened("n9", 4, nil),
		fsmtest.AllocatedFor(shop, a4, "gold", logv1.AllocationReason_ALLOCATION_REASON_REQUESTED),
		fsmtest.AllocatedFor(shop, a6, "gold", logv1.AllocationReason_ALLOCATION_REASON_REQUESTED),
		fsmtest.AllocatedFor(shop, netip.MustParseAddr("2001:db8:9::3"), "gold", fresh),
		fsmtest.AllocatedFor(shop, netip.MustParseAddr("2001:db8:9::2"), "gold", fresh))
	onLink := fsmtest.OwnerAssigned(a4, "n8")
	onLink.GetOwnerAssigned().OnLink = true
	w.Apply(onLink, fsmtest.OwnerAssigned(a6, "n9"), fsmtest.Refused(shop, "for the record",
		&logv1.Refusal{Pool: "gold", Reason: logv1.RefusalReason_REFUSAL_REASON_FULL, Family: logv1.IPFamily_IP_FAMILY_IPV6},
		&logv1.Refusal{Pool: "gold", Reason: logv1.RefusalReason_REFUSAL_REASON_RESTING, Family: logv1.IPFamily_IP_FAMILY_IPV4, UntilUnixNano: w.Now + 6e11},
		&logv1.Refusal{Address: fsm.FromAddr(spare), Reason: logv1.RefusalReason_REFUSAL_REASON_IN_USE}),
		fsmtest.Released(fsm.KeyOf("default", "spare"), spare, w.Now+1))
	lost := fsmtest.OwnerAssigned(a6, "n8")
	lost.GetOwnerAssigned().Reason = logv1.OwnerReason_OWNER_REASON_OWNER_EXPIRED
	w.Apply(fsmtest.Expired("n9", w.S.Nodes["n9"].Session), lost, fsmtest.Opened("n9", 5, nil))
	w.Apply(fsmtest.RebalanceStarted(30), fsmtest.Endpoints(shop, []string{"n8"}, "n9"),
		fsmtest.HealthChanged(shop, "n8", true, "200 OK"), fsmtest.HealthChanged(shop, "n9", false, "connection refused"))
	drained := fsmtest.Drained("n8", logv1.DrainReason_DRAIN_REASON_ADMIN)
	drained.GetNodeDrained().GraceNanos = 3e11
	kernel := fsmtest.Conflict(a4, "n9", fsm.MAC{2, 1, 1, 1, 1, 2})
	kernel.GetAddressConflictObserved().Kind = logv1.ConflictKind_CONFLICT_KIND_KERNEL
	kernel.GetAddressConflictObserved().Holder = "n8"
	first := fsmtest.OwnerAssignedSoftly(a4, "n9", "n8")
	first.GetOwnerAssigned().FirstUse = true
	w.Apply(drained, fsmtest.OwnerReleasedSoftly(a4, "n8", w.S.Addresses[a4].Epoch), first, kernel,
		fsmtest.Quarantined(spare, "n9", fsm.MAC{2, 1, 1, 1, 1, 3}, w.Now+600e9))
	w.Apply(fsmtest.AnnounceFailed(a4, "n8", "no carrier"),
		fsmtest.Conflict(a6, "n9", fsm.MAC{2, 1, 1, 1, 1, 1}), fsmtest.Drained("n9", logv1.DrainReason_DRAIN_REASON_ADMIN))
	var log []byte
	for _, raw := range w.Raw {
		log = binary.BigEndian.AppendUint32(log, uint32(len(raw)))
		log = append(log, raw...)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"log.bin": log, "snapshot.bin": snapshot(t, w.S), "dump.txt": []byte(dump(t, w.S))} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
