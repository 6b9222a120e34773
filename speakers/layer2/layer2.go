package layer2

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/speakers/links"
	"github.com/quorumlb/quorumlb/speakers/system"
)

// DefaultRate is how many unsolicited frames per second a link may carry.
const DefaultRate = 2000

const (
	// defendInterval is RFC 5227's DEFEND_INTERVAL.
	defendInterval = 10 * time.Second
	// silence is how long an unknown station must not claim an address before the
	// address is answered again, and any station before its claim is forgotten.
	silence = 60 * time.Second
	// refreshInterval is how often each link carries an announcement, give or take
	// a fifth: a switch forgets a MAC after 300 s, long before neighbours do.
	refreshInterval = 60 * time.Second
	// joinRetry is how often a multicast group that could not be joined is tried again.
	joinRetry = time.Second

	maxProven  = 8 // neighbours remembered as proof, beside the gateways
	maxClients = 8 // recent clients asked at a takeover
	// clientsKept outlasts the longest grace time of a soft drain, in which old clients
	// ask the old owner alone, and are not heard here.
	clientsKept = 25 * time.Hour
)

// Config is what Layer2 is told at its start.
type Config struct {
	Clock clock.Clock
	Log   *slog.Logger
	// Rate is the most unsolicited frames per second on one link; at least 1.
	Rate int
	// Gateways are asked to prove a takeover, beside those of the default routes.
	Gateways []netip.Addr
}

// View is what the members say that this node owns.
type View struct {
	// Cluster is the id of the cluster that counts the epochs.
	Cluster string
	Vips    []Vip
	// Peers are the MACs of the other nodes' speakers, with the nodes' names.
	Peers map[system.MAC]string
}

// Confirmation tells how long this node counts as the owner of what it owns. All
// times are boot time.
type Confirmation struct {
	// Sent is when the newest acked heartbeat was sent.
	Sent time.Duration
	// Until is when the confirmation ends.
	Until time.Duration
	// Fresh is the time before which the members cannot have taken the node for
	// dead: from then on, a claim of another node's speaker to a Hold address is
	// believed, although the confirmation may last longer.
	Fresh time.Duration
}

// memberships holds multicast groups.
type memberships interface {
	Join(link int, group netip.Addr) error
	Leave(link int, group netip.Addr)
	Close()
}

// link is a link with what is known of its use.
type link struct {
	links.Link
	sendErr error
	refresh time.Duration // when the next one is due
	cursor  netip.Addr    // whom the last one was for
}

// Layer2 announces the addresses of a node. See the package's documentation.
type Layer2 struct {
	clock clock.Clock
	log   *slog.Logger
	cfg   Config

	responder *packetResponder
	groups    *groupCounter
	kick      chan struct{}
	running   atomic.Bool

	sent atomic.Int64 // Confirmation.Sent
	// attentive: a confirmation changes something now.
	attentive atomic.Bool

	mu      sync.Mutex
	cluster string
	epochs  map[string]map[netip.Addr]uint64 // newest seen, by cluster
	vips    map[netip.Addr]*vip
	links   map[int]*link
	own     map[system.MAC]struct{}
	peers   map[system.MAC]string
	probes  map[*probe]struct{}
	// checks are the questions before a first use that are being asked, unchecked
	// the addresses whose turn comes later, holding when the claims of those begin
	// that nobody has answered for, and rechecks when to ask once more about those
	// for which somebody has.
	checks    map[*vip]*check
	unchecked []*vip
	holding   map[*vip]time.Duration
	rechecks  map[*vip]time.Duration
	pacer     *pacer
	// asked: a question has left the pacer since it was last looked at.
	asked bool
	// confirmed is whether the node was at the last look at the clock.
	confirmed bool
	// troubled are the addresses that another station claims.
	troubled map[*vip]struct{}
	// unjoined is when to try refused groups again; never if there are none.
	unjoined time.Duration
	// misplaced: some address has lost a link since place was called.
	misplaced bool
	scratch   []int // placeOne's

	seq     uint64
	news    chan struct{}
	removed map[netip.Addr]removal
}

// Open makes a Layer2 on packet sockets of the network namespace of the calling
// thread. It needs CAP_NET_RAW.
func Open(cfg Config) (*Layer2, error) {
	arp, err := system.Listen(system.ARP)
	if err != nil {
		return nil, err
	}
	ndp, err := system.Listen(system.NDP)
	if err != nil {
		return nil, errors.Join(err, arp.Close())
	}
	groups, err := system.NewGroups()
	if err != nil {
		return nil, errors.Join(err, arp.Close(), ndp.Close())
	}
	return newLayer2(cfg, arp, ndp, groups), nil
}

func newLayer2(cfg Config, arp, ndp conn, groups memberships) *Layer2 {
	return &Layer2{
		clock: cfg.Clock, log: cfg.Log, cfg: cfg,
		responder: newPacketResponder(cfg.Clock, arp, ndp),
		groups:    newGroupCounter(groups),
		kick:      make(chan struct{}, 1),
		epochs:    make(map[string]map[netip.Addr]uint64),
		vips:      make(map[netip.Addr]*vip),
		links:     make(map[int]*link),
		probes:    make(map[*probe]struct{}),
		checks:    make(map[*vip]*check),
		holding:   make(map[*vip]time.Duration),
		rechecks:  make(map[*vip]time.Duration),
		pacer:     newPacer(max(1, cfg.Rate)),
		troubled:  make(map[*vip]struct{}),
		unjoined:  never,
		news:      make(chan struct{}),
		removed:   make(map[netip.Addr]removal),
	}
}

// Run works until ctx ends or a socket fails. It can be called once.
func (l *Layer2) Run(ctx context.Context) error {
	defer l.groups.close()
	l.running.Store(true)
	defer l.running.Store(false)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.responder.run(ctx) })
	group.Go(func() error { return l.keepTime(ctx) })
	return group.Wait()
}

// Ready reports whether requests are answered.
func (l *Layer2) Ready() bool { return l.running.Load() }

// String names the task.
func (l *Layer2) String() string { return "layer2" }

// keepTime handles what was heard and sends what is due.
func (l *Layer2) keepTime(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-l.responder.events:
			l.hear(e)
		case <-l.kick:
		case <-timer.C:
		}
		timer.Reset(l.tick())
	}
}

// wake makes keepTime look at the clock now.
func (l *Layer2) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// Confirm tells the newest confirmation. It is cheap and does not wait.
func (l *Layer2) Confirm(c Confirmation) {
	l.sent.Store(int64(c.Sent))
	l.responder.Confirm(int64(c.Until), int64(c.Fresh))
	if l.attentive.Load() {
		l.wake()
	}
}

func (l *Layer2) until() time.Duration { return time.Duration(l.responder.until.Load()) }
func (l *Layer2) fresh() time.Duration { return time.Duration(l.responder.fresh.Load()) }

// Confirmed returns how long the confirmation still lasts; negative: it has run out.
func (l *Layer2) Confirmed() time.Duration { return l.until() - l.clock.Now() }

// tick does everything that is due and returns how long to wait for the next.
func (l *Layer2) tick() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	if l.responder.missed.Swap(false) {
		l.adoptMissed(now)
	}
	next := l.lookAtConfirmation(now)
	next = min(next, l.lookAtTroubled(now))
	next = min(next, l.scheduleRefresh(now))
	next = min(next, l.lookAtGroups(now))
	next = min(next, l.lookAtChecks(now))
	next = min(next, l.pacer.run(now, l.emit))
	if l.lookAtProbes(); l.asked {
		// What waits for an answer waits from now on.
		l.asked = false
		next = min(next, l.lookAtChecks(l.clock.Now()))
	}
	if l.misplaced {
		next = now
	}
	return max(0, min(next-now, time.Minute))
}

// lookAtConfirmation notices that the confirmation came or went, and returns
// when to look again.
func (l *Layer2) lookAtConfirmation(now time.Duration) time.Duration {
	confirmed := now < l.until()
	if confirmed != l.confirmed {
		l.confirmed = confirmed
		var announce []*vip
		for _, v := range l.vips {
			switch {
			case !confirmed:
				if v.endBursts() || v.Mode == Release {
					v.pending = allRounds
				}
			case v.pending > 0:
				announce = append(announce, v)
			}
			l.touch(v)
		}
		l.log.Info("confirmation", "confirmed", confirmed, "vips", len(l.vips))
		l.announce(announce, nil, now)
	}
	l.attentive.Store(!confirmed || len(l.troubled) > 0)
	if confirmed {
		return l.until()
	}
	// A Confirm that came before attentive was set has not woken us.
	if now < l.until() {
		return now
	}
	return never
}

// check that Layer2's responder is what the seam says.
var _ Responder = (*packetResponder)(nil)

func (l *Layer2) logVip(v *vip) *slog.Logger {
	return l.log.With("vip", v.Addr, "epoch", v.Epoch)
}
