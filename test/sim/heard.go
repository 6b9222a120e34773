package sim

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
)

// ears are what a member's process has heard of speakers, kept for the checker.
type ears struct {
	mu    sync.Mutex
	heard map[heardKey][]time.Duration // true times, in order
}

type heardKey struct {
	node    string
	session uint64
}

// earsKeep is how many heartbeats are remembered: more than there are in twice the longest D.
const earsKeep = 128

func (e *ears) add(now time.Duration, node string, session uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.heard == nil {
		e.heard = make(map[heardKey][]time.Duration)
	}
	k := heardKey{node, session}
	e.heard[k] = append(e.heard[k], now)
	if n := len(e.heard[k]); n > 2*earsKeep {
		e.heard[k] = slices.Delete(e.heard[k], 0, n-earsKeep)
	}
}

// steady tells whether the session was heard from since to now without a pause
// longer than most.
func (e *ears) steady(node string, session uint64, since, now, most time.Duration) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	last := now
	for _, at := range slices.Backward(e.heard[heardKey{node, session}]) {
		if last-at > most {
			return false
		}
		if last = at; at <= since {
			return true
		}
	}
	return last-since <= most
}

// expires looks at the sessions that a leader is about to call expired: if the batch is ever
// applied, none may be one that most voters heard. They must have heard it for 2 D, and never missed more
// than a heartbeat, so that no report that the leader may go by is silent about it.
func (c *checker) expires(b *brain, head *fsm.State, ch fsm.Changes) {
	if b.p.stalled() > 0 || b.p.dead.Load() {
		return
	}
	long := max(head.Lease.Detection, head.PriorLease.Detection)
	short := head.Lease.Detection
	if p := head.PriorLease.Detection; p > 0 {
		short = min(short, p)
	}
	for _, name := range ch.Nodes {
		n := head.Nodes[name]
		if n == nil || n.SessionState != fsm.SessionExpired || n.EndedAt != head.Revision {
			continue
		}
		hear, voters := 0, 0
		for _, v := range b.raft.Members() {
			if !v.Voter {
				continue
			}
			voters++
			now := c.w.now()
			if o := c.w.brainOf(v.ID); o != nil && o.p.stalled() == 0 && o.ears.steady(name, n.Session, now-2*long, now, short*2/5) {
				hear++
			}
		}
		if hear > voters/2 {
			c.histMu.Lock()
			c.healthy = append(c.healthy, wronged{head.Revision, head.Chain,
				fmt.Sprintf("%s expired %s, which %d of %d voters heard", b.m.id, name, hear, voters)})
			c.histMu.Unlock()
		}
	}
}

// wronged is a batch that expires a node that most voters heard.
type wronged struct {
	rev   uint64
	chain fsm.Hash
	what  string
}

// wrongs finds such batches at a revision that is new. histMu is held.
func (c *checker) wrongs(s *fsm.State) {
	c.healthy = slices.DeleteFunc(c.healthy, func(x wronged) bool {
		if x.rev == s.Revision && x.chain == s.Chain {
			c.fail("%s", x.what)
		}
		return x.rev <= s.Revision
	})
}

// brainOf is the present process of a member; nil while there is none.
func (w *World) brainOf(id string) *brain {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.members {
		if m.id == id {
			return m.brain
		}
	}
	return nil
}
