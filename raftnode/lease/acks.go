package lease

import (
	"math"
	"slices"
	"time"
)

// unacked is a heartbeat that waits for a majority.
type unacked struct {
	node      *node
	heartbeat Heartbeat
	received  time.Duration
	// after is the newest poll sent before the receipt: an answer to a later one counts.
	after uint64
}

// queue holds the heartbeats that wait, in the order of their receipt, so that
// what a majority covers is always a prefix.
type queue struct {
	items []unacked
	head  int
}

func (q *queue) push(u unacked) { q.items = append(q.items, u) }

func (q *queue) peek() *unacked {
	if q.head == len(q.items) {
		return nil
	}
	return &q.items[q.head]
}

func (q *queue) pop() unacked {
	u := q.items[q.head]
	q.items[q.head] = unacked{}
	q.head++
	if 2*q.head >= len(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	return u
}

// receive takes a heartbeat from whatever member, once: the same from another
// member is no news. It reports whether the node has newly seen a revision.
func (l *Leader) receive(hb Heartbeat) (seen bool) {
	n := l.node(hb.Node)
	last := n.find(hb.Session)
	if hb.Seq <= last.Seq {
		return false
	}
	seen = hb.Seen > last.Seen
	newest := hb
	newest.Seen = max(hb.Seen, last.Seen)
	*last = newest
	if l.judge(n, hb) == NotRefused {
		n.pass(hb.Session, l.own.now)
	}
	u := unacked{n, hb, l.own.now, l.own.poll}
	if n.unacked < maxUnacked {
		n.unacked++
		l.queue.push(u)
	} else {
		n.late = u
	}
	return seen
}

// find returns the newest heartbeat received of the session; a new session takes
// the place of the oldest when there are too many.
func (n *node) find(session uint64) *Heartbeat {
	oldest := 0
	for i := range n.received {
		if n.received[i].Session == session {
			return &n.received[i]
		}
		if n.received[i].Session < n.received[oldest].Session {
			oldest = i
		}
	}
	if len(n.received) < maxSessions {
		n.received = append(n.received, Heartbeat{Session: session})
		return &n.received[len(n.received)-1]
	}
	n.received[oldest] = Heartbeat{Session: session}
	return &n.received[oldest]
}

// pass notes that a heartbeat passed rule 4 (a) and (b).
func (n *node) pass(session uint64, received time.Duration) {
	if session == n.facts.Session {
		n.passed = max(n.passed, received)
	} else {
		n.passedBefore = max(n.passedBefore, received)
	}
}

// need is the revision that the node must have seen. The opening of its session
// counts too: a node that was forgotten has a new record, which does not say what
// was taken from a process that has come back.
func (n *node) need() uint64 { return max(n.facts.TakenAt, n.facts.Session) }

// judge applies rule 4 (a) and (b) on the head of this moment.
func (l *Leader) judge(n *node, hb Heartbeat) Refusal {
	switch {
	case !n.facts.open(hb.Session) && !l.cfg.rules.anySession:
		if hb.Session <= n.replaced {
			return Replaced
		}
		return NoSession
	case hb.Seen < n.need() && !l.cfg.rules.ignoreSeen:
		return Behind
	}
	return NotRefused
}

// Acks returns the acks and refusals that have become due, the newest of each
// session. OwnTerm and voters are this member's Raft term and the voters of the
// newest configuration, both read after everything that this Leader was told. A
// leader whose own term has moved on is over.
func (l *Leader) Acks(now time.Duration, ownTerm uint64, voters []string) []Ack {
	l.own.advance(now)
	if ownTerm != l.term && !l.cfg.rules.ownTermStale {
		l.over = true
	}
	if l.over {
		return nil
	}
	covered := l.covered(voters)
	var acks []Ack
	for {
		u := l.queue.peek()
		if u == nil || u.after >= covered {
			break
		}
		acks = appendAck(acks, l.answer(l.queue.pop()))
	}
	return acks
}

// appendAck replaces an earlier answer to the same session: only the newest matters.
func appendAck(acks []Ack, a Ack) []Ack {
	for i := len(acks) - 1; i >= 0; i-- {
		if acks[i].Node == a.Node && acks[i].Session == a.Session {
			a.First = a.First || acks[i].First
			acks[i] = a
			return acks
		}
	}
	return append(acks, a)
}

// answer decides about a heartbeat that a majority covers.
func (l *Leader) answer(u unacked) Ack {
	n, hb := u.node, u.heartbeat
	if n.late.node != nil {
		l.queue.push(n.late)
		n.late = unacked{}
	} else {
		n.unacked--
	}
	a := Ack{Node: n.name, Session: hb.Session, Refusal: l.judge(n, hb)}
	if a.Refusal == NotRefused {
		// Again, because head may have changed since the receipt, back even.
		n.pass(hb.Session, u.received)
		if l.own.now < l.foreignFence(n) {
			a.Refusal = Predecessor
		}
	}
	switch a.Refusal {
	case NotRefused:
		a.Seq, a.First = hb.Seq, !n.acked
		a.Fence, a.Detection = l.granted()
		n.acked = true
		if need := max(n.facts.GivenAt, l.timesAt); hb.Seen < need {
			a.Need = need
		}
	case Behind:
		a.Need = n.need()
	}
	return a
}

// covered returns a poll number: a majority of the voters, this member included, is
// known to have been in the leader's term after all polls before that number were
// sent. Heartbeats received before such a poll was sent may be acked.
func (l *Leader) covered(voters []string) uint64 {
	if len(voters) == 0 {
		return 0
	}
	answered := make([]uint64, 0, 8)
	for _, id := range voters {
		switch m := l.members[id]; {
		case id == l.cfg.Self:
			answered = append(answered, math.MaxUint64)
		case m != nil:
			answered = append(answered, m.answered)
		default:
			answered = append(answered, 0)
		}
	}
	slices.Sort(answered)
	majority := len(answered)/2 + 1
	if l.cfg.rules.minority {
		majority = max(1, majority-1)
	}
	c := answered[len(answered)-majority]
	if l.cfg.rules.noPoll || l.cfg.rules.earlierPoll && c > 0 {
		return math.MaxUint64
	}
	return c
}
