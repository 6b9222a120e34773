package lease

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/test/agenda"
)

// The simulation runs the lease rules of several members and the holders of
// several speakers in one goroutine and in virtual time, over a network that loses,
// delays, holds back and cuts, with machines whose clocks drift, processes that
// stall, crash and come back beside themselves, and a toy Raft (sim_raft_test.go)
// that keeps Raft's promises and no more. A schedule is a function of its seed.
//
// After every event that may let a speaker answer it looks at all of them: for a
// Release address, no two machines may answer at one true time.

const (
	simNodes    = 4
	simAddrs    = 3
	simHoldAddr = 2 // this one is Hold, the others Release
	simMembers  = 5 // 0..2 are voters at first
)

// simMode is a class of schedules.
type simMode int

const (
	// modeAll: any fault; safety, and all addresses answered for in the end.
	modeAll simMode = iota
	// modeOneMember: only one member is faulty; no node may be expired.
	modeOneMember
	// modeOutage: short outages of the network between all nodes and members, and
	// restarts of members; no node may be expired.
	modeOutage
)

// breaks are what a run leaves out, beside the rules of the package.
type breaks struct {
	rules
	lateHead       bool // leases learn of a batch when it is applied
	noPrior        bool // a snapshot does not hold the former lease times
	heldAtReceipt  bool // holder: confirmed from the receipt of the ack
	heldNoDrift    bool // holder: F instead of F(1-ρ)
	heldAnySession bool // holder: takes acks of other sessions
}

type world struct {
	seed uint64
	rng  *rand.Rand
	mode simMode
	brk  breaks

	now    time.Duration // true time
	events agenda.Agenda

	// patience is for how long a leader that hears no majority stays leader.
	patience   time.Duration
	worstDrift bool
	mems       []*mem
	machines   []*machine
	procs      []*proc
	links      map[linkKey]*link
	batches    int
	processs   int
	// applied is the newest revision that anybody applied; opened tells when sessions
	// that are committed were decided.
	applied uint64
	opened  map[uint64]time.Duration
	failure string
	trace   *strings.Builder
	stats   simStats
}

type simStats struct{ events, acks, refusals, expiries, moves, leaders int }

// machine is a host of speakers with a clock of its own.
type machine struct {
	id   int
	node int
	mac  fsm.MAC
	clk  drifting
	off  bool
}

// drifting is a clock that is wrong by up to 1 % of its rate.
type drifting struct {
	offset time.Duration
	ppm    int64 // rate - 1, in 1e-6
}

func (d drifting) at(t time.Duration) time.Duration {
	return d.offset + t + time.Duration(int64(t)*d.ppm/1_000_000)
}

// after returns the true length of a local duration.
func (d drifting) after(local time.Duration) time.Duration {
	return time.Duration(float64(local) / (1 + float64(d.ppm)/1e6))
}

// maxPPM is the drift that the rules have to bear, either way.
const maxPPM = 10_000

func newWorld(seed uint64, mode simMode, brk breaks) *world {
	w := &world{
		seed: seed, mode: mode, brk: brk,
		rng:    rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)),
		links:  make(map[linkKey]*link),
		opened: make(map[uint64]time.Duration),
	}
	w.worstDrift = w.chance(50)
	w.patience = w.between(250*time.Millisecond, 500*time.Millisecond)
	if w.chance(40) {
		w.patience = 4 * time.Second
	}
	for i := range simMembers {
		w.mems = append(w.mems, newMem(w, i))
	}
	for i := range simNodes {
		p := w.newProc(w.newMachine(i))
		w.after(w.upTo(100*time.Millisecond), p.start)
	}
	return w
}

// newClock draws a clock; in worlds that drift at their worst, those of speakers are
// as slow and those of members as fast as can be.
func (w *world) newClock(worst int64) drifting {
	ppm := w.rng.Int64N(2*maxPPM+1) - maxPPM
	if w.worstDrift {
		ppm = worst
	}
	return drifting{offset: time.Hour + w.upTo(time.Hour), ppm: ppm}
}

func (w *world) newMachine(node int) *machine {
	m := &machine{id: len(w.machines), node: node, clk: w.newClock(-maxPPM)}
	m.mac = fsm.MAC{2, 0, 0, 0, 0, byte(m.id)}
	w.machines = append(w.machines, m)
	return m
}

// upTo returns a random duration in [0, d).
func (w *world) upTo(d time.Duration) time.Duration { return time.Duration(w.rng.Int64N(int64(d))) }

func (w *world) between(a, b time.Duration) time.Duration { return a + w.upTo(b-a) }

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

func (w *world) logf(format string, args ...any) {
	if w.trace != nil {
		fmt.Fprintf(w.trace, "%9.4f  ", w.now.Seconds())
		fmt.Fprintf(w.trace, format+"\n", args...)
	}
}

func (w *world) fail(format string, args ...any) {
	if w.failure == "" {
		w.failure = fmt.Sprintf("%.4f s: ", w.now.Seconds()) + fmt.Sprintf(format, args...)
		w.logf("FAIL %s", w.failure)
	}
}

// after runs fn d from now.
func (w *world) after(d time.Duration, fn func()) {
	w.events.Add(w.now+max(0, d), fn)
}

// runUntil runs events until the true time t, or the first failure.
func (w *world) runUntil(t time.Duration) {
	for w.failure == "" {
		if next, ok := w.events.Next(); !ok || next.At > t {
			break
		}
		e := w.events.Take()
		w.now = e.At
		w.stats.events++
		e.Do()
	}
	w.now = max(w.now, t)
}

// Links.

type linkClass uint8

const (
	raftLink linkClass = iota
	pulseLink
	speakerUp   // heartbeats and requests
	speakerDown // acks
	watchDown   // views
)

// linkKey is one direction of one kind of traffic; machines have ids from simMembers on.
type linkKey struct {
	class    linkClass
	from, to int
}

type link struct {
	cutUntil, slowUntil time.Duration
	extra               time.Duration
	fifo                time.Duration
}

func (w *world) link(class linkClass, from, to int) *link {
	k := linkKey{class, from, to}
	l := w.links[k]
	if l == nil {
		l = &link{}
		w.links[k] = l
	}
	return l
}

// delay returns how long a message takes now; false when it is lost.
func (w *world) delay(l *link) (time.Duration, bool) {
	if w.now < l.cutUntil {
		return 0, false
	}
	d := 200*time.Microsecond + w.upTo(1500*time.Microsecond)
	if w.now < l.slowUntil {
		d += w.upTo(l.extra)
	}
	return d, true
}

// send delivers fn after the link's delay; in order when fifo is set. It returns false when
// the message is lost.
func (w *world) send(l *link, fifo bool, fn func()) bool {
	d, ok := w.delay(l)
	if !ok {
		return false
	}
	if fifo {
		l.fifo = max(l.fifo, w.now+d)
		d = l.fifo - w.now
	}
	w.after(d, fn)
	return true
}

// check looks for two machines that answer for one Release address.
func (w *world) check() {
	var by [simAddrs]*proc
	for _, p := range w.procs {
		if !p.alive || w.now < p.stalledUntil || p.session == 0 || !p.held.confirmed(p.local()) {
			continue
		}
		for a := range simAddrs {
			if !p.owns[a] || a == simHoldAddr {
				continue
			}
			if other := by[a]; other != nil && other.mach != p.mach {
				w.fail("two answer for address %d: %v and %v", a, other, p)
				return
			}
			by[a] = p
		}
	}
}

// unanswered returns the addresses that no healthy speaker answers for.
func (w *world) unanswered() (out []int) {
	for a := range simAddrs {
		ok := false
		for _, p := range w.procs {
			ok = ok || p.alive && p.session != 0 && p.owns[a] && p.held.confirmed(p.local())
		}
		if !ok {
			out = append(out, a)
		}
	}
	return out
}
