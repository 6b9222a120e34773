package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/leasetime"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/test/rules"
)

const (
	// startTime is how long everything may take to be well at first.
	startTime = 8 * time.Second
	// faultTime is how long there are faults.
	faultTime = 6 * time.Second
	look      = 50 * time.Millisecond
)

// Play plays the schedule of a seed in a bubble, and tells what went wrong; empty if
// nothing did.
func Play(seed uint64, opt Options) (*World, string) {
	w := NewWorld(seed, opt)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); w.run() }()

	o := &operator{w: w}
	w.mu.Lock()
	for _, m := range w.members[:w.voters] {
		w.after(w.upTo(50*time.Millisecond), m.start)
	}
	for _, m := range w.machines[maxMembers:] {
		w.after(w.upTo(300*time.Millisecond), func() { w.startSpeaker(m) })
	}
	w.mu.Unlock()
	rng := rand.New(rand.NewPCG(seed, 0x09e7a702))
	var orders orders
	orders.run(ctx, func(ctx context.Context) { o.setUp(ctx, rng) })

	if w.settle(startTime) {
		w.plan(ctx, o, &orders)
		for end := w.now() + faultTime; w.now() < end && w.check.Failure() == ""; {
			time.Sleep(look)
		}
		w.heal(ctx, o)
		before := w.now()
		w.settle(w.bound())
		w.Stats.Settled = w.now() - before
	}
	cancel()
	orders.wait()
	w.finish(o)
	w.shutDown()
	close(w.stop)
	<-ended
	return w, w.check.Failure()
}

// orders are the goroutines of operators.
type orders struct{ done []chan struct{} }

func (o *orders) run(ctx context.Context, f func(ctx context.Context)) {
	done := make(chan struct{})
	o.done = append(o.done, done)
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		f(ctx)
	}()
}

func (o *orders) wait() {
	for _, d := range o.done {
		<-d
	}
}

// bound is how long the group may take to be well after all faults, by the
// longest lease times that it may have: processes start and elect, most nodes may
// be taken for silent at once, the dead are detected, and old owners are waited
// for, in the worst case one after the other.
func (w *World) bound() time.Duration {
	longest := leaseTimes[0]
	for _, t := range leaseTimes {
		longest.Detection = max(longest.Detection, t.Detection)
	}
	return 3*time.Second + longest.Settle + longest.Detection + 2*leasetime.Lengthen(longest.Fence())
}

// settle waits until everything is well; it fails when that takes too long.
func (w *World) settle(most time.Duration) bool {
	deadline := w.now() + most
	well := 0
	for {
		if w.check.Failure() != "" {
			return false
		}
		why := w.unwell()
		if why == "" {
			if well++; well == 4 {
				return true
			}
		} else {
			well = 0
			if w.now() > deadline {
				w.check.fail("after %v: %s", most, why)
				return false
			}
		}
		time.Sleep(look)
	}
}

// unwell tells what keeps the group from being well: every address that some node
// may own is owned by a live process that claims it, every live process has an
// open session, and the members that take part agree.
func (w *World) unwell() string {
	w.mu.Lock()
	l := w.leader()
	var b *brain
	if l != nil {
		b = l.m.brain
	}
	w.mu.Unlock()
	if b == nil {
		return "nobody leads"
	}
	var s *fsm.State
	b.Read(func(now *fsm.State) { s = now.Clone() })
	if s.ClusterID == [16]byte{} {
		return "not founded"
	}
	if len(s.Services) == 0 && w.now() < startTime {
		return "nothing is declared"
	}
	if s.Revision != w.check.last() {
		return fmt.Sprintf("the leader is at revision %d of %d", s.Revision, w.check.last())
	}
	for _, m := range l.Members() {
		if why := w.behind(m.ID, s.Revision); why != "" {
			return why
		}
	}
	if why := rules.Unserved(s, w.settled(s)); why != "" {
		return why
	}
	return w.unanswered(s)
}

func (w *World) behind(id string, revision uint64) (why string) {
	i := slices.IndexFunc(w.members, func(m *member) bool { return m.id == id })
	w.mu.Lock()
	b := w.members[i].brain
	w.mu.Unlock()
	if b == nil {
		return id + " does not run"
	}
	b.Read(func(s *fsm.State) {
		if s.Revision != revision {
			why = fmt.Sprintf("%s is at revision %d, not %d", id, s.Revision, revision)
		}
	})
	return why
}

func (w *World) unanswered(s *fsm.State) string {
	w.check.mu.Lock()
	defer w.check.mu.Unlock()
	claimed := make(map[netip.Addr]bool)
	for _, p := range w.speakers {
		if !p.alive() || p.p.stalled() > 0 {
			continue
		}
		if p.sess == nil || p.sess.State().Session == 0 {
			return p.p.name + " has no session"
		}
		n := s.Nodes[p.p.mach.node]
		if n == nil || n.SessionState != fsm.SessionOpen {
			return "the session of " + p.p.name + " is not open"
		}
		now := p.p.Now()
		for a, vip := range p.vips {
			claimed[a] = claimed[a] || p.claims(vip, now)
		}
	}
	chooser := allocator.NewChooser(s)
	for a, rec := range s.Addresses {
		if claimed[a] {
			continue
		}
		for node := range s.Nodes {
			why := chooser.Eligible(a, node, s.Time)
			if why == allocator.OK || badly(rec, node, why) {
				return fmt.Sprintf("nobody answers for %v, which %q owns in the log and %q may own (%v)", a, rec.Owner, node, why)
			}
		}
	}
	return ""
}

// badly tells whether a node against which there is a reason is to own an address all the
// same, when none is better: it cannot serve, and somebody has owned it before.
func badly(rec *fsm.Address, node string, why allocator.Reason) bool {
	switch why {
	case allocator.NoEndpoint, allocator.OnlyTerminating, allocator.Unhealthy:
		_, failed := rec.Failures[node]
		return !failed && rec.OwnerWhy != logv1.OwnerReason_OWNER_REASON_UNSPECIFIED
	}
	return false
}

// settled is a time, in nanoseconds since 1970 UTC, that has been past for two seconds on
// every member's clock: what it ended has been noticed.
func (w *World) settled(s *fsm.State) int64 {
	return max(s.Time, w.began.Add(w.now()-2*time.Second-wallSkewMost).UnixNano())
}

// leader is the leader of the newest term, nil for none. mu is held.
func (w *World) leader() (best *raft) {
	for _, m := range w.members {
		if r := m.raft; r != nil && r.role == leading && (best == nil || r.disk.term > best.disk.term) {
			best = r
		}
	}
	return best
}

// finish looks at what can be judged only in the end.
func (w *World) finish(o *operator) {
	if w.check.Failure() != "" {
		return
	}
	w.check.acknowledged(o)
	var first *fsm.State
	for _, m := range w.members {
		w.mu.Lock()
		b := m.brain
		w.mu.Unlock()
		if b == nil {
			continue
		}
		if n := b.decider.Stats().Internal.Load(); n > 0 {
			w.check.fail("%s met %d faults of its own in deciding", m.id, n)
		}
		b.Read(func(s *fsm.State) {
			switch {
			case first == nil:
				first = s.Clone()
			case first.Revision == s.Revision && first.Digest() != s.Digest():
				w.check.fail("%s has another digest in the end", m.id)
			}
		})
	}
}

// shutDown ends all processes and waits for them.
func (w *World) shutDown() {
	w.mu.Lock()
	for _, m := range w.members {
		if m.proc != nil {
			m.proc.kill()
			if m.raft != nil {
				m.raft.close()
			}
		}
	}
	w.check.mu.Lock()
	speakers := slices.Clone(w.speakers)
	w.check.mu.Unlock()
	for _, s := range speakers {
		s.p.kill()
	}
	w.mu.Unlock()
	w.procs.Wait()
}
