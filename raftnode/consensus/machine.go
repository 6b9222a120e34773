package consensus

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode/storage"
)

// Subscriber is called after the state has advanced by a batch. A nil batch
// says that s as a whole is new: at the subscription and after a snapshot was
// installed; Changes.All is set then. It runs in the apply goroutine, must not
// block, must not call the Node, and must not keep or change s, whose records
// are immutable and may be kept.
type Subscriber func(batch *logv1.Batch, ch fsm.Changes, s *fsm.State)

// machine is the raft.FSM: the state and who waits for it.
type machine struct {
	store *storage.Store
	log   *slog.Logger
	// every is after how many revisions digest is given a clone.
	every  uint64
	digest func(*fsm.State)

	mu      sync.RWMutex
	state   *fsm.State
	head    mark // the state's place in the log
	marks   marks
	stretch uint64 // counts restores: marks before one are of another stretch of log
	subs    []*Subscriber
	waiters []waiter
	err     error         // why the member stops
	stopped chan struct{} // closed when err is set

	confMu sync.Mutex
	// confIndex is the log index of the newest committed configuration.
	confIndex uint64
}

type waiter struct {
	revision uint64
	ready    chan struct{}
}

var (
	_ raft.FSM                = (*machine)(nil)
	_ raft.ConfigurationStore = (*machine)(nil)
)

func newMachine(store *storage.Store, log *slog.Logger, every uint64, digest func(*fsm.State)) *machine {
	return &machine{
		store: store, log: log, every: every, digest: digest,
		state: fsm.New(), marks: make(marks), stopped: make(chan struct{}),
	}
}

// Apply folds a committed entry. It returns nil, the guard's refusal, or why
// the member stops.
func (m *machine) Apply(l *raft.Log) any {
	m.mu.Lock()
	if m.err != nil {
		defer m.mu.Unlock()
		return m.err
	}
	batch, changes, err := m.fold(l.Data)
	switch {
	case errors.Is(err, fsm.ErrRevision) || errors.Is(err, fsm.ErrChain):
		m.mu.Unlock()
		m.log.Info("batch refused", "index", l.Index, "error", err)
		return err
	case err == nil:
		err = m.checkCluster(m.state)
	}
	if err != nil {
		m.stop(fmt.Errorf("log index %d: %w", l.Index, err))
		defer m.mu.Unlock()
		return m.err
	}
	m.head = mark{revision: m.state.Revision, chain: m.state.Chain, index: l.Index}
	m.marks.note(m.head)
	s, subs := m.state, m.subs
	// Nobody but this goroutine changes the state, so it may be read unlocked here.
	m.mu.Unlock()
	for _, sub := range subs {
		(*sub)(batch, changes, s)
	}
	if s.Revision%m.every == 0 {
		m.digest(s.Clone())
	}
	m.wake(s.Revision)
	return nil
}

// fold applies a batch; a panic is an error like any other that stops the member.
func (m *machine) fold(raw []byte) (b *logv1.Batch, ch fsm.Changes, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: panic: %v\n%s", fsm.ErrCorrupt, p, debug.Stack())
		}
	}()
	return m.state.Apply(raw)
}

// checkCluster notes the cluster that a state belongs to, and refuses another.
func (m *machine) checkCluster(s *fsm.State) error {
	if s.ClusterID == [16]byte{} {
		return nil
	}
	return m.store.SetClusterID(s.ClusterID)
}

// stop ends the member's applying for good. The caller holds mu.
func (m *machine) stop(reason error) {
	if m.err != nil {
		return
	}
	m.err = fmt.Errorf("%w: %w", ErrStopped, reason)
	close(m.stopped)
	m.log.Error("this member stops", "error", m.err)
}

// fail is stop for callers outside.
func (m *machine) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = err
		close(m.stopped)
		m.log.Error("this member stops", "error", err)
	}
}

func (m *machine) failure() error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.err
}

// StoreConfiguration notes the newest committed configuration.
func (m *machine) StoreConfiguration(index uint64, _ raft.Configuration) {
	m.confMu.Lock()
	defer m.confMu.Unlock()
	m.confIndex = max(m.confIndex, index)
}

func (m *machine) configurationIndex() uint64 {
	m.confMu.Lock()
	defer m.confMu.Unlock()
	return m.confIndex
}

// Snapshot clones the state. After a failure there is none: it would say that
// the entry that could not be applied was.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.err != nil {
		return nil, m.err
	}
	return &snapshot{state: m.state.Clone()}, nil
}

// Restore replaces the state by a snapshot's.
func (m *machine) Restore(from io.ReadCloser) error {
	s, err := fsm.ReadSnapshot(from)
	if err == nil {
		err = m.checkCluster(s)
	}
	if err != nil {
		if errors.Is(err, fsm.ErrUnknown) || errors.Is(err, storage.ErrOtherCluster) {
			m.fail(fmt.Errorf("%w: snapshot: %w", ErrStopped, err))
		}
		return err
	}
	head := mark{revision: s.Revision, chain: s.Chain}
	if meta, err := m.store.Snapshots().Newest(); err == nil && meta != nil {
		// Both are upper bounds, which is all that their readers need.
		head.index = meta.Index
		m.StoreConfiguration(meta.ConfigurationIndex, meta.Configuration)
	}
	m.mu.Lock()
	m.state, m.head = s, head
	m.marks = make(marks)
	m.stretch++
	subs := m.subs
	m.mu.Unlock()
	for _, sub := range subs {
		(*sub)(nil, fsm.Changes{All: true}, s)
	}
	m.wake(s.Revision)
	return nil
}

// subscribe adds a subscriber and calls it with the state as it is.
func (m *machine) subscribe(f Subscriber) (cancel func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(nil, fsm.Changes{All: true}, m.state)
	sub := &f
	// The apply goroutine may be walking the old slice.
	m.subs = append(slices.Clone(m.subs), sub)
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.subs = slices.DeleteFunc(slices.Clone(m.subs), func(s *Subscriber) bool { return s == sub })
	}
}

// wait gives a channel that is closed once the revision has been applied and
// every subscriber told.
func (m *machine) wait(revision uint64) (ready <-chan struct{}, cancel func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := waiter{revision: revision, ready: make(chan struct{})}
	if m.state.Revision >= revision {
		close(w.ready)
		return w.ready, func() {}
	}
	m.waiters = append(m.waiters, w)
	return w.ready, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.waiters = slices.DeleteFunc(m.waiters, func(o waiter) bool { return o.ready == w.ready })
	}
}

func (m *machine) wake(revision uint64) {
	m.mu.RLock()
	none := len(m.waiters) == 0
	m.mu.RUnlock()
	if none {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waiters = slices.DeleteFunc(m.waiters, func(w waiter) bool {
		if w.revision <= revision {
			close(w.ready)
			return true
		}
		return false
	})
}

// snapshot is a state on its way to disk.
type snapshot struct{ state *fsm.State }

// Persist streams the state. Raft closes or cancels the sink.
func (s *snapshot) Persist(sink raft.SnapshotSink) error { return fsm.WriteSnapshot(sink, s.state) }

// Release lets go of the clone.
func (s *snapshot) Release() { s.state = nil }
