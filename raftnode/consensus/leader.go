package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Leadership is one level of who leads.
type Leadership struct {
	// Leader tells whether this member leads, in Term.
	Leader bool
	Term   uint64
	// ID and Address (host:port) of the leader; empty while none is known.
	ID, Address string
	// Changed is closed when any of this is no longer so.
	Changed <-chan struct{}
}

// leaderState holds the value and who waits for its change.
type leaderState struct {
	mu      sync.Mutex
	now     Leadership
	changed chan struct{}

	// gate is held by who looks at ready and makes a barrier.
	gate chan struct{}
	// ready is the newest term in which a barrier of this leader has passed: all
	// that earlier leaders acknowledged is applied here.
	ready uint64
}

func (l *leaderState) init() {
	l.gate = make(chan struct{}, 1)
	l.changed = make(chan struct{})
	l.now.Changed = l.changed
}

// Leadership tells who leads now, as far as this member knows.
func (n *Node) Leadership() Leadership {
	n.refreshLeader() // Raft's news may still be on its way
	n.leader.mu.Lock()
	defer n.leader.mu.Unlock()
	return n.leader.now
}

// Term is this member's current term. It is on disk before a vote of that term
// is given.
func (n *Node) Term() uint64 { return n.raft.CurrentTerm() }

// LeaderID is the leader's id; empty while none is known.
func (n *Node) LeaderID() string { return n.Leadership().ID }

// LeaderAddress is the leader's address, host:port.
func (n *Node) LeaderAddress() string { return n.Leadership().Address }

// WaitLeader waits until a leader is known.
func (n *Node) WaitLeader(ctx context.Context) (Leadership, error) {
	for {
		l := n.Leadership()
		if l.ID != "" {
			return l, nil
		}
		select {
		case <-l.Changed:
		case <-n.machine.stopped:
			return l, n.machine.failure()
		case <-ctx.Done():
			return l, fmt.Errorf("wait for a leader: %w", ctx.Err())
		}
	}
}

// refreshLeader makes the value what Raft says now.
func (n *Node) refreshLeader() {
	l := &n.leader
	l.mu.Lock()
	defer l.mu.Unlock()
	now := n.askRaft()
	now.Changed = l.now.Changed
	if now == l.now {
		return
	}
	close(l.changed)
	l.changed = make(chan struct{})
	now.Changed = l.changed
	l.now = now
}

func (n *Node) askRaft() (now Leadership) {
	for {
		now.Term = n.raft.CurrentTerm()
		now.Leader = n.raft.State() == raft.Leader
		address, id := n.raft.LeaderWithID()
		now.ID, now.Address = string(id), string(address)
		// Raft leaves the leader's state before it takes a newer term, so with one
		// term before and after, a leader was one in that term.
		if n.raft.CurrentTerm() == now.Term {
			break
		}
	}
	if now.Leader {
		now.ID, now.Address = n.cfg.ID, string(n.cfg.Transport.LocalAddr())
	} else if now.ID == n.cfg.ID {
		now.ID, now.Address = "", "" // on its way down
	}
	return now
}

// followLeadership keeps the value up to date. Raft's channel and observer only
// say when to look: both may drop news, so it looks regularly as well.
func (n *Node) followLeadership(ctx context.Context) {
	const look = 50 * time.Millisecond
	seen := make(chan raft.Observation, 16)
	observer := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	n.raft.RegisterObserver(observer)
	defer n.raft.DeregisterObserver(observer)
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		n.refreshLeader()
		select {
		case <-n.raft.LeaderCh():
		case <-seen:
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// leads gives the term in which this member leads.
func (n *Node) leads() (term uint64, err error) {
	l := n.Leadership()
	if !l.Leader {
		return 0, ErrNotLeader
	}
	return l.Term, nil
}

// Verify begins a confirmation of leadership. The future ends without error if
// this member was the leader at some moment after the call.
func (n *Node) Verify() *Proposal {
	p := newProposal()
	go func() { // ends within two RPC timeouts
		ctx, cancel := context.WithTimeout(context.Background(), 2*n.cfg.Timing.RPC)
		defer cancel()
		_, err := n.confirm(ctx)
		p.finish(err, nil)
	}()
	return p
}

// confirm returns the term in which this member was the leader at some moment
// after the call. A majority must have answered, in that term, a request sent
// after the call: then none of them had voted for a later leader by then.
func (n *Node) confirm(ctx context.Context) (term uint64, err error) {
	term, err = n.leads()
	if err != nil {
		return 0, err
	}
	asked := n.cfg.Clock.Now()
	for {
		// It makes Raft send heartbeats now. Its own answer is not enough: any
		// heartbeat answer counts for it, also one to an earlier request.
		verify := make(chan error, 1)
		go func() { verify <- n.raft.VerifyLeader().Error() }()
		select {
		case err := <-verify:
			if err != nil {
				return 0, fmt.Errorf("confirm leadership: %w", err)
			}
		case <-ctx.Done():
			return 0, fmt.Errorf("confirm leadership: %w", ctx.Err())
		}
		if n.majorityAnswered(term, asked) {
			break
		}
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("confirm leadership: %w", err)
		}
	}
	if now, err := n.leads(); err != nil || now != term {
		return 0, fmt.Errorf("confirm leadership: %w", errors.Join(ErrNotLeader, err))
	}
	return term, nil
}

func (n *Node) majorityAnswered(term uint64, asked time.Duration) bool {
	voters, answered := 0, 0
	for _, m := range n.Members() {
		if !m.Voter {
			continue
		}
		voters++
		if m.ID == n.cfg.ID {
			answered++
		} else if a := n.cfg.Transport.Answered(raft.ServerID(m.ID)); a.Term == term && a.Sent >= asked {
			answered++
		}
	}
	return answered > voters/2
}

// ensureReady makes sure that all that earlier leaders acknowledged is applied
// here, once for each term.
func (n *Node) ensureReady(ctx context.Context) error {
	term, err := n.leads()
	if err != nil {
		return err
	}
	l := &n.leader
	select {
	case l.gate <- struct{}{}:
		defer func() { <-l.gate }()
	case <-ctx.Done():
		return fmt.Errorf("barrier: %w", ctx.Err())
	}
	if l.ready == term {
		return nil
	}
	if err := n.barrier(ctx); err != nil {
		return err
	}
	if now, err := n.leads(); err != nil || now != term {
		return fmt.Errorf("barrier: %w", errors.Join(ErrNotLeader, err))
	}
	l.ready = term
	return nil
}

// LinearizableRead returns when a Read that follows sees every write that was
// acknowledged before the call. It works on the leader only and is ErrNotLeader
// elsewhere.
//
// What earlier leaders acknowledged is applied here since the barrier of this
// term; what this leader acknowledged was applied here before; and a later
// leader has acknowledged nothing before the call, if this member still led
// after it.
func (n *Node) LinearizableRead(ctx context.Context) error {
	if err := n.ensureReady(ctx); err != nil {
		return err
	}
	_, err := n.confirm(ctx)
	return err
}
