package decider

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
)

// barrierPause is the pause between two tries of the barrier.
const barrierPause = 10 * time.Millisecond

// recover throws the head away and starts again from the committed state, after
// a refusal, a failed future, or a fault. While it runs nothing is proposed.
func (r *reign) recover(ctx context.Context) error {
	r.d.stats.Recoveries.Add(1)
	r.awaitFlights(ctx)
	return r.establish(ctx)
}

// awaitFlights waits until every future has ended, or FutureTimeout has passed:
// a future may hang for ever (hashicorp/raft#498). The barrier settles those.
func (r *reign) awaitFlights(ctx context.Context) {
	r.d.mu.Lock()
	flights := append([]*flight(nil), r.flights...)
	r.d.mu.Unlock()
	timer := time.NewTimer(r.d.cfg.FutureTimeout)
	defer timer.Stop()
	for _, f := range flights {
		select {
		case <-f.down:
		case <-timer.C:
			r.d.logger.Warn("futures of batches hang", "term", r.term, "revision", f.rev)
			return
		case <-ctx.Done():
			return
		}
	}
}

// establish passes a barrier, makes the committed state the head, answers or
// decides again what was in flight, and tells the leases.
func (r *reign) establish(ctx context.Context) error {
	if err := r.barrier(ctx); err != nil {
		return err
	}
	d := r.d
	flights := make([]*flight, 0, len(d.limbo))
	for _, f := range d.limbo {
		flights = append(flights, f.flight)
	}
	clear(d.limbo)
	d.limbo = d.limbo[:0]
	flights = append(flights, r.takeFlights()...)
	d.log.Read(func(s *fsm.State) { r.head = s.Clone() })
	again := r.settle(flights)
	d.stats.Redecided.Add(uint64(len(again)))
	d.queue.putBack(again)

	r.work = newWork(d, r.head)
	d.leases.Lead(r.term, r.head)
	return nil
}

// barrier returns once this member, in this reign's term, has applied everything
// that was ever appended before; or an error when the reign is over.
func (r *reign) barrier(ctx context.Context) error {
	for {
		if err := r.deposed(ctx); err != nil {
			return err
		}
		err := r.d.log.Barrier(r.d.cfg.BarrierTimeout)
		if l := r.d.log.Leadership(); !l.Leader || l.Term != r.term {
			return errDeposed
		}
		if err == nil {
			return nil
		}
		r.d.logger.Debug("barrier failed", "term", r.term, "error", err)
		r.d.resolveLimbo() // it may take long, and some may be known
		timer := time.NewTimer(barrierPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-r.changed:
		}
		timer.Stop()
	}
}

// settle answers the flights that were applied and returns the commands of those
// that were not, in their order. It is called after the barrier: whatever is
// not in the chain now never will be.
func (r *reign) settle(flights []*flight) (again []*ticket) {
	d := r.d
	for _, f := range flights {
		fate := d.fateOf(f)
		if fate == fateOpen {
			switch {
			case !f.isBatch() || f.rev > r.head.Revision:
				fate = fateLost
			case f.rev == r.head.Revision && f.chain == r.head.Chain:
				fate = fateApplied
			case f.rev == r.head.Revision:
				fate = fateLost
			}
		}
		switch fate {
		case fateApplied:
			d.answer(f.replies, nil)
		case fateLost:
			for _, p := range f.replies {
				again = append(again, p.t)
			}
		default: // the state came by a snapshot, and the chain with it is not known
			d.answerUnknown(f)
		}
	}
	return again
}

// rebuild makes head anew: the committed state, the batches in flight, and the
// first events of the open draft. It drops what a refused command has folded.
func (r *reign) rebuild(t *tx, to mark) error {
	d := r.d
	d.stats.Rebuilds.Add(1)
	events, actors := t.draft.Events()[:to.events], t.actors[:to.events]
	// In this order: what has landed meanwhile is in the committed state.
	d.mu.Lock()
	flights := append([]*flight(nil), r.flights...)
	d.mu.Unlock()
	var s *fsm.State
	d.log.Read(func(committed *fsm.State) { s = committed.Clone() })
	for _, f := range flights {
		if !f.isBatch() || f.rev <= s.Revision {
			continue
		}
		if _, _, err := s.Apply(f.raw); err != nil {
			return fmt.Errorf("rebuild head: batch %d in flight: %w", f.rev, err)
		}
	}
	if s.Revision != r.head.Revision || s.Chain != r.head.Chain {
		// Another leader has been in between, and what is in flight will be refused.
		return fmt.Errorf("rebuild head: at revision %d it has another history than at %d before", s.Revision, r.head.Revision)
	}
	t.s, t.draft = s, s.Begin(t.now)
	for i, ev := range events {
		if err := t.draft.Add(actors[i], ev); err != nil {
			return errors.Join(errors.New("rebuild head"), err)
		}
	}
	t.actors, t.size, t.err = actors, to.size, nil
	r.head = s
	return nil
}
