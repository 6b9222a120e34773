package service

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/decider"
	"github.com/quorumlb/quorumlb/raftnode/lease"
)

// solo is one leading member with a speaker of n1 and an administrator.
type solo struct {
	*fakeMember
	speaker speakerv1.SpeakerServiceClient
	admin   adminv1.AdminServiceClient
}

func newSolo(t *testing.T) *solo {
	ca := newAuthority(t)
	m := newFakeMember(t, ca, "m1")
	m.setLeader("m1", m.addr)
	speaker, admin := ca.issue("speaker/n1", time.Now()), ca.issue("admin/alice", time.Now())
	return &solo{
		fakeMember: m,
		speaker:    speakerv1.NewSpeakerServiceClient(ca.dial(m.addr, &speaker)),
		admin:      adminv1.NewAdminServiceClient(ca.dial(m.addr, &admin)),
	}
}

func sessionOpened(node string, mac byte) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_SessionOpened{SessionOpened: &logv1.SessionOpened{
		Node: node, Process: []byte("0123456789abcdef"), Incarnation: 1, Macs: [][]byte{{2, 0, 0, 0, 0, mac}},
		Links: []*logv1.Link{{Name: "eth0", Up: true}},
	}}}
}

// owned declares a service with 192.0.2.1, owned by n1, and returns the session
// and the epoch.
func (s *solo) owned() (session, epoch uint64) {
	s.apply(founded(), poolDefined("p", "192.0.2.0/24"), &logv1.Event{Fact: &logv1.Event_AdvertisementDefined{
		AdvertisementDefined: &logv1.AdvertisementDefined{Advertisement: &logv1.L2Advertisement{Name: "ad"}}}})
	session = s.apply(sessionOpened("n1", 1), sessionOpened("n2", 2))
	addr := netip.MustParseAddr("192.0.2.1").AsSlice()
	s.apply(
		&logv1.Event{Fact: &logv1.Event_ServiceDeclared{ServiceDeclared: &logv1.ServiceDeclared{
			Service: &logv1.Service{Namespace: "ns", Name: "web"}, Source: "apply"}}},
		&logv1.Event{Fact: &logv1.Event_AddressAllocated{AddressAllocated: &logv1.AddressAllocated{Address: addr, Namespace: "ns", Name: "web", Pool: "p"}}},
	)
	epoch = s.apply(&logv1.Event{Fact: &logv1.Event_OwnerAssigned{OwnerAssigned: &logv1.OwnerAssigned{
		Address: addr, Node: "n1", Reason: logv1.OwnerReason_OWNER_REASON_NEW_ADDRESS}}})
	return session, epoch
}

func TestWatchStream(t *testing.T) {
	s := newSolo(t)
	session, epoch := s.owned()
	for min, want := range map[uint64]codes.Code{0: codes.OK, epoch: codes.OK, epoch + 1: codes.Unavailable} {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := s.speaker.Watch(ctx, &speakerv1.WatchRequest{Node: "n1", Session: session, MinRevision: min})
		if err != nil {
			t.Fatal(err)
		}
		msg, err := stream.Recv()
		if status.Code(err) != want {
			t.Errorf("min %d: %v, want %v", min, err, want)
		}
		if err == nil && (msg.GetRevision() != epoch || msg.GetView().GetVips()[0].GetEpoch() != epoch) {
			t.Errorf("min %d: %v", min, msg)
		}
		cancel()
	}
	for session, reason := range map[uint64]string{session - 1: ReasonReplaced, 0: ReasonNoSession} {
		stream, err := s.speaker.Watch(t.Context(), &speakerv1.WatchRequest{Node: "n1", Session: session})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.FailedPrecondition || reasonOf(err) != reason {
			t.Errorf("session %d: %v (reason %q)", session, err, reasonOf(err))
		}
	}
}

// TestWatchIsQuick: a delta is at the reader well within the time that a
// failover can spare. The median of many, because this machine is shared.
func TestWatchIsQuick(t *testing.T) {
	s := newSolo(t)
	session, epoch := s.owned()
	stream, err := s.speaker.Watch(t.Context(), &speakerv1.WatchRequest{Node: "n1", Session: session})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr("192.0.2.1").AsSlice()
	var took []time.Duration
	for range 50 {
		s.apply(&logv1.Event{Fact: &logv1.Event_OwnerReleased{OwnerReleased: &logv1.OwnerReleased{Address: addr, Node: "n1", Epoch: epoch}}})
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		epoch = s.apply(&logv1.Event{Fact: &logv1.Event_OwnerAssigned{OwnerAssigned: &logv1.OwnerAssigned{Address: addr, Node: "n1"}}})
		msg, err := stream.Recv()
		if err != nil || msg.GetRevision() != epoch {
			t.Fatalf("%v, %v", msg, err)
		}
		took = append(took, time.Since(start))
	}
	m := median(took)
	t.Logf("batch to reader, through gRPC and TLS: median %v", m)
	if m > 20*time.Millisecond {
		t.Errorf("median %v", m)
	}
}

func TestHeartbeatStream(t *testing.T) {
	s := newSolo(t)
	stream, err := s.speaker.Heartbeat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for seq := range uint64(3) {
		if err := stream.Send(&speakerv1.HeartbeatRequest{Node: "n1", Session: 5, Seq: seq + 1, Seen: 9}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "heartbeats heard", func() bool { return len(s.heartbeats()) == 3 })
	if got, want := s.heartbeats()[2], (lease.Heartbeat{Node: "n1", Session: 5, Seq: 3, Seen: 9}); got != want {
		t.Errorf("heard %+v, want %+v", got, want)
	}
	for _, tc := range []struct {
		ack  lease.Ack
		want *speakerv1.HeartbeatResponse
	}{
		{lease.Ack{Node: "n1", Session: 5, Seq: 3, Fence: time.Second, Detection: time.Millisecond},
			&speakerv1.HeartbeatResponse{AckedSeq: 3, FenceNanos: int64(time.Second), DetectionNanos: int64(time.Millisecond), Session: 5}},
		{lease.Ack{Node: "n1", Session: 5, Refusal: lease.Behind, Need: 12},
			&speakerv1.HeartbeatResponse{Session: 5, Refusal: speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_BEHIND, NeedRevision: 12}},
		{lease.Ack{Node: "n1", Session: 5, Refusal: lease.Replaced},
			&speakerv1.HeartbeatResponse{Session: 5, Refusal: speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_REPLACED}},
	} {
		s.acks <- tc.ack
		got, err := stream.Recv()
		if err != nil || !proto.Equal(got, tc.want) {
			t.Errorf("%v, %v; want %v", got, err, tc.want)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// attach opens an Attach stream and takes the first answer.
func (s *solo) attach(t *testing.T, first *speakerv1.AttachRequest) speakerv1.SpeakerService_AttachClient {
	t.Helper()
	stream, err := s.speaker.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(first); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	return stream
}

func TestAttachTellsTheMembers(t *testing.T) {
	s := newSolo(t)
	eventually(t, "a member list", func() bool { m, _ := s.roster.get(); return len(m) == 1 })
	stream, err := s.speaker.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&speakerv1.AttachRequest{Hello: &speakerv1.AttachHello{Node: "n1", Session: 1}}); err != nil {
		t.Fatal(err)
	}
	msg, err := stream.Recv()
	if err != nil || len(msg.GetMembers()) != 1 || msg.GetMembers()[0].GetAddress() != s.addr {
		t.Fatalf("%v, %v", msg, err)
	}
	s.mu.Lock()
	s.members = append(s.members, consensus.Member{ID: "m2", Address: "192.0.2.9:7400"})
	s.mu.Unlock()
	if msg, err = stream.Recv(); err != nil || len(msg.GetMembers()) != 2 {
		t.Errorf("after a change: %v, %v", msg, err)
	}
}

func TestAttachAnewEndsTheOldStream(t *testing.T) {
	s := newSolo(t)
	hello := &speakerv1.AttachRequest{Hello: &speakerv1.AttachHello{Node: "n1", Session: 1}}
	old := s.attach(t, hello)
	s.attach(t, hello)
	var err error
	for err == nil {
		_, err = old.Recv()
	}
	if status.Code(err) != codes.Aborted {
		t.Errorf("old stream: %v", err)
	}
}

func TestAttachOfAReplacedProcess(t *testing.T) {
	s := newSolo(t)
	session, _ := s.owned()
	stream, err := s.speaker.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&speakerv1.AttachRequest{Hello: &speakerv1.AttachHello{Node: "n1", Session: session - 1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.FailedPrecondition || reasonOf(err) != ReasonReplaced {
		t.Errorf("%v (reason %q)", err, reasonOf(err))
	}
}

func TestProbeAsksTheSpeakers(t *testing.T) {
	s := newSolo(t)
	session, _ := s.owned()
	s.apply(&logv1.Event{Fact: &logv1.Event_NodeLinksChanged{NodeLinksChanged: &logv1.NodeLinksChanged{
		Node: "n2", Links: []*logv1.Link{{Name: "bond0", Mac: []byte{2, 0, 0, 0, 0, 3}, Up: true}},
	}}})
	if _, err := s.admin.Probe(t.Context(), &adminv1.ProbeRequest{Address: "192.0.2.1"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("without speakers: %v", err)
	}
	stream := s.attach(t, &speakerv1.AttachRequest{Hello: &speakerv1.AttachHello{Node: "n1", Session: session}})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			msg, err := stream.Recv()
			if err != nil {
				return
			}
			q := msg.GetProbe()
			if q == nil {
				continue
			}
			_ = stream.Send(&speakerv1.AttachRequest{ProbeAnswers: []*speakerv1.ProbeAnswer{{
				Id: q.GetId(), Address: q.GetAddress(), Hits: []*speakerv1.ProbeHit{{Mac: []byte{2, 0, 0, 0, 0, 2}, Interface: "eth0"}, {Mac: []byte{9, 9, 9, 9, 9, 9}}, {Mac: []byte{2, 0, 0, 0, 0, 3}}},
			}}})
			return
		}
	})
	resp, err := s.admin.Probe(t.Context(), &adminv1.ProbeRequest{Address: "192.0.2.1"})
	wg.Wait()
	if err != nil || len(resp.GetNodes()) != 1 || len(resp.GetNodes()[0].GetHits()) != 3 {
		t.Fatalf("%v, %v", resp, err)
	}
	if hits := resp.GetNodes()[0].GetHits(); hits[0].GetNode() != "n2" || hits[1].GetNode() != "" || hits[2].GetNode() != "n2" {
		t.Errorf("hits: %v", hits)
	}
	// A speaker that does not answer is named, not waited for.
	resp, err = s.admin.Probe(t.Context(), &adminv1.ProbeRequest{Address: "192.0.2.1", TimeoutNanos: int64(10 * time.Millisecond)})
	if err != nil || resp.GetNodes()[0].GetError() == "" {
		t.Errorf("silent speaker: %v, %v", resp, err)
	}
}

// TestObservations: what a speaker reports becomes a command where it differs.
func TestObservations(t *testing.T) {
	s := newSolo(t)
	session, epoch := s.owned()
	addr := netip.MustParseAddr("192.0.2.1")
	up := []*logv1.Link{{Name: "eth0", Up: true}}
	st := func(e uint64, a speakerv1.Announced, foreign ...byte) map[netip.Addr]*speakerv1.VipStatus {
		return map[netip.Addr]*speakerv1.VipStatus{addr: {Address: addr.AsSlice(), Epoch: e, Announced: a, Reason: "because", ForeignMac: foreign}}
	}
	failed, proven := speakerv1.Announced_ANNOUNCED_FAILED, speakerv1.Announced_ANNOUNCED_PROVEN
	mac := []byte{9, 9, 9, 9, 9, 9}
	for _, tc := range []struct {
		name   string
		report report
		want   decider.Command
	}{
		{"links as known", report{node: "n1", session: session, links: up, linked: true}, nil},
		{"links differ", report{node: "n1", session: session, links: nil, linked: true}, &decider.LinksChanged{}},
		{"links of another session", report{node: "n1", session: session - 1, linked: true}, nil},
		{"announced", report{node: "n1", session: session, vips: st(epoch, proven)}, nil},
		{"failed", report{node: "n1", session: session, vips: st(epoch, failed)}, &decider.AnnounceFailed{}},
		{"failed in an older epoch", report{node: "n1", session: session, vips: st(epoch-1, failed)}, nil},
		{"failed on another node", report{node: "n2", session: session, vips: st(epoch, failed)}, nil},
		{"conflict", report{node: "n1", session: session, vips: st(epoch, proven, mac...)}, &decider.ConflictObserved{}},
		{"yields to its successor", report{node: "n2", session: session, vips: st(epoch, speakerv1.Announced_ANNOUNCED_YIELDED, mac...)}, nil},
		{"status gone", report{node: "n1", session: session, vips: map[netip.Addr]*speakerv1.VipStatus{addr: nil}}, nil},
	} {
		var got []decider.Command
		s.Read(func(state *fsm.State) { got = differences(state, tc.report, time.Now().UnixNano()) })
		switch {
		case tc.want == nil && len(got) != 0:
			t.Errorf("%s: %T", tc.name, got[0])
		case tc.want != nil && (len(got) != 1 || sameType(got[0], tc.want) == false):
			t.Errorf("%s: %v, want %T", tc.name, got, tc.want)
		}
	}

	s.apply(&logv1.Event{Fact: &logv1.Event_AnnounceFailed{AnnounceFailed: &logv1.AnnounceFailed{Address: addr.AsSlice(), Node: "n1", Epoch: epoch}}},
		&logv1.Event{Fact: &logv1.Event_AddressConflictObserved{AddressConflictObserved: &logv1.AddressConflictObserved{Address: addr.AsSlice(), Node: "n1", Mac: mac}}})
	s.Read(func(state *fsm.State) {
		got := differences(state, report{node: "n1", session: session, vips: st(epoch, proven)}, time.Now().UnixNano())
		if len(got) != 2 || !sameType(got[0], &decider.AnnounceRecovered{}) || !sameType(got[1], &decider.ConflictCleared{}) {
			t.Errorf("recovered and cleared: %v", got)
		}
		goesOn := report{node: "n1", session: session, vips: st(epoch, failed, mac...)}
		if got := differences(state, goesOn, time.Now().UnixNano()); len(got) != 0 {
			t.Errorf("a failure that is recorded is reported again: %v", got)
		}
		// Not before the decider takes it.
		over := state.Addresses[addr].Failures["n1"].Time + int64(allocator.FirstBackoff)
		if got := differences(state, goesOn, over-1); len(got) != 0 {
			t.Errorf("a failure is renewed too early: %v", got)
		}
		if got := differences(state, goesOn, over); len(got) != 1 || !sameType(got[0], &decider.AnnounceFailed{}) {
			t.Errorf("a failure that goes on must be renewed: %v", got)
		}
		if got := staleConflicts(state); len(got) != 0 {
			t.Errorf("the owner's conflict is not stale: %v", got)
		}
	})
}

func TestObserverSubmitsWhatSpeakersReport(t *testing.T) {
	s := newSolo(t)
	session, epoch := s.owned()
	got := make(chan decider.Command, 16)
	s.setDecide(func(_ context.Context, cmd decider.Command) (decider.Result, error) {
		got <- cmd
		return decider.Result{}, nil
	})
	stream := s.attach(t, &speakerv1.AttachRequest{
		Hello: &speakerv1.AttachHello{Node: "n1", Session: session},
		Links: &speakerv1.LinkList{Links: []*logv1.Link{{Name: "eth0", Up: false}}},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Observe(ctx) }()
	if cmd := <-got; !sameType(cmd, &decider.LinksChanged{}) {
		t.Errorf("said before leadership: %T", cmd)
	}
	if err := stream.Send(&speakerv1.AttachRequest{Vips: []*speakerv1.VipStatus{{
		Address: netip.MustParseAddr("192.0.2.1").AsSlice(), Epoch: epoch, Announced: speakerv1.Announced_ANNOUNCED_FAILED, Reason: "no link",
	}}}); err != nil {
		t.Fatal(err)
	}
	for {
		cmd := <-got
		if f, ok := cmd.(*decider.AnnounceFailed); ok {
			if f.Reason != "no link" || f.Epoch != epoch || f.Node != "n1" {
				t.Errorf("%+v", f)
			}
			break
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Observe() = %v", err)
	}
}
