package decider

import (
	"context"
	"errors"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
)

// reign is one term of leadership. All of it but flights and failed belongs to
// the goroutine of Run.
type reign struct {
	d       *Decider
	term    uint64
	changed <-chan struct{}

	// head is the committed state plus everything in flight.
	head *fsm.State
	work *work
	// cautious counts the commands that are decided one by one, because a batch
	// that held them could not be completed.
	cautious int
	// alone: the command at hand is one of those, and reconciliation waits.
	alone bool
	// rehearsing: this is no reign, but a dry run on a copy of head. whole: it shall
	// decide what later batches would bring, too.
	rehearsing, whole bool

	// pause and pauseUntil keep reconciliation from spinning on a fault.
	pause      time.Duration
	pauseUntil time.Duration

	// flights and failed are guarded by d.mu. failed: the head is not to be
	// trusted any more.
	flights []*flight
	failed  bool
}

func newReign(d *Decider, l Leadership) *reign {
	// What Move wanted in an earlier reign may never have been applied.
	d.targets = newTargets()
	return &reign{d: d, term: l.Term, changed: l.Changed}
}

// errDeposed ends a reign.
var errDeposed = errors.New("leadership is lost")

// run decides until leadership is lost or ctx ends.
func (r *reign) run(ctx context.Context) {
	d := r.d
	log := d.logger.With("term", r.term)
	d.queue.open()
	start := d.cfg.Clock.Now()
	err := r.establish(ctx)
	if err == nil {
		d.stats.Term.Store(r.term)
		log.Info("deciding", "revision", r.head.Revision, "after", d.cfg.Clock.Now()-start)
		err = r.loop(ctx)
	}
	d.stats.Term.Store(0)
	log.Info("no longer deciding", "why", err)
	d.leases.Follow()
	d.queue.close(ErrNotLeader)
	r.strand()
}

// loop decides whenever there is something to decide.
func (r *reign) loop(ctx context.Context) error {
	for {
		if err := r.deposed(ctx); err != nil {
			return err
		}
		flying, failed, overdue := r.inFlight()
		if failed {
			if err := r.recover(ctx); err != nil {
				return err
			}
			continue
		}
		if flying < r.d.cfg.MaxInFlight {
			did, err := r.step()
			if err != nil {
				r.d.logger.Warn("head is thrown away", "term", r.term, "error", err)
				if err := r.recover(ctx); err != nil {
					return err
				}
				continue
			}
			if did {
				continue
			}
		}
		r.wait(ctx, flying < r.d.cfg.MaxInFlight, overdue)
	}
}

// step decides one group of commands, or what follows from time alone; false
// when there is nothing to do.
func (r *reign) step() (bool, error) {
	n := r.d.cfg.MaxCommands
	if r.cautious > 0 {
		n = 1
	}
	now := r.d.cfg.Clock.Now()
	tickets := r.d.queue.take(n)
	if len(tickets) == 0 && !r.due(now) {
		return false, nil
	}
	if r.alone = r.cautious > 0 && len(tickets) > 0; r.alone {
		r.cautious--
	}
	return true, r.decide(tickets, now)
}

// due tells whether reconciliation has something to look at.
func (r *reign) due(now time.Duration) bool {
	return now >= r.pauseUntil && r.work.due(now)
}

// wait returns when there may be something to do.
func (r *reign) wait(ctx context.Context, room bool, overdue time.Duration) {
	var ready <-chan struct{}
	var deadline <-chan time.Time
	until := overdue
	if room {
		ready = r.d.queue.ready
		at, ok := r.work.deadline()
		if r.d.cfg.Clock.Now() < r.pauseUntil {
			at, ok = r.pauseUntil, true
		}
		if ok && (until == 0 || at < until) {
			until = at
		}
	}
	if until > 0 {
		timer := time.NewTimer(until - r.d.cfg.Clock.Now())
		defer timer.Stop()
		deadline = timer.C
	}
	select {
	case <-ctx.Done():
	case <-r.changed:
	case <-ready:
	case <-r.d.landed:
	case <-r.d.woken:
		r.work.askLeases()
	case <-deadline:
	}
}

// deposed tells whether the reign is over.
func (r *reign) deposed(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-r.changed:
	default:
		return nil
	}
	// The level may have changed and come back, in this or a later term.
	l := r.d.log.Leadership()
	if !l.Leader || l.Term != r.term {
		return errDeposed
	}
	r.changed = l.Changed
	return nil
}
