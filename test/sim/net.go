package sim

import (
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// class is a kind of traffic. Each has links of its own, since connections of one
// kind may hang while those of another do not.
type class uint8

const (
	raftClass  class = iota
	pulseClass       // polls and answers
	beatClass        // heartbeats
	ackClass         // what is said to them
	viewClass        // watches
	callClass        // all other calls
	classes
)

// linkKey is one direction of one class between two machines.
type linkKey struct {
	class    class
	from, to int
}

// link delays messages, holds them back, and loses them. World.mu guards it.
type link struct {
	class               class
	rng                 *rand.Rand
	cutUntil, slowUntil time.Duration
	extra               time.Duration
	// Until wildUntil messages that need no order may be doubled and overtake.
	wildUntil time.Duration
}

// link gives the link of a key. Its delays come from a source of their own, so
// that what happens on one link does not depend on how others are used.
func (w *World) link(c class, from, to *machine) *link {
	k := linkKey{c, from.id, to.id}
	l := w.links[k]
	if l == nil {
		h := fnv.New64a()
		_, _ = h.Write([]byte{byte(c), byte(k.from), byte(k.to)})
		l = &link{class: c, rng: rand.New(rand.NewPCG(w.seed, h.Sum64()))}
		w.links[k] = l
	}
	return l
}

func (l *link) upTo(d time.Duration) time.Duration { return time.Duration(l.rng.Int64N(int64(d))) }

// delay is how long a message takes that leaves at a time.
func (l *link) delay(at time.Duration) time.Duration {
	d := 150*time.Microsecond + l.upTo(time.Millisecond)
	if at < l.slowUntil {
		d += l.upTo(l.extra)
	}
	return d
}

// datagram sends fn from one process to another: it may be lost, doubled, and
// overtaken, as Raft has to bear. World.mu is held.
func (w *World) datagram(from, to *proc, fn func()) {
	l := w.link(raftClass, from.mach, to.mach)
	leaves := max(w.now(), from.stalled())
	if from.dead.Load() || leaves < l.cutUntil {
		return
	}
	copies := 1
	if leaves < l.wildUntil {
		switch l.rng.IntN(8) {
		case 0:
			copies = 0
		case 1:
			copies = 2
		}
	}
	for range copies {
		d := l.delay(leaves)
		if leaves < l.wildUntil {
			d += l.upTo(20 * time.Millisecond)
		}
		w.after(leaves+d-w.now(), func() { w.arrive(to, fn) })
	}
}

// arrive runs fn in a process that is alive, when it runs.
func (w *World) arrive(to *proc, fn func()) {
	if to.dead.Load() {
		return
	}
	if until := to.stalled(); until > 0 {
		w.after(until-w.now(), func() { w.arrive(to, fn) })
		return
	}
	fn()
}

// cut loses what is sent from one machine to another for d. World.mu is held, as
// for all of these.
func (w *World) cut(c class, from, to *machine, d time.Duration) {
	l := w.link(c, from, to)
	l.cutUntil = max(l.cutUntil, w.now()+d)
}

func (w *World) slow(c class, from, to *machine, extra, d time.Duration) {
	l := w.link(c, from, to)
	l.extra, l.slowUntil = extra, w.now()+d
}

// cutAll cuts all traffic in one direction.
func (w *World) cutAll(from, to *machine, d time.Duration) {
	for c := range classes {
		w.cut(c, from, to, d)
	}
}

// cutBoth cuts all traffic between two machines.
func (w *World) cutBoth(a, b *machine, d time.Duration) {
	w.cutAll(a, b, d)
	w.cutAll(b, a, d)
}

// mend makes all links well.
func (w *World) mend() {
	for _, l := range w.links {
		l.cutUntil, l.slowUntil, l.wildUntil = 0, 0, 0
	}
}
