package service

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/obs"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
	"github.com/quorumlb/quorumlb/raftnode/lease"
	"github.com/quorumlb/quorumlb/raftnode/watch"
)

// speakerServer is the SpeakerService.
type speakerServer struct {
	speakerv1.UnimplementedSpeakerServiceServer
	*Services
}

// OpenSession runs on the leader.
func (s *speakerServer) OpenSession(ctx context.Context, req *speakerv1.OpenSessionRequest) (*speakerv1.OpenSessionResponse, error) {
	if len(req.GetProcess()) != 16 {
		return nil, invalidField("process", "%d bytes, want 16", len(req.GetProcess()))
	}
	cmd := &decider.OpenSession{
		Node: req.GetNode(), Process: [16]byte(req.GetProcess()), Incarnation: req.GetIncarnation(),
		Labels: req.GetLabels(), Links: req.GetLinks(), Version: req.GetVersion(),
	}
	for i, raw := range req.GetMacs() {
		if len(raw) != len(fsm.MAC{}) {
			return nil, invalidField("macs", "[%d]: %d bytes, want %d", i, len(raw), len(fsm.MAC{}))
		}
		cmd.MACs = append(cmd.MACs, fsm.MAC(raw))
	}
	res, err := s.cfg.Decider.Submit(ctx, cmd)
	if err != nil {
		return nil, fromDecider(err)
	}
	sess := res.Session
	s.log.Info("session open", obs.KeyNode, req.GetNode(), obs.KeySession, sess.Session, "incarnation", sess.Incarnation)
	return &speakerv1.OpenSessionResponse{
		ClusterId: sess.ClusterID[:], Session: sess.Session, Incarnation: sess.Incarnation,
		LeaseTimes: leaseMessage(sess.Lease), Revision: res.Revision,
	}, nil
}

// Leave runs on the leader.
func (s *speakerServer) Leave(ctx context.Context, req *speakerv1.LeaveRequest) (*speakerv1.LeaveResponse, error) {
	res, err := s.cfg.Decider.Submit(ctx, &decider.Leave{Node: req.GetNode(), Session: req.GetSession(), Done: req.GetDone()})
	if err != nil {
		return nil, fromDecider(err)
	}
	return &speakerv1.LeaveResponse{Revision: res.Revision, Owned: uint32(res.Owned)}, nil
}

// Heartbeat takes heartbeats and gives back what the leader says to them. It
// touches neither Raft nor the disk.
func (s *speakerServer) Heartbeat(stream grpc.BidiStreamingServer[speakerv1.HeartbeatRequest, speakerv1.HeartbeatResponse]) error {
	acks, stop := s.cfg.Hearts.Acks(callerOf(stream.Context()).role.Name)
	defer stop()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	var eg errgroup.Group
	eg.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case ack, ok := <-acks:
				if !ok {
					return nil
				}
				if err := stream.Send(ackMessage(ack)); err != nil {
					return err // the stream is broken, so Recv fails too
				}
			}
		}
	})
	err := s.hear(stream)
	cancel()
	return errors.Join(err, eg.Wait())
}

func (s *speakerServer) hear(stream grpc.BidiStreamingServer[speakerv1.HeartbeatRequest, speakerv1.HeartbeatResponse]) error {
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		s.cfg.Hearts.Heard(lease.Heartbeat{Node: m.GetNode(), Session: m.GetSession(), Seq: m.GetSeq(), Seen: m.GetSeen()})
	}
}

var refusals = map[lease.Refusal]speakerv1.HeartbeatRefusal{
	lease.NoSession:   speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_NO_SESSION,
	lease.Behind:      speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_BEHIND,
	lease.Replaced:    speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_REPLACED,
	lease.Predecessor: speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_PREDECESSOR,
}

func ackMessage(a lease.Ack) *speakerv1.HeartbeatResponse {
	return &speakerv1.HeartbeatResponse{
		AckedSeq: a.Seq, FenceNanos: int64(a.Fence), DetectionNanos: int64(a.Detection),
		Refusal: refusals[a.Refusal], NeedRevision: a.Need, Session: a.Session,
	}
}

// Watch streams the node's view.
func (s *speakerServer) Watch(req *speakerv1.WatchRequest, stream grpc.ServerStreamingServer[speakerv1.WatchResponse]) error {
	sub, err := s.cfg.Hub.Subscribe(req.GetNode(), req.GetSession(), req.GetMinRevision())
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

// Attach keeps what the speaker says that it does, and asks it questions.
func (s *speakerServer) Attach(stream grpc.BidiStreamingServer[speakerv1.AttachRequest, speakerv1.AttachResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetHello() == nil {
		return status.Error(codes.InvalidArgument, "hello: must be set in the first message")
	}
	if err := s.notReplaced(first.GetHello()); err != nil {
		return err
	}
	a, err := s.attached.open(first)
	defer s.attached.close(a)
	if err != nil {
		return fromContext(err)
	}
	s.log.Debug("speaker attached", obs.KeyNode, a.node, obs.KeySession, a.session)

	// Recv ends only with the stream, and the stream only with this function; so
	// what it receives comes by a channel.
	incoming := make(chan *speakerv1.AttachRequest)
	failed := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case incoming <- m:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	members, changed := s.roster.get()
	if err := stream.Send(&speakerv1.AttachResponse{Members: members}); err != nil {
		return err
	}
	for {
		var out *speakerv1.AttachResponse
		select {
		case m := <-incoming:
			if err := s.attached.update(a, m); err != nil {
				return attachEnd(err)
			}
			continue
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-a.ended:
			return attachEnd(errAttachReplaced)
		case <-changed:
			members, changed = s.roster.get()
			out = &speakerv1.AttachResponse{Members: members}
		case q := <-a.ask:
			out = &speakerv1.AttachResponse{Probe: q}
		}
		if err := stream.Send(out); err != nil {
			return err
		}
	}
}

// notReplaced refuses a process whose successor has been admitted: what it does
// is not what the node does.
func (s *speakerServer) notReplaced(hello *speakerv1.AttachHello) error {
	var newest uint64
	s.cfg.Log.Read(func(st *fsm.State) {
		if n := st.Nodes[hello.GetNode()]; n != nil {
			newest = n.Session
		}
	})
	if newest > hello.GetSession() {
		return fromWatch(fmt.Errorf("%w: session %d", watch.ErrReplaced, newest))
	}
	return nil
}

func attachEnd(err error) error {
	if errors.Is(err, errAttachReplaced) {
		return status.Error(codes.Aborted, err.Error())
	}
	return fromContext(err)
}
