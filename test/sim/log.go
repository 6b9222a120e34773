package sim

import (
	"errors"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/raftnode/decider"
)

// memberLog is the replicated log as a member's decider sees it.
type memberLog struct {
	r *raft
	b *brain
}

func (r *raft) log(b *brain) decider.Log { return memberLog{r, b} }

func (r *raft) leadership() Lead {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	return r.lead
}

func (l memberLog) Leadership() decider.Leadership { return l.r.leadership().Leadership }

func (l memberLog) Read(f func(*fsm.State)) { l.b.Read(f) }

func (l memberLog) NotAppended(err error) bool {
	return errors.Is(err, errNotLeader) || errors.Is(err, errNotEnqueued) || errors.Is(err, errTransfer)
}

func (l memberLog) Propose(raw []byte) decider.Future {
	l.r.w.mu.Lock()
	defer l.r.w.mu.Unlock()
	return l.r.propose(entry{kind: batchEntry, raw: raw})
}

func (r *raft) propose(e entry) *future {
	f := newFuture()
	switch {
	case r.p.dead.Load():
		return f.end(errLost, nil)
	case r.role != leading:
		return f.end(errNotLeader, nil)
	case r.w.now() < r.transfer:
		return f.end(errTransfer, nil)
	}
	trouble := noTrouble
	if e.kind == batchEntry {
		trouble, r.trouble = r.trouble, noTrouble
	}
	if trouble == notEnqueued {
		return f.end(errNotEnqueued, nil)
	}
	if trouble == refusedLate {
		r.hung = append(r.hung, f) // for a process that ends before
		r.later(refusalTime, func() { f.end(errTransfer, nil) })
		return f
	}
	i := r.append(e)
	switch trouble {
	case lostAnswer:
		return f.end(errLost, nil)
	case hangs:
		r.hung = append(r.hung, f)
	default:
		r.futures[i] = f
	}
	return f
}

func (l memberLog) Barrier(timeout time.Duration) error {
	l.r.w.mu.Lock()
	f := l.r.propose(entry{kind: barrierEntry})
	l.r.w.mu.Unlock()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-f.done:
		return f.err
	case <-timer.C:
		return errTimeout
	case <-l.r.p.ctx.Done():
		return errLost
	}
}

// Verify asks a majority whether this member still leads.
func (l memberLog) Verify() decider.Future {
	r := l.r
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	f := newFuture()
	if r.role != leading || r.p.dead.Load() {
		return f.end(errNotLeader, nil)
	}
	r.replicate()
	r.verifies = append(r.verifies, verify{r.round, f})
	r.settleVerifies()
	r.later(500*time.Millisecond, func() { f.end(errTimeout, nil) })
	return f
}

// close ends what waits for an outcome, when the process is dead. World.mu is held.
func (r *raft) close() {
	for _, f := range r.futures {
		f.end(errLost, nil)
	}
	for _, f := range r.hung {
		f.end(errLost, nil)
	}
	for _, v := range r.verifies {
		v.f.end(errLost, nil)
	}
}
