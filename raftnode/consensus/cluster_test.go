package consensus_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/consensus/clustertest"
	"github.com/quorumlb/quorumlb/raftnode/storage"
	"github.com/quorumlb/quorumlb/raftnode/transport"
)

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clustertest.Patience)
	t.Cleanup(cancel)
	return ctx
}

func TestProposeReachesEveryMember(t *testing.T) {
	c := clustertest.New(t, 3, nil)
	revision := c.Propose(clustertest.Retention(7))
	for _, m := range c.Members {
		if err := m.Node.WaitRevision(within(t), revision); err != nil {
			t.Fatal(err)
		}
		m.Node.Read(func(s *fsm.State) {
			if s.Retention != 7*time.Second {
				t.Errorf("%s: retention %s", m.Name, s.Retention)
			}
		})
		if id, ok := m.Store.ClusterID(); !ok || string(id[:]) != clustertest.ClusterID {
			t.Errorf("%s: cluster id on disk %q, %v", m.Name, id, ok)
		}
	}
	c.Agree()
}

func TestFollowerTakesNoProposal(t *testing.T) {
	c := clustertest.New(t, 3, nil)
	f := c.Followers()[0].Node
	err := f.Propose(clustertest.Batch(f, clustertest.Retention(1))).Error()
	if !errors.Is(err, consensus.ErrNotLeader) || !f.NotAppended(err) {
		t.Fatalf("got %v, want ErrNotLeader", err)
	}
	if err := f.LinearizableRead(within(t)); !errors.Is(err, consensus.ErrNotLeader) {
		t.Fatalf("read: %v, want ErrNotLeader", err)
	}
	if err := f.Verify().Error(); !errors.Is(err, consensus.ErrNotLeader) {
		t.Fatalf("verify: %v, want ErrNotLeader", err)
	}
}

// A batch that does not follow the state is refused everywhere and leaves no trace.
func TestGuardRefusal(t *testing.T) {
	c := clustertest.New(t, 3, nil)
	n := c.Leader().Node
	raw := clustertest.Batch(n, clustertest.Retention(1))
	first, second := n.Propose(raw), n.Propose(raw)
	if err := first.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := second.Error(); err != nil {
		t.Fatalf("a refused batch is committed all the same: %v", err)
	}
	if err, _ := second.Response().(error); !errors.Is(err, fsm.ErrRevision) {
		t.Fatalf("response %v, want ErrRevision", second.Response())
	}
	c.Propose(clustertest.Retention(2))
	c.Agree()
	for _, m := range c.Members {
		entries, err := m.Node.History(within(t), 1, 100)
		if err != nil || len(entries) != 3 {
			t.Fatalf("%s: %d entries, %v; the refused one must not show", m.Name, len(entries), err)
		}
	}
}

func TestLeaderCrash(t *testing.T) {
	c := clustertest.New(t, 3, nil)
	old := c.Leader()
	oldTerm := old.Node.Term()
	before := old.Node.Leadership()
	if !before.Leader || before.Term != oldTerm || before.ID != old.ID || before.Address != old.Address {
		t.Fatalf("leadership %+v", before)
	}
	old.Crash()
	select {
	case <-before.Changed:
	case <-time.After(clustertest.Patience):
		t.Fatal("the change of leadership was not told")
	}
	revision := c.Propose(clustertest.Retention(9))
	if l := c.Leader().Node.Leadership(); l.Term <= oldTerm {
		t.Fatalf("term %d after %d", l.Term, oldTerm)
	}
	old.Start(storage.Identity{})
	if err := old.Node.CaughtUp(within(t)); err != nil {
		t.Fatal(err)
	}
	if got := old.Node.Revision(); got < revision {
		t.Fatalf("caught up at revision %d, want %d", got, revision)
	}
	c.Agree()
}

func TestStopHandsLeadershipOver(t *testing.T) {
	c := clustertest.New(t, 3, nil)
	old := c.Leader()
	follower := c.Followers()[0]
	start := time.Now()
	old.Stop()
	c.Leader()
	// An election would take at least one heartbeat timeout.
	if took := time.Since(start); took > time.Second {
		t.Logf("handing over took %s", took)
	}
	if follower.Node.Term() == 0 {
		t.Fatal("no term")
	}
	c.Propose(clustertest.Retention(1))
}

func TestTransfer(t *testing.T) {
	c := clustertest.New(t, 3, nil)
	to := c.Followers()[1]
	if err := c.Leader().Node.Transfer(within(t), to.ID); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, to.Name+" leads", func() bool { return to.Node.Leadership().Leader })
	if err := to.Node.Transfer(within(t), "nobody"); !errors.Is(err, consensus.ErrNoMember) {
		t.Fatalf("to nobody: %v", err)
	}
	if err := c.Followers()[0].Node.Transfer(within(t), ""); !errors.Is(err, consensus.ErrNotLeader) {
		t.Fatalf("by a follower: %v", err)
	}
}

// The fault wrapper must not hide pre-vote from Raft: a member that hears
// nobody must not raise its term. (On a busy machine the others may elect, too.)
func TestPreVoteIsOn(t *testing.T) {
	c := clustertest.New(t, 3, nil)
	for attempt := 1; ; attempt++ {
		leader := c.Leader()
		lonely := c.Followers()[0]
		term := leader.Node.Term()
		// The leader no longer reaches it, but it reaches everybody.
		heal := leader.Faults.Drop(transport.OpInvalid, raft.ServerID(lonely.ID))
		clustertest.Eventually(t, "the cut-off member misses its leader", func() bool { return lonely.Node.LeaderID() == "" })
		asked, release := lonely.Faults.Hold(transport.OpRequestPreVote, "")
		select {
		case <-asked:
		case <-time.After(clustertest.Patience):
			t.Fatal("no pre-vote was asked for")
		}
		release()
		time.Sleep(4 * consensus.DefaultTiming.Election) // several campaigns
		now, cutOff := leader.Node.Term(), lonely.Node.Term()
		heal()
		if now == term && cutOff == term {
			break
		}
		if attempt == 5 {
			t.Fatalf("term went from %d to %d (cut off: %d)", term, now, cutOff)
		}
		t.Logf("term went from %d to %d (cut off: %d): again", term, now, cutOff)
	}
	c.Propose(clustertest.Retention(3))
	c.Agree()
}

func TestLinearizableRead(t *testing.T) {
	c := clustertest.New(t, 3, nil)
	leader := c.Leader()
	if err := leader.Node.LinearizableRead(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := leader.Node.Verify().Error(); err != nil {
		t.Fatal(err)
	}
}

// An answer that was on its way when a read began must not confirm the leader.
func TestHeldAnswersConfirmNothing(t *testing.T) {
	c := clustertest.New(t, 3, nil)
	old := c.Leader()
	if err := old.Node.LinearizableRead(within(t)); err != nil {
		t.Fatal(err)
	}
	// Answers of heartbeats that are under way now are held; nothing else passes
	// in either direction.
	held, release := old.Faults.HoldAnswers(transport.OpHeartbeat, "")
	select {
	case <-held:
	case <-time.After(clustertest.Patience):
		t.Fatal("nothing held")
	}
	heal := old.Faults.Drop(transport.OpInvalid, "")
	read := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		read <- old.Node.LinearizableRead(ctx)
	}()
	time.Sleep(20 * time.Millisecond) // the read has most likely begun; it must fail either way
	release()                         // the old answers arrive while it waits
	if err := <-read; err == nil {
		t.Fatal("a read was confirmed by answers to earlier requests")
	}
	heal()
	c.Propose(clustertest.Retention(4))
	c.Agree()
}

// A member stops at a batch that it does not understand; it neither skips it
// nor takes a snapshot after it.
func TestUnknownEventStopsTheMember(t *testing.T) {
	c := clustertest.New(t, 1, nil)
	m := c.Leader()
	// Field 9999 of Batch, a varint: something of a future version.
	raw := append(clustertest.Batch(m.Node, clustertest.Retention(1)), 0xf8, 0xf0, 0x04, 0x01)
	p := m.Node.Propose(raw)
	if err := p.Wait(within(t)); !errors.Is(err, consensus.ErrStopped) || !errors.Is(err, fsm.ErrUnknown) {
		t.Fatalf("proposal: %v, want ErrStopped and ErrUnknown", err)
	}
	if err := m.Ended(); !errors.Is(err, consensus.ErrStopped) {
		t.Fatalf("Run: %v, want ErrStopped", err)
	}
	// After a restart it meets the batch again.
	if err := m.TryStart(storage.Identity{}); err == nil {
		if err := m.Ended(); !errors.Is(err, fsm.ErrUnknown) {
			t.Fatalf("Run after restart: %v, want ErrUnknown", err)
		}
	}
}

func TestForeignClusterIsRefused(t *testing.T) {
	c := clustertest.New(t, 1, nil)
	m := c.Leader()
	m.Stop()
	// The same log, but the directory says that it belongs to another cluster.
	other := c.Add("m1")
	other.Dir = m.Dir
	if err := writeClusterID(m.Dir, strings.Repeat("ab", 16)); err != nil {
		t.Fatal(err)
	}
	other.Address = m.Address
	err := other.TryStart(storage.Identity{})
	if err == nil {
		err = other.Ended()
	}
	if !errors.Is(err, storage.ErrOtherCluster) {
		t.Fatalf("got %v, want ErrOtherCluster", err)
	}
}

func TestSubscribeHasNoGap(t *testing.T) {
	c := clustertest.New(t, 1, nil)
	n := c.Leader().Node
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 200 {
			if err := n.Propose(clustertest.Batch(n, clustertest.Retention(i+1))).Wait(context.Background()); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 20 {
		var last uint64
		cancel := n.Subscribe(func(b *logv1.Batch, ch fsm.Changes, s *fsm.State) {
			switch {
			case b == nil:
				if !ch.All || last != 0 {
					t.Errorf("a whole state in between")
				}
			case b.GetRevision() != last+1 || s.Revision != b.GetRevision():
				t.Errorf("batch %d, state %d after %d", b.GetRevision(), s.Revision, last)
			}
			last = s.Revision
		})
		if err := n.WaitRevision(within(t), min(n.Revision()+3, 201)); err != nil {
			break
		}
		cancel()
		if n.Revision() > 180 {
			break
		}
	}
	<-done
}
