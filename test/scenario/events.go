package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
)

// DarkLimit bounds a failover with default timers on a machine that does ten
// others' work: detection and one commit are 0.75 s; an election that has to be
// repeated adds to it.
const DarkLimit = 2 * time.Second

// Events are the seven of the demo. They share what the first one leaves: the
// node that lost power is the one that returns.
func Events() []Event {
	var victim *cluster.Node
	return []Event{
		{
			Name:     "1 power-off of an owner that is Raft leader",
			Expected: "dark 0.7 s, 2 s at most",
			Play: func(ctx context.Context, s *Stage, limits *Limits) (err error) {
				victim, err = s.powerOffLeader(ctx, limits)
				return err
			},
		}, {
			Name:     "2 its return",
			Expected: "nothing",
			Play: func(ctx context.Context, s *Stage, _ *Limits) error {
				if victim == nil {
					return errors.New("nobody lost power")
				}
				return s.PowerOnAndWait(ctx, victim)
			},
		},
		{Name: "3 drain of an owner", Expected: "moves, nothing lost", Play: drainOwner},
		{Name: "4 restart of an owner's speaker", Expected: "moves, nothing lost", Play: restartSpeaker},
		{Name: "5 kill -9 of the Raft leader", Expected: "nothing", Play: killLeader},
		{Name: "6 all members stopped for 10 s", Expected: "nothing", Play: stopMembers},
		{Name: "7 an owner cut off from the members", Expected: "moves, old owner yields", Play: cutOff},
	}
}

func anyNode(*cluster.Node) bool { return true }

func noMember(n *cluster.Node) bool { return !n.IsMember() }

func (s *Stage) powerOffLeader(ctx context.Context, limits *Limits) (*cluster.Node, error) {
	leader, err := s.Leader(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := s.OwnerOf(ctx, func(n *cluster.Node) bool { return n == leader }); err != nil {
		return nil, err
	}
	return leader, s.PowerOff(ctx, leader, limits)
}

// PowerOff takes a node's power and waits until the survivors answer for what it owned.
func (s *Stage) PowerOff(ctx context.Context, n *cluster.Node, limits *Limits) (err error) {
	if limits.Dark, err = s.OwnedBy(ctx, n); err != nil {
		return err
	}
	limits.DarkFor, limits.Moves = DarkLimit, limits.Dark
	if _, err := n.Host.PowerOff(); err != nil {
		return err
	}
	return s.WaitAnswered(ctx, 10*time.Second, []string{n.Name})
}

// PowerOnAndWait gives a node its power back and waits until it could own again.
func (s *Stage) PowerOnAndWait(ctx context.Context, n *cluster.Node) error {
	if err := n.PowerOn(); err != nil {
		return err
	}
	if err := s.WaitMembers(ctx, 15*time.Second); err != nil {
		return err
	}
	return s.WaitNodes(ctx, 15*time.Second)
}

func drainOwner(ctx context.Context, s *Stage, limits *Limits) error {
	n, err := s.OwnerOf(ctx, anyNode)
	if err != nil {
		return err
	}
	if limits.Moves, err = s.OwnedBy(ctx, n); err != nil {
		return err
	}
	err = s.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
		_, err := a.Drain(ctx, &adminv1.DrainRequest{Node: n.Name})
		return err
	})
	if err != nil {
		return err
	}
	if err := s.WaitAnswered(ctx, 10*time.Second, []string{n.Name}); err != nil {
		return err
	}
	return s.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
		_, err := a.Undrain(ctx, &adminv1.UndrainRequest{Node: n.Name})
		return err
	})
}

func restartSpeaker(ctx context.Context, s *Stage, limits *Limits) error {
	n, err := s.OwnerOf(ctx, anyNode)
	if err != nil {
		return err
	}
	if limits.Moves, err = s.OwnedBy(ctx, n); err != nil {
		return err
	}
	if err := n.StopSpeaker(ctx); err != nil {
		return err
	}
	if err := n.StartSpeaker(); err != nil {
		return err
	}
	if err := s.WaitNodes(ctx, 15*time.Second); err != nil {
		return err
	}
	return s.WaitAnswered(ctx, 10*time.Second, []string{n.Name})
}

func killLeader(ctx context.Context, s *Stage, _ *Limits) error {
	old, err := s.Leader(ctx)
	if err != nil {
		return err
	}
	if err := old.Member().Kill(); err != nil {
		return err
	}
	err = lab.Poll(ctx, 10*time.Second, func(ctx context.Context) error {
		now, err := s.Leader(ctx)
		if err == nil && now == old {
			err = fmt.Errorf("%s is still called the leader", old.MemberName)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := old.StartMember(); err != nil {
		return err
	}
	return errors.Join(s.WaitMembers(ctx, 15*time.Second), s.WaitAnswered(ctx, 10*time.Second, nil))
}

func stopMembers(ctx context.Context, s *Stage, _ *Limits) error {
	g, stopping := errgroup.WithContext(ctx)
	for _, n := range s.Members() {
		g.Go(func() error { return n.StopMember(stopping) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := lab.Wait(ctx, 10*time.Second); err != nil {
		return err
	}
	for _, n := range s.Members() {
		if err := n.StartMember(); err != nil {
			return err
		}
	}
	return errors.Join(s.WaitMembers(ctx, 15*time.Second), s.WaitNodes(ctx, 15*time.Second), s.WaitAnswered(ctx, 10*time.Second, nil))
}

func cutOff(ctx context.Context, s *Stage, limits *Limits) error {
	n, err := s.OwnerOf(ctx, noMember)
	if err != nil {
		return err
	}
	if limits.Moves, err = s.OwnedBy(ctx, n); err != nil {
		return err
	}
	// It hears the new owner's first frame, decides and is done.
	limits.Overlap = 100 * time.Millisecond
	if err := s.Mgmt.Cut(n.Name); err != nil {
		return err
	}
	if err := s.WaitAnswered(ctx, 10*time.Second, []string{n.Name}); err != nil {
		return errors.Join(err, s.Mgmt.Heal())
	}
	if err := lab.Wait(ctx, time.Second); err != nil {
		return err
	}
	if err := s.Mgmt.Heal(); err != nil {
		return err
	}
	return s.WaitNodes(ctx, 15*time.Second)
}

// KillMembers kills the members of the nodes at once (SIGKILL). One that has ended, as a
// leader does whose disk hangs, is as good as killed.
func KillMembers(nodes ...*cluster.Node) error {
	var errs []error
	for _, n := range nodes {
		if err := n.Member().Signal(unix.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
	}
	for _, n := range nodes {
		errs = append(errs, n.Member().Kill())
	}
	return errors.Join(errs...)
}
