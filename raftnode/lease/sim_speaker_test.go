package lease

import (
	"fmt"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/leasetime"
)

// proc is a speaker process. A machine may run several at once, and a node's name
// may be used by processes on several machines.
type proc struct {
	w     *world
	id    int // newer processes of a node have higher ids
	name  string
	mach  *machine
	alive bool
	// zombie processes do not exit when they have been replaced.
	zombie       bool
	stalledUntil time.Duration

	session uint64
	since   time.Duration // true time at which it got the session
	held    *holder
	opening bool
	// The view in force.
	rev   uint64
	owns  [simAddrs]bool
	times fsm.LeaseTimes
	// The watch: its number, and the member that it is attached to.
	watch, at   int
	sentRev     uint64
	behindSince time.Duration
	// stuck: the watch is dead for good and the process does not notice.
	stuck bool
}

type view struct {
	rev   uint64
	owns  [simAddrs]bool
	times fsm.LeaseTimes
}

func (w *world) newProc(mach *machine) *proc {
	w.processs++
	p := &proc{w: w, id: w.processs, name: nodeName(mach.node), mach: mach}
	w.procs = append(w.procs, p)
	return p
}

func (p *proc) String() string {
	return fmt.Sprintf("process %d of %s on machine %d (session %d, revision %d)", p.id, p.name, p.mach.id, p.session, p.rev)
}

func (p *proc) node() int            { return p.mach.node }
func (p *proc) local() time.Duration { return p.mach.clk.at(p.w.now) }

func (p *proc) start() {
	if p.mach.off {
		return
	}
	p.alive = true
	p.w.logf("%v starts", p)
	p.open()
	p.beatLater()
}

func (p *proc) exit() {
	if p.alive {
		p.w.logf("%v exits", p)
	}
	p.alive = false
}

// do runs fn when the process runs.
func (p *proc) do(fn func()) {
	switch {
	case !p.alive:
	case p.w.now < p.stalledUntil:
		p.w.after(p.stalledUntil-p.w.now+p.w.upTo(2*time.Millisecond), func() { p.do(fn) })
	default:
		fn()
	}
}

// open asks whoever leads for a session, until it has one.
func (p *proc) open() {
	if p.session != 0 {
		return
	}
	p.opening = true
	for _, m := range p.w.mems {
		if m.life == 0 {
			continue // not a member yet
		}
		p.w.send(p.w.link(speakerUp, simMembers+p.mach.id, m.id), false, func() { m.do(func() { m.open(p) }) })
	}
	p.w.after(400*time.Millisecond, func() { p.do(p.open) })
}

func (p *proc) opened(session uint64) {
	if p.session >= session || !p.opening {
		return
	}
	p.w.logf("%v gets session %d", p, session)
	p.opening = false
	p.session, p.held = session, newHolder(session, p.w.brk, p.held)
	p.rev, p.owns, p.since = 0, [simAddrs]bool{}, p.w.now
	p.attach()
	p.beat()
}

func (p *proc) replaced() {
	if !p.zombie {
		p.exit()
	}
}

// stick lets the process live on with the view that it has.
func (p *proc) stick() {
	p.zombie, p.stuck = true, true
	p.watch++
}

// attach opens the watch at some member.
func (p *proc) attach() {
	p.w.mems[p.at].unwatch(p)
	p.watch++
	p.sentRev = 0
	if p.at = p.w.rng.IntN(simMembers); p.w.mems[p.at].life == 0 {
		p.at = p.w.rng.IntN(3)
	}
	m, watch := p.w.mems[p.at], p.watch
	p.w.send(p.w.link(speakerUp, simMembers+p.mach.id, m.id), false, func() {
		m.do(func() {
			if watch == p.watch && m.st.rev >= p.session {
				m.watchers = append(m.watchers, p)
				m.sendView(p)
			}
		})
	})
	// It has to give a view soon, or another member is asked.
	p.w.after(p.w.between(100*time.Millisecond, 300*time.Millisecond), func() {
		p.do(func() {
			if watch == p.watch && p.rev < p.session {
				p.attach()
			}
		})
	})
}

func (p *proc) sees(watch int, v view) {
	if watch != p.watch || v.rev < p.session || v.rev <= p.rev {
		return
	}
	lost := false
	for a := range v.owns {
		lost = lost || p.owns[a] && !v.owns[a]
	}
	p.rev, p.owns, p.times = v.rev, v.owns, v.times
	p.w.check()
	if lost {
		p.beat()
	}
}

func (p *proc) beatLater() {
	h := p.times.Heartbeat
	if h == 0 {
		h = 150 * time.Millisecond
	}
	p.w.after(p.mach.clk.after(h), func() {
		if p.alive {
			p.do(func() { p.beat(); p.beatLater() })
		}
	})
}

// beat sends one heartbeat to all members.
func (p *proc) beat() {
	if p.session == 0 {
		return
	}
	hb := Heartbeat{Node: p.name, Session: p.session, Seq: p.held.send(p.local()), Seen: p.rev}
	for _, m := range p.w.mems {
		if m.life == 0 {
			continue // not a member yet
		}
		p.w.send(p.w.link(speakerUp, simMembers+p.mach.id, m.id), false, func() { m.do(func() { m.heard(hb) }) })
	}
}

func (p *proc) acked(a Ack) {
	if p.session == 0 || a.Session != p.session && !p.w.brk.heldAnySession {
		return
	}
	switch a.Refusal {
	case NotRefused:
		p.w.stats.acks++
		p.behind(a.Need)
		p.held.acked(leasetime.Ack{Session: a.Session, Seq: a.Seq, Fence: a.Fence}, p.local())
		p.w.check()
		return
	case NoSession:
		if p.zombie {
			break
		}
		p.w.logf("%v has no session any more", p)
		p.session = 0
		p.open()
	case Replaced:
		p.replaced()
	case Behind:
		p.behind(a.Need)
	}
	p.w.stats.refusals++
}

// behind attaches the watch elsewhere when it does not bring what it should.
func (p *proc) behind(need uint64) {
	switch {
	case p.stuck:
	case p.rev >= need:
		p.behindSince = 0
	case p.behindSince == 0:
		p.behindSince = p.w.now
	case p.w.now-p.behindSince > 150*time.Millisecond:
		p.behindSince = 0
		p.attach()
	}
}

// holder is leasetime.Holder, or one that breaks a rule.
type holder struct {
	*leasetime.Holder
	brk      breaks
	sent     map[uint64]time.Duration
	deadline time.Duration
}

func newHolder(session uint64, brk breaks, old *holder) *holder {
	h := &holder{Holder: leasetime.NewHolder(session), brk: brk}
	if brk.heldAtReceipt || brk.heldNoDrift || brk.heldAnySession {
		h.sent = make(map[uint64]time.Duration)
	}
	if old != nil && brk.heldAnySession {
		h.deadline = old.deadline
	}
	return h
}

func (h *holder) send(now time.Duration) uint64 {
	seq := h.Send(now)
	if h.sent != nil {
		h.sent[seq] = now
	}
	return seq
}

func (h *holder) acked(a leasetime.Ack, now time.Duration) {
	if h.sent == nil {
		h.Acked(a)
		return
	}
	sent, ok := h.sent[a.Seq]
	switch {
	case h.brk.heldAtReceipt:
		h.deadline = now + leasetime.Shorten(a.Fence)
	case ok && h.brk.heldNoDrift:
		h.deadline = max(h.deadline, sent+a.Fence)
	case ok:
		h.deadline = max(h.deadline, sent+leasetime.Shorten(a.Fence))
	}
}

func (h *holder) confirmed(now time.Duration) bool {
	if h.sent != nil {
		return now < h.deadline
	}
	return h.Confirmed(now)
}
