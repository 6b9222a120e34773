package decider

import (
	"errors"
	"fmt"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
)

// group is the commands of one batch on their way to answers.
type group struct {
	replies []reply
	answers []answer
	// rest are commands that this batch has no place for.
	rest []*ticket
}

// decide makes one batch of the commands and of what follows from them, and
// proposes it. An error means that head is spoilt; the commands wait again then.
func (r *reign) decide(tickets []*ticket, began time.Duration) error {
	d := r.d
	if len(tickets) > 0 {
		defer func() {
			now := d.cfg.Clock.Now()
			d.observer.decided(len(tickets), began-tickets[0].since, now-began, d.queue.len())
		}()
	}
	g := &group{}
	t, err := r.decideAll(g, tickets)
	if err == nil {
		var f *flight
		if f, err = r.seal(t, g); err == nil {
			d.queue.putBack(g.rest)
			r.send(f, g.replies)
			return nil
		}
	}
	// Refused ones and all others are decided anew, on a sound head.
	again := make([]*ticket, 0, len(tickets))
	for _, p := range g.replies {
		again = append(again, p.t)
	}
	again = append(again, g.rest...)
	if errors.Is(err, ErrInternal) {
		again = r.isolate(again, err)
	}
	d.queue.putBack(again)
	return err
}

// isolate reacts to a batch that could not be completed for a fault in this
// program: its commands are decided one by one, and one that fails alone is
// answered. A fault without commands pauses reconciliation.
func (r *reign) isolate(tickets []*ticket, err error) []*ticket {
	r.d.logFault("a batch could not be completed", err, "commands", len(tickets))
	switch len(tickets) {
	case 0:
		r.pause = min(max(2*r.pause, 100*time.Millisecond), 30*time.Second)
		r.pauseUntil = r.d.cfg.Clock.Now() + r.pause
	case 1:
		if r.alone {
			r.d.finish(tickets[0], Result{}, err)
			return nil
		}
		r.cautious = 1
	default:
		r.cautious = len(tickets)
	}
	return tickets
}

// decideAll decides the commands one after the other and then what follows.
func (r *reign) decideAll(g *group, tickets []*ticket) (*tx, error) {
	now, jump := r.d.stamp.now(r.head.Time)
	t := &tx{
		s: r.head, rev: r.head.Revision + 1, now: now,
		work: r.work, targets: r.d.targets, heard: r.d.leases.HeardLately, silent: r.d.leases.StillSilent, self: "member:" + r.d.cfg.Self,
		changing: func() time.Duration { return r.d.leases.LeaseChange() - r.d.cfg.Clock.Now() },
	}
	t.draft = r.head.Begin(now)
	if r.work.keptTime > 0 && t.s.Time >= r.work.keptTime {
		r.work.endKept() // or a command would put the time off
	}
	for i, ticket := range tickets {
		full, err := r.decideOne(t, g, ticket, jump)
		if err != nil {
			g.rest = append(g.rest, tickets[i:]...)
			return nil, err
		}
		if full {
			g.rest = append(g.rest, tickets[len(g.replies):]...)
			break
		}
	}
	r.d.stats.Commands.Add(uint64(len(g.replies)))
	if !r.alone {
		if err := guard(func() error { return r.reconcile(t) }); err != nil {
			return nil, err
		}
	}
	for i := range g.replies {
		p := &g.replies[i]
		if p.err == nil && g.answers[i] != nil {
			if err := guard(func() error { g.answers[i](t.s, &p.r); return nil }); err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}

// decideOne decides one command. It tells whether the batch takes no more: the
// command is in it if it has a reply. An error means that head is spoilt.
func (r *reign) decideOne(t *tx, g *group, ticket *ticket, jump error) (full bool, err error) {
	if err := r.admissible(t.s, ticket.cmd, jump); err != nil {
		g.replies = append(g.replies, reply{t: ticket, err: err})
		g.answers = append(g.answers, nil)
		return false, nil
	}
	if isDryRun(ticket.cmd) {
		return r.rehearse(t, g, ticket)
	}
	m := t.mark()
	t.by, t.dry, t.then = r.d.actorOf(ticket.cmd), false, nil
	before := r.work.wants()
	var ans answer
	refusal := guard(func() (err error) {
		if ans, err = ticket.cmd.decide(t); err != nil {
			return err
		}
		return r.allocate(t, true)
	})
	if t.err != nil {
		refusal = t.err
	}
	changed := t.draft.Len() > m.events
	rep := reply{t: ticket, r: Result{Changed: changed && !t.dry}}
	switch {
	case refusal != nil:
		rep.err = refusal
		if errors.Is(refusal, ErrInternal) {
			r.d.logFault("a command could not be decided", refusal, "kind", ticket.cmd.kind())
		}
	case r.d.tooLarge(t.size) != nil:
		rep.err = r.d.tooLarge(t.size)
	case t.dry && ans != nil:
		rep.err = guard(func() error { ans(t.s, &rep.r); return nil })
		ans = nil
	}
	// Alone it may be possible.
	later := m.events > 0 && (errors.Is(rep.err, errNextBatch) || errors.Is(rep.err, ErrTooLarge))
	if rep.err != nil || t.dry {
		if err := r.rollback(t, m, errors.Is(rep.err, ErrInternal)); err != nil {
			return false, err
		}
		r.work.wantAgain(before) // what the command changed has not been
	} else {
		for _, f := range t.then {
			f()
		}
	}
	if later {
		return true, nil
	}
	g.replies = append(g.replies, rep)
	g.answers = append(g.answers, ans)
	return t.size >= r.d.cfg.MaxBatchBytes, nil
}

// admissible refuses what the time or the state of the cluster forbids.
func (r *reign) admissible(s *fsm.State, cmd Command, jump error) error {
	if _, fact := cmd.(observed); jump != nil && !fact {
		return jump
	}
	if _, first := cmd.(founding); s.ClusterID == [16]byte{} && !first {
		return ErrNotFounded
	}
	return nil
}

// rollback takes a command's events out of the batch again. After a fault head
// is made anew even when the draft counts no event: it may be half folded.
func (r *reign) rollback(t *tx, to mark, spoilt bool) error {
	if t.draft.Len() == to.events && !spoilt {
		return nil
	}
	if r.rehearsing {
		return fmt.Errorf("%w: a dry run went wrong in the middle", ErrInternal)
	}
	return r.rebuild(t, to)
}

// seal ends the batch. It returns nil when there is nothing to propose.
func (r *reign) seal(t *tx, g *group) (*flight, error) {
	if r.head.ClusterID == [16]byte{} && t.draft.Len() > 0 {
		return nil, fmt.Errorf("%w: a batch before the founding", ErrInternal)
	}
	f := &flight{}
	err := guard(func() error {
		raw, b, changes, err := t.draft.Commit()
		if err != nil || raw == nil {
			return err
		}
		if _, err := fsm.DecodeBatch(raw); err != nil {
			// No member could apply it.
			return err
		}
		f.raw, f.rev, f.chain = raw, b.GetRevision(), r.head.Chain
		r.d.stats.Events.Add(uint64(len(b.GetEvents())))
		r.d.observer.proposed(len(b.GetEvents()), len(raw))
		// No ack may be given on an older head than this from here on.
		r.d.leases.Decided(r.head, changes)
		return nil
	})
	if err != nil {
		return nil, errors.Join(ErrInternal, err)
	}
	for i := range g.replies {
		g.replies[i].r.Revision = r.head.Revision
	}
	if f.raw == nil {
		return nil, nil
	}
	r.d.stats.Batches.Add(1)
	r.d.stats.Bytes.Add(uint64(len(f.raw)))
	return f, nil
}

// send proposes the batch. Without one the replies wait for the newest batch in
// flight, on which they may rest, or for the proof that this member leads.
func (r *reign) send(f *flight, replies []reply) {
	switch {
	case f != nil:
		f.replies = replies
		r.takeOff(f)
	case len(replies) > 0 && !r.ride(replies):
		r.takeOff(&flight{replies: replies})
	}
}
