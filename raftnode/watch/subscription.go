package watch

import (
	"context"
	"sync"

	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// Subscription is one reader of one node's view.
type Subscription struct {
	hub  *Hub
	view *nodeView
	// session that the reader was admitted with.
	session uint64
	// from is the revision of the whole view; deltas up to it are in the view.
	from  uint64
	queue chan *speakerv1.WatchResponse

	once  sync.Once
	ended chan struct{}
	why   error // valid once ended is closed
}

func newSubscription(h *Hub, v *nodeView, session, from uint64, queue int) *Subscription {
	return &Subscription{
		hub: h, view: v, session: session, from: from,
		queue: make(chan *speakerv1.WatchResponse, queue+1), // and the whole view
		ended: make(chan struct{}),
	}
}

// Next waits for the next message. It returns the reason when the subscription
// has ended (messages that were not read by then are lost), or ctx's error. Messages
// are shared between readers and must not be written to.
func (s *Subscription) Next(ctx context.Context) (*speakerv1.WatchResponse, error) {
	select {
	case <-s.ended:
		return nil, s.why
	default:
	}
	select {
	case msg := <-s.queue:
		return msg, nil
	case <-s.ended:
		return nil, s.why
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close ends the subscription. It may be called more than once.
func (s *Subscription) Close() {
	s.hub.unsubscribe(s)
	s.end(ErrClosed)
}

func (s *Subscription) end(why error) {
	s.once.Do(func() {
		s.why = why
		close(s.ended)
	})
}
