package service

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/window"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/lease"
	"github.com/quorumlb/quorumlb/raftnode/watch"
)

// Log is the replicated log as the services read it. See consensus.Node.
type Log interface {
	State
	// Revision is the newest one applied here.
	Revision() uint64
	// WaitRevision returns once this member has applied the revision.
	WaitRevision(ctx context.Context, revision uint64) error
	// LinearizableRead returns once the state here holds every write that was
	// acknowledged before the call. It is ErrNotLeader on a member that does not
	// lead.
	LinearizableRead(ctx context.Context) error
	// History gives the batches with from <= revision < until, oldest first.
	History(ctx context.Context, from, until uint64) ([]consensus.Entry, error)
	// OldestRevision is the oldest one that History has.
	OldestRevision(ctx context.Context) (uint64, error)
	// RevisionAt is the newest revision that is not after the time.
	RevisionAt(ctx context.Context, unixNano int64) (uint64, error)
	// StateAt makes the state as it was at a revision. It costs up to a second
	// and the memory of a whole state.
	StateAt(ctx context.Context, revision uint64) (*fsm.State, error)
	// SnapshotTo writes the committed state.
	SnapshotTo(w io.Writer) (revision uint64, err error)
	// Term is the Raft term that this member knows of.
	Term() uint64
}

// Membership reads and changes the group's configuration.
type Membership interface {
	Members() []consensus.Member
	Add(ctx context.Context, id, address string) error
	Remove(ctx context.Context, id string) error
	// Transfer gives leadership to a member; an empty id means the most advanced.
	Transfer(ctx context.Context, to string) error
}

// Hearts hears the speakers.
type Hearts interface {
	// Heard notes a heartbeat that has just been received.
	Heard(h lease.Heartbeat)
	// Acks gives the answers to a node's heartbeats until stop is called. A
	// reader that falls behind gets the newest only.
	Acks(node string) (acks <-chan lease.Ack, stop func())
	// Unheard tells for how long nobody has heard the session, as far as this
	// member knows; false when it never was.
	Unheard(node string, session uint64) (time.Duration, bool)
	// Seen is the newest revision that the node said it has in force.
	Seen(node string) uint64
}

// Self tells how this member is.
type Self struct {
	Up time.Duration
	// Digests are the newest digests of the state that were computed.
	Digests []*memberv1.RevisionDigest
	// Problems that an operator should know of, in words.
	Problems []string
}

// Config is what the services need. Everything but Now, Hold and Logger is
// required.
type Config struct {
	// ID of this member in the group.
	ID         string
	Log        Log
	Group      Group
	Decider    Decider
	Membership Membership
	Hearts     Hearts
	Hub        *watch.Hub
	Peers      *Peers
	Member     MemberBackend
	// Self tells how this member is.
	Self func() Self
	// ProbeDisk writes to the disk of the log and says how long that took.
	ProbeDisk func() (time.Duration, error)
	// CertificateEnds is when this member's certificate ends.
	CertificateEnds func() time.Time
	// Now is the wall clock that certificates are checked by; nil means time.Now.
	Now func() time.Time
	// Hold is how long a call waits while nobody leads; 0 means DefaultHold.
	Hold   time.Duration
	Logger *slog.Logger
}

// MaxMessage bounds a gRPC message: a description of every address of a large
// group, or thousands of resources.
const MaxMessage = 64 << 20

// Services are the gRPC services of a member.
type Services struct {
	adminv1.UnimplementedAdminServiceServer
	cfg      Config
	log      *slog.Logger
	attached *attachments
	roster   *roster
	forward  *forwarder
	observer *observer
	warden   *warden
	health   *health.Server
	// past has a token while a state of the past is being made.
	past chan struct{}
	// offline says why the member does not serve; nil when it does.
	offline atomic.Pointer[error]
}

// New makes the services.
func New(cfg Config) *Services {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Hold <= 0 {
		cfg.Hold = DefaultHold
	}
	attached := newAttachments()
	s := &Services{
		cfg: cfg, log: cfg.Logger, attached: attached, health: health.NewServer(),
		past:     make(chan struct{}, 1),
		roster:   newRoster(cfg.Membership, cfg.Group),
		forward:  &forwarder{self: cfg.ID, group: cfg.Group, peers: cfg.Peers, hold: cfg.Hold},
		observer: &observer{state: cfg.Log, decider: cfg.Decider, attached: attached, now: cfg.Now, log: cfg.Logger},
		warden:   &warden{state: cfg.Log, decider: cfg.Decider, attached: attached, now: cfg.Now, log: cfg.Logger},
	}
	s.SetHealthy(false)
	return s
}

// Observe compares what the speakers report with the state, and asks the wire for
// addresses in quarantine, until ctx is cancelled. It must run while this member
// leads, and only then.
func (s *Services) Observe(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.observer.run(ctx) })
	group.Go(func() error { return s.warden.run(ctx) })
	return group.Wait()
}

// Run keeps the member list that speakers are told, until ctx is cancelled.
func (s *Services) Run(ctx context.Context) error { return s.roster.run(ctx) }

// Attached counts the speakers that are attached to this member.
func (s *Services) Attached() int { return s.attached.count() }

// StopServing refuses all calls but those that tell how the member is, and ends
// the watches. It cannot be undone: err says that the state is wrong.
func (s *Services) StopServing(err error) {
	s.offline.Store(&err)
	s.SetHealthy(false)
	s.cfg.Hub.Close()
}

// Offline tells why the member does not serve; nil when it does.
func (s *Services) Offline() error {
	if p := s.offline.Load(); p != nil {
		return *p
	}
	return nil
}

// SetHealthy sets what the gRPC health service answers.
func (s *Services) SetHealthy(ok bool) {
	to := healthv1.HealthCheckResponse_NOT_SERVING
	if ok && s.Offline() == nil {
		to = healthv1.HealthCheckResponse_SERVING
	}
	for _, name := range []string{"", adminv1.AdminService_ServiceDesc.ServiceName, speakerv1.SpeakerService_ServiceDesc.ServiceName} {
		s.health.SetServingStatus(name, to)
	}
}

// Server makes the gRPC server with all services behind the authorization
// table. It fails when a method is missing in the table.
func (s *Services) Server(creds credentials.TransportCredentials) (*grpc.Server, error) {
	auth := &authorizer{now: s.cfg.Now, offline: s.Offline}
	srv := grpc.NewServer(append(window.Server(),
		grpc.Creds(creds),
		grpc.ChainUnaryInterceptor(s.catchUnary, auth.unary, s.forward.unary),
		grpc.ChainStreamInterceptor(s.catchStream, auth.stream),
		grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 50 * time.Millisecond, PermitWithoutStream: true}),
	)...)
	adminv1.RegisterAdminServiceServer(srv, s)
	speakerv1.RegisterSpeakerServiceServer(srv, &speakerServer{Services: s})
	memberv1.RegisterMemberServiceServer(srv, &memberServer{Services: s})
	healthv1.RegisterHealthServer(srv, s.health)
	reflection.Register(srv)
	if missing := uncovered(srv.GetServiceInfo()); len(missing) > 0 {
		return nil, fmt.Errorf("no access rule for %s", strings.Join(missing, ", "))
	}
	return srv, nil
}

// catchUnary turns a panic into an error: a fault in the answer to one call must
// not take the member down.
func (s *Services) catchUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer s.caught(info.FullMethod, &err)
	return next(ctx, req)
}

func (s *Services) catchStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer s.caught(info.FullMethod, &err)
	return next(srv, stream)
}

func (s *Services) caught(method string, err *error) {
	if p := recover(); p != nil {
		s.log.Error("a call panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
		*err = status.Errorf(codes.Internal, "internal error in %s; the member's log says more", method)
	}
}

// fresh makes a read linearizable: when it returns nil, the state here holds
// every write that was acknowledged before the call. A stale read asks nobody.
func (s *Services) fresh(ctx context.Context, stale bool) error {
	if stale {
		return nil
	}
	return s.forward.atLeader(ctx, func(ctx context.Context) error {
		return fromLog(s.cfg.Log.LinearizableRead(ctx))
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		at, err := memberv1.NewMemberServiceClient(conn).ReadIndex(ctx, &memberv1.ReadIndexRequest{})
		if err != nil {
			return err
		}
		if err := s.cfg.Log.WaitRevision(ctx, at.GetRevision()); err != nil {
			return status.Errorf(codes.Unavailable, "this member is behind: it has not reached revision %d: %v", at.GetRevision(), err)
		}
		return nil
	})
}

// certificateProblem warns in time.
func certificateProblem(ends, now time.Time) string {
	const warning = 14 * 24 * time.Hour
	switch left := ends.Sub(now); {
	case left <= 0:
		return x509.CertificateInvalidError{Reason: x509.Expired}.Error() + ": this member's certificate"
	case left < warning:
		return fmt.Sprintf("this member's certificate ends in %s, at %s", left.Round(time.Hour), ends.UTC().Format(time.RFC3339))
	}
	return ""
}
