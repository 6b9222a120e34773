package service

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
)

// moment is a place in history: a revision, or the newest one that is not after
// a time.
type moment interface {
	GetAtRevision() uint64
	GetAtUnixNano() int64
}

// withPast calls f with the state as it was at a moment. One at a time: each takes
// the memory of a whole state.
func (s *Services) withPast(ctx context.Context, at moment, f func(*fsm.State) error) error {
	revision, err := s.momentOf(ctx, at)
	if err != nil {
		return err
	}
	select {
	case s.past <- struct{}{}:
		defer func() { <-s.past }()
	case <-ctx.Done():
		return fromContext(ctx.Err())
	}
	st, err := s.cfg.Log.StateAt(ctx, revision)
	if errors.Is(err, consensus.ErrIncomplete) {
		return status.Errorf(codes.OutOfRange, "%v on %s; another member may reach back further, ask it with --endpoints", err, s.cfg.ID)
	}
	if err != nil {
		return fromLog(err)
	}
	return f(st)
}

func (s *Services) momentOf(ctx context.Context, at moment) (revision uint64, err error) {
	switch now := s.cfg.Log.Revision(); {
	case at.GetAtRevision() != 0 && at.GetAtUnixNano() != 0:
		return 0, invalidField("at_unix_nano", "a revision is given too; only one of the two is allowed")
	case at.GetAtRevision() > now:
		return 0, invalidField("at_revision", "%d is not there yet; the newest is %d", at.GetAtRevision(), now)
	case at.GetAtRevision() != 0:
		return at.GetAtRevision(), nil
	}
	revision, err = s.cfg.Log.RevisionAt(ctx, at.GetAtUnixNano())
	switch {
	case errors.Is(err, consensus.ErrIncomplete):
		return 0, status.Errorf(codes.OutOfRange, "%v on %s; another member may reach back further, ask it with --endpoints", err, s.cfg.ID)
	case err != nil:
		return 0, fromLog(err)
	case revision == 0:
		return 0, invalidField("at_unix_nano", "the group was not founded yet")
	}
	return revision, nil
}

// getPast projects a state of the past.
func (s *Services) getPast(ctx context.Context, req *adminv1.GetRequest) (resp *adminv1.GetResponse, err error) {
	for i, kind := range req.GetKinds() {
		if kind == kindMembers {
			return nil, invalidField(fmt.Sprintf("kinds[%d]", i), "members are not in the log; they can be asked of the present only")
		}
	}
	err = s.withPast(ctx, req, func(st *fsm.State) error {
		v := &view{s: st, name: req.GetName(), chooser: allocator.NewChooser(st), now: st.Time, past: true}
		resp = &adminv1.GetResponse{Revision: st.Revision}
		for _, kind := range req.GetKinds() {
			getters[kind](v, resp)
		}
		return nil
	})
	return resp, err
}
