package consensus

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Entry is a batch of the past.
type Entry struct {
	Revision uint64
	// Index in Raft's log.
	Index uint64
	// Raw bytes, over which the hash chain runs, and what they say.
	Raw   []byte
	Batch *logv1.Batch
}

// mark is a place in the log: the entry of the revision is at the index or
// before it, and chain is the hash after it.
type mark struct {
	revision uint64
	chain    fsm.Hash
	index    uint64
}

// marks are places from which a walk can start, by revision: without them every
// walk would start at the newest batch.
type marks map[uint64]mark

// markEvery is how many revisions lie between two marks, and keepMarks how many
// are kept while the log advances: more than it usually holds.
const (
	markEvery = 1024
	keepMarks = 256
)

func (ms marks) note(m mark) {
	if m.revision%markEvery == 0 {
		ms[m.revision] = m
		delete(ms, m.revision-min(m.revision, keepMarks*markEvery))
	}
}

// at gives a mark at the revision or the next one after it.
func (ms marks) at(revision uint64, head mark) mark {
	for r := (revision + markEvery - 1) / markEvery * markEvery; r < head.revision; r += markEvery {
		if m, ok := ms[r]; ok && r > 0 {
			return m
		}
	}
	return head
}

// from gives the place to start a walk down from a revision, and the stretch of
// log that it belongs to.
func (m *machine) from(revision uint64) (start mark, stretch uint64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.marks.at(revision, m.head), m.stretch
}

// remember keeps marks that a walk has passed and forgets those that the log no
// longer holds. Marks of another stretch of log are of no use.
func (m *machine) remember(stretch uint64, passed []mark, firstIndex uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if stretch != m.stretch {
		return
	}
	for _, p := range passed {
		m.marks[p.revision] = p
	}
	for r, p := range m.marks {
		if p.index < firstIndex {
			delete(m.marks, r)
		}
	}
}

// walk gives batches from a revision downwards, newest first, as far as the
// hash chain holds, until f says that it has enough.
func (n *Node) walk(ctx context.Context, revision uint64, f func(Entry) (more bool)) error {
	start, stretch := n.machine.from(revision)
	logs := n.cfg.Store.Logs()
	first, err := logs.FirstIndex()
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	var passed []mark
	defer func() { n.machine.remember(stretch, passed, first) }()
	at := start
	for index := start.index; at.revision > 0 && first > 0 && index >= first; index-- {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		var l raft.Log
		if err := logs.GetLog(index, &l); errors.Is(err, raft.ErrLogNotFound) {
			return nil // compacted meanwhile, or a hole that a snapshot left
		} else if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		e, ok := entryAt(at, &l)
		if !ok {
			continue // not a batch, or one that was refused
		}
		if at = (mark{revision: at.revision, chain: at.chain, index: index}); at.revision%markEvery == 0 {
			passed = append(passed, at)
		}
		if e.Revision <= revision && !f(e) {
			return nil
		}
		at = mark{revision: e.Revision - 1, chain: fsm.Hash(e.Batch.GetPrev()), index: index - 1}
	}
	return nil
}

// entryAt tells whether a log entry is the batch that led to a place.
func entryAt(at mark, l *raft.Log) (Entry, bool) {
	if l.Type != raft.LogCommand {
		return Entry{}, false
	}
	b, err := fsm.DecodeBatch(l.Data)
	if err != nil || b.GetRevision() != at.revision || fsm.Hash(b.GetPrev()).NextChain(l.Data) != at.chain {
		return Entry{}, false
	}
	return Entry{Revision: at.revision, Index: l.Index, Raw: l.Data, Batch: b}, true
}

// HistoryBack calls f with batches from a revision downwards, newest first,
// until f returns false or the log of this member ends.
func (n *Node) HistoryBack(ctx context.Context, revision uint64, f func(Entry) (more bool)) error {
	return n.walk(ctx, revision, f)
}

// History gives the batches with from <= revision < until, oldest first. If the
// log does not reach back to from it gives what there is, with ErrIncomplete.
func (n *Node) History(ctx context.Context, from, until uint64) ([]Entry, error) {
	until = min(until, n.Revision()+1)
	from = max(from, 1)
	if from >= until {
		return nil, nil
	}
	var out []Entry
	err := n.walk(ctx, until-1, func(e Entry) bool {
		if e.Revision >= from {
			out = append(out, e)
		}
		return e.Revision > from
	})
	if err != nil {
		return nil, err
	}
	slices.Reverse(out)
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: revision %d", ErrIncomplete, from)
	}
	if out[0].Revision > from {
		return out, fmt.Errorf("%w: revision %d, oldest is %d", ErrIncomplete, from, out[0].Revision)
	}
	return out, nil
}

// OldestRevision is the oldest revision that History can give; one more than the
// newest if it can give none. The first call reads the whole log, later ones
// little.
func (n *Node) OldestRevision(ctx context.Context) (uint64, error) {
	n.machine.mu.RLock()
	lowest := n.machine.head.revision
	for r := range n.machine.marks {
		lowest = min(lowest, r)
	}
	oldest := n.machine.head.revision + 1
	n.machine.mu.RUnlock()
	if lowest == 0 {
		return oldest, nil
	}
	err := n.walk(ctx, lowest, func(e Entry) bool {
		oldest = e.Revision
		return true
	})
	return oldest, err
}

// RevisionAt gives the newest revision whose time, nanoseconds since 1970 UTC,
// is not after the given one; 0 if the cluster did not exist then.
func (n *Node) RevisionAt(ctx context.Context, unixNano int64) (uint64, error) {
	oldest, found := uint64(0), uint64(0)
	err := n.walk(ctx, n.Revision(), func(e Entry) bool {
		oldest = e.Revision
		if e.Batch.GetTimeUnixNano() <= unixNano {
			found = e.Revision
		}
		return found == 0
	})
	if err == nil && found == 0 && oldest > 1 {
		err = fmt.Errorf("%w: oldest is revision %d", ErrIncomplete, oldest)
	}
	return found, err
}

// StateAt makes the state as it was at a revision, from the newest snapshot
// before it and the log.
func (n *Node) StateAt(ctx context.Context, revision uint64) (*fsm.State, error) {
	var now *fsm.State
	n.Read(func(s *fsm.State) {
		if s.Revision == revision {
			now = s.Clone()
		}
	})
	if now != nil {
		return now, nil
	}
	following, err := n.History(ctx, revision+1, revision+2)
	if err != nil {
		return nil, err
	}
	if len(following) == 0 {
		return nil, fmt.Errorf("revision %d is not there yet", revision)
	}
	s, err := n.snapshotBefore(following[0].Index)
	if err != nil {
		return nil, err
	}
	batches, err := n.History(ctx, s.Revision+1, revision+1)
	if err != nil {
		return nil, err
	}
	for _, e := range batches {
		if _, _, err := s.Apply(e.Raw); err != nil {
			return nil, fmt.Errorf("rebuild revision %d: %w", e.Revision, err)
		}
	}
	return s, nil
}

// snapshotBefore reads the newest snapshot of a state before a log index, or
// gives the empty state if there is none.
func (n *Node) snapshotBefore(index uint64) (*fsm.State, error) {
	all, err := n.cfg.Store.Snapshots().List() // newest first
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	for _, meta := range all {
		if meta.Index >= index {
			continue
		}
		_, r, err := n.cfg.Store.Snapshots().Open(meta.ID)
		if err != nil {
			return nil, fmt.Errorf("open snapshot: %w", err)
		}
		s, err := fsm.ReadSnapshot(r)
		_ = r.Close()
		if err != nil {
			return nil, fmt.Errorf("read snapshot %s: %w", meta.ID, err)
		}
		return s, nil
	}
	return fsm.New(), nil
}
