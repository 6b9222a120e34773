package pulse

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/internal/obs"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/decider"
	"github.com/quorumlb/quorumlb/raftnode/lease"
)

// Group is what leases ask of Raft. Neither method may block: both are called with
// the Keeper's lock held.
type Group interface {
	// Term is this member's current term. It must be set before a vote of that term
	// is given.
	Term() uint64
	// Members of the newest configuration, committed or not.
	Members() []consensus.Member
}

// Decider is where observations go.
type Decider interface {
	Submit(ctx context.Context, cmd decider.Command) (decider.Result, error)
	// Wake tells that a wait may be over. It must not block.
	Wake()
}

// Conn is a connection to a member. It is closed with Close; Connect asks for it to be
// made before it is needed.
type Conn interface {
	grpc.ClientConnInterface
	io.Closer
	Connect()
}

// Status is what a member tells about itself in every answer.
type Status struct {
	Revision          uint64
	MaxClusterVersion uint32
	// SlowestAppend is the slowest disk write since the last call.
	SlowestAppend time.Duration
}

// Config of a Keeper. ID, Group and Dial are required.
type Config struct {
	// ID of this member in the group.
	ID    string
	Group Group
	// Dial returns a new connection to a member at host:port, without waiting
	// for it. The server must have been checked to be a member. See [Dialer].
	Dial func(addr string) (Conn, error)
	// Clock is CLOCK_BOOTTIME unless a test sets another.
	Clock clock.Clock
	// Pulse is the longest time between two polls; 0 means lease.DefaultPulse.
	Pulse time.Duration
	// Status is called for every answer; nil tells nothing.
	Status func() Status
	Logger *slog.Logger
}

// Keeper keeps the leases of one member. Make it before the decider, which needs it
// as its Leases, subscribe Applied to the log, call Bind, then Run.
type Keeper struct {
	cfg   Config
	log   *slog.Logger
	clock clock.Clock
	stats Stats

	// changed has a token when leadership changed.
	changed chan struct{}
	// expiries carries what is to be expired to the goroutines that submit it.
	expiries chan []lease.Expiry

	mu      sync.Mutex
	decider Decider
	hear    *lease.Hearing
	// blocked and blockedAt are what noteMass saw last.
	blocked   bool
	blockedAt time.Duration
	// lead is nil while this member does not lead.
	lead *lease.Leader
	// given is, by node, the newest revision of head that gave it an address.
	given map[string]uint64
	// awaited are the nodes whose reports some released address waits for.
	awaited map[string]struct{}
	subs    map[string][]*subscription
	peers   map[string]*peer
}

// New makes a Keeper. From now on the member counts as up, so it must run soon.
func New(cfg Config) *Keeper {
	if cfg.Clock == nil {
		cfg.Clock = clock.Boottime
	}
	if cfg.Pulse == 0 {
		cfg.Pulse = lease.DefaultPulse
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Keeper{
		cfg: cfg, log: cfg.Logger, clock: cfg.Clock,
		changed:  make(chan struct{}, 1),
		expiries: make(chan []lease.Expiry, 8),
		hear:     lease.NewHearing(lease.Config{Self: cfg.ID, Pulse: cfg.Pulse}, cfg.Clock.Now()),
		subs:     make(map[string][]*subscription),
		peers:    make(map[string]*peer),
	}
}

// Bind sets where observations go. It must be called before Run.
func (k *Keeper) Bind(d Decider) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.decider = d
}

// String names the task in logs.
func (k *Keeper) String() string { return "leases" }

// Ready tells whether the task does its work: it always does.
func (k *Keeper) Ready() bool { return true }

// Run keeps the leases until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error { k.tickUntil(ctx); return nil })
	eg.Go(func() error { k.streamsUntil(ctx); return nil })
	for range maxSubmits {
		eg.Go(func() error { k.submitUntil(ctx); return nil })
	}
	return eg.Wait()
}

// tickUntil lets time pass for the rules: at least once in every pulse, and at the
// moment when the next node can be expired.
func (k *Keeper) tickUntil(ctx context.Context) {
	timer := time.NewTimer(k.cfg.Pulse)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			timer.Reset(k.tick())
		}
	}
}

// minTick keeps a deadline that cannot be met yet from spinning.
const minTick = time.Millisecond

// tick returns how long until the next.
func (k *Keeper) tick() time.Duration {
	k.mu.Lock()
	now := k.clock.Now()
	k.noteMass(now)
	if k.lead == nil {
		k.hear.Tick(now)
		k.mu.Unlock()
		return k.cfg.Pulse
	}
	expired := k.lead.Expired(now, k.voters())
	next := k.cfg.Pulse
	if at := k.lead.NextExpiry() - now; at > 0 {
		next = min(next, max(at, minTick))
	}
	k.passAcks(now)
	k.mu.Unlock()
	if len(expired) > 0 {
		k.expire(expired)
	}
	return next
}

// noteMass tells in the log when a mass event begins and ends: it is why a dead node
// is not expired, or is expired late. k.mu is held.
func (k *Keeper) noteMass(now time.Duration) {
	blocked := k.hear.Blocked(now)
	switch {
	case blocked && !k.blocked:
		k.blockedAt = now
		k.log.Info("most nodes are silent, or this member has just started: expiring nobody")
	case !blocked && k.blocked:
		k.log.Info("silent nodes are expired again", "after", now-k.blockedAt)
	}
	k.blocked = blocked
}

const (
	// maxSubmits is how many expiries may be on their way to the decider at once.
	maxSubmits = 4
	// submitPatience is how long one may take; it is reported again anyway.
	submitPatience = 2 * time.Second
)

// expire hands expiries over; when too many are on their way the rules will name
// them again.
func (k *Keeper) expire(expired []lease.Expiry) {
	for _, e := range expired {
		k.log.Warn("node is silent", obs.KeyNode, e.Node, obs.KeySession, e.Session, "unheard", e.Unheard)
	}
	k.stats.Expired.Add(uint64(len(expired)))
	select {
	case k.expiries <- expired:
	default:
	}
}

func (k *Keeper) submitUntil(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case expired := <-k.expiries:
			k.submit(ctx, expired)
		}
	}
}

// submit has the sessions expired, if they are still silent when it comes to that.
func (k *Keeper) submit(ctx context.Context, expired []lease.Expiry) {
	cmd := &decider.ExpireNodes{}
	k.mu.Lock()
	d := k.decider
	k.mu.Unlock()
	if d == nil {
		return
	}
	for _, e := range expired {
		cmd.Sessions = append(cmd.Sessions, decider.SessionID{Node: e.Node, Session: e.Session})
	}
	ctx, cancel := context.WithTimeout(ctx, submitPatience)
	defer cancel()
	if _, err := d.Submit(ctx, cmd); err != nil {
		k.log.Info("expiry was not applied", obs.KeyError, err, "sessions", len(cmd.Sessions))
	}
}

// Heard takes a heartbeat that this member has just received from a speaker.
func (k *Keeper) Heard(hb lease.Heartbeat) {
	k.stats.Heard.Add(1)
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock.Now()
	if !k.hear.Heard(now, hb) || k.lead == nil {
		return
	}
	if k.lead.Heard(now, hb) {
		k.reported(hb.Node)
	}
}

// reported wakes the decider if something waits for what the node reports.
func (k *Keeper) reported(node string) {
	if _, ok := k.awaited[node]; ok && k.decider != nil {
		delete(k.awaited, node)
		k.decider.Wake()
	}
}

// Applied is to be subscribed to the log: it is called by the goroutine that
// applies batches, after each, with a nil batch for the state as a whole.
func (k *Keeper) Applied(batch *logv1.Batch, ch fsm.Changes, s *fsm.State) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock.Now()
	k.hear.Applied(now, s.Revision, s.Lease, s.PriorLease)
	if batch == nil {
		k.hear.KeepNodes(now, func(name string) bool { return s.Nodes[name] != nil })
		for name, n := range s.Nodes {
			k.hear.NodeApplied(now, name, lease.FactsOf(n))
		}
		return
	}
	for _, name := range ch.Nodes {
		if n := s.Nodes[name]; n != nil {
			k.hear.NodeApplied(now, name, lease.FactsOf(n))
		} else {
			k.hear.NodeGone(now, name)
		}
	}
}

// Unheard tells for how long nobody has heard the session, as far as this member
// knows; false when it never was.
func (k *Keeper) Unheard(node string, session uint64) (time.Duration, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lead != nil {
		if d, ok := k.lead.Unheard(k.clock.Now(), node, session); ok {
			return d, true
		}
	}
	return k.hear.Unheard(k.clock.Now(), node, session)
}

// Seen is the newest revision that the node said it has in force.
func (k *Keeper) Seen(node string) uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.hear.Seen(node)
}

// voters are the ids of the voters of the newest configuration.
func (k *Keeper) voters() []string {
	members := k.cfg.Group.Members()
	ids := make([]string, 0, len(members))
	for _, m := range members {
		if m.Voter {
			ids = append(ids, m.ID)
		}
	}
	return ids
}
