package raftnode

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/internal/obs"
	"github.com/quorumlb/quorumlb/raftnode/pulse"
	"github.com/quorumlb/quorumlb/raftnode/service"
)

const (
	// caughtUpTimeout bounds one try of catching up.
	caughtUpTimeout = 2 * time.Second
	// probeTimeout bounds the answer to /readyz?caughtup.
	probeTimeout = time.Second
	// healthInterval is how often what the gRPC health service says is looked at.
	healthInterval = 250 * time.Millisecond
)

// ErrSlowDisk means that this member led while its disk hung and the others'
// did not.
var ErrSlowDisk = errors.New("this leader's disk hangs while the other members' are well")

// Checks answer the HTTP probes.
func (m *Member) Checks() obs.Checks {
	return obs.Checks{Ready: m.ready, CaughtUp: m.caughtUpNow}
}

// ready tells why the member does not serve; nil when it does.
func (m *Member) ready() error {
	p := m.parts.Load()
	switch {
	case m.stopping.Load():
		return errors.New("the member is stopping")
	case p == nil:
		return errors.New("the member waits to found or join a group")
	}
	if err := p.services.Offline(); err != nil {
		return err
	}
	switch {
	case p.node.LeaderID() == "":
		return errors.New("no leader is known")
	case !p.founded():
		return errors.New("the group's first event is not applied yet")
	case !m.caughtUp.Load():
		return errors.New("the member has not caught up with the leader yet")
	}
	return nil
}

// caughtUpNow tells whether the member has all that is committed now.
func (m *Member) caughtUpNow() error {
	p := m.parts.Load()
	if p == nil {
		return errors.New("the member waits to found or join a group")
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	if err := p.node.CaughtUp(ctx); err != nil {
		return fmt.Errorf("not caught up: %w", err)
	}
	return nil
}

// followHealth catches up once, and keeps what the gRPC health service says.
func (m *Member) followHealth(ctx context.Context, p *parts) error {
	tick := time.NewTicker(healthInterval)
	defer tick.Stop()
	for {
		if !m.caughtUp.Load() {
			m.catchUp(ctx, p)
		}
		p.services.SetHealthy(m.Ready())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (m *Member) catchUp(ctx context.Context, p *parts) {
	ctx, cancel := context.WithTimeout(ctx, caughtUpTimeout)
	defer cancel()
	if p.node.CaughtUp(ctx) != nil {
		return
	}
	m.caughtUp.Store(true)
	m.log.Info("caught up", obs.KeyRevision, p.node.Revision(), "after", (clock.Boottime.Now() - m.began).Round(time.Millisecond))
}

// self tells other members and operators how this one is.
func (m *Member) self(p *parts) service.Self {
	s := service.Self{Up: clock.Boottime.Now() - m.began, Digests: p.digests.list()}
	if text := p.comparer.Problem(); text != "" {
		s.Problems = append(s.Problems, "digests of the state: "+text)
	}
	if err := m.identity.Err(); err != nil {
		s.Problems = append(s.Problems, "certificate files: "+err.Error())
	}
	s.Problems = append(s.Problems, p.leaseProblems()...)
	return s
}

// slowDisk is called again and again while a write to the log hangs. A leader
// ends if others could do better: its heartbeats would keep it leader although it
// can commit nothing.
func (m *Member) slowDisk(took time.Duration) {
	p := m.parts.Load()
	if p == nil {
		return
	}
	leads := p.node.Leadership().Leader
	healthy := leads && p.othersHealthy()
	m.log.Error("a write to the log hangs", "for", took, "leader", leads, "others_healthy", healthy)
	if healthy && p.node.Leadership().Leader {
		p.node.Fail(fmt.Errorf("%w (%v)", ErrSlowDisk, took))
	}
}

// healthyWrite is how long a write to a healthy disk takes at most, with the
// question and the answer.
const healthyWrite = 500 * time.Millisecond

// othersHealthy asks the others to write to their disks, and tells whether
// enough of them to make a majority without this member did so in time. While the
// leader's disk hangs they get nothing to append, so that they do not know
// otherwise; and disks that are one may hang together.
func (p *parts) othersHealthy() bool {
	ctx, cancel := context.WithTimeout(context.Background(), healthyWrite)
	defer cancel()
	var wg sync.WaitGroup
	var healthy atomic.Int64
	voters := 0
	for _, o := range p.node.Members() {
		if !o.Voter {
			continue
		}
		voters++
		if o.ID == p.id {
			continue
		}
		wg.Go(func() {
			if took, err := p.services.ProbeDisk(ctx, o); err == nil && took < healthyWrite {
				healthy.Add(1)
			}
		})
	}
	wg.Wait()
	return int(healthy.Load()) > voters/2
}

// leaseProblems are what the leases have to say to an operator.
func (p *parts) leaseProblems() []string {
	nodes := 0
	p.node.Read(func(s *fsm.State) { nodes = len(s.Nodes) })
	if nodes == 0 || !p.keeper.View().MassEvent {
		return nil
	}
	return []string{"most nodes fell silent together, or this member has just started: nobody is expired until the settle time has passed"}
}

// pulseStatus is what this member tells the leader in every answer.
func (p *parts) pulseStatus() pulse.Status {
	return pulse.Status{
		Revision: p.node.Revision(), MaxClusterVersion: fsm.MaxClusterVersion, SlowestAppend: p.store.SlowestAppend(),
	}
}

// brokenDisk is called when a term or a vote cannot be written.
func (m *Member) brokenDisk(err error) {
	m.log.Error("the member's vote cannot be written", obs.KeyError, err)
	select {
	case m.broken <- err: // for who opens Raft
	default:
	}
	if p := m.parts.Load(); p != nil {
		p.node.Fail(err)
	}
}
