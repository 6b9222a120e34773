package lease

import (
	"time"

	"github.com/quorumlb/quorumlb/fsm"
)

// fault does something bad now.
type fault func(w *world)

// anyFaults are single faults; attacks are several at once, in an order that hurts.
var anyFaults = []fault{
	partition, isolateNode, isolateNode, cutMemberLink, cutRaft, slowLink, crashMember, stallMember,
	forceElection, move, move, setTimes, restartProc, zombieProc, cloneProc, stallProc,
	hangWatch, powerOff, changeMembers, slowApply, failProposal, breakPulses,
}

var attacks = []fault{
	attackStaleOwner, attackStaleOwner, attackOldProcess, attackCloneTwice, attackShrink, attackGrow,
	attackLeaderAndOwner, attackHeldAnswers, attackSplitVote, attackNewcomer, attackRestarts,
	attackLateApply,
}

func (w *world) duration() time.Duration {
	return w.between(200*time.Millisecond, 3500*time.Millisecond)
}

func (w *world) member() *mem { return w.mems[w.rng.IntN(3)] }

// leader returns the member that leads the newest term, or just any.
func (w *world) leader() *mem {
	best := w.member()
	for _, m := range w.mems {
		if m.up && m.raft.role == raftLeader && (best.raft.role != raftLeader || m.raft.term > best.raft.term) {
			best = m
		}
	}
	return best
}

func (w *world) proc() *proc {
	for range 10 {
		if p := w.procs[w.rng.IntN(len(w.procs))]; p.alive {
			return p
		}
	}
	return w.procs[0]
}

// owner returns a Release address and a process that answers for it.
func (w *world) owner() (int, *proc) {
	a := w.rng.IntN(simAddrs - 1)
	for range 10 {
		if p := w.proc(); p.session != 0 && p.owns[a] {
			return a, p
		}
	}
	return a, w.proc()
}

func (w *world) cut(class linkClass, from, to int, d time.Duration) {
	l := w.link(class, from, to)
	l.cutUntil = max(l.cutUntil, w.now+d)
}

func (w *world) slow(class linkClass, from, to int, extra, d time.Duration) {
	l := w.link(class, from, to)
	l.extra, l.slowUntil = extra, w.now+d
}

func (w *world) cutMembers(a, b int, d time.Duration) {
	for _, c := range []linkClass{raftLink, pulseLink} {
		w.cut(c, a, b, d)
		w.cut(c, b, a, d)
	}
}

func (w *world) cutMachine(mach *machine, m int, d time.Duration) {
	w.cut(speakerUp, simMembers+mach.id, m, d)
	w.cut(speakerDown, m, simMembers+mach.id, d)
	w.cut(watchDown, m, simMembers+mach.id, d)
}

func partition(w *world) {
	w.logf("fault: partition")
	w.partition(w.rng.Uint32(), w.duration())
}

// partition cuts everything between those whose bits differ.
func (w *world) partition(sides uint32, d time.Duration) {
	side := func(i int) uint32 { return sides >> i & 1 }
	for a := range simMembers {
		for b := range a {
			if side(a) != side(b) {
				w.cutMembers(a, b, d)
			}
		}
		for _, mach := range w.machines {
			if side(a) != side(simMembers+mach.id) {
				w.cutMachine(mach, a, d)
			}
		}
	}
}

func isolateNode(w *world) {
	_, p := w.owner()
	w.isolate(p.mach, w.duration())
}

func (w *world) isolate(mach *machine, d time.Duration) {
	w.logf("fault: machine %d isolated", mach.id)
	for m := range simMembers {
		w.cutMachine(mach, m, d)
	}
}

func cutMemberLink(w *world) {
	m, p, d := w.member(), w.proc(), w.duration()
	switch w.rng.IntN(4) {
	case 0:
		w.cutMembers(m.id, w.rng.IntN(3), d)
	case 1:
		w.cut(pulseLink, m.id, w.rng.IntN(3), d)
	case 2:
		w.cutMachine(p.mach, m.id, d)
	default:
		w.cut(speakerUp, simMembers+p.mach.id, m.id, d)
	}
}

// cutRaft cuts Raft's connections of a member, not those of the pulse.
func cutRaft(w *world) { w.cutRaft(w.leader(), w.duration(), w.chance(50), w.chance(70)) }

func (w *world) cutRaft(m *mem, d time.Duration, in, out bool) {
	w.logf("fault: Raft of m%d cut (in %v, out %v)", m.id, in, out)
	for i := range simMembers {
		if in {
			w.cut(raftLink, i, m.id, d)
		}
		if out {
			w.cut(raftLink, m.id, i, d)
		}
	}
}

func slowLink(w *world) {
	m, extra, d := w.member(), w.between(50*time.Millisecond, 1200*time.Millisecond), w.duration()
	class := linkClass(w.rng.IntN(5))
	w.logf("fault: links of class %d of m%d are slow", class, m.id)
	for i := range simMembers {
		w.slow(class, i, m.id, extra, d)
		w.slow(class, m.id, i, extra, d)
	}
	for _, mach := range w.machines {
		w.slow(class, simMembers+mach.id, m.id, extra, d)
		w.slow(class, m.id, simMembers+mach.id, extra, d)
	}
}

func crashMember(w *world) { w.crash(w.member(), w.between(100*time.Millisecond, 2*time.Second)) }

func (w *world) crash(m *mem, d time.Duration) {
	if !m.up {
		return
	}
	m.crash()
	w.after(d, m.start)
}

func stallMember(w *world) { w.stall(w.member(), w.duration()) }

func (w *world) stall(m *mem, d time.Duration) {
	w.logf("fault: m%d stalls for %v", m.id, d)
	m.stalledUntil = w.now + d
}

func forceElection(w *world) {
	if m := w.member(); m.up && w.now >= m.stalledUntil && m.raft.role != raftLeader {
		m.campaign(true)
	}
}

func move(w *world) {
	a, _ := w.owner()
	w.leader().do(func() { w.leader().move(a) })
}

var simTimes = []fsm.LeaseTimes{
	{Detection: 750 * time.Millisecond, Heartbeat: 150 * time.Millisecond},
	{Detection: 250 * time.Millisecond, Heartbeat: 50 * time.Millisecond},
	{Detection: 1500 * time.Millisecond, Heartbeat: 300 * time.Millisecond},
	{Detection: 3000 * time.Millisecond, Heartbeat: 600 * time.Millisecond},
}

func setTimes(w *world) { w.setTimes(w.leader(), w.rng.IntN(len(simTimes))) }

// setTimes changes the lease times as the decider does: not while a former change
// still counts.
func (w *world) setTimes(m *mem, i int) {
	times := simTimes[i]
	times.Settle = simSettle(w.mode)
	m.do(func() {
		if m.canDecide() && m.lead.LeaseChange(m.now()) <= m.now() && times != m.dec.head.lease {
			m.propose(simEvent{kind: evTimes, times: times})
		}
	})
}

func restartProc(w *world) {
	p := w.proc()
	p.exit()
	w.after(w.upTo(time.Second), func() { w.newProc(p.mach).start() })
}

// zombieProc starts a process while the old one goes on.
func zombieProc(w *world) { _, p := w.owner(); w.succeed(p, p.mach) }

// cloneProc starts a process of the same node on another machine.
func cloneProc(w *world) { _, p := w.owner(); w.succeed(p, w.newMachine(p.node())) }

// succeed starts a process that replaces p, which may not notice.
func (w *world) succeed(p *proc, mach *machine) *proc {
	p.zombie = true
	if w.chance(60) {
		w.hang(p, w.between(time.Second, 4*time.Second))
	}
	n := w.newProc(mach)
	n.start()
	return n
}

func stallProc(w *world) {
	_, p := w.owner()
	p.stalledUntil = w.now + w.duration()
}

func hangWatch(w *world) { _, p := w.owner(); w.hang(p, w.duration()) }

// hang holds back what the watches of p's machine bring.
func (w *world) hang(p *proc, d time.Duration) {
	w.logf("fault: watches of machine %d hang", p.mach.id)
	for m := range simMembers {
		l := w.link(watchDown, m, simMembers+p.mach.id)
		l.fifo = max(l.fifo, w.now+d)
	}
}

func powerOff(w *world) {
	off := 0
	for _, mach := range w.machines {
		if mach.off {
			off++
		}
	}
	if off > 0 {
		return
	}
	_, p := w.owner()
	w.logf("fault: machine %d loses power", p.mach.id)
	p.mach.off = true
	for _, q := range w.procs {
		if q.mach == p.mach {
			q.exit()
		}
	}
}

func changeMembers(w *world) {
	for i := 3; i < simMembers; i++ {
		w.mems[i].start()
	}
	for i := range w.between(1, 5) {
		w.after(i*w.between(50*time.Millisecond, 600*time.Millisecond), func() {
			m := w.leader()
			m.do(func() { m.changeVoters(m.voters() ^ 1<<w.rng.IntN(simMembers)) })
		})
	}
}

func slowApply(w *world) {
	m := w.member()
	m.applyAfter = w.now + w.duration()
}

func failProposal(w *world) { w.leader().dec.failNext = true }

func breakPulses(w *world) {
	m, d := w.member(), w.between(20*time.Millisecond, 600*time.Millisecond)
	for i := range simMembers {
		w.cut(pulseLink, m.id, i, d)
	}
}

// Attacks: the ways in which earlier designs fell.

// attackStaleOwner: an address leaves an owner that does not hear of it, and the
// leader changes on the way.
func attackStaleOwner(w *world) {
	a, p := w.owner()
	w.hang(p, w.between(2*time.Second, 5*time.Second))
	l := w.leader()
	w.after(w.upTo(300*time.Millisecond), func() {
		l.do(func() { l.move(a) })
		w.after(w.upTo(400*time.Millisecond), func() { w.unseat(l) })
	})
}

// unseat makes another member lead, in one of many ways.
func (w *world) unseat(l *mem) {
	switch w.rng.IntN(6) {
	case 0:
		w.crash(l, w.duration())
	case 1:
		w.stall(l, w.duration())
	case 2:
		w.cutRaft(l, w.duration(), true, true)
	case 3:
		l.applyAfter = w.now + w.duration()
		fallthrough
	case 4:
		for _, m := range w.mems {
			if m.up && m != l && w.now >= m.stalledUntil && w.chance(60) {
				m.campaign(true)
				return
			}
		}
	}
}

// attackLateApply: the leader applies its own release long after others have.
func attackLateApply(w *world) {
	a, p := w.owner()
	l := w.leader()
	w.hang(p, w.between(3*time.Second, 5*time.Second))
	l.applyAfter = w.now + w.between(time.Second, 3*time.Second)
	w.after(w.upTo(100*time.Millisecond), func() { l.do(func() { l.move(a) }) })
	w.after(w.between(300*time.Millisecond, 1500*time.Millisecond), func() { w.unseat(l) })
}

// attackOldProcess: an old process goes on beside its successor on the same machine,
// and an address moves.
func attackOldProcess(w *world) {
	a, p := w.owner()
	p.zombie = true
	w.hang(p, w.between(2*time.Second, 5*time.Second))
	n := w.newProc(p.mach)
	n.start()
	// The successor's watch does not hang.
	w.after(w.between(20*time.Millisecond, 300*time.Millisecond), func() {
		w.unhang(p.mach)
		n.attach()
		l := w.leader()
		w.after(w.upTo(400*time.Millisecond), func() { l.do(func() { l.move(a) }) })
		if w.chance(50) {
			w.after(w.upTo(600*time.Millisecond), func() { w.unseat(l) })
		}
	})
	p.stick()
}

func (w *world) unhang(mach *machine) {
	for m := range simMembers {
		w.link(watchDown, m, simMembers+mach.id).fifo = w.now
	}
}

// attackNewcomer: as attackOldProcess, but the session is young when the leader changes.
func attackNewcomer(w *world) {
	_, p := w.owner()
	p.zombie = true
	p.stick()
	w.newProc(p.mach).start()
	w.after(w.between(50*time.Millisecond, 700*time.Millisecond), func() { w.unseat(w.leader()) })
	for range 4 {
		w.after(w.upTo(2500*time.Millisecond), func() { move(w) })
	}
}

// attackCloneTwice: a clone takes over a node's name, is restarted, and the leader changes.
func attackCloneTwice(w *world) {
	_, p := w.owner()
	p.zombie = true
	p.stick()
	if w.chance(50) {
		// From now on nothing reaches the old process but acks that are on their way.
		w.isolate(p.mach, w.duration())
	}
	c := w.newProc(w.newMachine(p.node()))
	c.start()
	w.after(w.between(20*time.Millisecond, 400*time.Millisecond), func() {
		c.exit()
		w.newProc(c.mach).start()
		w.after(w.between(10*time.Millisecond, 400*time.Millisecond), func() { w.unseat(w.leader()) })
	})
}

// attackShrink: the lease times become shorter while leases by the longer ones run.
func attackShrink(w *world) {
	w.setTimes(w.leader(), w.between2(2, 4))
	w.after(w.between(2500*time.Millisecond, 3500*time.Millisecond), func() {
		a, p := w.owner()
		d := w.between(4*time.Second, 7*time.Second)
		if w.chance(50) {
			w.isolate(p.mach, d)
		} else {
			w.hang(p, d)
		}
		w.after(w.upTo(100*time.Millisecond), func() {
			w.setTimes(w.leader(), w.rng.IntN(2))
			if w.chance(60) {
				w.after(w.upTo(300*time.Millisecond), func() { w.leader().do(func() { w.leader().move(a) }) })
			}
			if w.chance(60) {
				w.after(w.upTo(600*time.Millisecond), func() {
					for _, m := range w.mems[:3] {
						if w.chance(70) {
							w.crash(m, w.upTo(300*time.Millisecond)+1)
						}
					}
				})
			}
		})
	})
}

func (w *world) between2(a, b int) int { return a + w.rng.IntN(b-a) }

// attackGrow: longer lease times are decided but never committed.
func attackGrow(w *world) {
	l := w.leader()
	a, p := w.owner()
	w.cutRaft(l, w.between(time.Second, 4*time.Second), w.chance(50), true)
	w.setTimes(l, w.between2(2, 4))
	w.after(w.between(200*time.Millisecond, 500*time.Millisecond), func() {
		w.hang(p, 8*time.Second)
		if w.chance(50) {
			w.isolate(p.mach, 8*time.Second)
		}
	})
	for range 5 {
		w.after(w.between(200*time.Millisecond, 1500*time.Millisecond), func() { w.leader().do(func() { w.leader().move(a) }) })
	}
}

// attackLeaderAndOwner: leader and owner on one side, all others on the other.
func attackLeaderAndOwner(w *world) {
	_, p := w.owner()
	w.logf("fault: leader and owner cut off together")
	w.partition(1<<w.leader().id|1<<(simMembers+p.mach.id), w.between(2*time.Second, 5*time.Second))
	if w.chance(30) {
		w.after(w.upTo(time.Second), func() { w.isolate(p.mach, w.duration()) })
	}
}

// attackHeldAnswers: answers to the leader are held back over an election.
func attackHeldAnswers(w *world) {
	l := w.leader()
	_, p := w.owner()
	extra := w.between(300*time.Millisecond, 2500*time.Millisecond)
	for i := range simMembers {
		w.slow(pulseLink, i, l.id, extra, extra)
		if w.chance(50) {
			w.slow(raftLink, i, l.id, extra, extra)
		}
		if w.chance(50) {
			w.slow(speakerUp, simMembers+p.mach.id, i, extra, extra)
		}
	}
	w.after(w.upTo(200*time.Millisecond), func() {
		if w.chance(50) {
			w.cutRaft(l, extra, false, true)
		} else {
			w.unseat(l)
		}
	})
	w.after(w.upTo(500*time.Millisecond), func() {
		for i := range simMembers {
			if i != l.id {
				w.cutMachine(p.mach, i, 4*time.Second)
			}
		}
	})
}

// attackSplitVote: the leader itself votes for its successor, and the follower that
// knows nothing of it goes on answering.
func attackSplitVote(w *world) {
	l := w.leader()
	a, p := w.owner()
	b, c := w.mems[(l.id+1)%3], w.mems[(l.id+2)%3]
	d := w.between(2*time.Second, 4*time.Second)
	w.cut(raftLink, c.id, b.id, d)
	w.cut(raftLink, l.id, b.id, d)
	if w.chance(50) {
		w.cutMembers(c.id, b.id, d)
	}
	w.hang(p, d+time.Second)
	if w.chance(50) {
		w.cutMachine(p.mach, c.id, d)
	}
	w.after(w.upTo(100*time.Millisecond), func() {
		if c.up && w.now >= c.stalledUntil {
			c.campaign(true)
		}
		for range 4 {
			w.after(w.between(20*time.Millisecond, 400*time.Millisecond), func() { c.do(func() { c.move(a) }) })
		}
	})
}

// attackRestarts: the members are restarted one after the other.
func attackRestarts(w *world) {
	for i, m := range w.mems[:3] {
		w.after(time.Duration(i)*w.between(10*time.Millisecond, 900*time.Millisecond), func() {
			w.crash(m, w.between(50*time.Millisecond, 500*time.Millisecond))
		})
	}
}
