package consensus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/consensus/clustertest"
	"github.com/quorumlb/quorumlb/raftnode/storage"
	"github.com/quorumlb/quorumlb/raftnode/transport"
)

func TestMembershipChanges(t *testing.T) {
	c := clustertest.New(t, 3, nil)
	c.Propose(clustertest.Retention(5))
	added := c.Add("m4")
	added.Start(storage.JoiningIdentity("m4"))
	lead := c.Members[0]
	clustertest.Eventually(t, "a leader of the three", func() bool {
		for _, m := range c.Members[:3] {
			if m.Node.Leadership().Leader {
				lead = m
				return true
			}
		}
		return false
	})
	n := lead.Node
	if err := n.AddNonvoter(within(t), added.ID, added.Address); err != nil {
		t.Fatal(err)
	}
	if m, ok := n.Member(added.ID); !ok || m.Voter || m.Name != "m4" || m.Address != added.Address {
		t.Fatalf("member %+v, %v", m, ok)
	}
	if err := added.Node.WaitRevision(within(t), n.Revision()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to do
		if err := n.Promote(within(t), added.ID); err != nil {
			t.Fatal(err)
		}
	}
	if m, _ := n.Member(added.ID); !m.Voter {
		t.Fatal("not a voter")
	}
	if err := n.Promote(within(t), "m9"); !errors.Is(err, consensus.ErrNoMember) {
		t.Fatalf("promote nobody: %v", err)
	}
	// The leader removes itself and another takes over.
	if err := n.Remove(within(t), lead.ID); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "another leads", func() bool {
		for _, m := range c.Members {
			if m != lead && m.Node.Leadership().Leader {
				_, still := m.Node.Member(lead.ID)
				return !still
			}
		}
		return false
	})
}

// Changes in a row: each is made on the newest configuration, also after a
// change of leadership.
func TestChangesInARow(t *testing.T) {
	c := clustertest.New(t, 3, nil)
	n := c.Leader().Node
	victim := c.Followers()[0]
	victim.Stop()
	if err := n.Remove(within(t), victim.ID); err != nil {
		t.Fatal(err)
	}
	fresh := storage.JoiningIdentity(victim.Name)
	if err := n.AddNonvoter(within(t), fresh.ID, victim.Address); err != nil {
		t.Fatal(err)
	}
	victim.Wipe()
	victim.Start(fresh)
	clustertest.Eventually(t, "the new member has the state", func() bool { return victim.Node.Revision() == n.Revision() })
	clustertest.Eventually(t, "a vote for the new member", func() bool { return c.Leader().Node.Promote(within(t), fresh.ID) == nil })
	c.Propose(clustertest.Retention(3))
	c.Agree()
	clustertest.Eventually(t, "the new member leads", func() bool {
		leader := c.Leader()
		return leader.ID == fresh.ID || leader.Node.Transfer(within(t), fresh.ID) == nil
	})
	if err := c.Leader().Node.SetAddress(within(t), c.Followers()[0].ID, "127.0.0.1:9"); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyVoterStays(t *testing.T) {
	c := clustertest.New(t, 1, nil)
	if err := c.Leader().Node.Remove(within(t), "m1"); err == nil {
		t.Fatal("removed the only voter")
	}
}

// Leadership is lost with batches in flight and won back: their proposals end
// with an unknown outcome, and the chain tells what became of them.
func TestLeadershipLostAndRegainedInFlight(t *testing.T) {
	c := clustertest.New(t, 3, nil)
	old := c.Leader()
	term := old.Node.Term()
	c.Agree()
	// The batch gets into the leader's own log and no further.
	held, release := old.Faults.Hold(transport.OpAppendEntries, "")
	<-held
	raw := clustertest.Batch(old.Node, clustertest.Retention(77))
	lost := old.Node.Propose(raw)
	heal := old.Faults.Drop(transport.OpInvalid, "")
	release()
	err := lost.Wait(within(t))
	if err == nil || old.Node.NotAppended(err) {
		t.Fatalf("proposal: %v, want an unknown outcome", err)
	}
	other := c.Leader()
	if other == old {
		t.Fatal("a leader that reaches nobody leads")
	}
	revision := c.Propose(clustertest.Retention(78))
	heal()
	c.Agree()
	clustertest.Eventually(t, "the old leader can lead again", func() bool {
		return other.Node.Transfer(within(t), old.ID) == nil || old.Node.Leadership().Leader
	})
	clustertest.Eventually(t, "it leads", func() bool { return old.Node.Leadership().Leader })
	if l := old.Node.Leadership(); l.Term <= term+1 {
		t.Fatalf("term %d after %d", l.Term, term)
	}
	entries, err := old.Node.History(within(t), revision, revision+1)
	if err != nil || len(entries) != 1 || string(entries[0].Raw) == string(raw) {
		t.Fatalf("revision %d: %v, %v", revision, entries, err)
	}
	// The lost batch no longer follows.
	p := old.Node.Propose(raw)
	if err := p.Wait(within(t)); !errors.Is(err, fsm.ErrRevision) {
		t.Fatalf("the lost batch again: %v, want ErrRevision", err)
	}
	c.Agree()
}

func TestProposalsEndWithTheNode(t *testing.T) {
	c := clustertest.New(t, 3, nil)
	leader := c.Leader()
	for _, f := range c.Followers() {
		heal := leader.Faults.Drop(transport.OpInvalid, raft.ServerID(f.ID))
		defer heal()
	}
	p := leader.Node.Propose(clustertest.Batch(leader.Node, clustertest.Retention(1)))
	node := leader.Node
	leader.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := p.Wait(ctx); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("proposal: %v", err)
	}
	if err := node.Propose(nil).Error(); !node.NotAppended(err) || !errors.Is(err, consensus.ErrClosed) {
		t.Fatalf("after the end: %v", err)
	}
	if l := node.Leadership(); l.Leader {
		t.Fatalf("leads after its end: %+v", l)
	}
}

// Two of three members are lost for good; the third goes on alone with what it has.
func TestRecover(t *testing.T) {
	c := clustertest.New(t, 3, nil)
	revision := c.Propose(clustertest.Retention(42))
	c.Agree()
	last := c.Members[1]
	for _, m := range c.Members {
		m.Stop()
	}
	store, err := storage.Open(last.Dir, storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := consensus.Recover(store, []consensus.Member{{ID: "m9", Address: "x:1"}}, nil); err == nil {
		t.Fatal("recovered into a group without itself")
	}
	if err := consensus.Recover(store, []consensus.Member{{ID: last.ID, Address: last.Address}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	last.Start(storage.Identity{})
	if got := c.Leader(); got != last {
		t.Fatalf("%s leads", got.Name)
	}
	last.Node.Read(func(s *fsm.State) {
		if s.Revision < revision || s.Retention != 42*time.Second {
			t.Errorf("revision %d, retention %s", s.Revision, s.Retention)
		}
	})
	c.Propose(clustertest.Retention(43))
}

// A leader that fails cuts its connections and ends; the others go on.
func TestFailedLeaderEnds(t *testing.T) {
	c := clustertest.New(t, 3, nil)
	leader := c.Leader()
	slow := errors.New("the disk hangs")
	leader.Node.Fail(slow)
	if err := leader.Ended(); !errors.Is(err, slow) {
		t.Fatalf("ended with %v", err)
	}
	c.Propose(clustertest.Retention(6))
	c.Agree()
}
