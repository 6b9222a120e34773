package session

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// leavePoll is how often the members are asked whether the node still owns
// anything, beside whenever the view changes.
const leavePoll = 250 * time.Millisecond

// Leave asks the members to move everything that the node owns, waits until it
// owns nothing, and closes the session. It has to be called while Run runs; no other session is opened
// after it. When ctx ends first, the node may still own addresses: they then
// move when the session expires.
func (s *Session) Leave(ctx context.Context) error {
	s.mu.Lock()
	l := s.live
	s.mu.Unlock()
	if l == nil {
		return nil // the members know of no process here
	}
	if err := s.waitOwnsNothing(ctx, l); err != nil {
		return err
	}
	s.mu.Lock()
	s.left = true
	s.mu.Unlock()
	err := s.anyMember(ctx, "close the session", func(ctx context.Context, c speakerv1.SpeakerServiceClient) error {
		_, err := c.Leave(ctx, &speakerv1.LeaveRequest{Node: s.cfg.Node, Session: l.id, Done: true})
		return gone(err)
	})
	if err != nil {
		return fmt.Errorf("close the session: %w", err)
	}
	s.log.Info("left", "session", l.id)
	return nil
}

// gone passes over a session that is over already.
func gone(err error) error {
	if status.Code(err) == codes.FailedPrecondition {
		return nil
	}
	return err
}

// waitOwnsNothing asks for the move until the members say that the node owns
// nothing and no address is in force here, or the session is over.
func (s *Session) waitOwnsNothing(ctx context.Context, l *live) error {
	for {
		var owned uint32
		err := s.anyMember(ctx, "leave", func(ctx context.Context, c speakerv1.SpeakerServiceClient) error {
			resp, err := c.Leave(ctx, &speakerv1.LeaveRequest{Node: s.cfg.Node, Session: l.id})
			owned = resp.GetOwned()
			return gone(err)
		})
		if err != nil {
			return fmt.Errorf("ask for a planned move: %w", err)
		}
		s.mu.Lock()
		over := s.live != l || owned == 0 && s.owned == 0
		inForce, applied := s.owned, s.applied
		s.mu.Unlock()
		if over {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("still owns %d addresses: %w", max(int(owned), inForce), ctx.Err())
		case <-applied:
		case <-time.After(leavePoll):
		}
	}
}
