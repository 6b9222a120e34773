package decider

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
)

// tried commands can be asked for as a dry run.
type tried interface{ dryRun() bool }

func (c *Apply) dryRun() bool     { return c.DryRun }
func (c *Delete) dryRun() bool    { return c.DryRun }
func (c *RestoreTo) dryRun() bool { return c.DryRun }
func (c *Rebalance) dryRun() bool { return c.DryRun }

func isDryRun(cmd Command) bool {
	c, ok := cmd.(tried)
	return ok && c.dryRun()
}

// rehearsal is a dry run on its way: a copy of head, and of all else that decides.
// It is decided to its end, however many batches that would take, so the decider
// leaves it to the goroutine that submitted it: a failover shall not wait for it.
type rehearsal struct {
	d    *Decider
	cmd  Command
	head *fsm.State
	now  int64
	work *work
	// heard and changing are what the leases said; only the decider may ask them.
	heard    map[string]bool
	changing time.Duration
}

// rehearse takes the copy, and leaves everything as it was. It tells whether the command
// has to wait for the next batch: the copy can be taken only at the start of one.
func (r *reign) rehearse(t *tx, g *group, ticket *ticket) (later bool, err error) {
	if t.draft.Len() > 0 {
		return true, nil
	}
	if _, _, _, err := t.draft.Commit(); err != nil { // it is empty
		return false, err
	}
	h := &rehearsal{d: r.d, cmd: ticket.cmd, head: t.s.Clone(), now: t.now, work: r.work.copyWants(), heard: map[string]bool{}, changing: t.changing()}
	t.draft = t.s.Begin(t.now)
	for name := range h.head.Nodes {
		h.heard[name] = t.heard(name)
	}
	g.replies = append(g.replies, reply{t: ticket, r: Result{rehearsal: h}})
	g.answers = append(g.answers, nil)
	return false, nil
}

// copyWants gives the work that a dry run starts with.
func (w *work) copyWants() *work {
	c := &work{d: w.d, suspects: map[string]struct{}{}, faulty: map[fsm.ServiceKey]struct{}{}}
	for key := range w.faulty {
		c.faulty[key] = struct{}{}
	}
	c.wantAgain(w.wants())
	return c
}

// run decides the dry run.
func (h *rehearsal) run(revision uint64) (Result, error) {
	result := Result{Revision: revision}
	err := guard(func() error { return h.decide(&result) })
	if err == nil {
		return result, nil
	}
	if errors.Is(err, ErrInternal) {
		h.d.logFault("a dry run could not be decided", err)
		h.d.stats.Internal.Add(1)
	} else {
		h.d.stats.Refused.Add(1)
	}
	return Result{}, err
}

func (h *rehearsal) decide(result *Result) error {
	before := h.head.Clone()
	r := &reign{d: h.d, head: h.head, work: h.work, rehearsing: true}
	t := &tx{
		s: h.head, rev: h.head.Revision + 1, now: h.now, before: before, draft: h.head.Begin(h.now),
		work: h.work, targets: newTargets(), self: "member:" + h.d.cfg.Self, by: h.d.actorOf(h.cmd),
		heard:    func(node string) bool { return h.heard[node] },
		silent:   func(string, uint64) bool { return false },
		changing: func() time.Duration { return h.changing },
	}
	ans, err := h.cmd.decide(t)
	if err == nil {
		err = r.allocate(t, true)
	}
	if t.err != nil {
		return t.err
	}
	if err != nil {
		return err
	}
	if err := r.d.tooLarge(t.size); err != nil {
		return err
	}
	// What later batches would bring.
	r.whole = true
	if err := r.allocate(t, false); err != nil {
		return err
	}
	if _, _, _, err := t.draft.Commit(); err != nil {
		return errors.Join(ErrInternal, err)
	}
	if ans != nil {
		ans(t.s, result)
	}
	return t.err
}

// tooLarge refuses a command whose events no entry of the log can hold.
func (d *Decider) tooLarge(size int) error {
	if size > d.cfg.MaxEntryBytes {
		return fmt.Errorf("%w: %d bytes of %d", ErrTooLarge, size, d.cfg.MaxEntryBytes)
	}
	return nil
}

// allocateLimit is the size at which a batch takes no more services.
func (r *reign) allocateLimit() int {
	if r.whole {
		return math.MaxInt
	}
	return allocateBytes * r.d.cfg.MaxBatchBytes
}

// enterRehearsal waits until no other dry run is on its way: each has a copy of the
// whole state.
func (d *Decider) enterRehearsal(ctx context.Context) (leave func(), err error) {
	select {
	case d.rehearsing <- struct{}{}:
		return func() { <-d.rehearsing }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("another dry run is under way: %w", context.Cause(ctx))
	}
}
