package fsm_test

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
)

// walkSpan holds most of the IPv4 addresses of a walk's pools.
var walkSpan, _ = fsm.ParseRange("192.0.2.0-192.0.2.22")

func pickFrom(t *rapid.T) fsmtest.Pick {
	return func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "pick") }
}

// After any history the indexes are those of a rebuild, the rows fit together,
// a clone made on the way is untouched, and a snapshot and a replay give the
// same state.
func TestAnyHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := fsmtest.NewWalk(t, pickFrom(t))
		var clone *fsm.State
		var before [32]byte
		steps := rapid.IntRange(1, 60).Draw(t, "steps")
		for i := range steps {
			w.Step()
			if err := w.S.CheckIndexes(); err != nil {
				t.Fatalf("revision %d: %v", w.S.Revision, err)
			}
			if err := w.S.CheckRows(); err != nil {
				t.Fatalf("revision %d: %v", w.S.Revision, err)
			}
			checkUnused(t, w.S, walkSpan)
			if i == steps/2 {
				clone, before = w.S.Clone(), w.S.Digest()
			}
		}
		if clone.Digest() != before {
			t.Fatal("a clone changed with its source")
		}
		if err := clone.CheckIndexes(); err != nil {
			t.Fatalf("clone: %v", err)
		}
		digest := w.S.Digest()
		if got := fsmtest.Replay(t, w.Raw); got.Digest() != digest {
			t.Fatal("a replay gives another state than the drafts")
		}
		for _, raw := range w.Raw[clone.Revision:] {
			if _, _, err := clone.Apply(raw); err != nil {
				t.Fatalf("clone: %v", err)
			}
		}
		if clone.Digest() != digest {
			t.Fatal("the clone went another way")
		}
		var snap bytes.Buffer
		if err := fsm.WriteSnapshot(&snap, w.S); err != nil {
			t.Fatal(err)
		}
		back, err := fsm.ReadSnapshot(&snap)
		if err != nil {
			t.Fatal(err)
		}
		if back.Digest() != digest {
			t.Fatal("a snapshot gives another state back")
		}
		if err := back.CheckIndexes(); err != nil {
			t.Fatalf("restored: %v", err)
		}
	})
}

// checkUnused holds Unused against the records.
func checkUnused(t *rapid.T, s *fsm.State, span fsm.Range) {
	a := span.First
	for got := range s.Unused(span) {
		for s.Addresses[a] != nil {
			a = a.Next()
		}
		if got != a {
			t.Fatalf("revision %d: %s is unused, not %s", s.Revision, a, got)
		}
		a = a.Next()
	}
	for ; !span.Last.Less(a); a = a.Next() {
		if s.Addresses[a] == nil {
			t.Fatalf("revision %d: %s is unused", s.Revision, a)
		}
	}
}
