package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/internal/leasetime"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

const (
	// callTimeout bounds one call to one member before the next is tried.
	callTimeout = 1500 * time.Millisecond
	// retryMax bounds the wait between rounds over all members.
	retryMax = 500 * time.Millisecond
)

// reasonReplaced is the members' reason when a newer process has been admitted.
const reasonReplaced = "REPLACED"

// open opens a session through any member, for as long as it takes.
func (s *Session) open(ctx context.Context) (*live, error) {
	s.mu.Lock()
	incarnation := s.incarnation
	s.mu.Unlock()
	var resp *speakerv1.OpenSessionResponse
	err := s.anyMember(ctx, "open a session", func(ctx context.Context, c speakerv1.SpeakerServiceClient) (err error) {
		links, macs, _ := s.node.Links()
		resp, err = c.OpenSession(ctx, &speakerv1.OpenSessionRequest{
			Node: s.cfg.Node, Process: s.process[:], Incarnation: incarnation,
			Macs: macs, Labels: s.cfg.Labels, Links: links, Version: s.cfg.Version,
		})
		if reason(err) == reasonReplaced {
			return fmt.Errorf("%w: %w", ErrReplaced, err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	t := timesFrom(resp.GetLeaseTimes())
	s.times.Store(&t)
	s.counters.opened.Add(1)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.incarnation = resp.GetIncarnation()
	if cluster := string(resp.GetClusterId()); cluster != s.cluster {
		s.cluster, s.seen = cluster, 0 // revisions of another cluster say nothing here
	}
	if s.holder == nil || s.holder.Session() != resp.GetSession() {
		// A heartbeat's number must never be used twice in one session.
		s.holder = leasetime.NewHolder(resp.GetSession())
	}
	s.live = newLive(s, s.holder, resp)
	s.tell()
	s.log.Info("session open", "session", resp.GetSession(), "incarnation", resp.GetIncarnation(), "revision", resp.GetRevision())
	return s.live, nil
}

// reason reads the machine-readable reason of a refusal.
func reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// anyMember makes a call to one member after the other, beginning with one that
// was heard lately, until one succeeds, ctx ends or the speaker is replaced.
func (s *Session) anyMember(ctx context.Context, what string, call func(context.Context, speakerv1.SpeakerServiceClient) error) error {
	wait := s.times.Load().heartbeat
	for {
		members, _ := s.roster.get()
		var last error
		for _, m := range byHeard(members, s.cfg.Node) {
			err := bounded(ctx, callTimeout, func(ctx context.Context) error { return call(ctx, m.client()) })
			if err == nil || errors.Is(err, ErrReplaced) {
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			last = fmt.Errorf("%s: %w", m.address, err)
			s.log.Debug("cannot "+what, "member", m.address, "error", err)
			if code := status.Code(err); code == codes.InvalidArgument || code == codes.PermissionDenied || code == codes.Unauthenticated {
				// No other member will think better of it, but an operator may mend it.
				s.log.Error("cannot "+what, "member", m.address, "error", err)
				wait = retryMax
			}
		}
		s.log.Warn("no member could "+what+", trying again", "error", last)
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
		wait = min(2*wait, retryMax)
	}
}

func bounded(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return f(ctx)
}

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
