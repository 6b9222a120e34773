package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
)

func TestGet(t *testing.T) {
	s := newSolo(t)
	session, epoch := s.owned()
	s.attach(t, &speakerv1.AttachRequest{
		Hello: &speakerv1.AttachHello{Node: "n1", Session: session, Version: "v9"},
		Vips: []*speakerv1.VipStatus{{
			Address: []byte{192, 0, 2, 1}, Epoch: epoch, Announced: speakerv1.Announced_ANNOUNCED_PROVEN, Interfaces: []string{"eth0"},
		}},
	})
	resp, err := s.admin.Get(t.Context(), &adminv1.GetRequest{Kinds: []string{"pools", "l2advertisements", "services", "vips", "nodes", "members"}})
	if err != nil {
		t.Fatal(err)
	}
	if p := resp.GetPools(); len(p) != 1 || p[0].GetAssignedIpv4() != 1 || p[0].GetAvailableIpv4() != 255 {
		t.Errorf("pools: %v", p)
	}
	if svc := resp.GetServices(); len(svc) != 1 || !slices.Equal(svc[0].GetAddresses(), []string{"192.0.2.1"}) {
		t.Errorf("services: %v", svc)
	}
	vip := resp.GetVips()[0]
	if vip.GetOwner() != "n1" || vip.GetEpoch() != epoch || vip.GetWaiting() != "" || vip.GetOnControlLoss() != logv1.ControlLoss_CONTROL_LOSS_HOLD {
		t.Errorf("desired: %v", vip)
	}
	if a := vip.GetAnnounced(); len(a) != 1 || a[0].GetNode() != "n1" || a[0].GetStatus().GetAnnounced() != speakerv1.Announced_ANNOUNCED_PROVEN {
		t.Errorf("announced: %v", a)
	}
	if e := vip.GetEligibility(); len(e) != 2 || !e[0].GetEligible() || e[0].GetReason() == "" {
		t.Errorf("eligibility: %v", e)
	}
	if n := resp.GetNodes(); len(n) != 2 || n[0].GetState() != "Ready" || n[0].GetOwned() != 1 || n[0].GetVersion() != "v9" {
		t.Errorf("nodes: %v", n)
	}
	if m := resp.GetMembers(); len(m) != 1 || !m[0].GetHealthy() || !m[0].GetLeader() {
		t.Errorf("members: %v", m)
	}
	one, err := s.admin.Get(t.Context(), &adminv1.GetRequest{Kinds: []string{"nodes", "services"}, Name: "n2"})
	if err != nil || len(one.GetNodes()) != 1 || len(one.GetServices()) != 0 {
		t.Errorf("by name: %v, %v", one, err)
	}
	if _, err := s.admin.Get(t.Context(), &adminv1.GetRequest{Kinds: []string{"pods"}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("unknown kind: %v", err)
	}
}

func TestStatusSaysWhatToLookAt(t *testing.T) {
	s := newSolo(t)
	session, epoch := s.owned()
	resp, err := s.admin.Status(t.Context(), &adminv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if resp.GetVips() != 1 || resp.GetVipsOwned() != 1 || resp.GetVipsAnnounced() != 0 || resp.GetNodesReady() != 2 || resp.GetLeader() != "m1" || resp.GetHistoryFrom() != 1 {
		t.Errorf("%v", resp)
	}
	if len(resp.GetProblems()) == 0 || !strings.Contains(strings.Join(resp.GetProblems(), "\n"), "192.0.2.1 (n1)") {
		t.Errorf("an owner that says nothing is a problem: %q", resp.GetProblems())
	}
	s.attach(t, &speakerv1.AttachRequest{
		Hello: &speakerv1.AttachHello{Node: "n1", Session: session},
		Vips:  []*speakerv1.VipStatus{{Address: []byte{192, 0, 2, 1}, Epoch: epoch, Announced: speakerv1.Announced_ANNOUNCED_UNPROVEN}},
	})
	resp, err = s.admin.Status(t.Context(), &adminv1.StatusRequest{})
	if err != nil || resp.GetVipsAnnounced() != 1 {
		t.Errorf("%v, %v", resp, err)
	}
	for _, p := range resp.GetProblems() {
		if !strings.Contains(p, "certificate") { // those of the test live for an hour
			t.Errorf("problem in a healthy group: %q", p)
		}
	}
}

func (s *solo) events(t *testing.T, req *adminv1.EventsRequest) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := s.admin.Events(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for {
		ev, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%d.%d %s", ev.GetRevision(), ev.GetPosition(), fsm.EventName(ev.GetEvent())))
	}
}

func TestEventFilters(t *testing.T) {
	s := newSolo(t)
	_, epoch := s.owned() // revisions 1 to 4
	addr := []byte{192, 0, 2, 1}
	s.apply(&logv1.Event{Fact: &logv1.Event_OwnerReleased{OwnerReleased: &logv1.OwnerReleased{Address: addr, Node: "n1", Epoch: epoch}}},
		&logv1.Event{Fact: &logv1.Event_AddressReleased{AddressReleased: &logv1.AddressReleased{Address: addr, Namespace: "ns", Name: "web"}}},
		&logv1.Event{Fact: &logv1.Event_ServiceDeleted{ServiceDeleted: &logv1.ServiceDeleted{Namespace: "ns", Name: "web"}}})
	for _, tc := range []struct {
		name string
		req  *adminv1.EventsRequest
		want []string
	}{
		{"all from a revision", &adminv1.EventsRequest{SinceRevision: 3}, []string{
			"3.0 ServiceDeclared", "3.1 AddressAllocated", "4.0 OwnerAssigned", "5.0 OwnerReleased", "5.1 AddressReleased", "5.2 ServiceDeleted"}},
		{"address", &adminv1.EventsRequest{Address: "192.0.2.1"}, []string{
			"3.1 AddressAllocated", "4.0 OwnerAssigned", "5.0 OwnerReleased", "5.1 AddressReleased"}},
		{"service with the owners of its addresses", &adminv1.EventsRequest{Service: "ns/web"}, []string{
			"3.0 ServiceDeclared", "3.1 AddressAllocated", "4.0 OwnerAssigned", "5.0 OwnerReleased", "5.1 AddressReleased", "5.2 ServiceDeleted"}},
		{"service, late", &adminv1.EventsRequest{Service: "ns/web", SinceRevision: 4}, []string{
			"4.0 OwnerAssigned", "5.0 OwnerReleased", "5.1 AddressReleased", "5.2 ServiceDeleted"}},
		{"node", &adminv1.EventsRequest{Node: "n1"}, []string{"2.0 SessionOpened", "4.0 OwnerAssigned", "5.0 OwnerReleased"}},
		{"node and address", &adminv1.EventsRequest{Node: "n1", Address: "192.0.2.1"}, []string{"4.0 OwnerAssigned", "5.0 OwnerReleased"}},
		{"in the future", &adminv1.EventsRequest{SinceUnixNano: time.Now().Add(time.Hour).UnixNano()}, nil},
	} {
		if got := s.events(t, tc.req); !slices.Equal(got, tc.want) {
			t.Errorf("%s:\n got %q\nwant %q", tc.name, got, tc.want)
		}
	}
	for _, req := range []*adminv1.EventsRequest{{Address: "here"}, {Service: "web"}} {
		stream, err := s.admin.Events(t.Context(), req)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", req, err)
		}
	}
}

func TestEventsFollow(t *testing.T) {
	s := newSolo(t)
	s.apply(founded())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := s.admin.Events(ctx, &adminv1.EventsRequest{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	for want := uint64(1); want < 20; want++ {
		ev, err := stream.Recv()
		if err != nil || ev.GetRevision() != want || ev.GetActor() != "admin:test" {
			t.Fatalf("%v, %v; want revision %d", ev, err, want)
		}
		s.apply(poolDefined("p", "192.0.2.0/24"))
	}
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled && err != nil {
		for err == nil {
			_, err = stream.Recv()
		}
	}
}

func TestSnapshotSaveAndRestore(t *testing.T) {
	g := newTrio(t)
	g.lead(1)
	for _, m := range g.members {
		m.apply(founded(), poolDefined("p", "192.0.2.0/24"))
	}
	down, err := g.admins[0].SnapshotSave(t.Context(), &adminv1.SnapshotSaveRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var backup bytes.Buffer
	for {
		m, err := down.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		backup.Write(m.GetChunk())
	}
	restored := make(chan *decider.RestoreTo, 1)
	g.members[1].setDecide(func(_ context.Context, cmd decider.Command) (decider.Result, error) {
		restored <- cmd.(*decider.RestoreTo)
		return decider.Result{Revision: 9, Restored: &decider.RestoreResult{FromRevision: 1, ServicesChanged: 2, AddressesChanged: 3}}, nil
	})
	upload := func(i int, data []byte, dry bool) (*adminv1.SnapshotRestoreResponse, error) {
		up, err := g.admins[i].SnapshotRestore(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for chunk := range slices.Chunk(data, 100) {
			if err := up.Send(&adminv1.SnapshotRestoreRequest{Chunk: chunk, DryRun: dry}); err != nil {
				break
			}
		}
		return up.CloseAndRecv()
	}
	for i := range g.members { // the leader and those that forward
		resp, err := upload(i, backup.Bytes(), i == 0)
		if err != nil || resp.GetRevision() != 9 || resp.GetServicesChanged() != 2 {
			t.Fatalf("through m%d: %v, %v", i+1, resp, err)
		}
		cmd := <-restored
		if cmd.Actor != "admin:alice" || cmd.DryRun != (i == 0) || cmd.Older.Pools["p"] == nil {
			t.Errorf("through m%d: %+v", i+1, cmd)
		}
	}
	for name, data := range map[string][]byte{
		"cut off": backup.Bytes()[:backup.Len()-3], "empty": nil, "damaged": append([]byte{1}, backup.Bytes()[1:]...),
	} {
		if _, err := upload(0, data, false); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(restored) != 0 {
		t.Error("a broken backup reached the decider")
	}
}

func TestFetchLog(t *testing.T) {
	ca := newAuthority(t)
	m := newFakeMember(t, ca, "m1")
	m.setLeader("m1", m.addr)
	m.apply(founded())
	for range 5 {
		m.apply(poolDefined("p", "192.0.2.0/24"))
	}
	cert := ca.issue("member/m2", time.Now())
	client := memberv1.NewMemberServiceClient(ca.dial(m.addr, &cert))
	at, err := client.ReadIndex(t.Context(), &memberv1.ReadIndexRequest{})
	if err != nil || at.GetRevision() != 6 {
		t.Fatalf("read index: %v, %v", at, err)
	}
	stream, err := client.FetchLog(t.Context(), &memberv1.FetchLogRequest{From: 2, Until: 5})
	if err != nil {
		t.Fatal(err)
	}
	state := fsm.New()
	if _, _, err := state.Apply(m.log[0].Raw); err != nil {
		t.Fatal(err)
	}
	for want := uint64(2); ; want++ {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) && want == 5 {
			return
		}
		if err != nil || e.GetRevision() != want {
			t.Fatalf("%v, %v; want revision %d", e, err, want)
		}
		if _, _, err := state.Apply(e.GetBatch()); err != nil {
			t.Errorf("a fetched batch does not apply: %v", err)
		}
	}
}
