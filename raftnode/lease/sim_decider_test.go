package lease

import (
	"fmt"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
)

// state is the toy state machine: small enough to be copied by assignment.
type state struct {
	rev          uint64
	last         int // id of the newest batch: the guard's hash chain
	lease, prior fsm.LeaseTimes
	nodes        [simNodes]simNode
	addrs        [simAddrs]simAddr
}

type simNode struct {
	session   uint64
	state     fsm.SessionState
	proc      int
	mac, prev int // machine ids + 1
	takenAt   uint64
	givenAt   uint64
}

type simAddr struct {
	owner, prior int // -1 nobody
	priorAt      uint64
	priorSession uint64
}

func initialState(w *world) state {
	s := state{lease: fsm.LeaseTimes{Detection: 750 * time.Millisecond, Heartbeat: 150 * time.Millisecond, Settle: simSettle(w.mode)}}
	for a := range s.addrs {
		s.addrs[a] = simAddr{owner: -1, prior: -1}
	}
	return s
}

func simSettle(mode simMode) time.Duration {
	if mode == modeOutage {
		return 6 * time.Second
	}
	return time.Second
}

var nodeNames = [simNodes]string{"n0", "n1", "n2", "n3"}

func nodeName(i int) string { return nodeNames[i] }

func (n *simNode) facts(w *world) Facts {
	f := Facts{Session: n.session, State: n.state, TakenAt: n.takenAt, GivenAt: n.givenAt, Process: [16]byte{byte(n.proc), byte(n.proc >> 8)}}
	if n.mac > 0 {
		f.MACs = []fsm.MAC{w.machines[n.mac-1].mac}
	}
	if n.prev > 0 {
		f.PriorMACs = []fsm.MAC{w.machines[n.prev-1].mac}
	}
	return f
}

type batch struct {
	id, prev int
	rev      uint64
	events   []simEvent
	decided  time.Duration // true time
}

type simEvent struct {
	kind       eventKind
	node, addr int
	proc, mach int
	times      fsm.LeaseTimes
}

type eventKind uint8

const (
	evOpened eventKind = iota
	evExpired
	evReleased
	evAssigned
	evTimes
)

// apply folds a batch if it fits.
func (s *state) apply(b *batch) bool {
	if b.rev != s.rev+1 || b.prev != s.last {
		return false
	}
	s.rev, s.last = b.rev, b.id
	for _, e := range b.events {
		s.fold(e)
	}
	return true
}

func (s *state) fold(e simEvent) {
	switch e.kind {
	case evOpened:
		n := &s.nodes[e.node]
		n.prev, n.mac = n.mac, e.mach+1
		n.session, n.state, n.proc = s.rev, fsm.SessionOpen, e.proc
	case evExpired:
		s.nodes[e.node].state = fsm.SessionExpired
	case evReleased:
		s.take(e.addr)
		s.addrs[e.addr].owner = -1
	case evAssigned:
		if s.addrs[e.addr].owner >= 0 {
			s.take(e.addr)
		}
		s.addrs[e.addr].owner = e.node
		s.nodes[e.node].givenAt = s.rev
	case evTimes:
		s.prior, s.lease = s.lease, e.times
	}
}

func (s *state) take(a int) {
	addr := &s.addrs[a]
	n := &s.nodes[addr.owner]
	n.takenAt = s.rev
	addr.prior, addr.priorAt, addr.priorSession = addr.owner, s.rev, n.session
}

// decider is the toy of raftnode/decider.
type decider struct {
	active bool
	head   state
	// opens wait for their batch to be applied.
	opens []pendingOpen
	// failNext makes the next proposal fail without being appended.
	failNext   bool
	recovering bool
}

type pendingOpen struct {
	proc *proc
	rev  uint64
}

// propose decides a batch: head, leases, log, in this order.
func (m *mem) propose(events ...simEvent) {
	d, r := &m.dec, &m.raft
	if !m.canDecide() || len(events) == 0 {
		return
	}
	m.w.batches++
	b := &batch{id: m.w.batches, prev: d.head.last, rev: d.head.rev + 1, events: events, decided: m.w.now}
	before := d.head
	if !d.head.apply(b) {
		panic("a batch does not fit its own head")
	}
	if !m.w.brk.lateHead {
		m.lead.Decided(m.now(), d.head.rev, d.head.lease)
		for i := range d.head.nodes {
			if d.head.nodes[i] != before.nodes[i] {
				m.lead.NodeDecided(m.now(), nodeName(i), d.head.nodes[i].facts(m.w))
			}
		}
	}
	if d.failNext {
		d.failNext, d.recovering = false, true
		return
	}
	if r.role == raftLeader && r.term == m.lead.Term() {
		m.w.logf("m%d decides revision %d: %v", m.id, b.rev, events)
		m.append(entry{batch: b})
	}
}

func (m *mem) canDecide() bool {
	return m.lead != nil && m.dec.active && !m.dec.recovering && !m.lead.Over()
}

// decideTick does what the leases allow and demand by now.
func (m *mem) decideTick() {
	d := &m.dec
	if d.recovering && m.applied == len(m.raft.log) && m.raft.role == raftLeader && m.raft.term == m.lead.Term() {
		m.w.logf("m%d recovers at revision %d", m.id, m.st.rev)
		d.recovering, d.head = false, m.st
		m.lead.Rebase(m.now(), m.leaseHead())
	}
	if !m.canDecide() {
		return
	}
	var events []simEvent
	for _, e := range m.lead.Expired(m.now(), voterNames[m.voters()]) {
		if m.lead.StillSilent(m.now(), e) {
			events = append(events, simEvent{kind: evExpired, node: int(e.Node[1] - '0')})
		}
	}
	m.propose(events...)
	if !m.canDecide() {
		return
	}
	events = nil
	var given [simNodes]int
	for a := range d.head.addrs {
		if to := m.successor(a, &given); to >= 0 {
			given[to]++
			events = append(events, simEvent{kind: evAssigned, addr: a, node: to})
		}
	}
	m.propose(events...)
}

// successor returns the node that an address may be assigned to now, -1 for none.
// Given counts what the same batch assigns.
func (m *mem) successor(a int, given *[simNodes]int) int {
	addr := &m.dec.head.addrs[a]
	switch {
	case addr.owner < 0 && addr.prior >= 0:
		over, _ := m.lead.ReleaseWait(m.now(), Release{
			Node: nodeName(addr.prior), Session: addr.priorSession, At: addr.priorAt, Hold: a == simHoldAddr,
		})
		if !over {
			return -1
		}
	case addr.owner >= 0:
		if m.dec.head.nodes[addr.owner].state == fsm.SessionOpen {
			return -1
		}
		if passed, _ := m.lead.FencePassed(m.now(), nodeName(addr.owner)); !passed && a != simHoldAddr {
			return -1
		}
	}
	best, bestScore := -1, 0
	for i := range m.dec.head.nodes {
		if m.dec.head.nodes[i].state != fsm.SessionOpen || i == addr.owner {
			continue
		}
		score := 1 + simAddrs - given[i]
		if m.lead.HeardLately(m.now(), nodeName(i)) {
			score += 10
		}
		if i != addr.prior {
			score += 100
		}
		for b := range m.dec.head.addrs {
			if m.dec.head.addrs[b].owner == i {
				score--
			}
		}
		if score > bestScore {
			best, bestScore = i, score
		}
	}
	return best
}

// move begins a planned move of an address.
func (m *mem) move(a int) {
	if !m.canDecide() {
		return
	}
	addr := &m.dec.head.addrs[a]
	if addr.owner >= 0 && m.dec.head.nodes[addr.owner].state == fsm.SessionOpen {
		m.w.stats.moves++
		m.propose(simEvent{kind: evReleased, addr: a})
	}
}

// open answers a speaker's request for a session.
func (m *mem) open(p *proc) {
	if !m.canDecide() {
		return
	}
	n := &m.dec.head.nodes[p.node()]
	switch {
	case p.id < n.proc:
		m.reply(p, func() { p.replaced() })
		return
	case p.id == n.proc && n.state == fsm.SessionOpen:
	default:
		m.propose(simEvent{kind: evOpened, node: p.node(), proc: p.id, mach: p.mach.id})
		if m.dec.recovering {
			return
		}
	}
	m.dec.opens = append(m.dec.opens, pendingOpen{p, n.session})
	m.noteApplied(nil)
}

// noteApplied answers the requests whose batch is applied, and looks for
// expiries that should not be.
func (m *mem) noteApplied(b *batch) {
	kept := m.dec.opens[:0]
	for _, o := range m.dec.opens {
		switch session := m.st.nodes[o.proc.node()].session; {
		case o.rev > m.st.rev:
			kept = append(kept, o)
		case session == o.rev && m.st.nodes[o.proc.node()].proc == o.proc.id:
			rev := o.rev
			m.reply(o.proc, func() { o.proc.opened(rev) })
		}
	}
	m.dec.opens = kept
	if b == nil || b.rev < m.w.applied {
		return
	}
	for _, e := range b.events {
		if e.kind == evOpened {
			m.w.opened[b.rev] = b.decided
		}
		if e.kind == evExpired {
			m.w.stats.expiries++
			session := m.st.nodes[e.node].session
			if at, ok := m.w.opened[session]; ok && b.decided-at < m.st.lease.Detection*98/100 {
				m.w.fail("session %d of n%d has been expired %v after it was opened", session, e.node, b.decided-at)
			}
			if m.w.mode != modeAll && m.w.used(session, b.decided) {
				m.w.fail("healthy node n%d has been expired", e.node)
			}
		}
	}
}

// used tells whether a speaker that runs had the session at that time, and long
// enough for a report of its first heartbeat.
func (w *world) used(session uint64, at time.Duration) bool {
	for _, p := range w.procs {
		if p.alive && p.session == session && p.since+100*time.Millisecond < at {
			return true
		}
	}
	return false
}

func (m *mem) reply(p *proc, fn func()) {
	m.w.send(m.w.link(speakerDown, m.id, simMembers+p.mach.id), false, func() { p.do(fn) })
}

func (e simEvent) String() string {
	switch e.kind {
	case evOpened:
		return fmt.Sprintf("SessionOpened(n%d process %d machine %d)", e.node, e.proc, e.mach)
	case evExpired:
		return fmt.Sprintf("SessionExpired(n%d)", e.node)
	case evReleased:
		return fmt.Sprintf("OwnerReleased(%d)", e.addr)
	case evAssigned:
		return fmt.Sprintf("OwnerAssigned(%d to n%d)", e.addr, e.node)
	default:
		return fmt.Sprintf("LeaseTimesSet(D=%v h=%v)", e.times.Detection, e.times.Heartbeat)
	}
}
