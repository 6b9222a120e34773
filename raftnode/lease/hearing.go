package lease

import (
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/leasetime"
)

// Hearing is what one member knows by itself: the heartbeats it heard, its own
// stalls, the revisions it applied, and whether a mass event is on. A member
// has one from the start of its process to the end, follower or leader.
//
// Silence is measured in the member's waking time, which leaves its own stalls out:
// a process that did not run for a while learns nothing about others from that.
// Waits for leases never use it.
type Hearing struct {
	cfg   Config
	start time.Duration // waking time
	// ticked is when Tick ran last; stalled is the sum of all stalls.
	ticked, stalled time.Duration
	// now is the newest time seen.
	now   time.Duration
	times Times
	// timesAt is the newest revision known to have changed them, 0 for none.
	timesAt uint64
	past    Past
	// revision of the applied state.
	revision uint64
	nodes    map[string]*heardNode
	order    recency
	// changes counts heartbeats that were news; it orders them for reports.
	changes uint64
	mass    mass
	pruned  time.Duration
	// poll is the number of the newest poll. It lives here because numbers must not
	// repeat from one term of leadership to the next.
	poll uint64
}

// heardNode is what is known of one node's speaker.
type heardNode struct {
	name string
	// at is the waking time of the newest heartbeat of any session, or else of
	// when the node became known.
	at time.Duration
	// change is the count of that heartbeat, 0 for none.
	change   uint64
	sessions []heardSession
	// The session that the applied state names, and since when the node has had
	// one without a break; earlier is the span before that.
	session uint64
	open    bool
	since   time.Duration
	earlier span

	prev, next *heardNode
}

type heardSession struct {
	Heartbeat
	at     time.Duration // waking time
	change uint64
}

type span struct{ from, until time.Duration }

// NewHearing starts at now. Whatever node the applied state will name counts as
// just heard.
func NewHearing(cfg Config, now time.Duration) *Hearing {
	if cfg.Pulse == 0 {
		cfg.Pulse = DefaultPulse
	}
	h := &Hearing{
		cfg:    cfg,
		start:  now,
		ticked: now,
		now:    now,
		nodes:  make(map[string]*heardNode),
		// Unique as long as the machine is up, also over restarts of the process.
		poll: uint64(max(0, now)),
	}
	if !cfg.rules.noStart {
		h.mass.begin(h.waking())
	}
	return h
}

// waking is the time at which this member was awake: h.now less its stalls.
func (h *Hearing) waking() time.Duration { return h.now - h.stalled }

// advance moves the time on and notices when the owner's timer was late by more than h.
func (h *Hearing) advance(now time.Duration) {
	h.now = max(h.now, now)
	late := h.now - h.ticked - h.cfg.Pulse
	if late > h.longest().Heartbeat && !h.cfg.rules.noStall {
		h.stalled += late
		h.ticked = h.now
	}
}

// longest returns the lease times that waits use.
func (h *Hearing) longest() fsm.LeaseTimes {
	if h.times.cur == (fsm.LeaseTimes{}) {
		return fsm.DefaultLeaseTimes // nothing is applied yet
	}
	if h.cfg.rules.newTimes {
		return h.times.cur
	}
	return h.times.longest(h.now)
}

// Tick must be called at least every Config.Pulse; a call that is late by more than h
// counts as a stall of this member.
func (h *Hearing) Tick(now time.Duration) {
	h.advance(now)
	h.ticked = h.now
	h.mass.update(h.waking(), h.mostSilent(), h.longest().Detection)
	if h.now-h.pruned > time.Second {
		h.prune()
	}
}

// Blocked tells whether a mass event forbids every expiry at now.
func (h *Hearing) Blocked(now time.Duration) bool {
	h.advance(now)
	return h.mass.on && h.waking() < h.mass.since+h.longest().Settle && !h.cfg.rules.noMass
}

// Stalled returns the sum of this member's stalls since its start.
func (h *Hearing) Stalled() time.Duration { return h.stalled }

// Up returns how long the member has run, its stalls left out.
func (h *Hearing) Up(now time.Duration) time.Duration {
	h.advance(now)
	return h.waking() - h.start
}

// Heard takes a heartbeat that this member received itself. It reports false when it
// is not newer than what the member has heard of that session.
func (h *Hearing) Heard(now time.Duration, hb Heartbeat) (news bool) {
	h.advance(now)
	if hb.Seq == 0 {
		return false
	}
	n := h.node(hb.Node)
	s := n.find(hb.Session)
	if s == nil {
		s = n.add(hb.Session)
	}
	if hb.Seq <= s.Seq {
		return false
	}
	h.changes++
	*s = heardSession{Heartbeat: hb, at: h.waking(), change: h.changes}
	n.at, n.change = s.at, s.change
	h.order.moveToFront(n)
	return true
}

// Applied notes that this member's state has advanced to revision, with these
// lease times and those before their newest change.
func (h *Hearing) Applied(now time.Duration, revision uint64, times, prior fsm.LeaseTimes) {
	h.advance(now)
	if times != h.times.cur {
		if h.times.cur != (fsm.LeaseTimes{}) {
			h.timesAt = revision
		}
		h.times.set(h.now, times)
		if prior != (fsm.LeaseTimes{}) {
			h.times.remember(h.now, prior) // several changes may have come at once
		}
	}
	h.revision = revision
	h.past.applied(h.now, revision, 2*leasetime.Lengthen(h.longest().Fence()))
}

// NodeApplied notes what this member's state says about a node's session.
func (h *Hearing) NodeApplied(now time.Duration, name string, f Facts) {
	h.advance(now)
	n := h.node(name)
	open := f.State == fsm.SessionOpen
	switch {
	case open && !n.open:
		n.since = h.now
	case !open && n.open:
		n.earlier = span{n.since, h.now}
		if f.State == fsm.SessionClosed {
			n.earlier = span{} // it said good-bye: no wonder that it is silent
		}
	}
	n.open, n.session = open, f.Session
}

// KeepNodes forgets the nodes that were in this member's state and are not any more,
// after the state as a whole was replaced.
func (h *Hearing) KeepNodes(now time.Duration, held func(name string) bool) {
	h.advance(now)
	for name, n := range h.nodes {
		if n.session != 0 && !held(name) {
			h.forget(n)
		}
	}
}

// NodeGone notes that this member's state does not hold the node any more.
func (h *Hearing) NodeGone(now time.Duration, name string) {
	h.advance(now)
	if n := h.nodes[name]; n != nil {
		h.forget(n)
	}
}

// Cursor is how far one stream of reports has come. The zero value is that of
// a new stream.
type Cursor struct {
	change  uint64
	stalled time.Duration
}

// Report answers a poll. Term must have been read after the poll arrived. What was heard since
// the last report with the same cursor is in it; a stream that breaks starts over
// with a new cursor, so that nothing is lost with it.
func (h *Hearing) Report(now time.Duration, poll, term uint64, c *Cursor) Report {
	h.advance(now)
	r := Report{Poll: poll, Term: term, Up: h.waking() - h.start, Stall: h.stalled - c.stalled}
	for n := h.order.first; n != nil && n.change > c.change; n = n.next {
		for i := range n.sessions {
			if s := &n.sessions[i]; s.change > c.change {
				r.Heard = append(r.Heard, s.Heartbeat)
			}
		}
	}
	quiet := h.waking() - 2*h.longest().Heartbeat
	for n := h.order.last; n != nil && n.at < quiet; n = n.prev {
		for i := range n.sessions {
			s := &n.sessions[i]
			r.Silences = append(r.Silences, Silence{Node: n.name, Session: s.Session, Unheard: h.waking() - s.at})
		}
	}
	c.change, c.stalled = h.changes, h.stalled
	return r
}

// Unheard returns for how long this member has not heard the session; false if it
// never has.
func (h *Hearing) Unheard(now time.Duration, node string, session uint64) (time.Duration, bool) {
	h.advance(now)
	s := h.session(node, session)
	if s == nil {
		return 0, false
	}
	return h.waking() - s.at, true
}

// Seen returns the newest revision that the node said is in force there, in the newest
// session that this member heard of; 0 if none.
func (h *Hearing) Seen(node string) (revision uint64) {
	n := h.nodes[node]
	if n == nil {
		return 0
	}
	var newest uint64
	for i := range n.sessions {
		if s := &n.sessions[i]; s.Session >= newest {
			newest, revision = s.Session, s.Seen
		}
	}
	return revision
}

// mostSilent tells whether more than half of the nodes that had a session 10 s
// ago are silent, where those that came since and are heard count to the whole. In its
// first 10 s a member asks about those that had one since it started.
func (h *Hearing) mostSilent() bool {
	silent := 0
	then := h.now - massWindow
	young := then < h.start && !h.cfg.rules.noStart
	quiet := h.waking() - 2*h.longest().Heartbeat
	for n := h.order.last; n != nil && n.at < quiet; n = n.prev {
		if n.hadSession(then) || young && n.open {
			silent++
		}
	}
	if silent == 0 {
		return false
	}
	all := 0
	for n := h.order.first; n != nil; n = n.next {
		if n.hadSession(then) || n.open && (young || n.at >= quiet) {
			all++
		}
	}
	return 2*silent > all
}

// hadSession tells whether the node had a session at that time.
func (n *heardNode) hadSession(then time.Duration) bool {
	return n.open && n.since <= then || n.earlier.from <= then && then < n.earlier.until
}

// node returns the record of a node, a new one if need be.
func (h *Hearing) node(name string) *heardNode {
	n := h.nodes[name]
	if n == nil {
		n = &heardNode{name: name, at: h.waking()}
		h.nodes[name] = n
		h.order.pushFront(n)
	}
	return n
}

// prune forgets what has been silent for long and is not open.
func (h *Hearing) prune() {
	h.pruned = h.now
	for n := h.order.last; n != nil && n.at < h.waking()-forgetAfter; {
		prev := n.prev
		if !n.open {
			h.forget(n)
		}
		n = prev
	}
}

func (h *Hearing) forget(n *heardNode) {
	h.order.remove(n)
	delete(h.nodes, n.name)
}

// session returns the record of one session, nil if it was never heard here.
func (h *Hearing) session(node string, session uint64) *heardSession {
	if n := h.nodes[node]; n != nil {
		return n.find(session)
	}
	return nil
}

func (n *heardNode) find(session uint64) *heardSession {
	for i := range n.sessions {
		if n.sessions[i].Session == session {
			return &n.sessions[i]
		}
	}
	return nil
}

// add makes room for one more session; the one unheard for longest gives way.
func (n *heardNode) add(session uint64) *heardSession {
	at := len(n.sessions)
	if at < maxSessions {
		n.sessions = append(n.sessions, heardSession{})
	} else {
		at = 0
		for i := range n.sessions {
			if n.sessions[i].at < n.sessions[at].at {
				at = i
			}
		}
	}
	n.sessions[at] = heardSession{Heartbeat: Heartbeat{Session: session}}
	return &n.sessions[at]
}
