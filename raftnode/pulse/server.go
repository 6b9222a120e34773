package pulse

import (
	"errors"
	"io"

	"google.golang.org/grpc"

	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	"github.com/quorumlb/quorumlb/raftnode/lease"
)

// Pulse answers the polls of a leader, on one stream, until the leader ends it.
func (k *Keeper) Pulse(stream grpc.BidiStreamingServer[memberv1.PulseRequest, memberv1.PulseResponse]) error {
	var cursor lease.Cursor
	for {
		req, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := stream.Send(k.answer(req, &cursor)); err != nil {
			return err
		}
	}
}

// answer passes the acks on and reports. The term is read after the poll arrived:
// a vote for a later leader comes after this answer, or the answer names its term.
func (k *Keeper) answer(req *memberv1.PulseRequest, cursor *lease.Cursor) *memberv1.PulseResponse {
	term := k.cfg.Group.Term()
	k.mu.Lock()
	for _, a := range req.GetAcks() {
		k.deliver(ackFrom(a))
	}
	r := k.hear.Report(k.clock.Now(), req.GetPoll(), term, cursor)
	k.mu.Unlock()
	k.stats.Answered.Add(1)

	resp := reportTo(r)
	resp.Id = k.cfg.ID
	if k.cfg.Status != nil {
		s := k.cfg.Status()
		resp.Revision, resp.MaxClusterVersion = s.Revision, s.MaxClusterVersion
		resp.SlowestAppendNanos = int64(s.SlowestAppend)
	}
	return resp
}
