package storage

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// Snapshots keeps several snapshots in files: the newest ones, and always the
// one after which the log starts, so that every state since then can be made
// again.
type Snapshots struct {
	*raft.FileSnapshotStore
	dir   string
	keep  int
	first func() (uint64, error)
	log   hclog.Logger

	mu sync.Mutex // one reap at a time
}

// keepAll is more than there ever are: the file store's own count would not
// know about the start of the log.
const keepAll = 1 << 20

func openSnapshots(dir string, keep int, firstIndex func() (uint64, error), log hclog.Logger) (*Snapshots, error) {
	files, err := raft.NewFileSnapshotStoreWithLogger(dir, keepAll, log)
	if err != nil {
		return nil, err
	}
	return &Snapshots{
		FileSnapshotStore: files, dir: filepath.Join(dir, snapshotDir), keep: keep, first: firstIndex, log: log,
	}, nil
}

// Create begins a snapshot. Older ones are removed when it is complete.
func (s *Snapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.FileSnapshotStore.Create(version, index, term, conf, confIndex, trans)
	if err != nil {
		return nil, err
	}
	return &sinkThatReaps{SnapshotSink: sink, after: s.reap}, nil
}

// Newest gives the newest snapshot's metadata; nil if there is none.
func (s *Snapshots) Newest() (*raft.SnapshotMeta, error) {
	all, err := s.List()
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return all[0], nil
}

// anchor gives the index of the newest snapshot at or before upTo. The log may
// be compacted up to there and no further, so that it always starts where a
// snapshot ends; ok is false if there is none.
func (s *Snapshots) anchor(upTo uint64) (index uint64, ok bool, err error) {
	all, err := s.List() // newest first
	if err != nil {
		return 0, false, err
	}
	for _, meta := range all {
		if meta.Index <= upTo {
			return meta.Index, true, nil
		}
	}
	return 0, false, nil
}

// reap removes all but the newest snapshots and the one where the log starts.
func (s *Snapshots) reap() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, err := s.List() // newest first
	if err != nil {
		return err
	}
	first, err := s.first()
	if err != nil {
		return fmt.Errorf("read start of the log: %w", err)
	}
	start := -1 // the oldest snapshot whose following entries are all in the log
	for i, meta := range all {
		if first > 0 && meta.Index+1 >= first {
			start = i
		}
	}
	for i, meta := range all {
		if i < s.keep || i == start {
			continue
		}
		s.log.Info("removing snapshot", "id", meta.ID, "index", meta.Index)
		if err := os.RemoveAll(filepath.Join(s.dir, meta.ID)); err != nil {
			return fmt.Errorf("remove snapshot: %w", err)
		}
	}
	return nil
}

// sinkThatReaps removes old snapshots when a new one is complete.
type sinkThatReaps struct {
	raft.SnapshotSink
	after    func() error
	finished bool
}

func (k *sinkThatReaps) Close() error {
	if k.finished {
		return nil
	}
	if err := k.SnapshotSink.Close(); err != nil {
		return err
	}
	k.finished = true
	return k.after()
}

func (k *sinkThatReaps) Cancel() error {
	if k.finished {
		return nil
	}
	return k.SnapshotSink.Cancel()
}

var _ io.WriteCloser = (*sinkThatReaps)(nil)
