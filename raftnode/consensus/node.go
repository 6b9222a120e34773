package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// shutdownTimeout bounds the end of Raft's goroutines. A goroutine that waits
// for a disk is what takes long.
const shutdownTimeout = 10 * time.Second

// failedTimeout is the same for a member that has failed: a goroutine that waits for a
// broken disk may never end, and the group needs the next process.
const failedTimeout = 500 * time.Millisecond

// Node is one member's part in the group. Its methods are safe for concurrent use.
type Node struct {
	cfg     Config
	log     *slog.Logger
	raft    *raft.Raft
	machine *machine
	digests *digests

	leader leaderState

	mu sync.Mutex
	// proposals that have no outcome yet, to be ended by the node's end.
	proposals map[*Proposal]struct{}
	closed    bool
	// refusedSince is when proposals began to be refused because of a transfer.
	refusedSince time.Time
}

// Open starts Raft. Run must be called to end it, whatever happens.
//
// The newest snapshot has been restored when Open returns; the log behind it is
// replayed once a leader says how far it is committed.
func Open(cfg Config) (*Node, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: cfg.Logger, digests: newDigests(), proposals: make(map[*Proposal]struct{})}
	n.machine = newMachine(cfg.Store, cfg.Logger, cfg.DigestEvery, n.digests.offer)
	if meta, err := cfg.Store.Snapshots().Newest(); err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	} else if meta != nil {
		n.machine.StoreConfiguration(meta.ConfigurationIndex, meta.Configuration)
	}
	cfg.Transport.SetID(cfg.ID)
	r, err := raft.NewRaft(cfg.raftConfig(), n.machine, cfg.Store.Logs(), cfg.Store.Stable(), cfg.Store.Snapshots(), cfg.Transport)
	if stopped := n.machine.failure(); stopped != nil {
		err = stopped
	}
	if err != nil {
		if r != nil {
			_ = r.Shutdown().Error()
		}
		return nil, fmt.Errorf("start raft: %w", err)
	}
	n.raft = r
	n.leader.init()
	n.refreshLeader()
	return n, nil
}

// Run follows leadership until ctx ends or the member must stop, hands
// leadership over if it has it, and ends Raft and its transport. It returns nil
// after ctx ended, ErrStopped if the log cannot be applied, and ErrHung if
// Raft did not end.
func (n *Node) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { n.followLeadership(ctx); return nil })
	g.Go(func() error { n.digests.run(ctx); return nil })
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-n.machine.stopped:
			return n.machine.failure()
		}
	})
	return errors.Join(g.Wait(), n.shutdown())
}

// Fail makes Run return err: something that the member cannot go on without
// is broken.
func (n *Node) Fail(err error) { n.machine.fail(err) }

// shutdown ends in this order: no new proposals; leadership to another; what is
// committed gets applied; Raft is told to end; connections are cut, so that no
// request holds it up; its goroutines are awaited; open proposals end. After a
// failure connections are cut at once: with a disk that hangs, heartbeats would
// go on and keep this member leader.
func (n *Node) shutdown() error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	wait := failedTimeout
	if n.machine.failure() == nil {
		wait = shutdownTimeout
		if err := n.handOver(); err != nil {
			n.log.Warn("leadership was not handed over", "error", err)
		}
		n.drain()
	}
	ended := n.raft.Shutdown() // waits for nothing yet
	err := n.cfg.Transport.Close()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if werr := await(ctx, ended); werr != nil {
		err = errors.Join(err, fmt.Errorf("%w: %w", ErrHung, werr))
	}
	n.refreshLeader()
	n.mu.Lock()
	left := n.proposals
	n.proposals = nil
	n.mu.Unlock()
	for p := range left {
		p.finish(ErrClosed, nil)
	}
	return err
}

// drain waits until what Raft gave to the apply goroutine has been applied:
// futures still queued when Raft ends would never be answered.
func (n *Node) drain() {
	const poll, most = time.Millisecond, time.Second
	for deadline := time.Now().Add(most); time.Now().Before(deadline); time.Sleep(poll) {
		if n.raft.Stats()["fsm_pending"] == "0" {
			return
		}
	}
}

// await waits for a future of Raft, some of which never end.
func await(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ID of this member.
func (n *Node) ID() string { return n.cfg.ID }

// Read calls f with the committed state, between two batches. f must not keep
// or change it; its records are immutable and may be kept.
func (n *Node) Read(f func(s *fsm.State)) {
	n.machine.mu.RLock()
	defer n.machine.mu.RUnlock()
	f(n.machine.state)
}

// Revision is the newest revision applied here.
func (n *Node) Revision() (revision uint64) {
	n.Read(func(s *fsm.State) { revision = s.Revision })
	return revision
}

// Subscribe calls f with the state as it is, before it returns, and then after
// every batch. See Subscriber for what f may do.
func (n *Node) Subscribe(f func(batch *logv1.Batch, ch fsm.Changes, s *fsm.State)) (cancel func()) {
	return n.machine.subscribe(f)
}

// WaitRevision waits until a revision has been applied here and every
// subscriber has been told of it.
func (n *Node) WaitRevision(ctx context.Context, revision uint64) error {
	ready, cancel := n.machine.wait(revision)
	defer cancel()
	select {
	case <-ready:
		return nil
	case <-n.machine.stopped:
		return n.machine.failure()
	case <-ctx.Done():
		return fmt.Errorf("wait for revision %d: %w", revision, ctx.Err())
	}
}

// SnapshotTo writes the committed state for a backup and tells its revision.
// Batches are applied meanwhile.
func (n *Node) SnapshotTo(w io.Writer) (revision uint64, err error) {
	var s *fsm.State
	n.Read(func(now *fsm.State) { s = now.Clone() })
	return s.Revision, fsm.WriteSnapshot(w, s)
}

// Stats are Raft's own figures, for people.
func (n *Node) Stats() map[string]string { return n.raft.Stats() }
