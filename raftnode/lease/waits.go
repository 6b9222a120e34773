package lease

import (
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/leasetime"
)

// outlast returns F(1+ρ) with the longest F that counts.
func (l *Leader) outlast() time.Duration { return leasetime.Lengthen(l.longest().Fence()) }

// fenceTime is rule 6. A later leader than those that acked the node had its
// barrier after every heartbeat that they acked was received.
func (l *Leader) fenceTime(n *node) time.Duration {
	base := l.barrier
	if l.cfg.rules.fenceNoBarrier {
		base = 0
	}
	if !l.cfg.rules.fenceNoReceipt {
		base = max(base, n.passed, n.passedBefore)
	}
	return base + l.outlast()
}

// foreignFence is the fence time of the node's former sessions on other machines.
func (l *Leader) foreignFence(n *node) time.Duration {
	if !n.hasForeign || l.cfg.rules.noPredecessor {
		return 0
	}
	return n.foreign + l.outlast()
}

// FencePassed tells whether no process of the node, as it was, is confirmed any
// more. It is never so while the session is open in head: an end of the session
// must be told by NodeDecided first. Again is the time at which it is worth asking
// again if it has not passed.
func (l *Leader) FencePassed(now time.Duration, name string) (passed bool, again time.Duration) {
	l.own.advance(now)
	n := l.nodes[name]
	if n == nil {
		n = &node{} // never heard in this term: the barrier counts
	}
	again = l.fenceTime(n)
	if l.over {
		return false, again
	}
	if l.cfg.rules.fenceNoWait {
		return true, again
	}
	if n.facts.State == fsm.SessionOpen {
		return false, l.own.now + l.outlast()
	}
	return l.own.now >= again, again
}

// known returns a time at or after which the revision was decided and before which no
// wait for it may begin; false if it is still in flight.
func (l *Leader) known(revision uint64) (time.Duration, bool) {
	at, ok := l.own.past.known(revision)
	if revision > l.revision {
		return at, ok
	}
	if l.cfg.rules.releaseEarlier {
		return 0, true
	}
	if !ok {
		at = l.barrier
	}
	return min(at, l.barrier), true
}

// ReleaseWait tells whether the old owner no longer answers for an address that it
// had to give up: its heartbeats report that it has seen the loss, or it has had no ack for too
// long. Again is the time at which it is worth asking again, if no heartbeat
// answers before: the time F(1+ρ) ahead while the loss is still in flight.
func (l *Leader) ReleaseWait(now time.Duration, r Release) (over bool, again time.Duration) {
	l.own.advance(now)
	again = l.own.now + l.outlast()
	if l.over {
		return false, again
	}
	if l.cfg.rules.releaseNoWait {
		return true, again
	}
	if at, ok := l.known(r.At); ok {
		again = at + l.outlast()
	}
	if l.own.now >= again {
		return true, again
	}
	n := l.nodes[r.Node]
	if n == nil || !n.listening {
		return r.Hold, again // forgotten: it is not to return
	}
	if r.Hold && n.facts.Session == r.Session && n.facts.State == fsm.SessionExpired {
		return true, again
	}
	seen, counts := l.hasSeen(n, r.Session, r.At)
	if seen && l.own.now >= counts {
		return true, again
	}
	if seen {
		again = min(again, counts)
	}
	return false, again
}

// hasSeen tells whether the node's session, which is not older than the one named,
// reports that the revision is in force, and from when on that counts: what a new
// incarnation reports says nothing about the process before it, which may still run.
func (l *Leader) hasSeen(n *node, session, revision uint64) (seen bool, counts time.Duration) {
	counts = n.before + l.outlast()
	if l.cfg.rules.newcomer {
		counts = 0
	}
	for _, hb := range n.received {
		if hb.Session == n.facts.Session && hb.Session >= session && hb.Seen >= revision {
			return true, counts
		}
	}
	return false, counts
}

// HasSeen tells whether the node is known to have the revision in force, every
// process of it that may still run included. Unlike the end of a ReleaseWait that
// is never a matter of time alone.
func (l *Leader) HasSeen(now time.Duration, name string, session, revision uint64) bool {
	l.own.advance(now)
	n := l.nodes[name]
	if l.over || n == nil || !n.listening {
		return false
	}
	seen, counts := l.hasSeen(n, session, revision)
	return seen && l.own.now >= counts
}

// LeaseChange returns until when the waits use older lease times than those in force;
// 0 if they do not. A second change before that is better put off: a member that
// restarts knows of one former value only.
func (l *Leader) LeaseChange(now time.Duration) (until time.Duration) {
	l.own.advance(now)
	l.times.longest(l.own.now)
	for _, p := range l.times.past {
		until = max(until, p.until)
	}
	return until
}
