package consensus

import (
	"context"
	"fmt"
	"time"
)

// AskRevision asks the member at an address for the newest revision that it
// has applied.
type AskRevision func(ctx context.Context, address string) (uint64, error)

// CaughtUp returns when this member has applied everything that was committed
// when it was called: on the leader by a barrier, on a follower by asking the
// leader how far it is. Its wait ends with ctx.
func (n *Node) CaughtUp(ctx context.Context) error {
	for {
		l, err := n.WaitLeader(ctx)
		if err != nil {
			return err
		}
		switch {
		case l.Leader:
			err = n.ensureReady(ctx)
		case n.cfg.AskRevision == nil:
			err = n.appliedAll(ctx)
		default:
			var revision uint64
			if revision, err = n.cfg.AskRevision(ctx, l.Address); err == nil {
				return n.WaitRevision(ctx, revision)
			}
		}
		if err == nil {
			return nil
		}
		if stopped := n.machine.failure(); stopped != nil {
			return stopped
		}
		// The leader may have changed; look again soon.
		if !sleep(ctx, 20*time.Millisecond) {
			return fmt.Errorf("catch up: %w", err)
		}
	}
}

// appliedAll waits until all that this member knows to be committed is applied,
// and nothing more is heard of for a while.
func (n *Node) appliedAll(ctx context.Context) error {
	quiet := 4 * n.cfg.Timing.Commit
	for before := uint64(0); ; {
		commit := n.raft.CommitIndex()
		if commit > 0 && commit == before && n.raft.AppliedIndex() >= commit && n.raft.Stats()["fsm_pending"] == "0" {
			return nil
		}
		before = commit
		if !sleep(ctx, quiet) {
			return ctx.Err()
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
