package service

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
)

// MemberBackend answers what members ask each other about membership and
// leases.
type MemberBackend interface {
	Hello(ctx context.Context, req *memberv1.HelloRequest) (*memberv1.HelloResponse, error)
	// Join runs on the leader.
	Join(ctx context.Context, req *memberv1.JoinRequest) (*memberv1.JoinResponse, error)
	Pulse(stream grpc.BidiStreamingServer[memberv1.PulseRequest, memberv1.PulseResponse]) error
}

// memberServer is the MemberService.
type memberServer struct {
	memberv1.UnimplementedMemberServiceServer
	*Services
}

func (s *memberServer) Hello(ctx context.Context, req *memberv1.HelloRequest) (*memberv1.HelloResponse, error) {
	return s.cfg.Member.Hello(ctx, req)
}

func (s *memberServer) Join(ctx context.Context, req *memberv1.JoinRequest) (*memberv1.JoinResponse, error) {
	return s.cfg.Member.Join(ctx, req)
}

func (s *memberServer) Pulse(stream grpc.BidiStreamingServer[memberv1.PulseRequest, memberv1.PulseResponse]) error {
	return s.cfg.Member.Pulse(stream)
}

func (s *memberServer) FetchLog(req *memberv1.FetchLogRequest, stream grpc.ServerStreamingServer[memberv1.FetchLogResponse]) error {
	_, err := s.ownHistory(stream.Context(), req.GetFrom(), req.GetUntil(), func(e consensus.Entry) error {
		return stream.Send(&memberv1.FetchLogResponse{Revision: e.Revision, Batch: e.Raw})
	})
	return err
}

func (s *memberServer) ReadIndex(ctx context.Context, _ *memberv1.ReadIndexRequest) (*memberv1.ReadIndexResponse, error) {
	if err := s.cfg.Log.LinearizableRead(ctx); err != nil {
		return nil, fromLog(err)
	}
	return &memberv1.ReadIndexResponse{Revision: s.cfg.Log.Revision()}, nil
}

func (s *memberServer) Report(_ context.Context, req *memberv1.ReportRequest) (*memberv1.ReportResponse, error) {
	rep := s.ownReport()
	if req.GetProbeDisk() {
		took, err := s.cfg.ProbeDisk()
		if err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		rep.DiskNanos = int64(took)
	}
	return rep, nil
}
