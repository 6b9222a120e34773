package speakers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/quorumlb/quorumlb/internal/obs"
	"github.com/quorumlb/quorumlb/internal/task"
	"github.com/quorumlb/quorumlb/speakers/health"
	"github.com/quorumlb/quorumlb/speakers/host"
	"github.com/quorumlb/quorumlb/speakers/layer2"
	"github.com/quorumlb/quorumlb/speakers/links"
	"github.com/quorumlb/quorumlb/speakers/session"
	"github.com/quorumlb/quorumlb/speakers/system"
)

// hostFile is the name of the record of what was added to the loopback device.
const hostFile = "host.json"

// Speaker is one speaker.
type Speaker struct {
	cfg     Config
	log     *slog.Logger
	layer2  *layer2.Layer2
	host    *host.Host
	kernel  host.Kernel
	session *session.Session
	node    *node
	tasks   *task.Group
}

// New opens sockets and takes over what an earlier process of the node left. It
// needs CAP_NET_RAW and CAP_NET_ADMIN, and belongs to the network namespace of
// the calling thread; Run must be called from a thread in the same one.
func New(cfg Config) (*Speaker, error) {
	selector, err := cfg.check()
	if err != nil {
		return nil, err
	}
	s := &Speaker{cfg: cfg, log: cfg.Log}
	if s.layer2, err = layer2.Open(layer2.Config{
		Clock: cfg.Clock, Log: cfg.Log, Rate: cfg.GratuitousRate, Gateways: cfg.Gateways,
	}); err != nil {
		return nil, err
	}
	if s.kernel, err = host.OpenKernel(); err != nil {
		return nil, err
	}
	bootID, err := host.BootID()
	if err != nil {
		return nil, err
	}
	s.node = newNode(s.layer2, cfg.Log)
	s.node.tracked = newTracker(system.OpenConntrack(), s.layer2, cfg.Log)
	s.node.memory = newMemory(filepath.Join(cfg.StateDir, memoryFile), s.node.announcing, cfg.Log)
	if s.host, err = host.New(s.kernel, filepath.Join(cfg.StateDir, hostFile), bootID, s.node.again, cfg.Log); err != nil {
		return nil, err
	}
	s.node.host = s.host
	s.node.health = health.New(cfg.CheckDir, cfg.Log)
	if s.session, err = session.New(session.Config{
		Node: cfg.Node, Members: cfg.Members, StateDir: cfg.StateDir, TLS: cfg.TLS,
		Labels: cfg.Labels, Version: cfg.Version, Clock: cfg.Clock, Log: cfg.Log,
		Health: s.node.health,
	}, s.node); err != nil {
		return nil, err
	}
	monitor := links.NewMonitor(links.OpenSystem, selector, s.node.setLinks, cfg.Log)
	s.tasks = task.NewGroup("speaker", monitor, s.layer2, s.host, s.node.health, task.Func("memory", s.node.memory.Run), task.Func("conntrack", s.node.tracked.Run), task.FuncReady("session", s.runSession, s.session.Ready))
	if cfg.Registry != nil {
		for _, c := range []prometheus.Collector{s.layer2, s.session} {
			if err := cfg.Registry.Register(c); err != nil {
				return nil, fmt.Errorf("register metrics: %w", err)
			}
		}
	}
	return s, nil
}

// runSession opens the session once the links are known: the members have to
// know the node's MACs before they call anybody a stranger.
func (s *Speaker) runSession(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.node.linked:
	}
	return s.session.Run(ctx)
}

// Run works until ctx ends. Then it asks for a planned move of everything that
// the node owns, and returns once it owns nothing, or LeaveTimeout has passed. It
// returns session.ErrReplaced when a newer speaker of the node has taken over.
func (s *Speaker) Run(ctx context.Context) error {
	defer s.kernel.Close()
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, inner := errgroup.WithContext(inner)
	group.Go(func() error {
		defer stop()
		return s.tasks.Run(inner)
	})
	group.Go(func() error {
		defer stop()
		select {
		case <-inner.Done():
			return nil
		case <-ctx.Done():
		}
		leaving, cancel := context.WithTimeout(inner, s.cfg.LeaveTimeout)
		defer cancel()
		s.log.Info("leaving", "timeout", s.cfg.LeaveTimeout)
		if err := s.session.Leave(leaving); err != nil {
			s.log.Warn("could not leave in order; what the node owns moves when its session expires", obs.KeyError, err)
		}
		return nil
	})
	return group.Wait()
}

// Ready reports whether the speaker does its work.
func (s *Speaker) Ready() bool { return s.tasks.Ready() }

// String names the task.
func (s *Speaker) String() string { return s.tasks.String() }

// Checks answer the probes. Nothing that a restart would mend goes unnoticed:
// every task ends the process when it fails, so live means running.
func (s *Speaker) Checks() obs.Checks {
	return obs.Checks{Ready: func() error {
		var errs []error
		if missing := s.tasks.NotReady(); len(missing) > 0 {
			errs = append(errs, fmt.Errorf("not ready: %s", strings.Join(missing, ", ")))
		}
		return errors.Join(append(errs, s.session.NotReady())...)
	}}
}

// Cleanup removes what a speaker with this state directory has added to the
// loopback device and sets sysctls back. The speaker must not run.
func Cleanup(stateDir string, log *slog.Logger) error {
	kernel, err := host.OpenKernel()
	if err != nil {
		return err
	}
	defer kernel.Close()
	bootID, err := host.BootID()
	if err != nil {
		return err
	}
	h, err := host.New(kernel, filepath.Join(stateDir, hostFile), bootID, nil, log)
	if err != nil {
		return err
	}
	return h.Cleanup()
}
