package session

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quorumlb/quorumlb/internal/leasetime"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// pulse makes a heartbeat every h, and one at once when it is asked for.
func (l *live) pulse(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.now:
		case <-timer.C:
		}
		l.makeBeat()
		l.lookAtSlots()
		timer.Reset(l.s.times.Load().heartbeat)
	}
}

// beatNow asks for a heartbeat at once.
func (l *live) beatNow() {
	select {
	case l.now <- struct{}{}:
	default:
	}
}

// makeBeat makes the next heartbeat and gives it to all streams.
func (l *live) makeBeat() {
	// The time is read first: the confirmation counts from before the sending.
	now := l.s.cfg.Clock.Now()
	l.s.mu.Lock()
	seen := l.s.seen
	l.s.mu.Unlock()
	l.beatMu.Lock()
	defer l.beatMu.Unlock()
	l.newest = &speakerv1.HeartbeatRequest{Node: l.s.cfg.Node, Session: l.id, Seq: l.holder.Send(now), Seen: seen}
	close(l.beat)
	l.beat = make(chan struct{})
	l.s.counters.beats.Add(1)
}

// latest returns the newest heartbeat, nil if there is none, and a channel that
// is closed when there is a newer one.
func (l *live) latest() (*speakerv1.HeartbeatRequest, <-chan struct{}) {
	l.beatMu.Lock()
	defer l.beatMu.Unlock()
	return l.newest, l.beat
}

// beatTo keeps a heartbeat stream to a member.
func (l *live) beatTo(ctx context.Context, m *member) error {
	for {
		err := l.beatStream(ctx, m)
		if ctx.Err() != nil {
			return nil
		}
		if fatal(err) {
			return err
		}
		l.s.log.Debug("heartbeat stream ended", "member", m.address, "error", err)
		if !sleep(ctx, l.s.times.Load().heartbeat) {
			return nil
		}
	}
}

func (l *live) beatStream(ctx context.Context, m *member) error {
	group, ctx := errgroup.WithContext(ctx)
	stream, err := speakerv1.NewSpeakerServiceClient(m.beat).Heartbeat(ctx)
	if err != nil {
		return err
	}
	group.Go(func() error {
		var sent uint64
		for {
			hb, more := l.latest()
			if hb != nil && hb.GetSeq() != sent {
				if err := stream.Send(hb); err != nil {
					return err // Recv tells why
				}
				sent = hb.GetSeq()
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-more:
			}
		}
	})
	group.Go(func() error {
		for {
			resp, err := stream.Recv()
			if err != nil {
				return err
			}
			m.mark(l.s.cfg.Clock.Now())
			if err := l.answer(m, resp); err != nil {
				return err
			}
		}
	})
	return group.Wait()
}

// answer takes what the members say to a heartbeat. A returned error ends the
// session.
func (l *live) answer(m *member, resp *speakerv1.HeartbeatResponse) error {
	if resp.GetSession() != l.id {
		return nil
	}
	switch resp.GetRefusal() {
	case speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_UNSPECIFIED:
		l.acked(resp)
	case speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_NO_SESSION:
		l.s.counters.refused.Add(1)
		// A leader that has just been deposed may not know the session yet.
		if l.s.cfg.Clock.Now()-time.Duration(l.lastAck.Load()) > 2*l.s.times.Load().heartbeat {
			return errSessionOver
		}
	case speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_REPLACED:
		return ErrReplaced
	case speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_BEHIND:
		l.s.counters.refused.Add(1)
		l.needed(resp.GetNeedRevision())
	case speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_PREDECESSOR:
		l.s.counters.refused.Add(1)
		if !l.predecessorNoted.Swap(true) {
			l.s.log.Warn("another machine with this node's name may still be at work, waiting for it", "member", m.address)
		}
	}
	return nil
}

func (l *live) acked(resp *speakerv1.HeartbeatResponse) {
	fence := time.Duration(resp.GetFenceNanos())
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	// The lock keeps a later deadline from being told before an earlier one.
	if l.s.live != l || !l.holder.Acked(leasetime.Ack{Session: resp.GetSession(), Seq: resp.GetAckedSeq(), Fence: fence}) {
		return
	}
	l.lastAck.Store(int64(l.s.cfg.Clock.Now()))
	until := l.holder.Deadline()
	sent := until - leasetime.Shorten(fence)
	// D as the ack names it: this view may not know yet that it has become shorter.
	detection := time.Duration(resp.GetDetectionNanos())
	l.s.node.Confirm(Confirmation{Sent: sent, Until: until, Fresh: sent + fresh(detection)})
	l.s.counters.acks.Add(1)
	if !l.s.confirmedOnce.Swap(true) {
		l.s.log.Info("confirmed by the members", "session", l.id)
	}
}

// fresh is how long after a heartbeat's sending the members cannot have taken the
// node for dead. They wait D, not D(1+ρ), and their clock may be as fast as this one
// is slow: both are taken off here.
func fresh(detection time.Duration) time.Duration {
	return leasetime.Shorten(leasetime.Shorten(detection))
}

// needed notes that the members want a newer view to be in force.
func (l *live) needed(revision uint64) {
	l.s.mu.Lock()
	seen := l.s.seen
	l.s.mu.Unlock()
	l.behind.Lock()
	defer l.behind.Unlock()
	l.behind.need = max(l.behind.need, revision)
	if l.behind.need > seen && l.behind.since == 0 {
		l.behind.since = l.s.cfg.Clock.Now()
	}
}
