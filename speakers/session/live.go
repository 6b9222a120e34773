package session

import (
	"cmp"
	"context"
	"hash/fnv"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quorumlb/quorumlb/internal/leasetime"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// watches is how many members are watched at once.
const watches = 2

// live is one open session with its streams.
type live struct {
	s       *Session
	id      uint64
	cluster string
	holder  *leasetime.Holder
	// from is the least revision that a view must have.
	from uint64

	// now asks for a heartbeat at once.
	now chan struct{}
	// newest is the last heartbeat, and beat is closed when there is a newer one.
	beatMu sync.Mutex
	newest *speakerv1.HeartbeatRequest
	beat   chan struct{}

	slots [watches]*slot
	// choosing is held while a slot chooses its member, or two would choose one.
	choosing sync.Mutex
	// fresh has a token when a slot has something newer.
	fresh chan struct{}

	behind struct {
		sync.Mutex
		need  uint64
		since time.Duration // since when it is not in force; 0 if it is
		// patience is how long a member has to bring it, h if that is longer.
		patience time.Duration
	}
	// lastAck is when an ack was last news, boot time.
	lastAck          atomic.Int64
	predecessorNoted atomic.Bool
}

func newLive(s *Session, holder *leasetime.Holder, resp *speakerv1.OpenSessionResponse) *live {
	l := &live{
		s: s, id: resp.GetSession(), cluster: string(resp.GetClusterId()), holder: holder,
		from: max(resp.GetRevision(), resp.GetSession()),
		now:  make(chan struct{}, 1), beat: make(chan struct{}), fresh: make(chan struct{}, 1),
	}
	for i := range l.slots {
		l.slots[i] = &slot{number: i}
	}
	return l
}

// run works until ctx ends (nil) or the session does.
func (l *live) run(ctx context.Context) error {
	members, _ := l.s.roster.get()
	for _, m := range members {
		m.mark(l.s.cfg.Clock.Now()) // innocent until found silent
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.pulse(ctx) })
	group.Go(func() error { return l.serveMembers(ctx) })
	group.Go(func() error { return l.apply(ctx) })
	for _, slot := range l.slots {
		group.Go(func() error { return l.watch(ctx, slot) })
	}
	return group.Wait()
}

// serveMembers keeps streams to every member, whoever they are.
func (l *live) serveMembers(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		served := make(map[*member]context.CancelFunc)
		defer func() {
			for _, cancel := range served {
				cancel()
			}
		}()
		for {
			members, changed := l.s.roster.get()
			for _, m := range members {
				if served[m] == nil {
					mctx, cancel := context.WithCancel(ctx)
					served[m] = cancel
					group.Go(func() error { return l.serve(mctx, m) })
				}
			}
			for m, cancel := range served {
				if !slices.Contains(members, m) {
					cancel()
					delete(served, m)
				}
			}
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			}
		}
	})
	return group.Wait()
}

// serve keeps the streams to one member.
func (l *live) serve(ctx context.Context, m *member) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.beatTo(ctx, m) })
	group.Go(func() error { return l.attachTo(ctx, m) })
	return group.Wait()
}

// byHeard orders members by when they were heard, in steps of a second, and
// otherwise so that the nodes spread over them.
func byHeard(members []*member, node string) []*member {
	weight := func(m *member) uint64 {
		h := fnv.New64a()
		h.Write([]byte(node))
		h.Write([]byte{0})
		h.Write([]byte(m.address))
		return h.Sum64()
	}
	out := slices.Clone(members)
	slices.SortFunc(out, func(a, b *member) int {
		if c := cmp.Compare(b.heard.Load()/int64(time.Second), a.heard.Load()/int64(time.Second)); c != 0 {
			return c
		}
		return cmp.Compare(weight(a), weight(b))
	})
	return out
}

// silent reports whether a member is not heard while others are: it is dead, cut
// off, or hangs.
func (l *live) silent(m *member) bool {
	members, _ := l.s.roster.get()
	newest := int64(0)
	for _, o := range members {
		newest = max(newest, o.heard.Load())
	}
	return newest-m.heard.Load() > int64(3*l.s.times.Load().heartbeat)
}
