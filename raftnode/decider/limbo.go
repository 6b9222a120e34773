package decider

import (
	"sync"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
)

// chainRing remembers the hash chain at the newest revisions applied here, so
// that the fate of a batch can be looked up by its hash.
type chainRing struct {
	mu     sync.Mutex
	newest uint64
	ring   [4096]chainAt
	news   chan struct{}
}

type chainAt struct {
	rev   uint64
	chain fsm.Hash
}

// fate is what became of a batch.
type fate uint8

const (
	fateOpen fate = iota // not known here (yet)
	fateApplied
	fateLost // the chain went on without it: it can never be applied
)

func newChainRing() *chainRing { return &chainRing{news: make(chan struct{}, 1)} }

func (c *chainRing) add(rev uint64, chain fsm.Hash) {
	c.mu.Lock()
	c.ring[rev%uint64(len(c.ring))] = chainAt{rev, chain}
	c.newest = max(c.newest, rev)
	c.mu.Unlock()
	token(c.news)
}

func (c *chainRing) fate(rev uint64, chain fsm.Hash) fate {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch at := c.ring[rev%uint64(len(c.ring))]; {
	case at.rev != rev:
		return fateOpen
	case at.chain == chain:
		return fateApplied
	default:
		return fateLost
	}
}

// stranded is a flight that outlived its reign.
type stranded struct {
	*flight
	until time.Duration
}

// strand puts what is in flight into limbo, at the end of a reign.
func (r *reign) strand() {
	until := r.d.cfg.Clock.Now() + r.d.cfg.UnknownAfter
	for _, f := range r.takeFlights() {
		r.d.limbo = append(r.d.limbo, &stranded{f, until})
	}
}

// takeFlights removes all flights, oldest first. What lands later counts no more.
func (r *reign) takeFlights() []*flight {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	out := r.flights
	for _, f := range out {
		f.taken = true
	}
	r.flights, r.failed = nil, false
	r.d.stats.InFlight.Store(0)
	return out
}

// resolveLimbo answers those whose fate is known or whose time is up, while
// this member does not lead. It returns how long the first of the others may
// stay, false when none is left.
func (d *Decider) resolveLimbo() (time.Duration, bool) {
	now := d.cfg.Clock.Now()
	kept := d.limbo[:0]
	lost := false
	for _, f := range d.limbo {
		switch fate := d.fateOf(f.flight); {
		case fate == fateApplied:
			d.answer(f.replies, nil)
		case !f.isBatch():
			// It was in no log; that says nothing of the batches behind it.
			d.answer(f.replies, ErrNotLeader)
		case fate == fateLost || lost:
			// What was decided on a lost batch is lost as well.
			lost = true
			d.answer(f.replies, ErrNotLeader)
		case now >= f.until:
			d.answerUnknown(f.flight)
		default:
			kept = append(kept, f)
		}
	}
	clear(d.limbo[len(kept):])
	d.limbo = kept
	if len(kept) == 0 {
		return 0, false
	}
	return kept[0].until - now, true
}

// fateOf tells what is known of a flight: by its future, or by the chain.
func (d *Decider) fateOf(f *flight) fate {
	select {
	case <-f.down:
		if f.err == nil {
			return fateApplied
		}
		if !f.isBatch() || d.log.NotAppended(f.err) {
			return fateLost
		}
	default:
	}
	if !f.isBatch() {
		return fateOpen
	}
	return d.applied.fate(f.rev, f.chain)
}

// answerUnknown says that nobody knows; those without events of their own are
// known to have changed nothing.
func (d *Decider) answerUnknown(f *flight) {
	for _, p := range f.replies {
		err := ErrUnknownOutcome
		if !p.r.Changed {
			err = ErrNotLeader
		}
		d.finish(p.t, p.r, err)
	}
}
