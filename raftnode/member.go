package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/internal/obs"
	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/internal/version"
	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/membership"
	"github.com/quorumlb/quorumlb/raftnode/service"
	"github.com/quorumlb/quorumlb/raftnode/storage"
	"github.com/quorumlb/quorumlb/raftnode/transport"
)

// Member is one member of a group. It is a task: New opens its directory and
// its port, Run does the rest.
type Member struct {
	cfg        Config
	log        *slog.Logger
	began      time.Duration // boot time
	identity   *pki.Reloader
	store      *storage.Store
	mux        *transport.Mux
	peers      *service.Peers
	membership *membership.Membership
	metrics    *deciderMetrics

	// parts are there once the member belongs to a group.
	parts    atomic.Pointer[parts]
	caughtUp atomic.Bool
	stopping atomic.Bool
	// broken has what broke before there were parts to tell.
	broken chan error
}

// New opens the data directory and the port. Run must be called to close them.
func New(cfg Config) (_ *Member, err error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	m := &Member{cfg: cfg, log: cfg.Logger, began: clock.Boottime.Now(), broken: make(chan error, 1)}
	if m.identity, err = pki.NewReloader(cfg.TLS, cfg.Logger); err != nil {
		return nil, err
	}
	if m.store, err = storage.Open(cfg.DataDir, storage.Options{Logger: cfg.Logger, OnSlow: m.slowDisk, OnBroken: m.brokenDisk}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.store.Close())
		}
	}()
	m.peers = service.NewPeers(m.identity.ClientTLS(pki.KindMember, transport.ProtoGRPC), cfg.DialOptions...)
	if m.membership, err = membership.New(membership.Config{
		Name: cfg.Name, Advertise: cfg.Advertise, Members: cfg.Members, Store: m.store,
		Dial: m.dial, Version: version.String(), Logger: cfg.Logger,
	}); err != nil {
		return nil, err
	}
	if m.mux, err = transport.Listen(transport.Config{
		Name: cfg.Name, Listen: cfg.Listen, Advertise: cfg.Advertise, Identity: m.identity, Logger: cfg.Logger,
	}); err != nil {
		return nil, err
	}
	m.metrics = newDeciderMetrics(cfg.Registry)
	cfg.Registry.MustRegister(&collector{running: m.parts.Load})
	return m, nil
}

func (m *Member) dial(addr string) (memberv1.MemberServiceClient, error) {
	conn, err := m.peers.Conn(addr)
	if err != nil {
		return nil, err
	}
	return memberv1.NewMemberServiceClient(conn), nil
}

// Addr is the address that the port is bound to.
func (m *Member) Addr() string { return m.mux.Addr().String() }

// String names the task.
func (m *Member) String() string { return "member " + m.cfg.Name }

// Ready tells whether the member serves.
func (m *Member) Ready() bool { return m.ready() == nil }

// Run is the member's life. It returns when ctx ends and everything has been
// closed in order, or when something fails that only a restart can mend.
func (m *Member) Run(ctx context.Context) (err error) {
	port := newStage(ctx)
	port.run("port", m.mux.Run)
	defer func() {
		err = errors.Join(err, port.stop(), m.peers.Close())
		if errors.Is(err, consensus.ErrHung) {
			return // the disk is still in use; the process must end
		}
		err = errors.Join(err, m.store.Close())
	}()
	resolving, cancel := withFailure(ctx, port)
	id, err := m.membership.Resolve(resolving, m.mux.GRPC())
	cancel()
	if err != nil {
		return ended(ctx, err)
	}
	p, err := m.unlessBroken(func() (*parts, error) { return m.open(id) })
	if err != nil {
		return err
	}
	return m.runStages(ctx, port, p)
}

// unlessBroken opens Raft, which writes its term. When that fails Raft's caller never
// goes on (see storage), so it has a goroutine that ends with the process.
func (m *Member) unlessBroken(open func() (*parts, error)) (*parts, error) {
	type result struct {
		p   *parts
		err error
	}
	opened := make(chan result, 1)
	go func() {
		p, err := open()
		opened <- result{p, err}
	}()
	select {
	case r := <-opened:
		return r.p, r.err
	case err := <-m.broken:
		return nil, fmt.Errorf("%w: %w", consensus.ErrHung, err)
	}
}

// runStages starts the member's stages from the bottom and ends them from the top.
func (m *Member) runStages(ctx context.Context, port *stage, p *parts) error {
	core := newStage(ctx)
	core.run("raft", p.node.Run)
	p.subscribe()
	m.parts.Store(p)
	select {
	case err := <-m.broken: // before there was a node to tell
		p.node.Fail(err)
	default:
	}

	deciding := newStage(ctx)
	p.decide(deciding)

	serving := newStage(ctx)
	srv, err := p.services.Server(transport.Credentials())
	if err == nil {
		serving.run("grpc", func(ctx context.Context) error { return serveGRPC(ctx, srv, m.mux) })
		p.serve(serving, m)
		m.log.Info("serving", obs.KeyMember, p.id, "address", m.Addr())
		select {
		case <-ctx.Done():
		case <-port.failed():
		case <-core.failed():
		case <-deciding.failed():
		case <-serving.failed():
		}
	}
	m.stopping.Store(true)
	p.services.SetHealthy(false)
	m.handOver(ctx, p)
	return errors.Join(err, serving.stop(), deciding.stop(), core.stop())
}

// handOver gives leadership away while calls are still answered, so that
// nobody waits for an election.
func (m *Member) handOver(ctx context.Context, p *parts) {
	others := slices.ContainsFunc(p.node.Members(), func(o consensus.Member) bool { return o.Voter && o.ID != p.id })
	if !others || !p.node.Leadership().Leader {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handOverTimeout)
	defer cancel()
	if err := p.node.Transfer(ctx, ""); err != nil {
		m.log.Warn("leadership was not handed over", obs.KeyError, err)
	}
}

const (
	handOverTimeout = 5 * time.Second
	// graceTimeout is how long calls that are under way have at the end.
	graceTimeout = 250 * time.Millisecond
)

// serveGRPC serves until ctx ends; then calls get a moment to finish, and
// streams, which never do, are cut.
func serveGRPC(ctx context.Context, srv *grpc.Server, mux *transport.Mux) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		<-ctx.Done()
		cut := time.AfterFunc(graceTimeout, srv.Stop)
		defer cut.Stop()
		srv.GracefulStop()
	})
	if err := srv.Serve(mux.GRPC()); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// withFailure ends also when a stage fails.
func withFailure(ctx context.Context, s *stage) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// ended is nil for an error that only says that ctx has ended.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
