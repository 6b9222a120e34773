package decider

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

var (
	errMemNotLeader = errors.New("memlog: not leader")
	errMemLost      = errors.New("memlog: leadership lost")
)

// memLog is a replicated log in memory as seen by one member: sequential, with
// the faults that Raft has. What is appended is committed in order after delay;
// when leadership is lost, some first part of what is not yet committed
// survives in the log, as it does with Raft.
type memLog struct {
	t       testing.TB
	leases  *fakeLeases
	applied func(*logv1.Batch, fsm.Changes, *fsm.State)
	// folded, if set, is given every batch as it is in the log.
	folded func(raw []byte)

	mu      sync.Mutex
	state   *fsm.State
	batches []*logv1.Batch
	leader  bool
	term    uint64
	changed chan struct{}
	tail    []*memEntry // appended, not committed
	work    chan struct{}
	// stalled: nothing is committed.
	stalled bool
	delay   func() time.Duration
	// onPropose may answer a proposal in the log's place.
	onPropose func(raw []byte) Future
	// hung are futures that end only with the log.
	hung []*memFuture
	// proofs are asked for while the log is stalled: they fail with leadership.
	proofs []*memFuture
}

type memEntry struct {
	raw    []byte
	future *memFuture
	hung   bool // the future never ends
}

type memFuture struct {
	done     chan struct{}
	err      error
	response any
}

func newFuture() *memFuture { return &memFuture{done: make(chan struct{})} }

func (f *memFuture) Error() error  { <-f.done; return f.err }
func (f *memFuture) Response() any { <-f.done; return f.response }

func (f *memFuture) end(err error, response any) *memFuture {
	f.err, f.response = err, response
	close(f.done)
	return f
}

func newMemLog(t testing.TB) *memLog {
	return &memLog{
		t: t, state: fsm.New(), changed: make(chan struct{}), work: make(chan struct{}, 1),
		delay: func() time.Duration { return time.Millisecond },
	}
}

// run commits until ctx ends.
func (l *memLog) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			l.lose(0)
			l.set(func(l *memLog) {
				for _, f := range l.hung {
					f.end(errMemLost, nil)
				}
			})
			return
		case <-l.work:
		}
		for l.commitFirst(ctx) {
		}
	}
}

func (l *memLog) commitFirst(ctx context.Context) bool {
	l.mu.Lock()
	ready := len(l.tail) > 0 && !l.stalled
	delay := l.delay()
	l.mu.Unlock()
	if !ready {
		return false
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return false
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.tail) == 0 || l.stalled {
		return false
	}
	e := l.tail[0]
	l.tail = l.tail[1:]
	l.fold(e)
	return true
}

// fold applies an entry. mu is held.
func (l *memLog) fold(e *memEntry) {
	b, ch, err := l.state.Apply(e.raw)
	var response any
	switch {
	case errors.Is(err, fsm.ErrRevision) || errors.Is(err, fsm.ErrChain):
		response = err
	case err != nil:
		l.t.Errorf("a member would have stopped: %v", err)
		response = err
	default:
		l.batches = append(l.batches, b)
		if l.folded != nil {
			l.folded(e.raw)
		}
		l.applied(b, ch, l.state)
	}
	if !e.hung && e.future != nil {
		e.future.end(nil, response)
	}
}

func (l *memLog) Propose(raw []byte) Future {
	b, err := fsm.DecodeBatch(raw)
	if err != nil {
		l.t.Errorf("proposed a batch that cannot be decoded: %v", err)
	}
	l.leases.set(func(f *fakeLeases) {
		if f.decided < b.GetRevision() {
			l.t.Errorf("batch %d proposed before the leases were told; they know %d", b.GetRevision(), f.decided)
		}
	})
	if hook := l.hook(); hook != nil {
		if f := hook(raw); f != nil {
			return f
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.append(raw, false)
}

func (l *memLog) hook() func([]byte) Future {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.onPropose
}

// hang gives a future that does not end. mu is held.
func (l *memLog) hang() Future {
	f := newFuture()
	l.hung = append(l.hung, f)
	return f
}

// append is Propose without hooks. mu is held.
func (l *memLog) append(raw []byte, hung bool) Future {
	f := newFuture()
	if !l.leader {
		return f.end(errMemNotLeader, nil)
	}
	l.tail = append(l.tail, &memEntry{raw: raw, future: f, hung: hung})
	token(l.work)
	return f
}

func (l *memLog) Barrier(timeout time.Duration) error {
	l.mu.Lock()
	term := l.term
	leader := l.leader
	l.mu.Unlock()
	if !leader {
		return errMemNotLeader
	}
	deadline := time.Now().Add(timeout)
	for {
		l.mu.Lock()
		n, ok := len(l.tail), l.leader && l.term == term
		l.mu.Unlock()
		switch {
		case !ok:
			return errMemLost
		case n == 0:
			return nil
		case time.Now().After(deadline):
			return context.DeadlineExceeded
		}
		time.Sleep(time.Millisecond)
	}
}

func (l *memLog) Verify() Future {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.leader {
		return newFuture().end(errMemNotLeader, nil)
	}
	if l.stalled {
		f := newFuture()
		l.proofs = append(l.proofs, f)
		return f
	}
	return newFuture().end(nil, nil)
}

func (l *memLog) Read(f func(*fsm.State)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l.state)
}

func (l *memLog) Leadership() Leadership {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Leadership{Leader: l.leader, Term: l.term, Changed: l.changed}
}

func (l *memLog) NotAppended(err error) bool { return errors.Is(err, errMemNotLeader) }

// lead makes this member the leader of a new term.
func (l *memLog) lead() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.term++
	l.leader = true
	l.change()
	token(l.work)
}

// lose ends leadership. Of what is not committed the first keep entries stay in
// the log; nobody is told which.
func (l *memLog) lose(keep int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leader = false
	l.term++
	for i, e := range l.tail {
		if !e.hung && e.future != nil {
			e.future.end(errMemLost, nil)
		}
		e.hung = true
		if i >= keep {
			e.raw = nil
		}
	}
	l.tail = l.tail[:min(keep, len(l.tail))]
	l.failProofs()
	l.change()
}

// failProofs ends the proofs of leadership that are asked for. mu is held.
func (l *memLog) failProofs() {
	for _, f := range l.proofs {
		f.end(errMemLost, nil)
	}
	l.proofs = nil
}

// change tells of a change of leadership. mu is held.
func (l *memLog) change() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// foreign has another leader commit a batch after what survives.
func (l *memLog) foreign(events ...*logv1.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.tail {
		l.fold(e)
	}
	l.tail = nil
	b := l.state.NextBatch(l.state.Time+1, []string{"member:other"}, events)
	l.fold(&memEntry{raw: fsm.EncodeBatch(b)})
}

func (l *memLog) set(f func(*memLog)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l)
	token(l.work)
}

func (l *memLog) revision() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.Revision
}

// events lists what was committed after a revision, "--" between batches.
func (l *memLog) events(after uint64) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, b := range l.batches {
		if b.GetRevision() <= after {
			continue
		}
		if len(out) > 0 {
			out = append(out, "--")
		}
		for _, ev := range b.GetEvents() {
			out = append(out, eventText(ev))
		}
	}
	return out
}

// testLogger writes warnings and worse of the decider into the test's log.
func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Helper()
	w.t.Log(string(p))
	return len(p), nil
}
