package e2e

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/scenario"
)

// TestDemoEvents asserts what `make demo` shows.
func TestDemoEvents(t *testing.T) {
	s := open(t, scenario.Options{})
	for _, e := range scenario.Events() {
		if !t.Run(e.Name, func(t *testing.T) { play(t, s, e) }) {
			t.FailNow() // the next row needs this one's cluster
		}
	}
}

// outlier bounds a single failover of many, which may meet an election that has to
// be repeated, a disk that stalls, or a machine that does ten others' work.
const outlier = 5 * time.Second

// TestRandomPowerOffs takes power from one owner after the other.
func TestRandomPowerOffs(t *testing.T) {
	s := open(t, scenario.Options{})
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var gaps []time.Duration
	for range number(t, "QUORUMLB_E2E_POWEROFFS", 20) {
		owners, err := s.Owners(t.Context())
		ok(t, err)
		var nodes []string
		for _, o := range owners {
			if !slices.Contains(nodes, o) {
				nodes = append(nodes, o)
			}
		}
		slices.Sort(nodes)
		victim := s.Node(nodes[random.IntN(len(nodes))])
		out := play(t, s, scenario.Event{
			Name: "power-off of " + victim.Name,
			Play: func(ctx context.Context, s *scenario.Stage, limits *scenario.Limits) error {
				err := s.PowerOff(ctx, victim, limits)
				limits.DarkFor = outlier
				return err
			},
		})
		gaps = append(gaps, out.Gap)
		play(t, s, scenario.Event{
			Name: "return of " + victim.Name,
			Play: func(ctx context.Context, s *scenario.Stage, _ *scenario.Limits) error {
				return s.PowerOnAndWait(ctx, victim)
			},
		})
	}
	slices.Sort(gaps)
	if median := gaps[len(gaps)/2]; median > scenario.DarkLimit {
		t.Errorf("the median outage was %v", median)
	}
	t.Logf("outage of %d power-offs: min %v, median %v, max %v", len(gaps), gaps[0].Round(time.Millisecond),
		gaps[len(gaps)/2].Round(time.Millisecond), gaps[len(gaps)-1].Round(time.Millisecond))
}

// TestManagementNetworkDown: nobody hears anybody for 2 s, and no address moves.
func TestManagementNetworkDown(t *testing.T) {
	s := open(t, scenario.Options{})
	play(t, s, scenario.Event{
		Name: "management network down for 2 s",
		Play: func(ctx context.Context, s *scenario.Stage, _ *scenario.Limits) error {
			var all []string
			for _, n := range s.Nodes {
				all = append(all, n.Name)
			}
			if err := s.Mgmt.Cut(all...); err != nil {
				return err
			}
			if err := lab.Wait(ctx, 2*time.Second); err != nil {
				return err
			}
			if err := s.Mgmt.Heal(); err != nil {
				return err
			}
			if err := s.WaitMembers(ctx, 15*time.Second); err != nil {
				return err
			}
			// The settle time passes; nobody may be expired at its end either.
			if err := lab.Wait(ctx, 3*time.Second); err != nil {
				return err
			}
			return s.WaitNodes(ctx, 15*time.Second)
		},
	})
	noExpiry(t, s)
}

// TestBusyMachineExpiresNobody keeps every core busy twice over.
func TestBusyMachineExpiresNobody(t *testing.T) {
	s := open(t, scenario.Options{UDPEvery: 50 * time.Millisecond, TCPEvery: 200 * time.Millisecond, AskEvery: 200 * time.Millisecond})
	ok(t, burn(t.Context(), s, 15*time.Second))
	noExpiry(t, s)
	ok(t, s.WaitAnswered(t.Context(), 10*time.Second, nil))
}

// TestLeaderChangesInTheMiddle of planned moves and of an expiry.
func TestLeaderChangesInTheMiddle(t *testing.T) {
	s := open(t, scenario.Options{})
	transfer := func(ctx context.Context) error {
		return s.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
			_, err := a.TransferLeadership(ctx, &adminv1.TransferLeadershipRequest{})
			return err
		})
	}
	drainWhile := func(name string, disturb func(context.Context) error) scenario.Event {
		return scenario.Event{Name: name, Play: func(ctx context.Context, s *scenario.Stage, limits *scenario.Limits) error {
			n, err := s.OwnerOf(ctx, func(n *cluster.Node) bool { return true })
			if err != nil {
				return err
			}
			if limits.Moves, err = s.OwnedBy(ctx, n); err != nil {
				return err
			}
			g, both := errgroup.WithContext(ctx)
			g.Go(func() error { return disturb(both) })
			g.Go(func() error {
				return s.Do(both, func(ctx context.Context, a adminv1.AdminServiceClient) error {
					_, err := a.Drain(ctx, &adminv1.DrainRequest{Node: n.Name})
					return err
				})
			})
			if err := g.Wait(); err != nil {
				return err
			}
			if err := s.WaitAnswered(ctx, 15*time.Second, []string{n.Name}); err != nil {
				return err
			}
			for _, m := range s.Members() {
				if !m.Member().Running() {
					if err := m.StartMember(); err != nil {
						return err
					}
				}
			}
			if err := s.WaitMembers(ctx, 15*time.Second); err != nil {
				return err
			}
			return s.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
				_, err := a.Undrain(ctx, &adminv1.UndrainRequest{Node: n.Name})
				return err
			})
		}}
	}
	play(t, s, drainWhile("drain while leadership is handed over", transfer))
	play(t, s, drainWhile("drain while the leader is killed", func(ctx context.Context) error {
		leader, err := s.Leader(ctx)
		if err != nil {
			return err
		}
		return scenario.KillMembers(leader)
	}))
	play(t, s, scenario.Event{
		Name: "leadership is handed over while a node dies",
		Play: func(ctx context.Context, s *scenario.Stage, limits *scenario.Limits) error {
			n, err := s.OwnerOf(ctx, func(n *cluster.Node) bool { return !n.IsMember() })
			if err != nil {
				return err
			}
			g, both := errgroup.WithContext(ctx)
			g.Go(func() error { return s.PowerOff(both, n, limits) })
			g.Go(func() error {
				if err := lab.Wait(both, 600*time.Millisecond); err != nil { // into the detection time
					return err
				}
				return transfer(both)
			})
			return g.Wait()
		},
	})
}

// burn keeps all cores busy for so long.
func burn(ctx context.Context, s *scenario.Stage, d time.Duration) error {
	stop, err := s.Admin.Burn(2)
	if err != nil {
		return err
	}
	defer stop()
	return lab.Wait(ctx, d)
}

// noExpiry fails the test if the log holds a SessionExpired.
func noExpiry(t *testing.T, s *scenario.Stage) {
	t.Helper()
	facts, err := s.Facts(t.Context(), 0)
	ok(t, err)
	if len(facts) == 0 {
		t.Error("the log is empty")
	}
	for _, f := range facts {
		if x := f.GetEvent().GetSessionExpired(); x != nil {
			t.Errorf("revision %d: %s was expired", f.GetRevision(), x.GetNode())
		}
	}
}
