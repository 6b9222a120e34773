package lease

import (
	"maps"
	"slices"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
)

// mem is a member: its Raft, its state, the real Hearing and, while it leads, the
// real Leader with a toy decider.
type mem struct {
	w    *world
	id   int
	name string
	clk  drifting
	up   bool
	life int // counts restarts
	// While stalledUntil is ahead, nothing runs; what arrives waits.
	stalledUntil time.Duration
	// What is committed is applied later than it could be until applyAfter.
	applyAfter time.Duration

	raft    raft
	st      state
	applied int // entries
	snap    state
	snapAt  int

	hear *Hearing
	lead *Leader
	dec  decider
	// streams are the pulse streams that this member opened as leader, cursors the
	// other ends of those opened to it.
	streams [simMembers]stream
	cursors [simMembers]cursorOf
	streamN int
	// watchers are the speakers whose watch is attached here.
	watchers []*proc
}

type stream struct {
	id   int
	acks []Ack
}

type cursorOf struct {
	id     int
	cursor Cursor
}

func newMem(w *world, id int) *mem {
	m := &mem{w: w, id: id, name: memberName(id), clk: w.newClock(maxPPM)}
	m.raft.votedFor, m.raft.leader = -1, -1
	m.st = initialState(w)
	m.snap = m.st
	if firstVoters>>id&1 == 1 {
		w.after(w.upTo(50*time.Millisecond), m.start)
	}
	return m
}

func (m *mem) now() time.Duration { return m.clk.at(m.w.now) }

func (m *mem) start() {
	if m.up {
		return
	}
	m.up = true
	m.life++
	m.w.logf("m%d starts", m.id)
	r := &m.raft
	m.raft = raft{term: r.term, votedFor: r.votedFor, log: r.log, leader: -1, commit: m.snapAt}
	m.resetElection()
	m.st, m.applied = m.snap, m.snapAt
	m.hear = NewHearing(Config{Self: m.name, rules: m.w.brk.rules}, m.now())
	m.dec = decider{}
	m.lead, m.watchers = nil, nil
	m.cursors = [simMembers]cursorOf{}
	if m.snapAt > 0 {
		m.heardApplied(state{})
	}
	m.every(DefaultPulse, m.tick)
}

func (m *mem) crash() {
	if !m.up {
		return
	}
	m.w.logf("m%d crashes", m.id)
	if m.w.chance(50) {
		m.snap, m.snapAt = m.st, m.applied
	}
	m.up, m.lead, m.dec.active = false, nil, false
	for _, p := range m.watchers {
		watch := p.watch
		m.w.after(m.w.upTo(300*time.Millisecond), func() {
			p.do(func() {
				if watch == p.watch {
					p.attach()
				}
			})
		})
	}
}

// do runs fn when the member runs: at once, after its stall, or never.
func (m *mem) do(fn func()) {
	life := m.life
	switch {
	case !m.up:
	case m.w.now < m.stalledUntil:
		m.w.after(m.stalledUntil-m.w.now+m.w.upTo(2*time.Millisecond), func() {
			if m.life == life {
				m.do(fn)
			}
		})
	default:
		fn()
	}
}

// every runs fn at the local interval for as long as the member's process runs.
func (m *mem) every(interval time.Duration, fn func()) {
	life := m.life
	var again func()
	again = func() {
		m.w.after(m.clk.after(interval), func() {
			if m.life == life {
				m.do(func() { fn(); again() })
			}
		})
	}
	again()
}

func (m *mem) tick() {
	m.raftTick()
	m.apply()
	m.hear.Tick(m.now())
	if m.lead == nil {
		return
	}
	m.decideTick()
	if m.lead != nil {
		m.poll()
		m.passAcks()
	}
}

// apply folds what is committed, unless this member is slow.
func (m *mem) apply() {
	r := &m.raft
	for m.w.now >= m.applyAfter && m.applied < r.commit {
		e := r.log[m.applied]
		m.applied++
		if e.batch != nil {
			before := m.st
			if m.st.apply(e.batch) {
				m.w.applied = max(m.w.applied, m.st.rev)
				m.noteApplied(e.batch)
				m.heardApplied(before)
			}
		}
		if r.role == raftLeader && m.applied == r.barrier && e.term == r.term {
			m.takeLead()
		}
	}
	m.sendViews()
}

// heardApplied tells the Hearing what has changed in the state.
func (m *mem) heardApplied(before state) {
	now, prior := m.now(), m.st.prior
	if m.w.brk.noPrior {
		prior = fsm.LeaseTimes{}
	}
	m.hear.Applied(now, m.st.rev, m.st.lease, prior)
	if m.lead != nil && m.w.brk.lateHead {
		m.lead.Decided(now, m.st.rev, m.st.lease)
	}
	for i := range m.st.nodes {
		if n := &m.st.nodes[i]; *n != before.nodes[i] {
			m.hear.NodeApplied(now, nodeName(i), n.facts(m.w))
			if m.lead != nil && m.w.brk.lateHead {
				m.lead.NodeDecided(now, nodeName(i), n.facts(m.w))
			}
		}
	}
}

// takeLead starts a term of leadership at its barrier.
func (m *mem) takeLead() {
	m.dec = decider{active: true, head: m.st}
	m.lead = NewLeader(m.hear, m.now(), m.raft.term, m.leaseHead())
	m.w.logf("m%d passes the barrier of term %d at revision %d", m.id, m.raft.term, m.st.rev)
	for i := range m.streams {
		m.reconnect(i)
	}
	m.poll()
}

func (m *mem) leaseHead() Head {
	nodes := make(map[string]Facts)
	for i := range m.dec.head.nodes {
		if n := &m.dec.head.nodes[i]; n.session != 0 {
			nodes[nodeName(i)] = n.facts(m.w)
		}
	}
	return Head{Revision: m.dec.head.rev, Times: m.dec.head.lease, Nodes: maps.All(nodes)}
}

// lostLeadership is told to the lease rules late, as by a busy goroutine.
func (m *mem) lostLeadership() {
	m.w.logf("m%d loses term %d", m.id, m.raft.term)
	old, life := m.lead, m.life
	var lag time.Duration
	if m.w.chance(50) {
		lag = m.w.upTo(1500 * time.Millisecond)
	}
	m.w.after(lag, func() {
		if m.life == life && m.lead == old {
			m.lead, m.dec.active = nil, false
		}
	})
}

func (m *mem) heard(hb Heartbeat) {
	if !m.hear.Heard(m.now(), hb) || m.lead == nil {
		return
	}
	if m.lead.Heard(m.now(), hb) {
		m.decideTick()
	}
	m.passAcks()
}

// passAcks sends what has become due over every path.
func (m *mem) passAcks() {
	if m.lead == nil {
		return
	}
	for _, a := range m.lead.Acks(m.now(), m.raft.term, voterNames[m.voters()]) {
		m.deliver(a)
		for i := range m.streams {
			if i != m.id {
				m.streams[i].acks = appendAck(m.streams[i].acks, a)
			}
		}
	}
}

// deliver sends an ack to the speaker from here.
func (m *mem) deliver(a Ack) {
	for _, p := range m.w.procs {
		if p.alive && p.name == a.Node {
			m.w.send(m.w.link(speakerDown, m.id, simMembers+p.mach.id), false, func() { p.do(func() { p.acked(a) }) })
		}
	}
}

// reconnect replaces the pulse stream to a member.
func (m *mem) reconnect(to int) {
	m.streamN++
	m.streams[to] = stream{id: m.life<<16 | m.streamN}
}

func (m *mem) poll() {
	for _, to := range m.w.mems {
		if to == m || to.life == 0 {
			continue
		}
		poll := m.lead.Poll(m.now(), to.name)
		s := &m.streams[to.id]
		id, acks := s.id, s.acks
		s.acks = nil
		if !m.w.send(m.w.link(pulseLink, m.id, to.id), true, func() { to.do(func() { to.onPoll(m, id, poll, acks) }) }) {
			m.reconnect(to.id)
		}
	}
}

func (m *mem) onPoll(from *mem, stream int, poll uint64, acks []Ack) {
	for _, a := range acks {
		m.deliver(a)
	}
	c := &m.cursors[from.id]
	if c.id != stream {
		*c = cursorOf{id: stream}
	}
	r := m.hear.Report(m.now(), poll, m.raft.term, &c.cursor)
	if !m.w.send(m.w.link(pulseLink, m.id, from.id), true, func() { from.do(func() { from.onAnswer(m, r) }) }) {
		c.id = 0 // the stream broke with the answer
	}
}

// onAnswer may get answers to the polls of a former term.
func (m *mem) onAnswer(from *mem, r Report) {
	if m.lead == nil {
		return
	}
	if seen := m.lead.Answer(m.now(), from.name, r); len(seen) > 0 {
		m.decideTick()
	}
	m.passAcks()
}

// sendViews gives every watcher the view of its node, in order.
func (m *mem) sendViews() {
	for _, p := range m.watchers {
		m.sendView(p)
	}
}

func (m *mem) sendView(p *proc) {
	if p.sentRev == m.st.rev {
		return
	}
	p.sentRev = m.st.rev
	v := view{rev: m.st.rev, times: m.st.lease}
	for a := range m.st.addrs {
		v.owns[a] = m.st.addrs[a].owner == p.node()
	}
	watch := p.watch
	m.w.send(m.w.link(watchDown, m.id, simMembers+p.mach.id), true, func() {
		p.do(func() { p.sees(watch, v) })
	})
}

func (m *mem) unwatch(p *proc) {
	if i := slices.Index(m.watchers, p); i >= 0 {
		m.watchers = slices.Delete(m.watchers, i, i+1)
	}
}
