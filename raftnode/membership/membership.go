package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quorumlb/quorumlb/fsm"
	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/storage"
)

// Errors of this package.
var (
	// ErrRemoved means that the group has removed this member. With an empty data
	// directory it joins again.
	ErrRemoved = errors.New("this member has been removed from the group")
	// ErrFoundedElsewhere means that this directory was prepared to found a
	// cluster and others have one; it must be emptied.
	ErrFoundedElsewhere = errors.New("the data directory was prepared to found a cluster, but there is one already")
	// ErrTwoClusters means that the listed members belong to different clusters.
	ErrTwoClusters = errors.New("the listed members belong to different clusters")
)

// Config of a Membership.
type Config struct {
	// Name of this member, and Advertise, the address that others know it by.
	Name, Advertise string
	// Members are the addresses (host:port) of the members that found a cluster
	// together, by name, this one included. A member that is not among them only
	// ever joins.
	Members map[string]string
	Store   *storage.Store
	// Dial gives a client of the member at an address. It does not wait.
	Dial func(address string) (memberv1.MemberServiceClient, error)
	// Version of the program, for people.
	Version string
	// MaxClusterVersion that the program understands; 0 means fsm.MaxClusterVersion.
	MaxClusterVersion uint32
	// CallTimeout bounds a question to a member; 0 means 1 s.
	CallTimeout time.Duration
	// Interval is how often a member is asked again; 0 means 250 ms.
	Interval time.Duration
	Logger   *slog.Logger
}

// Membership is one member's part in this. Its methods are safe for concurrent use.
type Membership struct {
	cfg   Config
	log   *slog.Logger
	names []string // of cfg.Members, sorted
	node  atomic.Pointer[consensus.Node]

	// changing is held during a change of the configuration.
	changing sync.Mutex
}

// New checks a configuration.
func New(cfg Config) (*Membership, error) {
	if err := storage.ValidateName(cfg.Name); err != nil {
		return nil, err
	}
	for name, address := range cfg.Members {
		if err := storage.ValidateName(name); err != nil {
			return nil, fmt.Errorf("members: %w", err)
		}
		if address == "" {
			return nil, fmt.Errorf("members: %s has no address", name)
		}
	}
	if cfg.Advertise == "" {
		cfg.Advertise = cfg.Members[cfg.Name]
	}
	if cfg.Advertise == "" || cfg.Store == nil || cfg.Dial == nil {
		return nil, errors.New("membership: Advertise, Store and Dial are needed")
	}
	if cfg.MaxClusterVersion == 0 {
		cfg.MaxClusterVersion = fsm.MaxClusterVersion
	}
	if cfg.CallTimeout <= 0 {
		cfg.CallTimeout = time.Second
	}
	if cfg.Interval <= 0 {
		cfg.Interval = 250 * time.Millisecond
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Membership{cfg: cfg, log: cfg.Logger, names: slices.Sorted(maps.Keys(cfg.Members))}, nil
}

// Attach gives the node that was opened with the id of Resolve. It comes before Run.
func (m *Membership) Attach(n *consensus.Node) { m.node.Store(n) }

// Run founds or joins what Resolve decided, then keeps this member's address up
// to date and, while it leads, promotes members that have caught up. It returns
// nil when ctx ends, or why this member cannot be one.
func (m *Membership) Run(ctx context.Context) error {
	node := m.node.Load()
	if node == nil {
		return errors.New("membership: Run before Attach")
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.promoteWhileLeader(ctx, node) })
	g.Go(func() error {
		if err := m.enter(ctx, node); err != nil {
			return err
		}
		return m.stay(ctx, node)
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// enter founds the cluster or joins it, if this member is new.
func (m *Membership) enter(ctx context.Context, node *consensus.Node) error {
	id, _ := m.cfg.Store.Identity()
	switch {
	case id.ID != id.Name:
		return m.join(ctx, node)
	case node.HasState():
		return nil
	default:
		return m.found(ctx, node)
	}
}

// stay looks after this member's place in the group.
func (m *Membership) stay(ctx context.Context, node *consensus.Node) error {
	const look, patience = time.Second, 5 * time.Second
	leaderless := time.Duration(0)
	for {
		if node.LeaderID() == "" {
			leaderless += look
		} else {
			leaderless = 0
		}
		self, ok := node.Member(node.ID())
		if !ok || self.Address != m.cfg.Advertise || leaderless >= patience {
			if err := m.ask(ctx, node); isFinal(err) {
				return err
			} else if err != nil {
				m.log.Warn("the group does not answer", "error", err)
			}
			leaderless = 0
		}
		if err := m.pause(ctx, look); err != nil {
			return err
		}
	}
}

// isFinal tells whether asking again is of no use.
func isFinal(err error) bool {
	return errors.Is(err, ErrRemoved) || errors.Is(err, storage.ErrOtherCluster)
}

func (m *Membership) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// others are the listed members but this one.
func (m *Membership) others() map[string]string {
	out := maps.Clone(m.cfg.Members)
	delete(out, m.cfg.Name)
	return out
}

// AskRevision asks the leader, by address, for a revision that holds every write
// acknowledged before the call. It is a consensus.AskRevision.
func (m *Membership) AskRevision(ctx context.Context, address string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.CallTimeout)
	defer cancel()
	client, err := m.cfg.Dial(address)
	if err != nil {
		return 0, err
	}
	resp, err := client.ReadIndex(ctx, &memberv1.ReadIndexRequest{})
	if err != nil {
		return 0, fmt.Errorf("ask %s for its revision: %w", address, err)
	}
	return resp.GetRevision(), nil
}
