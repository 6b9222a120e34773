package cli

import (
	"bytes"
	"net/netip"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// testNow is the time in every script: three in the morning.
var testNow = time.Date(2026, 3, 1, 3, 0, 0, 0, time.UTC)

func ago(d time.Duration) int64 { return testNow.Add(-d).UnixNano() }

func ip(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

func mac(last byte) []byte { return []byte{2, 0, 0, 0, 0, last} }

// healthyGroup has nothing to complain about.
func healthyGroup() *fakeGroup {
	g := &fakeGroup{
		get:    &adminv1.GetResponse{Revision: 1234, Pools: fixturePools(), L2Advertisements: fixtureAds(), Services: fixtureServices(), Namespaces: fixtureNamespaces(), Reservations: fixtureReservations(), Nodes: fixtureNodes()},
		events: fixtureEvents(),
	}
	for i, id := range []string{"m1", "m2", "m3"} {
		g.get.Members = append(g.get.Members, &adminv1.MemberStatus{
			Id: id, Address: "10.0.1." + string('1'+rune(i)) + ":7400", Voter: true, Leader: i == 0, Healthy: true, Revision: 1234,
			Version: "v1.0.0", Digest: bytes.Repeat([]byte{0xab}, 32), UpNanos: int64(49 * time.Hour),
		})
	}
	proven := &speakerv1.VipStatus{Epoch: 900, Announced: speakerv1.Announced_ANNOUNCED_PROVEN, Interfaces: []string{"eth0"}, ProvenBy: [][]byte{ip("192.0.2.1")}}
	unproven := &speakerv1.VipStatus{Epoch: 1200, Announced: speakerv1.Announced_ANNOUNCED_UNPROVEN, Interfaces: []string{"eth0"}}
	eligible := []*adminv1.NodeEligibility{
		{Node: "n1", Eligible: true, Reason: "eligible", Order: 2, Owned: 1},
		{Node: "n2", Eligible: true, Reason: "eligible", Order: 1, Preference: "weight 30", Owned: 1},
		{Node: "n10", Reason: "node is drained"},
	}
	g.get.Vips = []*adminv1.VipStatus{
		{
			Address: "2001:db8:0:1::10", Pool: "public", Services: []string{"shop/web"}, Owner: "n2", Epoch: 1200,
			OwnedSinceUnixNano: ago(12 * time.Minute), Reason: logv1.OwnerReason_OWNER_REASON_OWNER_EXPIRED,
			Announced:     []*adminv1.NodeAnnouncement{{Node: "n2", Status: unproven}},
			OnControlLoss: logv1.ControlLoss_CONTROL_LOSS_HOLD, Eligibility: eligible,
			Placement: &adminv1.VipPlacement{
				Allocation: logv1.AllocationReason_ALLOCATION_REASON_FRESH, Placement: logv1.Placement_PLACEMENT_IDEAL, Flaps: 3,
				DampedUntilUnixNano: testNow.Add(4*time.Minute + 20*time.Second).UnixNano(),
				WishReason:          logv1.OwnerReason_OWNER_REASON_IDEAL, WishNode: "n1",
			},
		},
		{
			Address: "192.0.2.10", Pool: "public", Services: []string{"default/dns", "default/dns-tcp", "shop/web"}, Owner: "n1", Epoch: 900,
			OwnedSinceUnixNano: ago(26 * time.Hour), Reason: logv1.OwnerReason_OWNER_REASON_NEW_ADDRESS,
			Announced:     []*adminv1.NodeAnnouncement{{Node: "n1", Status: proven}},
			OnControlLoss: logv1.ControlLoss_CONTROL_LOSS_HOLD, Eligibility: eligible,
		},
	}
	g.status = &adminv1.StatusResponse{
		ClusterId: bytes.Repeat([]byte{0x1f, 0x2e}, 8), ClusterVersion: 1, Leader: "m1", Term: 7, Revision: 1234, HistoryFrom: 1,
		LeaseTimes: &logv1.LeaseTimes{DetectionNanos: 750e6, HeartbeatNanos: 150e6, SettleNanos: 10e9},
		Members:    g.get.Members, NodesReady: 3, Nodes: 3, Vips: 2, VipsOwned: 2, VipsAnnounced: 2, Services: 3,
		RetentionNanos: int64(24 * time.Hour),
	}
	hit := &adminv1.ProbeHit{Mac: mac(1), Node: "n1", Interface: "eth0"}
	g.probe = &adminv1.ProbeResponse{Nodes: []*adminv1.NodeProbe{
		{Node: "n10", Hits: []*adminv1.ProbeHit{hit}}, {Node: "n1"}, {Node: "n2", Hits: []*adminv1.ProbeHit{hit}},
	}}
	return g
}

func fixturePools() []*adminv1.PoolStatus {
	return []*adminv1.PoolStatus{
		{Pool: &logv1.Pool{Name: "reserved", Addresses: []string{"203.0.113.0/28"}, ManualOnly: true, AvoidBuggyIps: true,
			Quota: &logv1.Quota{PerNamespace: 2, Namespaces: map[string]uint32{"shop": 9}}, QuarantineNanos: 600e9,
			ServiceAllocation: &logv1.ServiceAllocation{Priority: 3, Namespaces: []string{"shop"}, NamespaceSelectors: []*logv1.LabelSelector{{MatchLabels: map[string]string{"tier": "gold"}}}}}, AvailableIpv4: 15},
		{
			Pool:         &logv1.Pool{Name: "public", Labels: map[string]string{"zone": "edge"}, Addresses: []string{"192.0.2.10-192.0.2.99", "198.51.100.0/28", "2001:db8:0:1::/64"}},
			AssignedIpv4: 1, AvailableIpv4: 105, AssignedIpv6: 1, AvailableIpv6: 1<<63 - 1,
			Namespaces: map[string]uint32{"default": 1, "shop": 2}, Kept: 1, Resting: 3, Reserved: 11, Foreign: 2, Leaving: []*adminv1.Holder{{Address: "192.0.3.7", Service: "shop/web"}},
		},
	}
}

func fixtureReservations() []*adminv1.ReservationStatus {
	return []*adminv1.ReservationStatus{
		{
			Reservation: &logv1.Reservation{Name: "web", Addresses: []string{"192.0.2.10"}, ServiceNamespace: "shop", ServiceName: "web", UntilUnixNano: ago(-24 * time.Hour)},
			Holders:     []*adminv1.Holder{{Address: "192.0.2.10", Service: "shop/web"}},
		},
		{Reservation: &logv1.Reservation{Name: "later", Addresses: []string{"192.0.2.90-192.0.2.99"}}},
	}
}

func fixtureNamespaces() []*adminv1.NamespaceStatus {
	return []*adminv1.NamespaceStatus{
		{Namespace: &logv1.Namespace{Name: "default"}, Services: 2, Addresses: 2},
		{Namespace: &logv1.Namespace{Name: "shop", Labels: map[string]string{"tier": "gold"}}, Defined: true, Services: 1, Addresses: 2},
	}
}

func fixtureAds() []*logv1.L2Advertisement {
	return []*logv1.L2Advertisement{
		{Name: "everything", OnControlLoss: logv1.ControlLoss_CONTROL_LOSS_HOLD, Placement: logv1.Placement_PLACEMENT_STICKY},
		{
			Name: "edge", IpAddressPools: []string{"public"}, IpAddressPoolSelectors: []*logv1.LabelSelector{{MatchLabels: map[string]string{"zone": "edge"}}},
			NodeSelectors: []*logv1.LabelSelector{
				{MatchLabels: map[string]string{"rack": "a"}},
				{MatchExpressions: []*logv1.LabelRequirement{{Key: "rack", Operator: "In", Values: []string{"b", "c"}}, {Key: "old", Operator: "DoesNotExist"}}},
			},
			ServiceSelectors: []*logv1.LabelSelector{{MatchLabels: map[string]string{"team": "net"}}},
			PreferredNodeSelectors: []*logv1.PreferredNodeSelector{
				{Weight: 80, Preference: &logv1.LabelSelector{MatchLabels: map[string]string{"rack": "a"}}},
				{Weight: 20, Preference: &logv1.LabelSelector{MatchExpressions: []*logv1.LabelRequirement{{Key: "ssd", Operator: "Exists"}}}},
			},
			Interfaces:    []string{"eth0", "eth1"},
			OnControlLoss: logv1.ControlLoss_CONTROL_LOSS_RELEASE, Placement: logv1.Placement_PLACEMENT_IDEAL,
		},
	}
}

func fixtureServices() []*adminv1.ServiceStatus {
	port := func(name string, p logv1.Protocol, n uint32) *logv1.Port {
		return &logv1.Port{Name: name, Protocol: p, Port: n}
	}
	return []*adminv1.ServiceStatus{
		{
			Service: &logv1.Service{
				Namespace: "shop", Name: "web", Ports: []*logv1.Port{port("http", 1, 80), port("https", 1, 443)},
				IpFamilyPolicy: logv1.IPFamilyPolicy_IP_FAMILY_POLICY_REQUIRE_DUAL_STACK, IpFamilies: []logv1.IPFamily{1, 2},
				ExternalTrafficPolicy: 1, Delivery: logv1.Delivery_DELIVERY_HOST, SharingKey: "edge",
				HealthCheck: &logv1.HealthCheck{Http: &logv1.HttpCheck{Path: "/healthz"}, IntervalNanos: 2e9, TimeoutNanos: 1e9, Rise: 2, Fall: 3},
			},
			Addresses: []string{"192.0.2.10", "2001:db8:0:1::10"}, DeclaredRevision: 899, DeclaredUnixNano: ago(26 * time.Hour),
			Endpoints: &adminv1.ServiceEndpoints{Ready: []string{"n1", "n2"}, Terminating: []string{"n10"}, ObservedUnixNano: ago(time.Minute)},
			Health: []*adminv1.NodeHealth{
				{Node: "n1", Healthy: proto.Bool(true), SinceUnixNano: ago(time.Hour), Reason: "status 200 OK", Status: &speakerv1.HealthStatus{
					State: speakerv1.HealthState_HEALTH_STATE_HEALTHY, Reason: "status 204 No Content", SinceUnixNano: ago(time.Hour)}},
				{Node: "n10", Healthy: proto.Bool(false), SinceUnixNano: ago(time.Hour), Reason: "connection refused"},
				{Node: "n2", Status: &speakerv1.HealthStatus{State: speakerv1.HealthState_HEALTH_STATE_UNKNOWN, SinceUnixNano: ago(time.Second)}},
			},
		},
		{
			Service: &logv1.Service{
				Namespace: "default", Name: "dns", Labels: map[string]string{"team": "net"}, Ports: []*logv1.Port{port("", 2, 53)},
				IpFamilyPolicy: 1, IpFamilies: []logv1.IPFamily{1}, ExternalTrafficPolicy: 1, Delivery: 1, SharingKey: "edge", PreferredNode: "n2", AddressCount: 2,
			},
			Addresses: []string{"192.0.2.10"}, DeclaredRevision: 1000, DeclaredUnixNano: ago(90 * time.Minute),
		},
	}
}

func fixtureNodes() []*adminv1.NodeStatus {
	node := func(name string, n byte, owned uint32) *adminv1.NodeStatus {
		return &adminv1.NodeStatus{
			Name: name, State: "Ready", Session: 800 + uint64(n), Incarnation: 2, Macs: [][]byte{mac(n)}, Labels: map[string]string{"rack": "a"},
			Links:   []*logv1.Link{{Name: "eth0", Mac: mac(n), Up: true, Prefixes: []string{"192.0.2.0/24"}}, {Name: "eth1", Mac: mac(n + 100)}},
			Version: "v1.0.0", UnheardNanos: 42e6, Seen: 1234, Owned: owned,
		}
	}
	return []*adminv1.NodeStatus{node("n10", 10, 0), node("n2", 2, 1), node("n1", 1, 1)}
}

func fixtureEvents() []*adminv1.EventsResponse {
	event := func(rev uint64, pos uint32, before time.Duration, actor string, ev *logv1.Event) *adminv1.EventsResponse {
		return &adminv1.EventsResponse{Revision: rev, Position: pos, TimeUnixNano: ago(before), Actor: actor, Event: ev}
	}
	return []*adminv1.EventsResponse{
		event(899, 0, 26*time.Hour, "admin:alice", &logv1.Event{Fact: &logv1.Event_ServiceDeclared{ServiceDeclared: &logv1.ServiceDeclared{
			Source: "apply", Service: &logv1.Service{Namespace: "shop", Name: "web", Ports: []*logv1.Port{{Name: "http", Protocol: 1, Port: 80}}},
		}}}),
		event(899, 1, 26*time.Hour, "admin:alice", &logv1.Event{Fact: &logv1.Event_AddressAllocated{AddressAllocated: &logv1.AddressAllocated{
			Address: ip("192.0.2.10"), Namespace: "shop", Name: "web", Pool: "public", Reason: logv1.AllocationReason_ALLOCATION_REASON_FRESH,
		}}}),
		event(900, 0, 26*time.Hour, "member:m1", &logv1.Event{Fact: &logv1.Event_OwnerAssigned{OwnerAssigned: &logv1.OwnerAssigned{
			Address: ip("192.0.2.10"), Node: "n1", Reason: logv1.OwnerReason_OWNER_REASON_NEW_ADDRESS,
		}}}),
		event(1200, 0, 12*time.Minute, "member:m1", &logv1.Event{Fact: &logv1.Event_SessionExpired{SessionExpired: &logv1.SessionExpired{Node: "n10", Session: 700}}}),
		event(1200, 1, 12*time.Minute, "member:m1", &logv1.Event{Fact: &logv1.Event_OwnerAssigned{OwnerAssigned: &logv1.OwnerAssigned{
			Address: ip("2001:db8:0:1::10"), Node: "n2", Reason: logv1.OwnerReason_OWNER_REASON_OWNER_EXPIRED,
		}}}),
		event(1210, 0, 5*time.Minute+30*time.Second, "speaker:n1", &logv1.Event{Fact: &logv1.Event_AddressConflictObserved{AddressConflictObserved: &logv1.AddressConflictObserved{
			Address: ip("192.0.2.10"), Node: "n1", Mac: mac(0x66),
		}}}),
	}
}

// brokenGroup has everything to complain about.
func brokenGroup() *fakeGroup {
	g := healthyGroup()
	v4, v6 := g.get.Vips[1], g.get.Vips[0]
	v4.ConflictMac = mac(0x66)
	v4.Announced = append(v4.Announced, &adminv1.NodeAnnouncement{Node: "n10", Status: &speakerv1.VipStatus{Epoch: 700, Announced: speakerv1.Announced_ANNOUNCED_UNCONFIRMED}})
	v6.Announced[0].Status = &speakerv1.VipStatus{Epoch: 1200, Announced: speakerv1.Announced_ANNOUNCED_FAILED, Reason: "link eth0 is down"}
	g.get.Vips = append(g.get.Vips, &adminv1.VipStatus{
		Address: "192.0.2.9", Pool: "public", Services: []string{"default/lost"}, Waiting: "no node is eligible: 2 x node is drained",
		OnControlLoss: logv1.ControlLoss_CONTROL_LOSS_RELEASE,
	})
	g.get.Services[1].Addresses, g.get.Services[1].Pending = nil, "pool reserved: no free IPv4 address"
	g.get.Services[1].Refusals = []*logv1.Refusal{
		{Pool: "reserved", Reason: logv1.RefusalReason_REFUSAL_REASON_FULL, Family: logv1.IPFamily_IP_FAMILY_IPV4},
		{Pool: "edge", Reason: logv1.RefusalReason_REFUSAL_REASON_RESTING, Family: logv1.IPFamily_IP_FAMILY_IPV4, UntilUnixNano: ago(-time.Hour)},
		{Pool: "public", Reason: logv1.RefusalReason_REFUSAL_REASON_NOT_SELECTED, Family: logv1.IPFamily_IP_FAMILY_IPV4},
	}
	g.get.Nodes[0].State, g.get.Nodes[0].UnheardNanos = "Expired", int64(12*time.Minute)
	g.get.Nodes[1].State, g.get.Nodes[1].Drained, g.get.Nodes[1].DrainReason = "Drained", true, logv1.DrainReason_DRAIN_REASON_ADMIN
	m3 := g.get.Members[2]
	m3.Healthy, m3.Problem, m3.Revision, m3.Version, m3.Digest, m3.UpNanos = false, "connection refused", 0, "", nil, 0
	g.status.NodesReady, g.status.Vips, g.status.VipsOwned, g.status.VipsAnnounced, g.status.ServicesPending = 1, 3, 2, 1, 1
	g.status.Problems = []string{
		"1 x member unreachable: m3 (connection refused)",
		"1 x address without owner: 192.0.2.9 (no node is eligible: 2 x node is drained)",
	}
	g.probe.Nodes[0].Hits = []*adminv1.ProbeHit{{Mac: mac(0x66), Interface: "eth0"}}
	g.probe.Nodes[1].Error = "no interface reaches 192.0.2.10"
	return g
}

// softGroup is in the middle of a soft drain of n1, and foreign stations have two addresses.
func softGroup() *fakeGroup {
	g := healthyGroup()
	until := testNow.Add(4*time.Minute + 10*time.Second).UnixNano()
	v4 := g.get.Vips[1]
	v4.Owner, v4.Predecessor, v4.SoftUntilUnixNano = "n2", "n1", until
	v4.Reason = logv1.OwnerReason_OWNER_REASON_DRAIN
	v4.Placement = &adminv1.VipPlacement{Placement: logv1.Placement_PLACEMENT_IDEAL, WishReason: logv1.OwnerReason_OWNER_REASON_IDEAL, WishNode: "n3"}
	v4.Announced = []*adminv1.NodeAnnouncement{
		{Node: "n1", Status: &speakerv1.VipStatus{Epoch: v4.GetEpoch() - 10, Announced: speakerv1.Announced_ANNOUNCED_SOFT, Interfaces: []string{"eth0"},
			Reason: "no longer the owner; answers only the clients that know this node", Connections: proto.Uint32(42)}},
		{Node: "n2", Status: &speakerv1.VipStatus{Epoch: v4.GetEpoch(), Announced: speakerv1.Announced_ANNOUNCED_UNPROVEN, Interfaces: []string{"eth0"}}},
	}
	v6 := g.get.Vips[0]
	v6.ConflictMac, v6.Conflict = mac(0x22), "KernelAnswers{n10}: the kernel of node n10 answers for it"
	for _, n := range g.get.Nodes {
		if n.GetName() == "n1" {
			n.State, n.Drained, n.DrainReason = "Drained", true, logv1.DrainReason_DRAIN_REASON_ADMIN
			n.Owned, n.Soft, n.GraceUntilUnixNano = 0, 1, until
		}
	}
	g.get.Quarantine = []*adminv1.QuarantineStatus{
		{Address: "192.0.2.12", Pool: "public", Mac: mac(0x66), Node: "n1", SinceUnixNano: testNow.Add(-time.Minute).UnixNano(), UntilUnixNano: testNow.Add(9 * time.Minute).UnixNano()},
		{Address: "192.0.2.9", Pool: "public", Mac: mac(0x67), Node: "n2", SinceUnixNano: testNow.Add(-time.Hour).UnixNano(), UntilUnixNano: testNow.Add(-time.Second).UnixNano()},
	}
	return g
}

// emptyGroup was founded a moment ago.
func emptyGroup() *fakeGroup {
	g := healthyGroup()
	g.get = &adminv1.GetResponse{Revision: 1, Members: g.get.Members}
	g.status.Nodes, g.status.NodesReady, g.status.Vips, g.status.VipsOwned, g.status.VipsAnnounced, g.status.Services = 0, 0, 0, 0, 0, 0
	g.events, g.probe = nil, &adminv1.ProbeResponse{}
	return g
}

func fixtureGroup(name string) (*fakeGroup, bool) {
	makers := map[string]func() *fakeGroup{"soft": softGroup, "healthy": healthyGroup, "broken": brokenGroup, "empty": emptyGroup}
	mk, ok := makers[name]
	if !ok {
		return nil, false
	}
	g := mk()
	g.snapshot = fixtureSnapshot()
	if name == "empty" {
		g.fail = map[string]error{"Probe": status.Error(codes.Unavailable, "no speaker is attached to this member; ask another member")}
	}
	return g, true
}

// fixtureSnapshot is a real one.
func fixtureSnapshot() []byte {
	s := fsm.New()
	events := []*logv1.Event{
		{Fact: &logv1.Event_ClusterFounded{ClusterFounded: &logv1.ClusterFounded{ClusterId: bytes.Repeat([]byte{7}, 16), ClusterVersion: 1}}},
		{Fact: &logv1.Event_PoolDefined{PoolDefined: &logv1.PoolDefined{Pool: fixturePools()[0].GetPool()}}},
		{Fact: &logv1.Event_ServiceDeclared{ServiceDeclared: &logv1.ServiceDeclared{Source: "apply", Service: fixtureServices()[1].GetService()}}},
	}
	for _, ev := range events {
		b := s.NextBatch(ago(time.Hour), []string{"admin:alice"}, []*logv1.Event{ev})
		if _, _, err := s.Apply(fsm.EncodeBatch(b)); err != nil {
			panic(err)
		}
	}
	var b bytes.Buffer
	if err := fsm.WriteSnapshot(&b, s); err != nil {
		panic(err)
	}
	return b.Bytes()
}
