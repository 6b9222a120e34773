package sim

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
)

// attacks are faults of which a schedule has at most one, beside all others. They
// came later than the list of faults and draw from a source of their own, so that old
// seeds go on meaning what they meant.
var attacks = []fault{lateAcks, lateAcks, forgotten, longTimes}

// attackSource is that source.
const attackSource = 0xa77ac

// laterAttacks came later still. A schedule may have one of these beside one of the others.
var laterAttacks = []fault{lastWords, deaf, gap, recycled}

const laterSource = 0x1a57

// deaf: a leader does not hear an owner that all others hear, nor what they report.
func deaf(c *chaos) {
	s, l, d := c.speaker(), c.leaderOr(), c.between(2500*time.Millisecond, 4*time.Second)
	c.logf("fault: %s hears neither %s nor reports for %v", l.id, s.p.name, d)
	c.cut(beatClass, s.p.mach, l.mach, d)
	for _, o := range c.members {
		if o != l {
			c.cut(pulseClass, o.mach, l.mach, d)
		}
	}
}

// gap: a batch is refused so late that others, decided on top of it, are in the log.
func gap(c *chaos) {
	l := c.leader()
	if l == nil {
		return
	}
	c.logf("fault: the next proposal of %s is refused late", l.m.id)
	l.trouble = refusedLate
	for range 3 + c.rng.IntN(4) {
		rng, svc := rand.New(rand.NewPCG(c.seed, c.rng.Uint64())), service(c.rng.IntN(services))
		c.after(c.upTo(refusalTime*5/4), func() {
			c.order(func(ctx context.Context) { _ = c.o.declare(ctx, rng, svc) })
		})
	}
}

// recycled: addresses leave an owner that does not hear of it, and their services with
// them, which come back at once and have them again.
func recycled(c *chaos) {
	s := c.speaker()
	c.hang(s, c.between(2*time.Second, 4*time.Second))
	var names []*adminv1.ResourceName
	for i := range services {
		names = append(names, &adminv1.ResourceName{Kind: decider.KindService, Namespace: "sim", Name: service(i).GetName()})
	}
	wait, rng := c.upTo(300*time.Millisecond), rand.New(rand.NewPCG(c.seed, c.rng.Uint64()))
	c.order(func(ctx context.Context) {
		_, _ = c.o.submit(ctx, 0, &decider.Drain{Node: s.p.mach.node, Actor: "admin:sim"})
		_ = pause(ctx, wait)
		_, _ = c.o.submit(ctx, 0, &decider.Delete{Actor: "admin:sim", Names: names})
		for i := range services / 2 {
			_ = c.o.declare(ctx, rng, service(i))
		}
	})
}

// lastWords: what a leader proposes reaches the others, and it never learns what became
// of it: no answer of theirs arrives. In some schedules it is asked to prove its office before.
func lastWords(c *chaos) {
	l := c.leaderOr()
	d := c.patience + c.between(1200*time.Millisecond, 2*time.Second)
	c.logf("fault: %s hears nothing of the other members' Raft for %v", l.id, d)
	for _, o := range c.members {
		if o != l {
			c.cut(raftClass, o.mach, l.mach, d)
		}
	}
	at := c.upTo(c.patience / 2)
	if c.chance(50) {
		c.after(at, func() {
			c.order(func(ctx context.Context) {
				_, _ = c.o.submit(ctx, l.num, &decider.Delete{Actor: "admin:sim", Names: []*adminv1.ResourceName{{Kind: decider.KindService, Namespace: "sim", Name: "none"}}})
			})
		})
	}
	for range 1 + c.rng.IntN(3) {
		at += c.upTo(c.patience / 4)
		rng, svc := rand.New(rand.NewPCG(c.seed, c.rng.Uint64())), service(c.rng.IntN(services))
		c.after(at, func() {
			c.order(func(ctx context.Context) { _ = c.o.declare(ctx, rng, svc) })
		})
	}
}

// unseat makes another member lead, in one of many ways.
func (c *chaos) unseat(l *member) {
	switch c.rng.IntN(6) {
	case 0:
		l.restart(c.duration())
	case 1:
		c.stall(l.proc, c.duration())
	case 2:
		for _, o := range c.members {
			c.cut(raftClass, l.mach, o.mach, c.duration())
			c.cut(raftClass, o.mach, l.mach, c.duration())
		}
	case 3:
		l.slowApply = c.now() + c.duration()
		fallthrough
	default:
		for _, m := range c.members {
			if m != l && m.raft != nil && m.proc.stalled() == 0 && slices.Contains(m.raft.conf(), m.num) && c.chance(60) {
				m.raft.campaign(true)
				return
			}
		}
	}
}

// staleOwner: an address leaves an owner that does not hear of it, and the leader
// changes on the way.
func staleOwner(c *chaos) {
	s, l := c.speaker(), c.leaderOr()
	c.hang(s, c.between(2*time.Second, 5*time.Second))
	c.after(c.upTo(300*time.Millisecond), func() {
		c.moveOf(s)
		c.after(c.upTo(400*time.Millisecond), func() { c.unseat(l) })
	})
}

// oldProcess: an old process goes on beside its successor, and an address moves.
func oldProcess(c *chaos) {
	s := c.speaker()
	c.stall(s.p, c.between(200*time.Millisecond, 3*time.Second))
	c.startSpeaker(s.p.mach)
	c.after(c.between(20*time.Millisecond, 700*time.Millisecond), func() {
		c.moveOf(s)
		if c.chance(60) {
			c.after(c.upTo(600*time.Millisecond), func() { c.unseat(c.leaderOr()) })
		}
	})
}

// cloneTwice: a clone takes a node's name, is restarted, and the leader changes.
func cloneTwice(c *chaos) {
	s := c.speaker()
	if c.chance(50) {
		c.isolate(s.p.mach, c.duration())
	}
	first := c.startSpeaker(c.clone(s.p.mach))
	c.after(c.between(20*time.Millisecond, 500*time.Millisecond), func() {
		c.kill(first)
		c.startSpeaker(first.p.mach)
		c.after(c.between(10*time.Millisecond, 400*time.Millisecond), func() { c.unseat(c.leaderOr()) })
	})
}

// shrinkTimes: the lease times become shorter while leases by the longer ones run.
func shrinkTimes(c *chaos) {
	set := func(i int) {
		c.order(func(ctx context.Context) {
			_, _ = c.o.submit(ctx, 0, &decider.SetLeaseTimes{Times: leaseTimes[i], Actor: "admin:sim"})
		})
	}
	set(2)
	c.after(c.between(1700*time.Millisecond, 3*time.Second), func() {
		s := c.speaker()
		if c.chance(50) {
			c.isolate(s.p.mach, c.duration())
		} else {
			c.hang(s, c.duration())
		}
		c.after(c.upTo(100*time.Millisecond), func() {
			set(1)
			c.moveOf(s)
			if c.chance(60) {
				c.after(c.upTo(600*time.Millisecond), func() { crashAll(c) })
			}
		})
	})
}

// leaderAndOwner: the leader and an owner on one side, all others on the other.
func leaderAndOwner(c *chaos) {
	s, l := c.speaker(), c.leaderOr()
	c.logf("fault: %s and %s cut off together", l.id, s.p.name)
	c.partition(1<<l.mach.id|1<<s.p.mach.id, c.between(time.Second, 4*time.Second), true)
}

// heldAnswers: answers to the leader are held back over an election.
func heldAnswers(c *chaos) {
	s, l := c.speaker(), c.leaderOr()
	extra := c.between(300*time.Millisecond, 2500*time.Millisecond)
	for _, m := range c.members {
		c.slow(pulseClass, m.mach, l.mach, extra, extra)
		if c.chance(50) {
			c.slow(beatClass, s.p.mach, m.mach, extra, extra)
		}
	}
	c.after(c.upTo(200*time.Millisecond), func() { c.unseat(l) })
	c.after(c.upTo(500*time.Millisecond), func() { c.isolate(s.p.mach, c.duration()) })
}

// lateAcks: acks are late when an owner is cut off.
func lateAcks(c *chaos) {
	s := c.speaker()
	extra := c.between(200*time.Millisecond, 1200*time.Millisecond)
	c.logf("fault: acks to %s are late by up to %v", s.p.name, extra)
	for _, m := range c.members {
		c.slow(ackClass, m.mach, s.p.mach, extra, 2*time.Second)
	}
	c.after(c.between(200*time.Millisecond, 1500*time.Millisecond), func() {
		// What is on its way arrives; nothing new does.
		for _, m := range c.members {
			c.cut(beatClass, s.p.mach, m.mach, 3*time.Second)
		}
	})
}

// forgotten: a node is cut off, expired and forgotten, and comes back without a new view.
func forgotten(c *chaos) {
	s := c.speaker()
	away := c.between(2*time.Second, 3500*time.Millisecond)
	c.isolate(s.p.mach, away)
	for i := range time.Duration(4) {
		c.after(away*(6+i)/10, func() {
			c.order(func(ctx context.Context) {
				_, _ = c.o.submit(ctx, 0, &decider.ForgetNode{Node: s.p.mach.node, Actor: "admin:sim"})
			})
		})
	}
	c.after(away, func() { c.hang(s, 2*time.Second) })
}

// longTimes: an owner is cut off under long lease times, so that the drift of clocks weighs.
func longTimes(c *chaos) {
	c.order(func(ctx context.Context) {
		_, _ = c.o.submit(ctx, 0, &decider.SetLeaseTimes{Times: leaseTimes[2], Actor: "admin:sim"})
	})
	c.after(c.between(time.Second, 2*time.Second), func() { c.isolate(c.speaker().p.mach, 3*time.Second) })
}
