package decider

import (
	"fmt"
	"slices"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
)

// reply is a decided command that waits for its batch.
type reply struct {
	t *ticket
	r Result
	// err is a refusal.
	err error
}

// flight is something that was handed to the log and whose future is awaited:
// a batch, or the proof that this member still leads.
type flight struct {
	// rev, chain and raw are those of the batch; zero without one.
	rev   uint64
	chain fsm.Hash
	raw   []byte
	// replies are answered when the flight lands.
	replies []reply
	since   time.Duration
	// down is closed when the future has ended, err set before.
	down chan struct{}
	err  error
	// taken: a recovery or the end of the reign decides its fate, not its landing.
	taken bool
}

func (f *flight) isBatch() bool { return f.raw != nil }

// takeOff hands the flight to the log and has a goroutine wait for the future,
// which ends with it.
func (r *reign) takeOff(f *flight) {
	f.since = r.d.cfg.Clock.Now()
	f.down = make(chan struct{})
	var future Future
	if f.isBatch() {
		future = r.d.log.Propose(f.raw)
	} else {
		future = r.d.log.Verify()
	}
	r.d.mu.Lock()
	r.flights = append(r.flights, f)
	r.d.stats.InFlight.Store(int64(len(r.flights)))
	r.d.mu.Unlock()
	go func() {
		err := future.Error()
		if err == nil {
			if refusal, ok := future.Response().(error); ok {
				err = fmt.Errorf("batch %d refused: %w", f.rev, refusal)
			}
		}
		r.land(f, err)
	}()
}

// land is called when a future has ended, on its goroutine. An applied batch is
// answered here; everything else is the recovery's.
func (r *reign) land(f *flight, err error) {
	d := r.d
	d.mu.Lock()
	f.err = err
	close(f.down)
	mine := err == nil && !f.taken
	switch {
	case mine:
		at := slices.Index(r.flights, f)
		r.flights = slices.Delete(r.flights, at, at+1)
		d.stats.InFlight.Store(int64(len(r.flights)))
	case !f.taken:
		r.failed = true
	}
	d.mu.Unlock()
	if mine {
		if f.isBatch() {
			d.observer.committed(d.cfg.Clock.Now() - f.since)
		}
		d.answer(f.replies, nil)
	}
	token(d.landed)
}

// ride has replies without events of their own wait for the newest batch in
// flight; false when there is none.
func (r *reign) ride(replies []reply) bool {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	if r.failed || len(r.flights) == 0 {
		return false
	}
	last := r.flights[len(r.flights)-1]
	if !last.isBatch() {
		return false
	}
	last.replies = append(last.replies, replies...)
	return true
}

// inFlight counts the flights, tells whether one has failed or is overdue, and
// at which boot time the oldest will be; 0 without any.
func (r *reign) inFlight() (n int, failed bool, overdue time.Duration) {
	r.d.mu.Lock()
	defer r.d.mu.Unlock()
	if len(r.flights) == 0 {
		return 0, r.failed, 0
	}
	overdue = r.flights[0].since + r.d.cfg.FlightTimeout
	return len(r.flights), r.failed || r.d.cfg.Clock.Now() >= overdue, overdue
}

// answer gives the callers their results, or err to those that made events.
func (d *Decider) answer(replies []reply, err error) {
	for _, p := range replies {
		e := p.err
		if err != nil {
			e = err
		}
		d.finish(p.t, p.r, e)
	}
}

// token leaves a token in a channel of length one.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
