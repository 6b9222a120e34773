package sim

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// maxPPM is the drift that the lease rules have to bear, either way.
const maxPPM = 10_000

// machine is a host with a clock and a network of its own. A machine of a speaker
// has the node's name; one of a member has none.
type machine struct {
	id   int
	node string
	drifting
	// dark is until when the machine has no power, true time; guarded by World.mu.
	dark time.Duration
}

func (m *machine) off() bool { return m.w.now() < m.dark }

// drifting is a machine's CLOCK_BOOTTIME. It runs at a rate of its own.
type drifting struct {
	w      *World
	offset time.Duration
	ppm    int64
}

func (c *drifting) at(t time.Duration) time.Duration {
	return c.offset + t + time.Duration(int64(t)*c.ppm/1_000_000)
}

// span is how much true time passes in d of the clock's.
func (c *drifting) span(d time.Duration) time.Duration {
	return time.Duration(int64(d) * 1_000_000 / (1_000_000 + c.ppm))
}

func (w *World) newMachine(node string, ppm int64) *machine {
	m := &machine{id: len(w.machines), node: node}
	m.drifting = drifting{w: w, offset: time.Hour + w.upTo(time.Hour), ppm: ppm}
	w.machines = append(w.machines, m)
	return m
}

// proc is one process: what it reaches the world by. After its death nothing that
// its goroutines still do has any effect.
type proc struct {
	w    *World
	mach *machine
	name string

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	dead   atomic.Bool

	// A stalled process neither sends nor receives, and its clock stands still but for
	// the time that its instructions take: it is as if it had come so far when it
	// was stopped. True times.
	stallFrom, stallUntil atomic.Int64
	steps                 atomic.Int64

	// ends are the halves of open streams, guarded by World.mu.
	ends map[*half]struct{}
}

func (w *World) newProc(mach *machine, name string) *proc {
	p := &proc{w: w, mach: mach, name: name, ends: make(map[*half]struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Now is the process's reading of its machine's clock.
func (p *proc) Now() time.Duration {
	t := p.w.now()
	if until := time.Duration(p.stallUntil.Load()); until > t {
		const instruction = 20 * time.Microsecond
		from := time.Duration(p.stallFrom.Load())
		t = min(t, from+time.Duration(p.steps.Add(1))*instruction)
	}
	return p.mach.at(t)
}

// stalled tells until which true time the process does not run, 0 if it does.
func (p *proc) stalled() time.Duration {
	until := time.Duration(p.stallUntil.Load())
	if until <= p.w.now() {
		return 0
	}
	return until
}

// stall stops the process for d. World.mu is held.
func (p *proc) stall(d time.Duration) {
	if p.stalled() > 0 || p.dead.Load() {
		return
	}
	p.w.logf("fault: %s stalls for %v", p.name, d)
	now := p.w.now()
	p.steps.Store(0)
	p.stallFrom.Store(int64(now))
	p.stallUntil.Store(int64(now + d))
}

// run starts one of the process's goroutines, for its whole life.
func (p *proc) run(f func(ctx context.Context)) {
	p.wg.Add(1)
	p.w.procs.Add(1)
	go func() {
		defer p.w.procs.Done()
		defer p.wg.Done()
		f(p.ctx)
	}()
}

// kill ends the process at once. Its streams break: the other ends notice soon if
// the machine lives on, else when they miss it. World.mu is held.
func (p *proc) kill() {
	if p.dead.Swap(true) {
		return
	}
	for h := range p.ends {
		h.abandon()
	}
	clear(p.ends)
	p.cancel()
}
