package consensus_test

import (
	"errors"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/consensus/clustertest"
)

// TestBrokenVoteEndsAtOnce: Raft's goroutine goes no further when a vote cannot be
// written, so nobody may wait for it; the group needs the next process.
func TestBrokenVoteEndsAtOnce(t *testing.T) {
	c := clustertest.New(t, 3, nil)
	c.Leader()
	follower := c.Followers()[0]
	if err := follower.Store.Close(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c.Leader().Crash() // the other two vote
	err := follower.Ended()
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("ended after %v", took)
	}
	if !errors.Is(err, consensus.ErrHung) {
		t.Errorf("ended with %v", err)
	}
}
