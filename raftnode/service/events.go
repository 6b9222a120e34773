package service

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"strings"

	"google.golang.org/grpc"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
)

// Events streams facts in the order in which they became true.
func (s *Services) Events(req *adminv1.EventsRequest, stream grpc.ServerStreamingServer[adminv1.EventsResponse]) error {
	f, err := newFilter(req)
	if err != nil {
		return err
	}
	ctx := stream.Context()
	if err := s.fresh(ctx, req.GetStale()); err != nil {
		return err
	}
	from, err := s.eventsFrom(ctx, req)
	if err != nil {
		return err
	}
	scan := from
	if f.service != (fsm.ServiceKey{}) {
		scan = 0 // the filter follows which addresses the service had before
	}
	send := func(e consensus.Entry) error {
		for i, ev := range e.Batch.GetEvents() {
			if !f.matches(ev) || e.Revision < from || e.Batch.GetTimeUnixNano() < req.GetSinceUnixNano() {
				continue
			}
			if err := stream.Send(&adminv1.EventsResponse{
				Revision: e.Revision, Position: uint32(i), TimeUnixNano: e.Batch.GetTimeUnixNano(),
				Actor: actorOf(e.Batch, ev), Event: ev,
			}); err != nil {
				return err
			}
		}
		f.endBatch()
		return nil
	}
	next, err := s.history(ctx, scan, send)
	if err != nil || !req.GetFollow() {
		return err
	}
	for {
		if err := s.cfg.Log.WaitRevision(ctx, next); err != nil {
			return fromLog(err)
		}
		if next, err = s.history(ctx, next, send); err != nil {
			return err
		}
	}
}

// eventsFrom is the first revision that a reader asked for.
func (s *Services) eventsFrom(ctx context.Context, req *adminv1.EventsRequest) (uint64, error) {
	from := req.GetSinceRevision()
	if req.GetSinceUnixNano() == 0 {
		return from, nil
	}
	before, err := s.cfg.Log.RevisionAt(ctx, req.GetSinceUnixNano()-1)
	if err != nil && !errors.Is(err, consensus.ErrIncomplete) {
		return 0, fromLog(err)
	}
	return max(from, before+1), nil
}

// historyChunk is how many batches are read from the log at a time.
const historyChunk = 1024

// history hands over the batches with from <= revision that the members have
// now, oldest first, and returns the revision to go on with.
func (s *Services) history(ctx context.Context, from uint64, send func(consensus.Entry) error) (next uint64, err error) {
	oldest, err := s.cfg.Log.OldestRevision(ctx)
	if err != nil {
		return from, fromLog(err)
	}
	if from = max(from, 1); from < oldest {
		if err := s.peersHistory(ctx, from, oldest, send); err != nil {
			return from, err
		}
	}
	return s.ownHistory(ctx, max(from, oldest), math.MaxUint64, send)
}

// ownHistory hands over the batches with from <= revision < until that this
// member has now, oldest first, and returns the revision to go on with.
func (s *Services) ownHistory(ctx context.Context, from, until uint64, send func(consensus.Entry) error) (next uint64, err error) {
	oldest, err := s.cfg.Log.OldestRevision(ctx)
	if err != nil {
		return from, fromLog(err)
	}
	next = max(from, oldest)
	until = min(until, s.cfg.Log.Revision()+1)
	for next < until {
		chunk, err := s.cfg.Log.History(ctx, next, min(next+historyChunk, until))
		if err != nil && !errors.Is(err, consensus.ErrIncomplete) {
			return next, fromLog(err)
		}
		if len(chunk) == 0 {
			next = min(next+historyChunk, until) // compacted since we asked
			continue
		}
		for _, e := range chunk {
			if err := send(e); err != nil {
				return next, err
			}
			next = e.Revision + 1
		}
	}
	return next, nil
}

func actorOf(b *logv1.Batch, ev *logv1.Event) string {
	if i := int(ev.GetActor()); i < len(b.GetActors()) {
		return b.GetActors()[i]
	}
	return ""
}

func newFilter(req *adminv1.EventsRequest) (*filter, error) {
	f := &filter{node: req.GetNode()}
	if req.GetAddress() != "" {
		a, err := netip.ParseAddr(req.GetAddress())
		if err != nil {
			return nil, invalidField("address", "%v", err)
		}
		f.addr = a.Unmap()
	}
	if req.GetService() != "" {
		namespace, name, ok := strings.Cut(req.GetService(), "/")
		if !ok || namespace == "" || name == "" {
			return nil, invalidField("service", "%q is not namespace/name", req.GetService())
		}
		f.service = fsm.ServiceKey{Namespace: namespace, Name: name}
	}
	return f, nil
}
