package session

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

const (
	// gatherTime is how long changes are gathered into one message.
	gatherTime = 20 * time.Millisecond
	// statusesPerMessage keeps messages below what receivers take.
	statusesPerMessage = 10_000
	// probesAtOnce bounds the questions that one stream may have before us.
	probesAtOnce = 8
	// contested is how long to wait when another process took the node's place on
	// a member: heartbeats tell soon which of the two has to go.
	contested = time.Second
)

// fatal tells errors that end the session from those of one stream.
func fatal(err error) bool {
	return errors.Is(err, ErrReplaced) || errors.Is(err, errSessionOver)
}

// attachTo keeps the node attached to a member.
func (l *live) attachTo(ctx context.Context, m *member) error {
	for {
		err := l.attachStream(ctx, m)
		l.s.roster.told(m.address, nil)
		if ctx.Err() != nil {
			return nil
		}
		l.s.log.Debug("attachment ended", "member", m.address, "error", err)
		wait := l.s.times.Load().heartbeat
		if status.Code(err) == codes.Aborted {
			wait = contested
		}
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

func (l *live) attachStream(ctx context.Context, m *member) error {
	group, ctx := errgroup.WithContext(ctx)
	stream, err := m.client().Attach(ctx)
	if err != nil {
		return err
	}
	answers := &answers{ready: make(chan struct{}, 1)}
	group.Go(func() error { return l.report(ctx, stream, answers) })
	var probes errgroup.Group
	probes.SetLimit(probesAtOnce)
	group.Go(func() error {
		for {
			resp, err := stream.Recv()
			if err != nil {
				return err
			}
			if list := resp.GetMembers(); len(list) > 0 {
				l.s.roster.told(m.address, list)
			}
			if q := resp.GetProbe(); q != nil && !probes.TryGo(func() error {
				answers.add(l.probe(ctx, q))
				return nil
			}) {
				answers.add(&speakerv1.ProbeAnswer{Id: q.GetId(), Address: q.GetAddress(), Error: "too many questions at once"})
			}
		}
	})
	err = group.Wait()
	return errors.Join(err, probes.Wait())
}

// report sends everything once, and then what changes.
func (l *live) report(ctx context.Context, stream speakerv1.SpeakerService_AttachClient, answers *answers) error {
	msg := &speakerv1.AttachRequest{Hello: &speakerv1.AttachHello{Node: l.s.cfg.Node, Session: l.id, Version: l.s.cfg.Version}}
	var since, healthSince uint64
	var linksChanged, moreHealth <-chan struct{}
	for {
		if linksChanged == nil {
			links, _, changed := l.s.node.Links()
			msg.Links, linksChanged = &speakerv1.LinkList{Links: links}, changed
		}
		vips, gone, next, more := l.s.node.Statuses(since)
		since = next
		for _, a := range gone {
			msg.GoneVips = append(msg.GoneVips, a.AsSlice())
		}
		if h := l.s.cfg.Health; h != nil {
			msg.Health, msg.GoneHealth, healthSince, moreHealth = h.Statuses(healthSince)
		}
		msg.ProbeAnswers = answers.take()
		if err := send(stream, msg, vips); err != nil {
			return err
		}
		msg = &speakerv1.AttachRequest{}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-more:
		case <-moreHealth:
		case <-linksChanged:
			linksChanged = nil
		case <-answers.ready:
			continue // somebody waits for it
		}
		if !sleep(ctx, gatherTime) {
			return ctx.Err()
		}
	}
}

// send sends a message with the statuses, or several if there are many.
func send(stream speakerv1.SpeakerService_AttachClient, msg *speakerv1.AttachRequest, vips []*speakerv1.VipStatus) error {
	for {
		n := min(len(vips), statusesPerMessage)
		msg.Vips, vips = vips[:n], vips[n:]
		empty := msg.Hello == nil && msg.Links == nil && len(msg.Vips)+len(msg.GoneVips)+len(msg.ProbeAnswers)+len(msg.Health)+len(msg.GoneHealth) == 0
		if !empty {
			if err := stream.Send(msg); err != nil {
				return err
			}
		}
		if len(vips) == 0 {
			return nil
		}
		msg = &speakerv1.AttachRequest{}
	}
}

// probe asks on the wire for a member.
func (l *live) probe(ctx context.Context, q *speakerv1.Probe) *speakerv1.ProbeAnswer {
	answer := &speakerv1.ProbeAnswer{Id: q.GetId(), Address: q.GetAddress()}
	addr, ok := netip.AddrFromSlice(q.GetAddress())
	if !ok {
		answer.Error = "not an address"
		return answer
	}
	hits, err := l.s.node.Probe(ctx, addr, time.Duration(q.GetTimeoutNanos()))
	if err != nil {
		answer.Error = err.Error()
	}
	answer.Hits = hits
	return answer
}

// answers are probes' answers on their way to the stream.
type answers struct {
	mu    sync.Mutex
	list  []*speakerv1.ProbeAnswer
	ready chan struct{} // has a token when list is not empty
}

func (a *answers) add(p *speakerv1.ProbeAnswer) {
	a.mu.Lock()
	a.list = append(a.list, p)
	a.mu.Unlock()
	select {
	case a.ready <- struct{}{}:
	default:
	}
}

func (a *answers) take() []*speakerv1.ProbeAnswer {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.list
	a.list = nil
	return list
}
