package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/quorumlb/quorumlb/test/agenda"
)

// World is one schedule: everything that there is, and what has gone wrong.
type World struct {
	seed  uint64
	began time.Time
	opt   Options

	// rng draws what does not depend on how goroutines interleave: it is used while
	// the world is built and by faults, both in a fixed order.
	rng *rand.Rand

	// mu guards the events and all models (links, disks, Raft). Whoever holds it calls
	// nothing of the product.
	mu     sync.Mutex
	events agenda.Agenda
	kick   chan struct{}
	links  map[linkKey]*link
	// elected is when the leader of each term was.
	elected map[uint64]time.Duration
	// sent counts the bytes of streams.
	sent [classes]int

	check *checker

	machines []*machine
	members  []*member
	// speakers are all processes that ever were, newest last; guarded by check.mu.
	speakers []*speaker
	procs    sync.WaitGroup

	// patience is how long a leader that hears no majority stays leader.
	patience time.Duration
	voters   int // at first
	nodes    int

	stop  chan struct{}
	trace *tracer
	Stats Stats
}

// Options of a schedule.
type Options struct {
	// Trace keeps a log of what happens.
	Trace bool
	// Unchecked leaves the invariants out, which cost more than all else when the state
	// is large.
	Unchecked bool
}

// Stats count what a schedule did.
type Stats struct {
	Events, Batches, Leaders, Acks, Faults, Acked, Unknown, Refused int
	// Settled is how long after the last fault everything was well.
	Settled time.Duration
}

// NewWorld draws a world. It must be called in a bubble.
func NewWorld(seed uint64, opt Options) *World {
	w := &World{
		seed: seed, opt: opt, began: time.Now(),
		rng:     rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)),
		kick:    make(chan struct{}, 1),
		links:   make(map[linkKey]*link),
		elected: make(map[uint64]time.Duration),
		stop:    make(chan struct{}),
	}
	if opt.Trace {
		w.trace = &tracer{}
	}
	w.check = newChecker(w)
	w.voters, w.nodes = 3, 3+w.rng.IntN(3)
	if w.chance(15) {
		w.voters = 5
	}
	w.patience = w.between(250*time.Millisecond, 500*time.Millisecond)
	if w.chance(30) {
		w.patience = 3 * time.Second
	}
	worst := w.chance(50)
	for range maxMembers {
		m := w.newMachine("", w.drift(worst, maxPPM))
		w.members = append(w.members, newMember(w, len(w.members), m))
	}
	for i := range w.nodes {
		w.newMachine(nodeName(i), w.drift(worst, -maxPPM))
	}
	return w
}

// maxMembers is how many members there can be; the first World.voters of them
// found the group.
const maxMembers = 5

func nodeName(i int) string { return fmt.Sprintf("n%d", i) }

// drift draws a clock's error; in worlds that drift at their worst it is the one
// that hurts.
func (w *World) drift(isWorst bool, worst int64) int64 {
	if ppm := w.rng.Int64N(2*maxPPM+1) - maxPPM; !isWorst {
		return ppm
	}
	return worst
}

// now is the true time since the world began.
func (w *World) now() time.Duration { return time.Since(w.began) }

func (w *World) upTo(d time.Duration) time.Duration { return time.Duration(w.rng.Int64N(int64(d))) }

func (w *World) between(a, b time.Duration) time.Duration { return a + w.upTo(b-a) }

func (w *World) chance(percent int) bool { return w.rng.IntN(100) < percent }

// run lets time pass until the world is stopped.
func (w *World) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		w.mu.Lock()
		next, ok := w.events.Next()
		for ; ok && next.At <= w.now(); next, ok = w.events.Next() {
			w.Stats.Events++
			w.events.Take().Do()
		}
		wait := time.Hour
		if ok {
			wait = next.At - w.now()
		}
		w.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-w.stop:
			return
		case <-timer.C:
		case <-w.kick:
		}
	}
}

// after runs fn in d, with mu held; the caller holds it too.
func (w *World) after(d time.Duration, fn func()) {
	at := w.now() + max(0, d)
	next, ok := w.events.Next()
	w.events.Add(at, fn)
	if !ok || at < next.At {
		select {
		case w.kick <- struct{}{}:
		default:
		}
	}
}

// tracer is the log of one schedule, kept in memory.
type tracer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (w *World) logf(format string, args ...any) {
	if w.trace == nil {
		return
	}
	w.trace.mu.Lock()
	defer w.trace.mu.Unlock()
	fmt.Fprintf(&w.trace.b, "%9.4f  ", w.now().Seconds())
	fmt.Fprintf(&w.trace.b, format+"\n", args...)
}

// Trace is the log so far.
func (w *World) Trace() string {
	if w.trace == nil {
		return ""
	}
	w.trace.mu.Lock()
	defer w.trace.mu.Unlock()
	return w.trace.b.String()
}
