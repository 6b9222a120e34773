package lease

import (
	"iter"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
)

// Leader applies the lease rules during one term of this member's leadership.
// It is made when the barrier of the term has been passed and thrown away when the
// term ends. Once it has seen a newer term it acks and allows nothing any more.
//
// Its head is that of the decider: whoever decides must call Decided and
// NodeDecided before the batch is proposed, so that no ack is given on an older head.
type Leader struct {
	cfg  Config
	own  *Hearing
	term uint64
	// barrier is when the barrier was passed, revision what head was then.
	barrier  time.Duration
	revision uint64
	// barrierWaking is the same in waking time.
	barrierWaking time.Duration
	over          bool

	times    Times // as decided
	timesAt  uint64
	changing []changedTimes // decided, not applied yet
	nodes    map[string]*node
	members  map[string]*member
	queue    queue
	// nextScan is the earliest waking time at which some node can be expired.
	nextScan time.Duration
}

// Head is what the decider's head holds, as far as leases are concerned.
type Head struct {
	Revision uint64
	Times    fsm.LeaseTimes
	Nodes    iter.Seq2[string, Facts]
}

// changedTimes is a change of the lease times that is in flight.
type changedTimes struct {
	revision uint64
	times    fsm.LeaseTimes
}

// node is what the leader knows of one node.
type node struct {
	name  string
	facts Facts
	// received holds the newest heartbeat of each session, over whatever member.
	received []Heartbeat
	// heardBy holds what other members said about the session that facts names.
	heardBy []heardBy

	// passed is when the newest heartbeat that passed rule 4 (a) and (b) was
	// received: of the session that facts names, and of all before it. 0 for none.
	passed, passedBefore time.Duration
	// before is a time after which no heartbeat of an earlier session was received
	// that any leader acked.
	before time.Duration
	// foreign is the same for sessions on other machines, if there may be one.
	foreign    time.Duration
	hasForeign bool
	// replaced is the newest session whose process has been replaced by another.
	replaced uint64

	// opened is the waking time at which the session was decided here, if it was.
	opened     time.Duration
	openedHere bool
	// unacked counts the heartbeats in the queue; late is the newest of those that found it full.
	unacked int
	late    unacked
	acked   bool
	// asked is the waking time of the last Expiry, if there was one.
	asked     time.Duration
	wasAsked  bool
	listening bool // head holds the node
}

// heardBy is what one member said about one session.
type heardBy struct {
	member  *member
	session uint64
	at      time.Duration // waking time, never earlier than the truth
}

// member is another member as its reports show it.
type member struct {
	id string
	// answered is the newest poll answered with the leader's own term.
	answered uint64
	// reported is the newest poll answered at all, 0 for none, and up what it said.
	reported uint64
	up       time.Duration
	sent     [sentPolls]sentPoll
}

// sentPolls is how many polls of one member are remembered with their time. Older
// answers are not fresh anyway.
const sentPolls = 64

type sentPoll struct {
	poll uint64
	at   time.Duration
}

// NewLeader starts a term of leadership at the barrier: now is read after the
// barrier was passed, and head holds everything up to it.
func NewLeader(own *Hearing, now time.Duration, term uint64, head Head) *Leader {
	own.advance(now)
	l := &Leader{
		cfg: own.cfg, own: own, term: term,
		barrier: own.now, barrierWaking: own.waking(), revision: head.Revision,
		times: own.times.clone(), timesAt: own.timesAt,
		nodes:   make(map[string]*node),
		members: make(map[string]*member),
	}
	l.times.set(own.now, head.Times)
	for name, facts := range head.Nodes {
		l.nodes[name] = l.inherit(name, facts)
	}
	// What was heard before the barrier counts as received now.
	for n := own.order.last; n != nil; n = n.prev {
		for i := range n.sessions {
			l.receive(n.sessions[i].Heartbeat)
		}
	}
	return l
}

// inherit makes the record of a node that head holds at the barrier. Who opened
// its session, and when, is known no better than from when it was applied here.
func (l *Leader) inherit(name string, facts Facts) *node {
	n := &node{name: name, facts: facts, listening: true, before: l.barrier}
	if at, ok := l.own.past.known(facts.Session); ok {
		n.before = min(n.before, at)
	}
	// The state shows one session back. If that was on this machine too, there may
	// have been one before it, not long ago, on another.
	n.hasForeign = len(facts.PriorMACs) > 0
	if l.cfg.rules.noLookBack {
		n.hasForeign = facts.otherMachine()
	}
	n.foreign = n.before
	return n
}

// Rebase starts over in the same term, after the decider had to drop batches:
// head is the committed state again. Waits that run go on.
func (l *Leader) Rebase(now time.Duration, head Head) {
	l.own.advance(now)
	l.changing = nil
	l.times.set(l.own.now, head.Times)
	held := make(map[string]bool)
	for name, facts := range head.Nodes {
		held[name] = true
		l.NodeDecided(now, name, facts)
	}
	for name := range l.nodes {
		if !held[name] {
			l.NodeForgotten(now, name)
		}
	}
}

// Decided notes the revision and the lease times of head after a batch. It must be
// called before the batch is proposed.
func (l *Leader) Decided(now time.Duration, revision uint64, times fsm.LeaseTimes) {
	l.own.advance(now)
	if times != l.times.cur {
		l.times.set(l.own.now, times)
		l.timesAt = revision
		l.changing = append(l.changing, changedTimes{revision, times})
	}
}

// NodeDecided notes what head says about a node after a batch. It must be called
// before the batch is proposed.
func (l *Leader) NodeDecided(now time.Duration, name string, facts Facts) {
	l.own.advance(now)
	n := l.node(name)
	n.listening = true
	if facts.Session == n.facts.Session {
		n.facts = facts
		return
	}
	n.passedBefore = max(n.passedBefore, n.passed)
	n.passed = 0
	n.before = max(l.barrier, n.passedBefore)
	if facts.otherMachine() {
		n.foreign, n.hasForeign = n.before, true
	}
	switch {
	case facts.Session < n.facts.Session:
		// Rebase: the session that was decided is lost, and who it replaced is back.
		if n.replaced >= facts.Session {
			n.replaced = 0
		}
	case n.facts.Session != 0 && n.facts.Process != facts.Process:
		n.replaced = n.facts.Session
	}
	n.facts = facts
	n.opened, n.openedHere = l.own.waking(), true
	n.acked, n.wasAsked = false, false
	l.nextScan = min(l.nextScan, l.own.waking())
}

// NodeForgotten notes that head does not hold the node any more. Its last
// heartbeats still count.
func (l *Leader) NodeForgotten(now time.Duration, name string) {
	l.own.advance(now)
	if n := l.nodes[name]; n != nil {
		n.passedBefore = max(n.passedBefore, n.passed)
		n.passed, n.facts, n.listening = 0, Facts{}, false
	}
}

// node returns the record of a node, a new one if need be.
func (l *Leader) node(name string) *node {
	n := l.nodes[name]
	if n == nil {
		n = &node{name: name, before: l.barrier}
		l.nodes[name] = n
	}
	return n
}

// Term returns the term that this leader leads in.
func (l *Leader) Term() uint64 { return l.term }

// Over tells whether the leader has learned that its term is over.
func (l *Leader) Over() bool { return l.over }

// longest returns the lease times that this leader's waits use.
func (l *Leader) longest() fsm.LeaseTimes {
	if l.cfg.rules.newTimes {
		return l.times.cur
	}
	return l.times.longest(l.own.now)
}

// granted returns the F and the D that acks name: the shortest of the one that is
// applied and all that are decided since. A later leader knows at least the applied
// one, and may know none of the others.
func (l *Leader) granted() (fence, detection time.Duration) {
	fence, detection = l.times.cur.Fence(), l.times.cur.Detection
	if l.cfg.rules.eagerFence {
		return fence, detection
	}
	kept := l.changing[:0]
	for _, c := range l.changing {
		if c.revision > l.own.revision {
			kept = append(kept, c)
			fence, detection = min(fence, c.times.Fence()), min(detection, c.times.Detection)
		}
	}
	l.changing = kept
	return min(fence, l.own.times.cur.Fence()), min(detection, l.own.times.cur.Detection)
}

// Poll numbers a poll that is about to be sent to a member; now is read before the
// sending.
func (l *Leader) Poll(now time.Duration, to string) uint64 {
	l.own.advance(now)
	l.own.poll++
	m := l.member(to)
	m.sent[l.own.poll%sentPolls] = sentPoll{l.own.poll, l.own.now}
	return l.own.poll
}

func (l *Leader) member(id string) *member {
	m := l.members[id]
	if m == nil {
		m = &member{id: id}
		l.members[id] = m
	}
	return m
}

// sentAt returns when the poll was sent to the member; false if that is forgotten.
func (m *member) sentAt(poll uint64) (time.Duration, bool) {
	s := m.sent[poll%sentPolls]
	return s.at, s.poll == poll && poll != 0
}

// Heard takes a heartbeat that was news to this member's own Hearing. It reports
// whether the node has newly seen a revision.
func (l *Leader) Heard(now time.Duration, hb Heartbeat) (seen bool) {
	l.own.advance(now)
	return l.receive(hb)
}

// Answer takes a member's answer to a poll. It returns the nodes that have newly
// seen a revision. An answer of another term only counts as observation: a member that
// was removed, or cut off for long, may campaign in higher terms that nobody
// follows, so a higher term alone does not end this one.
func (l *Leader) Answer(now time.Duration, from string, r Report) (seen []string) {
	l.own.advance(now)
	if r.Poll > l.own.poll {
		return nil
	}
	m := l.member(from)
	if r.Term == l.term || l.cfg.rules.anyTerm {
		m.answered = max(m.answered, r.Poll)
	}
	for _, hb := range r.Heard {
		l.heardBy(m, hb.Node, hb.Session, l.own.waking(), true)
		if l.receive(hb) {
			seen = append(seen, hb.Node)
		}
	}
	if r.Poll <= m.reported {
		return seen // overtaken by a newer report
	}
	m.reported, m.up = r.Poll, r.Up
	for _, s := range r.Silences {
		l.heardBy(m, s.Node, s.Session, l.own.waking()-s.Unheard, false)
	}
	return seen
}
