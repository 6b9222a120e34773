package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// Proposal is a batch on its way into the log. It is also the future that the
// decider waits for.
type Proposal struct {
	done     chan struct{}
	err      error
	response any
}

func newProposal() *Proposal { return &Proposal{done: make(chan struct{})} }

func finished(err error) *Proposal {
	p := newProposal()
	p.err = err
	close(p.done)
	return p
}

func (p *Proposal) finish(err error, response any) {
	p.err, p.response = err, response
	close(p.done)
}

// Done is closed when the outcome is known, at the latest when the node ends.
func (p *Proposal) Done() <-chan struct{} { return p.done }

// Error waits for Done. nil means that the entry was committed and given to
// the state machine, which may still have refused it: see Response. With an
// error for which NotAppended is true the batch is in no log; with any other
// the outcome is unknown.
func (p *Proposal) Error() error {
	<-p.done
	return p.err
}

// Response is nil if the batch was applied, or an error: fsm.ErrRevision or
// fsm.ErrChain if it did not follow the state, ErrStopped if this member cannot
// apply it. Valid once Error has returned nil.
func (p *Proposal) Response() any {
	<-p.done
	return p.response
}

// Wait waits for the outcome and gives the error of either kind. When ctx ends
// first the outcome is unknown.
func (p *Proposal) Wait(ctx context.Context) error {
	select {
	case <-p.done:
	case <-ctx.Done():
		return fmt.Errorf("wait for the log: %w", ctx.Err())
	}
	if p.err != nil {
		return p.err
	}
	if err, ok := p.response.(error); ok {
		return err
	}
	return nil
}

// Propose appends an encoded batch to the log if this member leads. It returns
// when Raft has taken it, after at most Config.EnqueueTimeout. Proposals of one
// caller are appended in order.
func (n *Node) Propose(raw []byte) *Proposal {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		// Nothing was given to Raft.
		return finished(fmt.Errorf("%w: %w", ErrNotLeader, ErrClosed))
	}
	p := newProposal()
	n.proposals[p] = struct{}{}
	n.mu.Unlock()

	f := n.raft.Apply(raw, n.cfg.EnqueueTimeout)
	go func() {
		// Ends with Raft's answer. Raft drops futures of entries that are queued
		// for the apply goroutine when it shuts down; shutdown waits for those.
		err := f.Error()
		var response any
		if err == nil {
			response = f.Response()
		}
		n.settle(p, err, response)
	}()
	return p
}

// settle ends a proposal unless the node's end has done it.
func (n *Node) settle(p *Proposal, err error, response any) {
	n.mu.Lock()
	_, open := n.proposals[p]
	delete(n.proposals, p)
	stuck := n.noteTransfer(err)
	n.mu.Unlock()
	if open {
		p.finish(err, response)
	}
	if stuck {
		n.Fail(ErrTransferStuck)
	}
}

// noteTransfer tells whether proposals have been refused because of a transfer
// of leadership for longer than one can take. The caller holds mu.
func (n *Node) noteTransfer(err error) (stuck bool) {
	if !errors.Is(err, ErrTransferInProgress) {
		n.refusedSince = time.Time{}
		return false
	}
	if n.refusedSince.IsZero() {
		n.refusedSince = time.Now()
	}
	// Raft gives a transfer two election timeouts.
	return time.Since(n.refusedSince) > time.Second+4*n.cfg.Timing.Election
}

// Barrier returns when everything that was appended before it has been applied
// here, in a term in which this member leads.
func (n *Node) Barrier(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return n.barrier(ctx)
}

func (n *Node) barrier(ctx context.Context) error {
	if err := await(ctx, n.raft.Barrier(timeLeft(ctx))); err != nil {
		return fmt.Errorf("barrier: %w", err)
	}
	return nil
}

// timeLeft is what remains until the deadline of ctx, at least a millisecond,
// because Raft takes zero for "no limit"; a context without one gets a minute.
func timeLeft(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return time.Minute
	}
	return max(time.Until(deadline), time.Millisecond)
}

var _ raft.Future = (*Proposal)(nil)
