package raftnode

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/obs"
	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/decider"
	"github.com/quorumlb/quorumlb/raftnode/membership"
	"github.com/quorumlb/quorumlb/raftnode/pulse"
	"github.com/quorumlb/quorumlb/raftnode/service"
	"github.com/quorumlb/quorumlb/raftnode/storage"
	"github.com/quorumlb/quorumlb/raftnode/transport"
	"github.com/quorumlb/quorumlb/raftnode/watch"
)

// parts are what a member consists of once it belongs to a group.
type parts struct {
	id         string
	cfg        Config
	log        *slog.Logger
	identity   *pki.Reloader
	store      *storage.Store
	mux        *transport.Mux
	membership *membership.Membership
	node       *consensus.Node
	keeper     *pulse.Keeper
	decider    *decider.Decider
	hub        *watch.Hub
	services   *service.Services
	digests    *digests
	comparer   *comparer
	// diverged is closed when this member has stopped serving.
	diverged chan struct{}
}

// open starts Raft and makes the parts around it.
func (m *Member) open(id storage.Identity) (*parts, error) {
	timing, err := consensus.TimingOf(m.cfg.Profile)
	if err != nil {
		return nil, err
	}
	conf := consensus.Config{
		ID: id.ID, Store: m.store, Timing: timing, Logger: m.log, AskRevision: m.membership.AskRevision,
		Transport: transport.NewRaft(m.mux, transport.RaftConfig{Timeout: timing.RPC, Peers: m.cfg.Members, Fault: m.cfg.Fault}),
	}
	if m.cfg.Change != nil {
		m.cfg.Change(&conf)
	}
	node, err := consensus.Open(conf)
	if err != nil {
		return nil, errors.Join(err, conf.Transport.Close())
	}
	m.membership.Attach(node)
	p := &parts{
		id: id.ID, cfg: m.cfg, log: m.log, identity: m.identity, store: m.store, mux: m.mux,
		membership: m.membership, node: node, diverged: make(chan struct{}),
	}
	p.hub = watch.NewHub(node, 0)
	p.digests = &digests{source: node}
	p.keeper = pulse.New(pulse.Config{
		ID: id.ID, Group: node,
		Dial:   pulse.Dialer(m.identity.ClientTLS(pki.KindMember, transport.ProtoGRPC), m.cfg.DialOptions...),
		Status: p.pulseStatus, Logger: m.log,
	})
	p.decider = decider.New(decider.Config{
		Self: id.ID, Log: deciderLog{p}, Leases: p.keeper, Logger: m.log, Observer: m.metrics.observer(),
	})
	p.keeper.Bind(p.decider)
	p.services = service.New(service.Config{
		ID: id.ID, Log: node, Group: node, Decider: p.decider, Membership: m.membership, Hearts: p.keeper,
		Hub: p.hub, Peers: m.peers, Member: memberBackend{m.membership, p.keeper},
		Self: func() service.Self { return m.self(p) }, ProbeDisk: m.store.ProbeDisk, CertificateEnds: m.identity.NotAfter, Logger: m.log,
	})
	p.comparer = &comparer{
		self: id.ID, digests: p.digests, members: node.Members, report: p.services.Report,
		diverged: p.diverge, interval: m.cfg.DigestInterval, log: m.log,
	}
	return p, nil
}

// subscribe connects the apply goroutine with those who follow the state. The
// leases come first, because the decider asks them; the hub, whose work is the
// speakers' latency, before what can wait.
func (p *parts) subscribe() {
	p.node.Subscribe(p.keeper.Applied)
	p.node.Subscribe(p.hub.Apply)
	p.node.Subscribe(p.decider.Applied)
}

// decide starts what turns wishes and observations into facts.
func (p *parts) decide(s *stage) {
	s.run("membership", p.membership.Run)
	s.run("leases", p.keeper.Run)
	s.run("decider", p.decider.Run)
	s.run("leader", func(ctx context.Context) error { return p.whileLeader(ctx, p.lead) })
}

// serve starts what answers others.
func (p *parts) serve(s *stage, m *Member) {
	s.run("services", p.services.Run)
	s.run("health", func(ctx context.Context) error { return m.followHealth(ctx, p) })
	s.run("digests", p.comparer.run)
}

// whileLeader runs f whenever this member leads, with a context that ends with
// the leadership, and awaits it.
func (p *parts) whileLeader(ctx context.Context, f func(ctx context.Context) error) error {
	for ctx.Err() == nil {
		l := p.node.Leadership()
		if !l.Leader {
			select {
			case <-l.Changed:
			case <-ctx.Done():
			}
			continue
		}
		reign, end := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- f(reign) }()
		var err error
		select {
		case <-l.Changed:
			end()
			err = <-done
		case err = <-done:
		}
		end()
		if err != nil && reign.Err() == nil {
			return err
		}
	}
	return nil
}

// lead is what a leader does beside deciding: it writes the first event of a
// new group, and records what the speakers report. A member with a wrong state
// gives leadership away instead.
func (p *parts) lead(ctx context.Context) error {
	p.log.Info("this member leads", "term", p.node.Term())
	serving, end := context.WithCancel(ctx)
	defer end()
	var eg errgroup.Group
	eg.Go(func() error {
		select {
		case <-p.diverged:
			end()
			return p.stepAside(ctx)
		case <-serving.Done():
			return nil
		}
	})
	eg.Go(func() error {
		defer end()
		if err := p.found(serving); err != nil {
			return ended(serving, err)
		}
		return p.services.Observe(serving)
	})
	return eg.Wait()
}

// found writes the first event, unless there is one.
func (p *parts) found(ctx context.Context) error {
	const retry = 50 * time.Millisecond
	for {
		if p.founded() {
			return nil
		}
		cmd := &decider.Found{Version: fsm.MaxClusterVersion, Times: p.cfg.Lease}
		_, _ = rand.Read(cmd.ClusterID[:]) // never fails
		if _, err := p.decider.Submit(ctx, cmd); err == nil {
			p.log.Info("group founded", "cluster", cmd.ClusterID[:])
			return nil
		} else if !errors.Is(err, decider.ErrNotLeader) && !errors.Is(err, decider.ErrUnknownOutcome) {
			return err
		}
		select { // the decider has not begun its reign yet, or has lost it
		case <-time.After(retry):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *parts) founded() (yes bool) {
	p.node.Read(func(s *fsm.State) { yes = s.ClusterID != [16]byte{} })
	return yes
}

// diverge ends serving: this member's state is not that of the majority. It is
// called once.
func (p *parts) diverge(err error) {
	p.log.Error("this member stops serving; move its data directory away and start it again to let it join as new", obs.KeyError, err)
	p.services.StopServing(err)
	close(p.diverged)
}

// stepAside gives leadership away again and again: a member with a wrong state
// must not decide.
func (p *parts) stepAside(ctx context.Context) error {
	const retry = time.Second
	for ctx.Err() == nil {
		if err := p.node.Transfer(ctx, ""); err != nil {
			p.log.Error("leadership cannot be given away", obs.KeyError, err)
		}
		select {
		case <-time.After(retry):
		case <-ctx.Done():
		}
	}
	return nil
}
