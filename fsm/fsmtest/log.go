package fsmtest

import (
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// TB is what is needed of testing.TB or *rapid.T.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Epoch is the time of the first batch.
const Epoch = int64(1_700_000_000_000_000_000)

// Log folds batches into a state and remembers their bytes.
type Log struct {
	t TB
	// S is the state after all batches.
	S *fsm.State
	// Raw are the batches.
	Raw [][]byte
	// Now is the time of the next batch; every batch moves it on by a second.
	Now int64
}

// NewLog founds a cluster.
func NewLog(t TB) *Log {
	l := &Log{t: t, S: fsm.New(), Now: Epoch}
	l.Apply(Founded())
	return l
}

// Apply folds the events as one batch, which must be legal.
func (l *Log) Apply(events ...*logv1.Event) fsm.Changes {
	l.t.Helper()
	raw := fsm.EncodeBatch(l.S.NextBatch(l.Now, []string{"admin:test"}, events))
	_, changes, err := l.S.Apply(raw)
	if err != nil {
		l.t.Fatalf("apply: %v", err)
	}
	l.Raw = append(l.Raw, raw)
	l.Now += int64(time.Second)
	return changes
}

// Refuse folds the events into a clone as one batch and gives the error, of
// which there must be one. The log goes on as if nothing had been.
func (l *Log) Refuse(events ...*logv1.Event) error {
	l.t.Helper()
	raw := fsm.EncodeBatch(l.S.NextBatch(l.Now, []string{"admin:test"}, events))
	_, _, err := l.S.Clone().Apply(raw)
	if err == nil {
		l.t.Fatalf("a batch that cannot be was folded")
	}
	return err
}

// Replay folds batches into an empty state.
func Replay(t TB, raw [][]byte) *fsm.State {
	t.Helper()
	s := fsm.New()
	for i, b := range raw {
		if _, _, err := s.Apply(b); err != nil {
			t.Fatalf("replay of batch %d: %v", i+1, err)
		}
	}
	return s
}
