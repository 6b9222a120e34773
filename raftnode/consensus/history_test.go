package consensus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/consensus/clustertest"
	"github.com/quorumlb/quorumlb/raftnode/storage"
)

// smallLog makes snapshots and compaction happen within a test.
func smallLog(c *consensus.Config) {
	c.SnapshotThreshold, c.TrailingLogs, c.SnapshotInterval = 50, 200, 5*time.Millisecond
	c.DigestEvery = 64
}

// propose commits n small batches, several at a time, by whoever leads: a busy
// machine may lose its leader at any moment.
func propose(t *testing.T, c *clustertest.Cluster, n int) {
	t.Helper()
	var want uint64
	clustertest.Eventually(t, fmt.Sprintf("%d batches", n), func() bool {
		node := c.Leader().Node
		if node.Barrier(clustertest.Patience) != nil {
			return false
		}
		if want == 0 {
			want = node.Revision() + uint64(n)
		}
		missing := int(want) - int(node.Revision())
		if missing <= 0 {
			return true
		}
		err := proposeAt(t, node, missing)
		if err != nil {
			t.Logf("proposing: %v", err)
		}
		return err == nil
	})
}

// proposeAt commits n small batches on a leader.
func proposeAt(t *testing.T, node *consensus.Node, n int) (err error) {
	t.Helper()
	const window = 16
	var head *fsm.State
	node.Read(func(s *fsm.State) { head = s.Clone() })
	var flight []*consensus.Proposal
	for i := range n {
		raw := fsm.EncodeBatch(head.NextBatch(time.Now().UnixNano(), []string{"test"}, []*logv1.Event{clustertest.Retention(int(head.Revision) + 1)}))
		if _, _, err := head.Apply(raw); err != nil {
			t.Fatal(err)
		}
		flight = append(flight, node.Propose(raw))
		if len(flight) == window || i == n-1 {
			for _, p := range flight {
				err = errors.Join(err, p.Wait(within(t)))
			}
			if err != nil {
				return err
			}
			flight = nil
		}
	}
	return nil
}

func revisions(entries []consensus.Entry) (out []uint64) {
	for _, e := range entries {
		out = append(out, e.Revision)
	}
	return out
}

func TestHistory(t *testing.T) {
	c := clustertest.New(t, 1, nil)
	n := c.Leader().Node
	// A refused batch in between must not show.
	raw := clustertest.Batch(n, clustertest.Retention(2))
	for range 2 {
		if err := n.Propose(raw).Error(); err != nil {
			t.Fatal(err)
		}
	}
	propose(t, c, 3000) // crosses two marks
	c.Agree()
	newest := n.Revision()
	for _, tt := range []struct{ from, until, first, count uint64 }{
		{1, newest + 1, 1, newest},
		{0, newest + 100, 1, newest},
		{10, 20, 10, 10},
		{1020, 1030, 1020, 10},
		{1024, 1025, 1024, 1},
		{2048, 2050, 2048, 2},
		{newest, newest + 1, newest, 1},
		{20, 20, 0, 0},
		{newest + 1, newest + 5, 0, 0},
	} {
		got, err := n.History(within(t), tt.from, tt.until)
		if err != nil || uint64(len(got)) != tt.count {
			t.Fatalf("[%d, %d): %d entries, %v; want %d", tt.from, tt.until, len(got), err, tt.count)
		}
		for i, e := range got {
			if e.Revision != tt.first+uint64(i) || e.Batch.GetRevision() != e.Revision {
				t.Fatalf("[%d, %d): revisions %v", tt.from, tt.until, revisions(got))
			}
		}
	}
	if oldest, err := n.OldestRevision(within(t)); err != nil || oldest != 1 {
		t.Fatalf("oldest %d, %v; want 1", oldest, err)
	}
	var back []uint64
	if err := n.HistoryBack(within(t), 7, func(e consensus.Entry) bool {
		back = append(back, e.Revision)
		return len(back) < 3
	}); err != nil || !slices.Equal(back, []uint64{7, 6, 5}) {
		t.Fatalf("back: %v, %v", back, err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := n.History(ended, 1, 2); !errors.Is(err, context.Canceled) {
		t.Fatalf("with an ended context: %v", err)
	}
}

func TestHistoryEndsWhereTheLogStarts(t *testing.T) {
	c := clustertest.New(t, 1, smallLog)
	m := c.Leader()
	clustertest.Eventually(t, "the log is compacted", func() bool {
		propose(t, c, 100)
		first, err := m.Store.Logs().FirstIndex()
		return err == nil && first > 1
	})
	if _, err := m.Node.RevisionAt(within(t), 1); !errors.Is(err, consensus.ErrIncomplete) {
		t.Fatalf("a time before the log: %v", err)
	}
	// One more snapshot may be under way, and the log may lose its start in the middle.
	var wrong string
	clustertest.Eventually(t, "the log keeps its start while it is looked at", func() bool {
		oldest, err := m.Node.OldestRevision(within(t))
		if err != nil || oldest <= 1 {
			t.Fatalf("oldest %d, %v", oldest, err)
		}
		wrong = historyFrom(t, m.Node, oldest)
		after, err := m.Node.OldestRevision(within(t))
		return err == nil && after == oldest
	})
	if wrong != "" {
		t.Fatal(wrong)
	}
}

// historyFrom says what is wrong with a history that begins at a revision.
func historyFrom(t *testing.T, n *consensus.Node, oldest uint64) (wrong string) {
	got, err := n.History(within(t), 1, oldest+3)
	if !errors.Is(err, consensus.ErrIncomplete) || !slices.Equal(revisions(got), []uint64{oldest, oldest + 1, oldest + 2}) {
		return fmt.Sprintf("got %v, %v; want three entries and ErrIncomplete", revisions(got), err)
	}
	// Every state since the start of the log can be made again.
	for _, revision := range []uint64{oldest - 1, oldest, oldest + 57, n.Revision()} {
		s, err := n.StateAt(within(t), revision)
		if err != nil {
			return fmt.Sprintf("state at %d: %v", revision, err)
		}
		// Revision n > 1 set the retention to n seconds.
		if s.Revision != revision || s.Retention != time.Duration(revision)*time.Second {
			return fmt.Sprintf("state at %d: revision %d, retention %s", revision, s.Revision, s.Retention)
		}
	}
	return ""
}

func TestRevisionAt(t *testing.T) {
	c := clustertest.New(t, 1, nil)
	n := c.Leader().Node
	propose(t, c, 50)
	entries, err := n.History(within(t), 1, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries[10:12] {
		at := e.Batch.GetTimeUnixNano()
		got, err := n.RevisionAt(within(t), at)
		if err != nil || got != e.Revision {
			t.Fatalf("at the time of %d: %d, %v", e.Revision, got, err)
		}
	}
	if got, err := n.RevisionAt(within(t), entries[0].Batch.GetTimeUnixNano()-1); err != nil || got != 0 {
		t.Fatalf("before the cluster: %d, %v", got, err)
	}
}

// A member that was away for longer than the log reaches back gets a snapshot.
// Its history starts there; it must not run on into older entries that its log
// still holds.
func TestSnapshotInstall(t *testing.T) {
	c := clustertest.New(t, 3, smallLog)
	propose(t, c, 20)
	c.Agree()
	late := c.Followers()[0]
	had := late.Node.Revision()
	late.Stop()
	leader := c.Leader()
	clustertest.Eventually(t, "the log no longer reaches back", func() bool {
		propose(t, c, 100)
		oldest, err := leader.Node.OldestRevision(within(t))
		return err == nil && oldest > had+1
	})
	late.Start(storage.Identity{})
	whole := make(chan uint64, 64)
	late.Node.Subscribe(func(b *logv1.Batch, _ fsm.Changes, s *fsm.State) {
		if b == nil {
			whole <- s.Revision
		}
	})
	<-whole // at the subscription
	if err := late.Node.CaughtUp(within(t)); err != nil {
		t.Fatal(err)
	}
	c.Agree()
	oldest, err := late.Node.OldestRevision(within(t))
	if err != nil || oldest <= had {
		t.Fatalf("history from %d, %v; it had %d before it was away", oldest, err, had)
	}
	if _, err := late.Node.History(within(t), had, had+1); !errors.Is(err, consensus.ErrIncomplete) {
		t.Fatalf("history across the hole: %v", err)
	}
	propose(t, c, 10)
	c.Agree()
	// It works as a leader, too.
	if err := leader.Node.Transfer(within(t), late.ID); err != nil {
		t.Fatal(err)
	}
	propose(t, c, 10)
	c.Agree()
}

func TestDigestsInPassing(t *testing.T) {
	c := clustertest.New(t, 3, smallLog)
	propose(t, c, 130)
	c.Agree()
	clustertest.Eventually(t, "all members have the digest of one revision", func() bool {
		sums := make(map[consensus.Digest]int)
		for _, m := range c.Members {
			for _, d := range m.Node.Digests() {
				if d.Revision%64 != 0 {
					t.Fatalf("digest at revision %d", d.Revision)
				}
				sums[d]++
			}
		}
		for _, n := range sums {
			if n == len(c.Members) {
				return true
			}
		}
		return false
	})
}

func TestSnapshotTo(t *testing.T) {
	c := clustertest.New(t, 1, nil)
	propose(t, c, 20)
	var b bytes.Buffer
	n := c.Leader().Node
	revision, err := n.SnapshotTo(&b)
	if err != nil {
		t.Fatal(err)
	}
	s, err := fsm.ReadSnapshot(&b)
	if err != nil || s.Revision != revision || s.Digest() != n.DigestNow().Sum {
		t.Fatalf("backup of revision %d: %v", revision, err)
	}
}
