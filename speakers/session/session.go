package session

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/internal/leasetime"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/speakers/system"
)

// ErrReplaced means that a newer process of the node has been admitted: this one
// has to exit.
var ErrReplaced = errors.New("a newer speaker of this node has taken over")

// errSessionOver ends a session that the members do not know any more.
var errSessionOver = errors.New("the members have closed the session")

// Node is the rest of the speaker. All methods are called from several
// goroutines.
type Node interface {
	// Links returns the links that may announce and their addresses, and a channel
	// that is closed when they change.
	Links() (links []*logv1.Link, macs [][]byte, changed <-chan struct{})
	// Apply puts a view in force before it returns. It is not called concurrently.
	Apply(View)
	// Confirm tells the newest confirmation. It must not wait.
	Confirm(Confirmation)
	// Statuses returns what changed after since (0: everything), what has no status
	// any more, what to ask with the next time, and a channel that is closed when there
	// is more.
	Statuses(since uint64) (changed []*speakerv1.VipStatus, gone []netip.Addr, next uint64, more <-chan struct{})
	// Probe asks on the wire who has an address.
	Probe(ctx context.Context, addr netip.Addr, timeout time.Duration) ([]*speakerv1.ProbeHit, error)
}

// Conn is a connection to a member.
type Conn interface {
	grpc.ClientConnInterface
	io.Closer
}

// Confirmation tells how long the node counts as the owner of what it owns. All
// times are boot time.
type Confirmation struct {
	// Sent is when the newest acked heartbeat was sent.
	Sent time.Duration
	// Until is when the confirmation ends.
	Until time.Duration
	// Fresh is the time before which the members cannot have taken the node for
	// dead, and so cannot have given its Hold addresses to another.
	Fresh time.Duration
}

// View is what the node has to do.
type View struct {
	// Cluster is the cluster's id; epochs of two clusters cannot be compared.
	Cluster string
	// Session is the revision that opened the session.
	Session  uint64
	Revision uint64
	Drained  bool
	// Vips are the addresses that the node owns, sorted.
	Vips []Vip
	// Soft are addresses that move away softly: the node owns them no more and
	// answers those who ask it alone. Sorted; the epoch is that which it had.
	Soft []Vip
	// HostAddresses are to be delivered locally, sorted.
	HostAddresses []netip.Addr
	// Peers are the MACs of the other nodes' speakers, with the nodes' names.
	Peers map[system.MAC]string
	// Checks are the health checks to run. The tasks are not to be changed.
	Checks map[ServiceKey]*speakerv1.HealthTask
}

// ServiceKey names a service.
type ServiceKey struct {
	Namespace, Name string
}

// Health tells what the health checks of the node have come to.
type Health interface {
	// Statuses is as Node's.
	Statuses(since uint64) (changed []*speakerv1.HealthStatus, gone []*speakerv1.ServiceName, next uint64, more <-chan struct{})
}

// Vip is an address that the node owns.
type Vip struct {
	Addr          netip.Addr
	Epoch         uint64
	OnControlLoss logv1.ControlLoss
	// Interfaces are the names of the links to announce on; none means all.
	Interfaces []string
	// Predecessor is the node that goes on answering its old clients in a soft move;
	// "" for none.
	Predecessor string
	// FirstUse: nobody owned the address before, so the wire is to be asked for a
	// foreign station. FirstUseConflict: it was, and somebody answered.
	FirstUse, FirstUseConflict bool
}

// Config is what a Session is told at its start.
type Config struct {
	Node string
	// Members are addresses (host:port) to begin with.
	Members []string
	// StateDir is where the member list is remembered; "" for nowhere.
	StateDir string
	// TLS is the client's configuration; nil for none, which only tests use.
	TLS *tls.Config
	// Dial returns a new connection to a member at host:port, without waiting for
	// it; nil means gRPC over TCP, with TLS.
	Dial    func(address string) (Conn, error)
	Labels  map[string]string
	Version string
	Clock   clock.Clock
	Log     *slog.Logger
	// Health tells of health checks; nil: there are none.
	Health Health
}

// defaultTimes are used until the members have told theirs.
var defaultTimes = times{detection: 750 * time.Millisecond, heartbeat: 150 * time.Millisecond}

// times are the lease times that a speaker needs.
type times struct {
	detection time.Duration // D
	heartbeat time.Duration // h
}

// timesFrom reads the members' times; nonsense is kept within what the contract
// allows.
func timesFrom(t *logv1.LeaseTimes) times {
	return times{
		detection: min(max(time.Duration(t.GetDetectionNanos()), 100*time.Millisecond), time.Minute),
		heartbeat: min(max(time.Duration(t.GetHeartbeatNanos()), 10*time.Millisecond), 20*time.Second),
	}
}

// Session keeps a node's session with the members.
type Session struct {
	cfg     Config
	node    Node
	log     *slog.Logger
	process [16]byte
	roster  *roster

	times atomic.Pointer[times]

	mu sync.Mutex
	// incarnation is 0 until the members have counted this process.
	incarnation uint64
	cluster     string
	// seen is the revision of the view in force in that cluster.
	seen   uint64
	holder *leasetime.Holder
	live   *live // nil while no session is open
	// left is set when the session was closed by Leave: no other is opened.
	left bool
	// applied is closed and replaced when a view has been put in force or a
	// session has begun or ended.
	applied chan struct{}
	owned   int

	confirmedOnce atomic.Bool
	counters      counters
}

// New makes a session of a new speaker process.
func New(cfg Config, node Node) (*Session, error) {
	if len(cfg.Members) == 0 {
		return nil, errors.New("members: at least one address is needed")
	}
	s := &Session{cfg: cfg, node: node, log: cfg.Log, applied: make(chan struct{})}
	if _, err := rand.Read(s.process[:]); err != nil {
		return nil, err
	}
	s.times.Store(&defaultTimes)
	r, err := newRoster(cfg, s.times.Load, cfg.Log)
	if err != nil {
		return nil, fmt.Errorf("members: %w", err)
	}
	s.roster = r
	return s, nil
}

// Run keeps a session open until ctx ends, or returns ErrReplaced.
func (s *Session) Run(ctx context.Context) error {
	defer s.roster.close()
	remembering, stop := context.WithCancel(ctx)
	var remembers sync.WaitGroup
	remembers.Go(func() { s.roster.run(remembering) })
	defer remembers.Wait()
	defer stop()
	for {
		l, err := s.open(ctx)
		if err == nil {
			err = l.run(ctx)
			s.ended(l)
		}
		switch {
		case ctx.Err() != nil, s.hasLeft():
			return nil
		case errors.Is(err, errSessionOver):
			s.log.Warn("the session is over, opening another", "session", l.id)
			sleep(ctx, s.times.Load().heartbeat)
		default:
			return err
		}
	}
}

func (s *Session) hasLeft() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left
}

func (s *Session) ended(l *live) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == l {
		s.live = nil
	}
	s.tell()
}

// tell wakes those who wait for a change; s.mu is held.
func (s *Session) tell() {
	close(s.applied)
	s.applied = make(chan struct{})
}

// Ready reports whether the node is confirmed and has a view in force.
func (s *Session) Ready() bool { return s.NotReady() == nil }

// NotReady says why Ready is false.
func (s *Session) NotReady() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.live == nil:
		return errors.New("no session with the members")
	case s.seen == 0:
		return errors.New("no view from the members yet")
	case !s.holder.Confirmed(s.cfg.Clock.Now()):
		return errors.New("not confirmed by the members")
	}
	return nil
}

// String names the task.
func (s *Session) String() string { return "session" }

// State is what a session knows, for metrics and tests.
type State struct {
	Session, Incarnation, Seen uint64
	Owned                      int
	Until                      time.Duration
}

// State returns what the session knows now.
func (s *Session) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := State{Incarnation: s.incarnation, Seen: s.seen, Owned: s.owned}
	if s.live != nil {
		st.Session, st.Until = s.live.id, s.holder.Deadline()
	}
	return st
}
