package lease

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "run this one schedule, with a trace")
	simModeF = flag.Int("sim.mode", 0, "its mode: 0 all faults, 1 one faulty member, 2 outages")
	simRuns  = flag.Int("sim.runs", 0, "number of schedules of each mode")
	simFresh = flag.Bool("sim.fresh", false, "play schedules that were never played, for long runs")
	simRules = flag.Bool("sim.rules", false, "report for each broken rule how many schedules of each mode catch it")
)

// runSchedule plays the schedule of a seed and returns what went wrong.
func runSchedule(seed uint64, mode simMode, brk breaks, trace *strings.Builder) (*world, string) {
	w := newWorld(seed, mode, brk)
	w.trace = trace
	w.runUntil(w.between(1200*time.Millisecond, 2500*time.Millisecond))
	if mode == modeOutage && w.chance(50) {
		w.runUntil(massWindow + time.Second) // members are not young any more
	}
	switch mode {
	case modeAll:
		w.planAll()
	case modeOneMember:
		w.planOneMember()
	case modeOutage:
		w.planOutage()
	}
	w.runUntil(w.now + 8*time.Second)
	w.heal()
	for deadline := w.now + 16*time.Second; w.failure == "" && len(w.unanswered()) > 0; {
		if w.now >= deadline {
			w.fail("nobody answers for addresses %v", w.unanswered())
			break
		}
		w.runUntil(w.now + 250*time.Millisecond)
	}
	return w, w.failure
}

// planAll schedules single faults and an attack or two.
func (w *world) planAll() {
	for range w.between2(1, 7) {
		f := anyFaults[w.rng.IntN(len(anyFaults))]
		w.after(w.upTo(7*time.Second), func() { f(w) })
	}
	for range w.between2(0, 3) {
		f := attacks[w.rng.IntN(len(attacks))]
		w.after(w.upTo(4*time.Second), func() { f(w) })
	}
}

// planOneMember lets one member fail in any way it can; nodes and the other members
// are well.
func (w *world) planOneMember() {
	bad := w.member()
	if w.chance(50) {
		bad = w.leader()
	}
	cutOff := func(class linkClass, d time.Duration) {
		for i := range simMembers {
			if w.chance(70) {
				w.cut(class, bad.id, i, d)
			}
			if w.chance(70) {
				w.cut(class, i, bad.id, d)
			}
		}
	}
	deaf := func(d time.Duration) {
		for _, mach := range w.machines {
			if w.chance(50) {
				w.cut(speakerUp, simMembers+mach.id, bad.id, d)
			}
		}
	}
	faults := []fault{
		func(w *world) { w.crash(bad, w.between(50*time.Millisecond, 2*time.Second)) },
		func(w *world) { w.stall(bad, w.duration()) },
		func(w *world) { w.stall(bad, w.between(150*time.Millisecond, 500*time.Millisecond)) },
		func(w *world) { cutOff(raftLink, w.duration()) },
		func(w *world) { cutOff(pulseLink, w.duration()) },
		func(w *world) { deaf(w.duration()) },
		func(w *world) { d := w.duration(); deaf(d); cutOff(pulseLink, d) },
		func(w *world) { bad.applyAfter = w.now + w.duration() },
		func(w *world) { w.setTimes(w.leader(), w.rng.IntN(3)) },
		restartHealthy, move,
	}
	for range w.between2(2, 8) {
		f := faults[w.rng.IntN(len(faults))]
		w.after(w.upTo(7*time.Second), func() { f(w) })
	}
}

// restartHealthy restarts a speaker, which takes less than the detection time.
func restartHealthy(w *world) {
	p := w.proc()
	p.exit()
	w.newProc(p.mach).start()
}

// planOutage cuts all nodes off from all members for less than the settle time, and
// restarts members meanwhile.
func (w *world) planOutage() {
	d := w.between(200*time.Millisecond, 2500*time.Millisecond)
	begin := w.upTo(2 * time.Second)
	w.after(begin, func() {
		w.logf("fault: outage for %v", d)
		for _, mach := range w.machines {
			for m := range simMembers {
				w.cutMachine(mach, m, d)
			}
		}
	})
	for range w.rng.IntN(3) {
		w.after(begin+w.upTo(d), func() { w.unseat(w.leader()) })
	}
	if w.chance(30) {
		for _, m := range w.mems[:3] {
			w.after(begin+w.upTo(200*time.Millisecond), func() { w.crash(m, w.upTo(200*time.Millisecond)+1) })
		}
	}
}

// heal ends all faults but the loss of power.
func (w *world) heal() {
	w.logf("healing")
	for _, l := range w.links {
		l.cutUntil, l.slowUntil = 0, 0
	}
	for _, m := range w.mems {
		m.stalledUntil, m.applyAfter, m.dec.failNext = min(m.stalledUntil, w.now), 0, false
		if m.life > 0 {
			m.start()
		}
	}
	// Of each node one process stays: the newest that has power.
	keep := make(map[int]*proc)
	for _, p := range w.procs {
		p.stalledUntil = min(p.stalledUntil, w.now)
		if !p.mach.off && (keep[p.node()] == nil || keep[p.node()].id < p.id) {
			keep[p.node()] = p
		}
	}
	for _, p := range w.procs {
		switch {
		case keep[p.node()] != p:
			p.exit()
		case p.alive:
			p.zombie, p.stuck, p.behindSince = false, false, 0
			w.unhang(p.mach)
			if p.session != 0 {
				p.attach()
			}
		default:
			w.newProc(p.mach).start()
		}
	}
}

// runMany plays schedules on all cores until one of limit failed, and returns how
// many were run, how many failed, and the first failures.
func runMany(from uint64, n int, mode simMode, brk breaks, limit int) (ran, failed int, first []string) {
	var next, bad, done atomic.Int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= int64(n) || limit > 0 && bad.Load() >= int64(limit) {
					return
				}
				seed := from + uint64(i)
				_, failure := runSchedule(seed, mode, brk, nil)
				done.Add(1)
				if failure == "" {
					continue
				}
				bad.Add(1)
				mu.Lock()
				if len(first) < 3 {
					first = append(first, fmt.Sprintf("seed %d: %s", seed, failure))
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return int(done.Load()), int(bad.Load()), first
}

var modeNames = [...]string{"all faults", "one faulty member", "outages"}

// TestSimulation plays schedules with all rules: none may fail. They are the same
// each time, so that a change is judged by what it does; -sim.fresh finds what
// nobody has met yet.
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		var trace strings.Builder
		w, failure := runSchedule(*simSeed, simMode(*simModeF), breaks{}, &trace)
		t.Logf("\n%s%+v", trace.String(), w.stats)
		if failure != "" {
			t.Error(failure)
		}
		return
	}
	runs := *simRuns
	if runs == 0 {
		runs = 300
	}
	seed := uint64(1)
	if *simFresh {
		seed = uint64(time.Now().UnixNano())
	}
	for mode := range modeNames {
		t.Run(modeNames[mode], func(t *testing.T) {
			begin := time.Now()
			ran, failed, first := runMany(seed, runs, simMode(mode), breaks{}, 3)
			t.Logf("%d schedules from seed %d in %v", ran, seed, time.Since(begin).Round(time.Millisecond))
			if failed > 0 {
				t.Errorf("%d failed; repeat with -run TestSimulation$ -sim.mode %d -sim.seed N\n%s", failed, mode, strings.Join(first, "\n"))
			}
		})
	}
}
