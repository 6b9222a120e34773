package sim

import (
	"context"
	"errors"
	"io"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
	"github.com/quorumlb/quorumlb/raftnode/lease"
	"github.com/quorumlb/quorumlb/raftnode/watch"
)

// server is what a member is to speakers. It stands for raftnode/service, without
// certificates.
type server struct {
	speakerv1.UnimplementedSpeakerServiceServer
	b *brain
}

// peerServer is what a member is to others.
type peerServer struct {
	memberv1.UnimplementedMemberServiceServer
	b *brain
}

func (s *peerServer) Pulse(stream grpc.BidiStreamingServer[memberv1.PulseRequest, memberv1.PulseResponse]) error {
	return s.b.keeper.Pulse(stream)
}

// hold is how long a call waits for a leader.
const hold = 1200 * time.Millisecond

// atLeader runs a call where the leader is. It is tried again only while nothing
// can have been done.
func (s *server) atLeader(ctx context.Context, local func(ctx context.Context) error, remote func(ctx context.Context, c speakerv1.SpeakerServiceClient) error) error {
	forwarded := ctx.Value(forwardedKey{}) != nil
	deadline := s.b.p.w.now() + hold
	for {
		l := s.b.raft.leadership()
		var err error
		switch {
		case l.Leader:
			err = local(ctx)
		case forwarded || l.ID < 0:
			err = errNoLeader
		default:
			to := s.b.p.w.members[l.ID]
			err = remote(context.WithValue(ctx, forwardedKey{}, true), speakerv1.NewSpeakerServiceClient(&conn{p: s.b.p, to: to}))
		}
		if forwarded || reasonOf(err) != notLeader || s.b.p.w.now() > deadline {
			return err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return status.FromContextError(err).Err()
		}
	}
}

func (s *server) OpenSession(ctx context.Context, req *speakerv1.OpenSessionRequest) (resp *speakerv1.OpenSessionResponse, err error) {
	err = s.atLeader(ctx, func(ctx context.Context) error {
		cmd := &decider.OpenSession{
			Node: req.GetNode(), Process: [16]byte(req.GetProcess()), Incarnation: req.GetIncarnation(),
			Labels: req.GetLabels(), Links: req.GetLinks(), Version: req.GetVersion(),
		}
		for _, mac := range req.GetMacs() {
			cmd.MACs = append(cmd.MACs, fsm.MAC(mac))
		}
		res, err := s.b.decider.Submit(ctx, cmd)
		if err != nil {
			return fromDecider(err)
		}
		t := res.Session.Lease
		resp = &speakerv1.OpenSessionResponse{
			ClusterId: res.Session.ClusterID[:], Session: res.Session.Session, Incarnation: res.Session.Incarnation, Revision: res.Revision,
			LeaseTimes: &logv1.LeaseTimes{DetectionNanos: int64(t.Detection), HeartbeatNanos: int64(t.Heartbeat), SettleNanos: int64(t.Settle)},
		}
		return nil
	}, func(ctx context.Context, c speakerv1.SpeakerServiceClient) (err error) {
		resp, err = c.OpenSession(ctx, req)
		return err
	})
	return resp, err
}

func (s *server) Leave(ctx context.Context, req *speakerv1.LeaveRequest) (resp *speakerv1.LeaveResponse, err error) {
	err = s.atLeader(ctx, func(ctx context.Context) error {
		res, err := s.b.decider.Submit(ctx, &decider.Leave{Node: req.GetNode(), Session: req.GetSession(), Done: req.GetDone()})
		resp = &speakerv1.LeaveResponse{Revision: res.Revision, Owned: uint32(res.Owned)}
		return fromDecider(err)
	}, func(ctx context.Context, c speakerv1.SpeakerServiceClient) (err error) {
		resp, err = c.Leave(ctx, req)
		return err
	})
	return resp, err
}

var refusals = map[lease.Refusal]speakerv1.HeartbeatRefusal{
	lease.NoSession:   speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_NO_SESSION,
	lease.Behind:      speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_BEHIND,
	lease.Replaced:    speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_REPLACED,
	lease.Predecessor: speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_PREDECESSOR,
}

func (s *server) Heartbeat(stream grpc.BidiStreamingServer[speakerv1.HeartbeatRequest, speakerv1.HeartbeatResponse]) error {
	m, err := stream.Recv() // it names the node, as a certificate does
	if err != nil {
		return err
	}
	acks, stop := s.b.keeper.Acks(m.GetNode())
	defer stop()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	var eg errgroup.Group
	eg.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case a := <-acks:
				if err := stream.Send(&speakerv1.HeartbeatResponse{
					AckedSeq: a.Seq, FenceNanos: int64(a.Fence), DetectionNanos: int64(a.Detection),
					Refusal: refusals[a.Refusal], NeedRevision: a.Need, Session: a.Session,
				}); err != nil {
					return err
				}
			}
		}
	})
	for err == nil {
		s.b.ears.add(s.b.p.w.now(), m.GetNode(), m.GetSession())
		s.b.keeper.Heard(lease.Heartbeat{Node: m.GetNode(), Session: m.GetSession(), Seq: m.GetSeq(), Seen: m.GetSeen()})
		m, err = stream.Recv()
	}
	cancel()
	_ = eg.Wait()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (s *server) Watch(req *speakerv1.WatchRequest, stream grpc.ServerStreamingServer[speakerv1.WatchResponse]) error {
	sub, err := s.b.hub.Subscribe(req.GetNode(), req.GetSession(), req.GetMinRevision())
	if err != nil {
		return fromWatch(err)
	}
	defer sub.Close()
	for {
		msg, err := sub.Next(stream.Context())
		if err != nil {
			return fromWatch(err)
		}
		if err := stream.Send(msg); err != nil {
			return err
		}
	}
}

// Attach tells the speaker who the members are, and hears of its links.
func (s *server) Attach(stream grpc.BidiStreamingServer[speakerv1.AttachRequest, speakerv1.AttachResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	var eg errgroup.Group
	eg.Go(func() error {
		for m := first; ; {
			if m.GetLinks() != nil {
				s.b.reports.add(hello.GetNode(), hello.GetSession(), m.GetLinks().GetLinks())
			}
			if m, err = stream.Recv(); err != nil {
				return err
			}
		}
	})
	var told string
	for stream.Context().Err() == nil {
		list := &speakerv1.AttachResponse{}
		now := ""
		for _, m := range s.b.raft.Members() {
			list.Members = append(list.Members, &speakerv1.MemberAddress{Id: m.ID, Address: m.Address})
			now += m.Address + " "
		}
		if now != told {
			told = now
			if err := stream.Send(list); err != nil {
				break
			}
		}
		_ = pause(stream.Context(), time.Second)
	}
	return eg.Wait()
}

// Errors with reasons, as in raftnode/service.

const (
	notLeader = "NOT_LEADER"
	replaced  = "REPLACED"
)

var errNoLeader = withReason(codes.Unavailable, notLeader, "no leader")

func withReason(code codes.Code, reason, text string) error {
	st, err := status.New(code, text).WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "quorumlb.io"})
	if err != nil {
		panic(err)
	}
	return st.Err()
}

func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

func fromDecider(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, decider.ErrNotLeader), errors.Is(err, decider.ErrNotFounded):
		return withReason(codes.Unavailable, notLeader, err.Error())
	case errors.Is(err, decider.ErrReplaced):
		return withReason(codes.FailedPrecondition, replaced, err.Error())
	case errors.Is(err, decider.ErrUnknownOutcome):
		return status.Error(codes.Unavailable, err.Error())
	}
	return status.Error(codes.FailedPrecondition, err.Error())
}

func fromWatch(err error) error {
	switch {
	case errors.Is(err, watch.ErrReplaced):
		return withReason(codes.FailedPrecondition, replaced, err.Error())
	case errors.Is(err, watch.ErrNoSession):
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return status.Error(codes.Unavailable, err.Error())
}
