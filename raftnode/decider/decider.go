package decider

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/clock"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Config is what a Decider needs. Log, Leases and Self are required; zero
// values of the rest mean the defaults named.
type Config struct {
	// Self is this member's id, for the log.
	Self   string
	Log    Log
	Leases Leases

	// Clock measures waits (clock.Boottime); Wall dates batches (time.Now).
	Clock    clock.Clock
	Wall     func() time.Time
	Logger   *slog.Logger
	Observer Observer

	// MaxInFlight bounds the batches proposed and not yet applied (64).
	MaxInFlight int
	// MaxCommands (1024) and MaxBatchBytes (1 MiB) end a group of commands. A
	// single command may be larger, up to MaxEntryBytes (32 MiB).
	MaxCommands   int
	MaxBatchBytes int
	MaxEntryBytes int
	// MaxQueue bounds the commands that wait (16384); Submit blocks beyond it.
	MaxQueue int
	// FlightTimeout is how long a batch may be in flight before head is thrown
	// away (10 s): the library has lost its future, or the disk hangs.
	// FutureTimeout bounds the wait for futures then, and after any failure (2 s),
	// BarrierTimeout each try of the barrier that follows (2 s).
	FlightTimeout  time.Duration
	FutureTimeout  time.Duration
	BarrierTimeout time.Duration
	// UnknownAfter is how long, after leadership was lost, the log is watched for
	// the batches in flight before their outcome is called unknown (2 s).
	UnknownAfter time.Duration
}

func (c *Config) setDefaults() {
	def(&c.Clock, clock.Boottime)
	if c.Wall == nil {
		c.Wall = time.Now
	}
	def(&c.Logger, slog.New(slog.DiscardHandler))
	def(&c.MaxInFlight, 64)
	def(&c.MaxCommands, 1024)
	def(&c.MaxBatchBytes, 1<<20)
	def(&c.MaxEntryBytes, 32<<20)
	def(&c.MaxQueue, 16384)
	def(&c.FlightTimeout, 10*time.Second)
	def(&c.FutureTimeout, 2*time.Second)
	def(&c.BarrierTimeout, 2*time.Second)
	def(&c.UnknownAfter, 2*time.Second)
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Decider decides on the leader. Make it with New, run it with Run, and have
// the log call Applied.
type Decider struct {
	cfg      Config
	log      Log
	leases   Leases
	logger   *slog.Logger
	observer *Observer
	stats    Stats

	queue   *queue
	stamp   *stamper
	applied *chainRing
	// woken has a token when the leases have news.
	woken chan struct{}
	// landed has a token when a flight has landed.
	landed chan struct{}

	// rehearsing has a token while a dry run is on its way.
	rehearsing chan struct{}

	// mu guards the flights of the current reign.
	mu sync.Mutex

	// The rest belongs to Run's goroutine.

	// limbo are flights of a reign that ended, oldest first.
	limbo []*stranded
	// targets are where Move wants addresses to go; they survive a
	// recovery, and end with the reign.
	targets *targets
}

// New makes a decider that is not leading.
func New(cfg Config) *Decider {
	cfg.setDefaults()
	return &Decider{
		cfg: cfg, log: cfg.Log, leases: cfg.Leases, logger: cfg.Logger, observer: &cfg.Observer,
		queue:   newQueue(cfg.MaxQueue),
		stamp:   newStamper(cfg.Clock, cfg.Wall),
		applied: newChainRing(),
		woken:   make(chan struct{}, 1),
		landed:  make(chan struct{}, 1),
		targets: newTargets(),

		rehearsing: make(chan struct{}, 1),
	}
}

// String names the task in logs.
func (d *Decider) String() string { return "decider" }

// Stats are the decider's counters.
func (d *Decider) Stats() *Stats { return &d.stats }

// QueueLen counts the commands that wait to be decided.
func (d *Decider) QueueLen() int { return d.queue.len() }

// Submit has a command decided and returns when it is applied. cmd must not be
// changed afterwards. When ctx ends before the command was decided, the error
// wraps ctx's and nothing was done; later it wraps ErrUnknownOutcome too. For
// the other errors see this package's variables and the command's type.
func (d *Decider) Submit(ctx context.Context, cmd Command) (Result, error) {
	if isDryRun(cmd) {
		leave, err := d.enterRehearsal(ctx)
		if err != nil {
			return Result{}, err
		}
		defer leave()
	}
	t := newTicket(cmd, d.cfg.Clock.Now())
	if err := d.queue.put(ctx, t); err != nil {
		return Result{}, err
	}
	res, err := t.wait(ctx)
	if err == nil && res.rehearsal != nil {
		return res.rehearsal.run(res.Revision)
	}
	return res, err
}

// Wake tells that the leases have news: a wait may be over. It never blocks and
// may be called from any goroutine.
func (d *Decider) Wake() { token(d.woken) }

// Applied is to be called by the goroutine that applies batches, after each; it
// has the signature of a subscriber. It never blocks.
func (d *Decider) Applied(_ *logv1.Batch, _ fsm.Changes, s *fsm.State) {
	d.applied.add(s.Revision, s.Chain)
}

// Run decides whenever this member leads, until ctx ends. Everything that
// waits then is answered.
func (d *Decider) Run(ctx context.Context) error {
	defer d.stop()
	for {
		if ctx.Err() != nil {
			return nil
		}
		l := d.log.Leadership()
		if l.Leader {
			r := newReign(d, l)
			r.run(ctx)
			continue
		}
		d.followWithLimbo(ctx, l)
	}
}

// followWithLimbo waits for leadership, and answers what can be answered of
// the batches that were in flight when it was lost.
func (d *Decider) followWithLimbo(ctx context.Context, l Leadership) {
	var news <-chan struct{}
	var deadline <-chan time.Time
	if until, ok := d.resolveLimbo(); ok {
		timer := time.NewTimer(until)
		defer timer.Stop()
		news, deadline = d.applied.news, timer.C
	}
	select {
	case <-ctx.Done():
	case <-l.Changed:
	case <-news:
	case <-d.landed:
	case <-deadline:
	}
}

func (d *Decider) stop() {
	d.queue.close(ErrStopped)
	d.resolveLimbo()
	for _, f := range d.limbo {
		d.answerUnknown(f.flight)
	}
	d.limbo = nil
}

// finish answers one command.
func (d *Decider) finish(t *ticket, r Result, err error) {
	if err != nil {
		r = Result{}
		switch {
		case errors.Is(err, ErrUnknownOutcome):
			d.stats.Unknown.Add(1)
		case errors.Is(err, ErrInternal):
			d.stats.Internal.Add(1)
		case !errors.Is(err, ErrNotLeader):
			d.stats.Refused.Add(1)
		}
	}
	d.observer.command(t.cmd.kind(), d.cfg.Clock.Now()-t.since, err)
	t.finish(r, err)
}

// actorOf is who made the command's events. The log holds valid UTF-8 only.
func (d *Decider) actorOf(cmd Command) string {
	if a := cmd.actor(); a != "" {
		return strings.ToValidUTF8(a, "?")
	}
	return "member:" + d.cfg.Self
}
