package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/scenario"
)

// TestSpeakerCrashes kills an owner's speaker: its node still forwards, so
// nothing is lost, whether the speaker is started again at once or never.
func TestSpeakerCrashes(t *testing.T) {
	s := open(t, scenario.Options{})
	n, owned := ownerWithoutMember(t, s)
	play(t, s, scenario.Event{
		Name: "kill -9 of an owner's speaker, restarted at once",
		Play: func(ctx context.Context, s *scenario.Stage, _ *scenario.Limits) error {
			if err := errors.Join(n.Speaker().Kill(), n.StartSpeaker()); err != nil {
				return err
			}
			return errors.Join(s.WaitNodes(ctx, 10*time.Second), s.WaitAnswered(ctx, 10*time.Second, nil))
		},
	})
	play(t, s, scenario.Event{
		Name: "kill -9 of an owner's speaker, not restarted",
		Play: func(ctx context.Context, s *scenario.Stage, limits *scenario.Limits) error {
			limits.Moves = owned
			if err := n.Speaker().Kill(); err != nil {
				return err
			}
			return s.WaitAnswered(ctx, 10*time.Second, []string{n.Name})
		},
	})
}

// TestPausedLeader stops the leader's process for 3 s; it wakes up as one that was
// replaced, with all its timers late.
func TestPausedLeader(t *testing.T) {
	s := open(t, scenario.Options{})
	play(t, s, scenario.Event{
		Name: "the leader is paused for 3 s",
		Play: func(ctx context.Context, s *scenario.Stage, _ *scenario.Limits) error {
			leader, err := s.Leader(ctx)
			if err != nil {
				return err
			}
			if err := leader.Member().Pause(); err != nil {
				return err
			}
			err = lab.Wait(ctx, 3*time.Second)
			return errors.Join(err, leader.Member().Resume(), s.WaitMembers(ctx, 15*time.Second), s.WaitAnswered(ctx, 10*time.Second, nil))
		},
	})
	noExpiry(t, s)
}

// TestPausedMembers stops all members for 5 s: longer than any confirmation.
func TestPausedMembers(t *testing.T) {
	s := open(t, scenario.Options{})
	play(t, s, scenario.Event{
		Name: "all members are paused for 5 s",
		Play: func(ctx context.Context, s *scenario.Stage, _ *scenario.Limits) error {
			var errs []error
			for _, m := range s.Members() {
				errs = append(errs, m.Member().Pause())
			}
			errs = append(errs, lab.Wait(ctx, 5*time.Second))
			for _, m := range s.Members() {
				errs = append(errs, m.Member().Resume())
			}
			return errors.Join(append(errs, s.WaitMembers(ctx, 15*time.Second), s.WaitNodes(ctx, 15*time.Second),
				s.WaitAnswered(ctx, 10*time.Second, nil))...)
		},
	})
	noExpiry(t, s)
}

// TestTwoNodesAtOnce takes power from two owners in the same moment.
func TestTwoNodesAtOnce(t *testing.T) {
	s := open(t, scenario.Options{})
	play(t, s, scenario.Event{
		Name: "two owners lose power together",
		Play: func(ctx context.Context, s *scenario.Stage, limits *scenario.Limits) error {
			var names []string
			g := errgroup.Group{}
			limits.DarkFor = scenario.DarkLimit
			for _, n := range s.Nodes[3:] {
				owned, err := s.OwnedBy(ctx, n)
				if err != nil {
					return err
				}
				limits.Dark, limits.Moves = append(limits.Dark, owned...), append(limits.Moves, owned...)
				names = append(names, n.Name)
				g.Go(func() error {
					_, err := n.Host.PowerOff()
					return err
				})
			}
			if err := g.Wait(); err != nil {
				return err
			}
			return s.WaitAnswered(ctx, 10*time.Second, names)
		},
	})
}

// TestMostNodesAtOnce takes power from three of five nodes: that could be the
// members' own fault, so it counts only after the settle time.
func TestMostNodesAtOnce(t *testing.T) {
	s := open(t, scenario.Options{})
	const settle = 3 * time.Second
	ok(t, setSettle(t.Context(), s, settle))
	out := play(t, s, scenario.Event{
		Name: "three of five nodes lose power together",
		Play: func(ctx context.Context, s *scenario.Stage, limits *scenario.Limits) error {
			limits.DarkFor = settle + 3*time.Second
			g := errgroup.Group{}
			for _, n := range s.Nodes[2:] {
				owned, err := s.OwnedBy(ctx, n)
				if err != nil {
					return err
				}
				limits.Dark, limits.Moves = append(limits.Dark, owned...), append(limits.Moves, owned...)
				g.Go(func() error {
					_, err := n.Host.PowerOff()
					return err
				})
			}
			if err := g.Wait(); err != nil {
				return err
			}
			return s.WaitAnswered(ctx, 15*time.Second, []string{"n3", "n4", "n5"})
		},
	})
	if out.Gap < settle {
		t.Errorf("dark for %v, less than the settle time of %v", out.Gap, settle)
	}
}

func setSettle(ctx context.Context, s *scenario.Stage, settle time.Duration) error {
	return s.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
		_, err := a.SetLeaseTimes(ctx, &adminv1.SetLeaseTimesRequest{Times: &logv1.LeaseTimes{
			DetectionNanos: int64(750 * time.Millisecond), HeartbeatNanos: int64(150 * time.Millisecond), SettleNanos: int64(settle),
		}})
		return err
	})
}

// TestFastProfile wants a third of the default's outage.
func TestFastProfile(t *testing.T) {
	s := open(t, scenario.Options{Cluster: cluster.Options{Profile: "fast"}})
	// A group begins with the default times, which count for F after the profile's
	// have been set.
	ok(t, lab.Wait(t.Context(), 2*time.Second))
	best := time.Hour // of three: this machine does other work, too
	for range 3 {
		n, _ := ownerWithoutMember(t, s)
		out := play(t, s, scenario.Event{
			Name: "power-off with D = 250 ms",
			Play: func(ctx context.Context, s *scenario.Stage, limits *scenario.Limits) error {
				return s.PowerOff(ctx, n, limits)
			},
		})
		best = min(best, out.Gap)
		ok(t, s.PowerOnAndWait(t.Context(), n))
	}
	if best > 600*time.Millisecond {
		t.Errorf("dark for %v at best", best)
	}
}

// TestHoldOnASplitSegment splits the segment around an owner that is cut off from
// the members too. Each half has an answer, and when the segment is whole again
// only one is left.
func TestHoldOnASplitSegment(t *testing.T) {
	s := open(t, scenario.Options{})
	ctx := t.Context()
	n, owned := ownerWithoutMember(t, s)
	asker, err := s.Client.Ask(cluster.LAN, 20*time.Millisecond)
	ok(t, err)
	asker.SetAddrs(s.Addrs)
	ok(t, s.Mgmt.Cut(n.Name))
	ok(t, s.LAN.Split(n.Name, "client"))
	start := time.Now() // the ports moved to the other half one after the other
	ok(t, lab.Poll(ctx, 10*time.Second, movedFrom(s, n, owned)))
	ok(t, lab.Wait(ctx, 3*time.Second))
	noise := s.Control.Window(start, time.Now().Add(-lab.Patience)).Lost
	for _, a := range owned {
		if r := s.UDP[a].Window(start, time.Now().Add(-lab.Patience)); r.Lost > noise {
			t.Errorf("%s: the client on the old owner's half lost %d of %d datagrams", a, r.Lost, r.Sent)
		}
		here := by(s, n, []netip.Addr{a}, time.Now().Add(-500*time.Millisecond))
		if len(here) == 0 {
			t.Errorf("%s: the old owner no longer answers on its half", a)
		}
	}
	healed := time.Now()
	ok(t, s.LAN.Heal()) // still cut off from the members: only the wire can tell it
	ok(t, lab.Poll(ctx, 15*time.Second, func(context.Context) error {
		if late := by(s, n, owned, time.Now().Add(-time.Second)); len(late) > 0 {
			return fmt.Errorf("%s still claims %s", n.Name, late[0].Addr)
		}
		return nil
	}))
	late := by(s, n, owned, healed)
	if len(late) > 0 {
		t.Logf("the old owner yielded %v after the segment was whole", late[len(late)-1].At.Sub(healed).Round(time.Millisecond))
	}
	ok(t, s.Mgmt.Heal())
	ok(t, s.WaitNodes(ctx, 15*time.Second))
	ok(t, s.WaitAnswered(ctx, 15*time.Second, []string{n.Name}))
}

// TestReleaseWithoutMembers: with all members dead the addresses of Release go
// dark, none too late, and come back with the members, at the same owners.
func TestReleaseWithoutMembers(t *testing.T) {
	s := open(t, scenario.Options{Config: releasing, VIPs: scenario.ConfigVIPs})
	ctx := t.Context()
	before, err := s.Owners(ctx)
	ok(t, err)
	killed := time.Now()
	ok(t, scenario.KillMembers(s.Members()...))
	ok(t, lab.Wait(ctx, 4*time.Second))
	if claims := lab.Claims(killed.Add(2*time.Second), time.Time{}, s.Addrs, s.AtRouter); len(claims) > 0 {
		t.Errorf("%s was still claimed by %s", claims[0].Addr, s.NameOf(claims[0].MAC))
	}
	for _, m := range s.Members() {
		ok(t, m.StartMember())
	}
	ok(t, s.WaitMembers(ctx, 20*time.Second))
	ok(t, s.WaitAnswered(ctx, 20*time.Second, nil))
	after, err := s.Owners(ctx)
	ok(t, err)
	for addr, o := range before {
		if after[addr] != o {
			t.Errorf("%s moved from %s to %s", addr, o, after[addr])
		}
	}
}

// TestLostDisk wipes a member's disk: it returns as a new member, and nothing
// happens to anybody else.
func TestLostDisk(t *testing.T) {
	s := open(t, scenario.Options{})
	ctx := t.Context()
	_, err := s.Apply(ctx, ledger)
	ok(t, err)
	play(t, s, scenario.Event{
		Name: "a member loses its disk",
		Play: func(ctx context.Context, s *scenario.Stage, _ *scenario.Limits) error {
			leader, err := s.Leader(ctx)
			if err != nil {
				return err
			}
			victim := s.Members()[leader.Number()%len(s.Members())]
			if err := victim.Member().Kill(); err != nil {
				return err
			}
			if err := os.RemoveAll(victim.DataDir()); err != nil {
				return err
			}
			if err := victim.StartMember(); err != nil {
				return err
			}
			return errors.Join(s.WaitMembers(ctx, 30*time.Second), s.WaitAnswered(ctx, 10*time.Second, nil))
		},
	})
	_, err = declare(ctx, s, ledgerService("after"))
	ok(t, err)
	sameDigests(t, s)
}

// TestManyMoves sends one address around, as fast as the group takes it.
func TestManyMoves(t *testing.T) {
	s := open(t, scenario.Options{})
	ok(t, lab.Wait(t.Context(), 2*time.Second)) // sessions of new processes count after F
	vip := s.Addrs[0]
	for i := range 5 {
		out := play(t, s, scenario.Event{
			Name: fmt.Sprintf("move %d of %s", i, vip),
			Play: func(ctx context.Context, s *scenario.Stage, limits *scenario.Limits) error {
				limits.Moves = []netip.Addr{vip}
				owners, err := s.Owners(ctx)
				if err != nil {
					return err
				}
				was := s.Node(owners[vip.String()])
				to := s.Nodes[was.Number()%len(s.Nodes)]
				return s.MoveTo(ctx, vip, to)
			},
		})
		if out.Resets > 2 {
			t.Errorf("%d connections were reset", out.Resets)
		}
	}
}

// TestManyAddresses fails a node over that owns a hundred of them.
func TestManyAddresses(t *testing.T) {
	const services = 200
	var doc strings.Builder
	doc.WriteString(strings.Replace(scenario.Config, "192.0.2.100-192.0.2.149", "192.0.2.20-192.0.2.254", 1))
	for i := range services {
		fmt.Fprintf(&doc, "---\napiVersion: quorumlb.io/v1\nkind: VirtualService\nmetadata: {name: many-%03d}\nspec:\n"+
			"  pool: public-v4\n  ports: [{port: 7007, protocol: UDP}]\n  delivery: Host\n", i)
	}
	s := open(t, scenario.Options{
		Config: doc.String(), VIPs: scenario.ConfigVIPs + services,
		UDPEvery: 250 * time.Millisecond, TCPEvery: 5 * time.Second, AskEvery: time.Second,
	})
	n, owned := ownerWithoutMember(t, s)
	off := time.Now()
	_, err := n.Host.PowerOff()
	ok(t, err)
	ok(t, lab.Poll(t.Context(), 10*time.Second, movedFrom(s, n, owned)))
	ok(t, lab.Poll(t.Context(), 5*time.Second, func(context.Context) error {
		held := lab.Tenures(lab.Claims(off.Add(100*time.Millisecond), time.Time{}, owned, s.AtClient, s.AtRouter))
		for _, a := range owned {
			if len(held[a]) == 0 {
				return fmt.Errorf("nobody took %s over", a)
			}
		}
		return nil
	}))
	var last time.Time
	for _, list := range lab.Tenures(lab.Claims(off.Add(100*time.Millisecond), time.Time{}, owned, s.AtClient, s.AtRouter)) {
		if list[0].From.After(last) {
			last = list[0].From
		}
	}
	t.Logf("%d addresses taken over, the last one %v after the power went", len(owned), last.Sub(off).Round(time.Millisecond))
	if took := last.Sub(off); took > outlier {
		t.Errorf("the last address was taken over after %v", took)
	}
}
