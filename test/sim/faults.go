package sim

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/quorumlb/quorumlb/raftnode/decider"
)

// fault does something bad now, with choices from a source of its own.
// World.mu is held.
type fault func(f *chaos)

// chaos is one fault on its way.
type chaos struct {
	*World
	rng *rand.Rand
	o   *operator
	// order has an operator do something, in a goroutine of its own.
	order func(f func(ctx context.Context))
}

var faults = []fault{
	partition, partition, oneWay, isolateNode, isolateNode, isolateMember, cutClass, slowClass, slowClass, wild, wild,
	crashMember, crashMember, crashLeader, crashAll, powerOffMember, stallMember, stallLeader, stallSpeaker, stallSpeaker,
	crashSpeaker, crashSpeaker, terminate, beside, cloned, powerOffNode, linkDown, elect, slowDisk, slowApply,
	spoilProposal, spoilProposal, changeMembers, changeMembers, hangWatch, hangWatch,
	staleOwner, staleOwner, oldProcess, cloneTwice, shrinkTimes, leaderAndOwner, heldAnswers, rolling,
}

// plan draws what goes wrong and what operators do, and when. Each has a source of
// its own, so that the plan does not depend on what happens.
func (w *World) plan(ctx context.Context, o *operator, orders *orders) {
	w.mu.Lock()
	defer w.mu.Unlock()
	source := func() *rand.Rand { return rand.New(rand.NewPCG(w.seed, w.rng.Uint64())) }
	order := func(f func(ctx context.Context)) { orders.run(ctx, f) }
	for range 1 + w.rng.IntN(8) {
		c := &chaos{World: w, rng: source(), o: o, order: order}
		do := faults[w.rng.IntN(len(faults))]
		w.after(w.upTo(faultTime-500*time.Millisecond), func() {
			w.Stats.Faults++
			do(c)
		})
	}
	if own := rand.New(rand.NewPCG(w.seed, attackSource)); own.IntN(100) < 40 {
		c := &chaos{World: w, rng: own, o: o, order: order}
		do := attacks[own.IntN(len(attacks))]
		w.after(c.upTo(2*time.Second), func() {
			w.Stats.Faults++
			do(c)
		})
	}
	if own := rand.New(rand.NewPCG(w.seed, laterSource)); own.IntN(100) < 20 {
		c := &chaos{World: w, rng: own, o: o, order: order}
		do := laterAttacks[own.IntN(len(laterAttacks))]
		w.after(c.upTo(2*time.Second), func() {
			w.Stats.Faults++
			do(c)
		})
	}
	for range 2 + w.rng.IntN(14) {
		name, do := o.order(source())
		w.after(w.upTo(faultTime), func() {
			w.logf("order: %s", name)
			order(do)
		})
	}
}

func (c *chaos) upTo(d time.Duration) time.Duration { return time.Duration(c.rng.Int64N(int64(d))) }

func (c *chaos) between(a, b time.Duration) time.Duration { return a + c.upTo(b-a) }

func (c *chaos) chance(percent int) bool { return c.rng.IntN(100) < percent }

func (c *chaos) duration() time.Duration {
	return c.between(100*time.Millisecond, 3500*time.Millisecond)
}

func (c *chaos) member() *member { return c.members[c.rng.IntN(c.voters)] }

// leaderOr is the member that leads, or just any.
func (c *chaos) leaderOr() *member {
	if l := c.leader(); l != nil {
		return l.m
	}
	return c.member()
}

// speaker is a process that runs, one that owns something if there is one.
func (c *chaos) speaker() *speaker {
	c.check.mu.Lock()
	defer c.check.mu.Unlock()
	var all, owners []*speaker
	for _, s := range c.speakers {
		if s.alive() {
			all = append(all, s)
			if len(s.vips) > 0 {
				owners = append(owners, s)
			}
		}
	}
	switch {
	case len(owners) > 0 && c.chance(70):
		return owners[c.rng.IntN(len(owners))]
	case len(all) > 0:
		return all[c.rng.IntN(len(all))]
	}
	return c.speakers[0]
}

// moveOf orders that the first address of a speaker moves.
func (c *chaos) moveOf(s *speaker) {
	c.check.mu.Lock()
	defer c.check.mu.Unlock()
	for a := range s.vips {
		c.order(func(ctx context.Context) {
			_, _ = c.o.submit(ctx, 0, &decider.Move{Address: a, Actor: "admin:sim"})
		})
		return
	}
}

func partition(c *chaos) {
	sides, d := c.rng.Uint64(), c.duration()
	c.logf("fault: partition %b for %v", sides&(1<<len(c.machines)-1), d)
	c.partition(sides, d, true)
}

func oneWay(c *chaos) {
	sides, d := c.rng.Uint64(), c.duration()
	c.logf("fault: one-way partition %b for %v", sides&(1<<len(c.machines)-1), d)
	c.partition(sides, d, false)
}

// partition cuts what is between machines whose bits differ, or one way of it.
func (c *chaos) partition(sides uint64, d time.Duration, both bool) {
	for _, a := range c.machines {
		for _, b := range c.machines {
			if from, to := sides>>a.id&1, sides>>b.id&1; from > to || both && from < to {
				c.cutAll(a, b, d)
			}
		}
	}
}

func isolateNode(c *chaos) { c.isolate(c.speaker().p.mach, c.duration()) }

func isolateMember(c *chaos) { c.isolate(c.leaderOr().mach, c.duration()) }

func (c *chaos) isolate(m *machine, d time.Duration) {
	c.logf("fault: machine %d (%s) isolated for %v", m.id, m.node, d)
	for _, o := range c.machines {
		if o != m {
			c.cutBoth(m, o, d)
		}
	}
}

// cutClass cuts one kind of traffic of a member, in or out or both.
func cutClass(c *chaos) {
	m, k, d := c.leaderOr(), class(c.rng.IntN(int(classes))), c.duration()
	in, out := c.chance(60), c.chance(60)
	c.logf("fault: traffic of class %d of %s cut for %v (in %v, out %v)", k, m.id, d, in, out)
	for _, o := range c.machines {
		if in {
			c.cut(k, o, m.mach, d)
		}
		if out {
			c.cut(k, m.mach, o, d)
		}
	}
}

func slowClass(c *chaos) {
	m, k, d := c.leaderOr(), class(c.rng.IntN(int(classes))), c.duration()
	extra := c.between(20*time.Millisecond, 1200*time.Millisecond)
	c.logf("fault: traffic of class %d of %s slow by %v for %v", k, m.id, extra, d)
	for _, o := range c.machines {
		c.slow(k, o, m.mach, extra, d)
		c.slow(k, m.mach, o, extra, d)
	}
}

// wild has messages lost, doubled and overtaken everywhere.
func wild(c *chaos) {
	d := c.duration()
	c.logf("fault: messages are lost, doubled and overtaken for %v", d)
	for _, a := range c.machines {
		for _, b := range c.machines {
			for _, k := range []class{raftClass, beatClass, ackClass} {
				c.link(k, a, b).wildUntil = c.now() + d
			}
		}
	}
}

func crashMember(c *chaos) { c.member().restart(c.between(50*time.Millisecond, 2*time.Second)) }

func crashLeader(c *chaos) { c.leaderOr().restart(c.between(50*time.Millisecond, 2*time.Second)) }

// crashAll crashes all members in one moment: what was not synced anywhere is gone.
func crashAll(c *chaos) {
	for _, m := range c.members {
		if m.proc != nil {
			c.after(c.upTo(3*time.Millisecond), func() { m.restart(c.between(50*time.Millisecond, 800*time.Millisecond)) })
		}
	}
}

// rolling restarts the members one after the other.
func rolling(c *chaos) {
	for i, m := range c.members {
		if m.proc != nil {
			c.after(time.Duration(i)*c.between(10*time.Millisecond, 900*time.Millisecond), func() {
				m.restart(c.between(50*time.Millisecond, 400*time.Millisecond))
			})
		}
	}
}

func powerOffMember(c *chaos) {
	m, d := c.leaderOr(), c.between(300*time.Millisecond, 2500*time.Millisecond)
	c.powerOff(m.mach, d)
	m.restart(d)
}

func (c *chaos) powerOff(m *machine, d time.Duration) {
	c.logf("fault: machine %d (%s) without power for %v", m.id, m.node, d)
	m.dark = c.now() + d
	for _, o := range c.machines {
		if o != m {
			c.cutBoth(m, o, d)
		}
	}
}

func stallMember(c *chaos) { c.stall(c.member().proc, c.duration()) }

func stallLeader(c *chaos) { c.stall(c.leaderOr().proc, c.duration()) }

func stallSpeaker(c *chaos) { c.stall(c.speaker().p, c.duration()) }

// stall stops a process, and looks at what speakers do when it goes on.
func (c *chaos) stall(p *proc, d time.Duration) {
	if p == nil {
		return
	}
	p.stall(d)
	c.after(d, c.check.lookNow)
}

func crashSpeaker(c *chaos) {
	s := c.speaker()
	c.kill(s)
	c.after(c.upTo(1500*time.Millisecond), func() { c.startSpeaker(s.p.mach) })
}

func (c *chaos) kill(s *speaker) {
	c.logf("fault: %s crashes", s.p.name)
	s.p.kill()
}

// terminate restarts a speaker as an upgrade does.
func terminate(c *chaos) {
	s := c.speaker()
	c.logf("fault: %s is terminated", s.p.name)
	s.leave()
	c.after(c.between(100*time.Millisecond, 2*time.Second), func() { c.startSpeaker(s.p.mach) })
}

// beside starts a process while the old one goes on.
func beside(c *chaos) { c.startSpeaker(c.speaker().p.mach) }

// cloned starts a process of a node on another machine.
func cloned(c *chaos) { c.startSpeaker(c.clone(c.speaker().p.mach)) }

// clone makes a machine with a node's name.
func (c *chaos) clone(m *machine) *machine {
	n := &machine{id: len(c.machines), node: m.node}
	n.drifting = drifting{w: c.World, offset: time.Hour + c.upTo(time.Hour), ppm: m.ppm}
	c.machines = append(c.machines, n)
	return n
}

func powerOffNode(c *chaos) {
	s, d := c.speaker(), c.between(300*time.Millisecond, 3*time.Second)
	c.powerOff(s.p.mach, d)
	c.kill(s)
	c.after(d, func() { c.startSpeaker(s.p.mach) })
}

func linkDown(c *chaos) {
	s := c.speaker()
	c.logf("fault: the link of %s is down", s.p.name)
	s.setLink(true)
	c.after(c.duration(), func() { s.setLink(false) })
}

// elect makes a follower campaign.
func elect(c *chaos) {
	m := c.member()
	if r := m.raft; r != nil && r.role != leading && m.proc.stalled() == 0 && slices.Contains(r.conf(), m.num) {
		c.logf("fault: %s campaigns", m.id)
		r.campaign(true)
	}
}

func slowDisk(c *chaos) {
	m, d := c.leaderOr(), c.duration()
	c.logf("fault: the disk of %s is slow for %v", m.id, d)
	m.disk.slowUntil = c.now() + d
}

func slowApply(c *chaos) {
	m, d := c.leaderOr(), c.duration()
	c.logf("fault: %s applies nothing for %v", m.id, d)
	m.slowApply = c.now() + d
}

func spoilProposal(c *chaos) {
	t := trouble(1 + c.rng.IntN(3))
	if l := c.leader(); l != nil {
		c.logf("fault: trouble %d with the next proposal of %s", t, l.m.id)
		l.trouble = t
	}
}

// changeMembers adds and removes members, one at a time.
func changeMembers(c *chaos) {
	for i := range c.between(1, 5) {
		c.after(i*c.between(50*time.Millisecond, 600*time.Millisecond), func() {
			l := c.leader()
			if l == nil {
				return
			}
			conf, m := slices.Clone(l.conf()), c.rng.IntN(maxMembers)
			switch at := slices.Index(conf, m); {
			case at < 0:
				c.members[m].start()
				conf = append(conf, m)
			case len(conf) > 3:
				conf = slices.Delete(conf, at, at+1)
			default:
				return
			}
			l.changeVoters(conf)
		})
	}
}

func hangWatch(c *chaos) { c.hang(c.speaker(), c.duration()) }

// hang has a speaker's watches bring nothing for up to d.
func (c *chaos) hang(s *speaker, d time.Duration) {
	c.logf("fault: watches of %s hang for up to %v", s.p.name, d)
	for _, m := range c.members {
		c.slow(viewClass, m.mach, s.p.mach, d, d)
	}
}

// heal ends all faults, starts what is down, and has the operator put things right.
func (w *World) heal(ctx context.Context, o *operator) {
	w.logf("all faults end")
	for w.anyStalled() {
		time.Sleep(look)
	}
	w.mu.Lock()
	w.mend()
	for _, m := range w.machines {
		m.dark = 0
	}
	for _, m := range w.members {
		m.disk.slowUntil, m.slowApply = 0, 0
		if m.proc != nil {
			m.start()
		}
		if m.raft != nil {
			m.raft.trouble = noTrouble
		}
	}
	running := make(map[string]bool)
	w.check.mu.Lock()
	for _, s := range w.speakers {
		running[s.p.mach.node] = running[s.p.mach.node] || s.alive()
	}
	speakers := slices.Clone(w.speakers)
	w.check.mu.Unlock()
	gone := w.leaveDead(speakers)
	for _, m := range w.machines[maxMembers:] {
		if !running[m.node] && m.node != gone {
			running[m.node] = true
			w.startSpeaker(m)
		}
	}
	w.mu.Unlock()
	for _, s := range speakers {
		s.setLink(false)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for i := range w.nodes {
		_, _ = o.submit(ctx, 0, &decider.Undrain{Node: nodeName(i), Actor: "admin:sim"})
	}
}

// leaveDead chooses, in some schedules, a node that does not come back: others must
// take over. mu is held.
func (w *World) leaveDead(speakers []*speaker) (node string) {
	own := rand.New(rand.NewPCG(w.seed, 0xdead))
	if own.IntN(100) >= 40 {
		return ""
	}
	node = nodeName(own.IntN(w.nodes))
	w.logf("%s does not come back", node)
	for _, s := range speakers {
		if s.p.mach.node == node {
			s.p.kill()
		}
	}
	return node
}

func (w *World) anyStalled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.members {
		if m.proc != nil && !m.proc.dead.Load() && m.proc.stalled() > 0 {
			return true
		}
	}
	w.check.mu.Lock()
	defer w.check.mu.Unlock()
	return slices.ContainsFunc(w.speakers, func(s *speaker) bool { return s.alive() && s.p.stalled() > 0 })
}
