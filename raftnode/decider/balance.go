package decider

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

const (
	// balanceQuiet is how long no node may have come, gone or changed before
	// addresses are rebalanced without being asked: in a rolling restart, every move
	// in between would be undone by the next.
	balanceQuiet = 30 * time.Second
	// balancePause is between two looks at a move that is not completed.
	balancePause = 20 * time.Millisecond
	// balanceAgain is at least between two looks at everything that found nothing to
	// move, and balanceShare times what the look took: a failover shall not meet one.
	balanceAgain = time.Second
	balanceShare = 100
	// DefaultRebalancePerMinute is the pace of a Rebalance that names none.
	DefaultRebalancePerMinute = 60
)

// Rebalance spreads all Sticky addresses evenly over the nodes, one planned move
// after the other. It is answered with the moves as they would be now; the leader of
// the time makes them. Errors: *InvalidError.
type Rebalance struct {
	// DryRun: only tell the moves.
	DryRun bool
	// PerMinute is the pace; 0: DefaultRebalancePerMinute.
	PerMinute uint32
	// Stop ends a rebalance that is under way.
	Stop  bool
	Actor string
}

func (c *Rebalance) kind() string  { return "Rebalance" }
func (c *Rebalance) actor() string { return c.Actor }

func (c *Rebalance) decide(t *tx) (answer, error) {
	pace := c.PerMinute
	if pace == 0 {
		pace = DefaultRebalancePerMinute
	}
	var f faults
	if pace > fsm.MaxRebalancePerMinute {
		f.add("per_minute", "%d is not between 1 and %d", pace, fsm.MaxRebalancePerMinute)
	}
	if c.Stop && c.DryRun {
		f.add("stop", "cannot be tried: it moves nothing")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	if c.Stop {
		if t.s.RebalancePerMinute != 0 {
			t.emit(rebalanceEnded())
		}
		return nil, nil
	}
	moves, held := planBalance(t)
	if len(moves) == 0 {
		pace = 0
	}
	if !c.DryRun && pace != 0 && t.s.RebalancePerMinute != pace {
		t.emit(&logv1.Event{Fact: &logv1.Event_RebalanceStarted{RebalanceStarted: &logv1.RebalanceStarted{PerMinute: pace}}})
	}
	return func(_ *fsm.State, r *Result) { r.Moves, r.Held, r.PerMinute = moves, held, pace }, nil
}

// planBalance lists all moves, as if each were made at once, and those that flapping holds
// back.
func planBalance(t *tx) (moves []allocator.BalanceMove, held []allocator.HeldMove) {
	b := t.work.choose(t.s).NewBalance(allocator.Options{Preferred: t.heard, Now: t.now}, true)
	for {
		m, ok := b.Next()
		if !ok {
			return moves, b.Held()
		}
		moves = append(moves, m)
	}
}

func rebalanceEnded() *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_RebalanceEnded{RebalanceEnded: &logv1.RebalanceEnded{}}}
}

// balance is what is remembered of the rebalance under way.
type balance struct {
	// settled: nothing is to move until an event changes something.
	settled bool
	// at is when to look again, boot time, while not settled.
	at time.Duration
	// stirred: a node has come, gone or changed; quiet is since when none has.
	stirred bool
	quiet   time.Duration
	// moving is the address of the newest move, and next when the next may be made.
	moving netip.Addr
	next   time.Duration
}

// due tells whether to look at the boot time now.
func (b *balance) due(now time.Duration) bool { return !b.settled && now >= b.at }

// rebalance makes the next move, if there is one and it is time.
func (r *reign) rebalance(o *owners) {
	b := &o.w.balance
	if b.stirred {
		b.stirred, b.quiet = false, o.boot+balanceQuiet
	}
	if b.settled {
		return
	}
	ordered := o.s.RebalancePerMinute != 0
	even := ordered || gradual(o.s)
	switch {
	case !even && len(o.w.crowded) == 0:
		b.settled = true
		return
	case o.w.dead.len()+o.w.dirty.len()+len(o.w.sweep) > 0 || b.underWay(o.s):
		b.at = o.boot + balancePause
		return
	case o.boot < b.next || !ordered && o.boot < b.quiet:
		b.at = b.next
		if !ordered {
			b.at = max(b.at, b.quiet)
		}
		return
	}
	plan := o.choose().NewBalance(allocator.Options{Preferred: o.preferred, Now: o.now}, ordered)
	var m allocator.BalanceMove
	ok := false
	if even {
		m, ok = plan.Next()
	}
	if !ok {
		m, ok = plan.Part(o.w.stillCrowded(o.s))
	}
	if !ok {
		b.settled = plan.Damped == 0
		b.at = o.boot + time.Duration(plan.Damped-o.now) + minAgain
		took := r.d.cfg.Clock.Now() - o.boot
		b.next = o.boot + max(balanceAgain, balanceShare*took)
		if ordered {
			o.emit(rebalanceEnded())
		}
		return
	}
	pace := cmp.Or(m.PerMinute, DefaultRebalancePerMinute)
	if ordered {
		pace = o.s.RebalancePerMinute
	}
	b.moving, b.next = m.Addr, o.boot+time.Minute/time.Duration(pace)
	b.at = o.boot + balancePause
	o.d.targets.set(m.Addr, m.To)
	o.emit(ownerReleased(o.s.Addresses[m.Addr], logv1.OwnerReason_OWNER_REASON_REBALANCE))
}

// stillCrowded lists the crowded addresses, and forgets those that are no longer.
func (w *work) stillCrowded(s *fsm.State) []netip.Addr {
	c := w.choose(s)
	maps.DeleteFunc(w.crowded, func(a netip.Addr, _ struct{}) bool {
		rec := s.Addresses[a]
		return rec == nil || !c.Crowded(a, rec.Owner)
	})
	return slices.SortedFunc(maps.Keys(w.crowded), netip.Addr.Compare)
}

// underWay tells whether the newest move is not completed yet.
func (b *balance) underWay(s *fsm.State) bool {
	rec := s.Addresses[b.moving]
	return rec != nil && rec.Owner == "" && rec.OwnerWhy == logv1.OwnerReason_OWNER_REASON_REBALANCE
}

// gradual tells whether any advertisement wants its addresses rebalanced.
func gradual(s *fsm.State) bool {
	for _, ad := range s.Ads {
		if ad.Spec.GetRebalance() == logv1.Rebalance_REBALANCE_GRADUAL {
			return true
		}
	}
	return false
}
