package decider

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// ticket is a submitted command on its way.
type ticket struct {
	cmd   Command
	since time.Duration // boot time of Submit
	// state is ticketWaiting until the decider takes the command or its caller
	// gives up, whichever comes first.
	state atomic.Uint32
	done  chan struct{}
	// result and err are set before done is closed.
	result Result
	err    error
	once   sync.Once
}

const (
	ticketWaiting uint32 = iota
	ticketTaken
	ticketAbandoned
)

func newTicket(cmd Command, now time.Duration) *ticket {
	return &ticket{cmd: cmd, since: now, done: make(chan struct{})}
}

// finish answers the command; only the first call counts.
func (t *ticket) finish(r Result, err error) {
	t.once.Do(func() {
		t.result, t.err = r, err
		close(t.done)
	})
}

// take claims the command for the decider; false when its caller has gone.
func (t *ticket) take() bool {
	return t.state.CompareAndSwap(ticketWaiting, ticketTaken) || t.state.Load() == ticketTaken
}

// wait returns the answer, or gives up with ctx.
func (t *ticket) wait(ctx context.Context) (Result, error) {
	select {
	case <-t.done:
		return t.result, t.err
	case <-ctx.Done():
	}
	if t.state.CompareAndSwap(ticketWaiting, ticketAbandoned) {
		return Result{}, fmt.Errorf("gave up before the command was decided: %w", context.Cause(ctx))
	}
	select {
	case <-t.done: // both at once
		return t.result, t.err
	default:
		return Result{}, errors.Join(ErrUnknownOutcome, context.Cause(ctx))
	}
}

// queue holds the commands that wait for the decider. It is open while this
// member leads.
type queue struct {
	mu     sync.Mutex
	closed error // why, nil while open
	urgent []*ticket
	normal []*ticket
	// room is closed and replaced when a full queue has room again.
	room  chan struct{}
	limit int
	// ready has a token when there is something to take.
	ready chan struct{}
}

func newQueue(limit int) *queue {
	return &queue{
		closed: ErrNotLeader,
		room:   make(chan struct{}),
		limit:  limit,
		ready:  make(chan struct{}, 1),
	}
}

// put appends the ticket; it waits for room as long as ctx lets it.
func (q *queue) put(ctx context.Context, t *ticket) error {
	_, first := t.cmd.(urgent)
	for {
		q.mu.Lock()
		if q.closed != nil {
			defer q.mu.Unlock()
			return q.closed
		}
		if first || len(q.normal) < q.limit {
			if first {
				q.urgent = append(q.urgent, t)
			} else {
				q.normal = append(q.normal, t)
			}
			q.mu.Unlock()
			token(q.ready)
			return nil
		}
		room := q.room
		q.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return fmt.Errorf("the queue of commands is full: %w", context.Cause(ctx))
		}
	}
}

// take removes up to n commands, urgent ones first.
func (q *queue) take(n int) []*ticket {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := make([]*ticket, 0, min(n, len(q.urgent)+len(q.normal)))
	out, q.urgent = moveTickets(out, q.urgent, n)
	full := len(q.normal) >= q.limit
	out, q.normal = moveTickets(out, q.normal, n)
	if full && len(q.normal) < q.limit {
		close(q.room)
		q.room = make(chan struct{})
	}
	if len(q.urgent)+len(q.normal) > 0 {
		token(q.ready)
	}
	return out
}

func moveTickets(out, from []*ticket, n int) (taken, rest []*ticket) {
	for len(from) > 0 && len(out) < n {
		if from[0].take() {
			out = append(out, from[0])
		}
		from[0] = nil
		from = from[1:]
	}
	if len(from) == 0 {
		from = nil // lets go of the array
	}
	return out, from
}

// putBack puts taken commands first in line again, in their order.
func (q *queue) putBack(ts []*ticket) {
	if len(ts) == 0 {
		return
	}
	q.mu.Lock()
	q.normal = append(append(make([]*ticket, 0, len(ts)+len(q.normal)), ts...), q.normal...)
	q.mu.Unlock()
	token(q.ready)
}

// open lets commands in.
func (q *queue) open() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = nil
}

// close answers everything that waits with err, and so whatever comes.
func (q *queue) close(err error) {
	q.mu.Lock()
	q.closed = err
	waiting := append(q.urgent, q.normal...)
	q.urgent, q.normal = nil, nil
	close(q.room)
	q.room = make(chan struct{})
	q.mu.Unlock()
	for _, t := range waiting {
		t.finish(Result{}, err)
	}
}

// len counts the commands that wait.
func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.urgent) + len(q.normal)
}
