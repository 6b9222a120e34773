package storage

import (
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// deleteChunk is how many entries a compaction removes in one transaction, so
// that appends get their turn in between.
const deleteChunk = 2048

// logStore is the log with its appends watched.
type logStore struct {
	bolt  *raftboltdb.BoltStore
	watch *watch
	// anchor limits a compaction, see Snapshots.anchor.
	anchor func(upTo uint64) (uint64, bool, error)
}

func (l *logStore) FirstIndex() (uint64, error)              { return l.bolt.FirstIndex() }
func (l *logStore) LastIndex() (uint64, error)               { return l.bolt.LastIndex() }
func (l *logStore) GetLog(index uint64, log *raft.Log) error { return l.bolt.GetLog(index, log) }
func (l *logStore) StoreLog(log *raft.Log) error             { return l.StoreLogs([]*raft.Log{log}) }

func (l *logStore) StoreLogs(logs []*raft.Log) error {
	defer l.watch.begin()()
	return write(func() error { return l.bolt.StoreLogs(logs) })
}

// DeleteRange removes entries from first to last. A compaction, which leaves
// the end of the log, stops where a snapshot ends and goes in chunks from the
// old end; when it is interrupted it has merely removed less. A conflicting end
// of the log is removed in one transaction: half of it would be a log that
// never was.
func (l *logStore) DeleteRange(first, last uint64) error {
	end, err := l.bolt.LastIndex()
	if err != nil {
		return err
	}
	if last >= end {
		return l.bolt.DeleteRange(first, last)
	}
	start, ok, err := l.anchor(last)
	if err != nil || !ok {
		return err
	}
	for last = start; first <= last; {
		upTo := min(first+deleteChunk-1, last)
		if err := l.bolt.DeleteRange(first, upTo); err != nil {
			return err
		}
		first = upTo + 1
	}
	return nil
}

// stableStore holds term and vote. Raft panics when it cannot write its term;
// here the owner is told instead, and the caller never goes on.
type stableStore struct {
	*raftboltdb.BoltStore
	watch  *watch
	broken func(error)
}

func (s *stableStore) Set(key, val []byte) error {
	done := s.watch.begin()
	err := write(func() error { return s.BoltStore.Set(key, val) })
	done()
	return s.check(key, err)
}

func (s *stableStore) SetUint64(key []byte, val uint64) error {
	done := s.watch.begin()
	err := write(func() error { return s.BoltStore.SetUint64(key, val) })
	done()
	return s.check(key, err)
}

func (s *stableStore) check(key []byte, err error) error {
	if err == nil || s.broken == nil {
		return err
	}
	s.broken(fmt.Errorf("write %s: %w", key, err))
	// This goroutine is Raft's main loop. What it would do next is panic; the
	// process ends in order instead, as the owner was told.
	select {}
}

// write makes a write on a disk that a chaos run may have made sick.
func write(fn func() error) error {
	if err := beforeWrite(); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	return afterWrite()
}

// watch measures writes and reports one that hangs.
type watch struct {
	limit time.Duration
	slow  func(time.Duration)
	now   func() time.Time

	mu      sync.Mutex
	running map[uint64]time.Time
	next    uint64
	slowest time.Duration
}

func newWatch(limit time.Duration, slow func(time.Duration)) *watch {
	return &watch{limit: limit, slow: slow, now: time.Now, running: make(map[uint64]time.Time)}
}

// begin starts to measure a write; the returned function ends it.
func (w *watch) begin() func() {
	w.mu.Lock()
	w.next++
	id, start := w.next, w.now()
	w.running[id] = start
	w.mu.Unlock()
	stop := func() {}
	if w.slow != nil {
		ended := make(chan struct{})
		timer := time.AfterFunc(w.limit, func() { w.report(start, ended) })
		stop = func() {
			close(ended)
			timer.Stop()
		}
	}
	return func() {
		stop()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.slowest = max(w.slowest, w.now().Sub(start))
		delete(w.running, id)
	}
}

// report tells of a write that hangs until it has ended.
func (w *watch) report(start time.Time, ended <-chan struct{}) {
	again := time.NewTicker(max(w.limit/4, time.Millisecond))
	defer again.Stop()
	for {
		w.slow(w.now().Sub(start))
		select {
		case <-ended:
			return
		case <-again.C:
		}
	}
}

// take gives the slowest write since the last call.
func (w *watch) take() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	slowest := w.slowest
	for _, start := range w.running {
		slowest = max(slowest, w.now().Sub(start))
	}
	w.slowest = 0
	return slowest
}
