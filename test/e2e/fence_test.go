package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/scenario"
)

// releasing is the demo's config with onControlLoss: Release.
var releasing = strings.Replace(scenario.Config, "ipAddressPools: [public-v4, public-v6]",
	"ipAddressPools: [public-v4, public-v6]\n  onControlLoss: Release", 1)

// TestReleaseOnASplitSegment cuts an owner off from the members and puts it on
// another half of the segment, with a client. Nobody hears it on the other half,
// where its successor begins; still the two may never answer at the same time.
func TestReleaseOnASplitSegment(t *testing.T) {
	s := open(t, scenario.Options{Config: releasing, VIPs: scenario.ConfigVIPs})
	ctx := t.Context()
	n, owned := ownerWithoutMember(t, s)
	asker, err := s.Client.Ask(cluster.LAN, 5*time.Millisecond)
	ok(t, err)
	asker.SetAddrs(s.Addrs)

	start := time.Now()
	ok(t, s.Mgmt.Cut(n.Name))
	ok(t, s.LAN.Split(n.Name, "client"))
	ok(t, lab.Poll(ctx, 15*time.Second, movedFrom(s, n, owned)))
	ok(t, lab.Poll(ctx, 5*time.Second, func(context.Context) error {
		held := lab.Tenures(lab.Claims(start, time.Time{}, owned, s.AtRouter))
		for _, a := range owned {
			if list := held[a]; len(list) == 0 || list[len(list)-1].MAC == n.Host.MAC(cluster.LAN) {
				return fmt.Errorf("nobody took over %s on the members' half", a)
			}
		}
		return nil
	}))
	ok(t, lab.Wait(ctx, 2*time.Second))

	for _, a := range owned {
		here := lab.Claims(start, time.Time{}, []netip.Addr{a}, s.AtClient)
		there := lab.Claims(start, time.Time{}, []netip.Addr{a}, s.AtRouter)
		last, first := start, time.Time{}
		for _, c := range here {
			if c.MAC == n.Host.MAC(cluster.LAN) {
				last = c.At
			}
		}
		for _, c := range there {
			if c.MAC != n.Host.MAC(cluster.LAN) && c.At.After(start) && first.IsZero() {
				first = c.At
			}
		}
		t.Logf("%s: silent %v after the cut, taken over %v after it", a, last.Sub(start).Round(time.Millisecond), first.Sub(start).Round(time.Millisecond))
		if !last.Before(first) {
			t.Errorf("%s: %s answered on its half %v after its successor had begun on the other", a, n.Name, last.Sub(first))
		}
		if last.Sub(start) < 500*time.Millisecond {
			t.Errorf("%s: %s fell silent at once: the test shows nothing", a, n.Name)
		}
	}

	healed := time.Now()
	ok(t, errors.Join(s.LAN.Heal(), s.Mgmt.Heal()))
	ok(t, s.WaitNodes(ctx, 15*time.Second))
	ok(t, s.WaitAnswered(ctx, 10*time.Second, []string{n.Name}))
	if claims := by(s, n, owned, healed); len(claims) > 0 {
		t.Errorf("%s claimed what it had lost %d times after the segment was whole again, first %v", n.Name, len(claims), claims[0])
	}
}

// inHand is how many frames a speaker that was stopped may still send: two sockets are
// answered on, and announcements are sent besides; each may just have compared the deadline.
const inHand = 3

// TestPausedSpeaker stops an owner's speaker for 10 s. Its queue is then full of
// questions that it must no longer answer: it sends at most the frames that it had
// in hand.
func TestPausedSpeaker(t *testing.T) {
	for name, config := range map[string]string{"Hold": scenario.Config, "Release": releasing} {
		t.Run(name, func(t *testing.T) {
			s := open(t, scenario.Options{Config: config, VIPs: scenario.ConfigVIPs})
			ctx := t.Context()
			n, owned := ownerWithoutMember(t, s)
			paused := time.Now()
			ok(t, n.Speaker().Pause())
			ok(t, lab.Poll(ctx, 10*time.Second, movedFrom(s, n, owned)))
			ok(t, s.WaitAnswered(ctx, 5*time.Second, []string{n.Name}))
			ok(t, lab.Wait(ctx, time.Until(paused.Add(10*time.Second))))
			resumed := time.Now()
			ok(t, n.Speaker().Resume())
			ok(t, s.WaitNodes(ctx, 15*time.Second))
			ok(t, lab.Wait(ctx, time.Second))
			if claims := by(s, n, owned, resumed); len(claims) > inHand {
				t.Errorf("%d frames after the pause, the last %v after it", len(claims), claims[len(claims)-1].At.Sub(resumed))
			}
			for _, x := range s.Overlong(lab.Overlaps(lab.Claims(paused, resumed, s.Addrs, s.AtClient, s.AtRouter)), 0) {
				t.Error(x)
			}
			noise := s.Control.Window(paused, resumed).Lost
			for _, addr := range s.Addrs {
				if r := s.UDP[addr].Window(paused, resumed); r.Lost > noise {
					t.Errorf("%s lost %d of %d datagrams: its node forwards, whatever the speaker does", addr, r.Lost, r.Sent)
				}
			}
		})
	}
}

// TestTwoSpeakersOfOneNode starts a second speaker beside the first. The first
// one ends; when it is paused meanwhile and knows nothing of a move, it sends at
// most the frames that it had in hand.
func TestTwoSpeakersOfOneNode(t *testing.T) {
	s := open(t, scenario.Options{})
	n, _ := ownerWithoutMember(t, s)

	play(t, s, scenario.Event{
		Name: "a second speaker starts beside the first",
		Play: func(ctx context.Context, s *scenario.Stage, _ *scenario.Limits) error {
			first := n.Speaker()
			if err := n.StartSecondSpeaker(2); err != nil {
				return err
			}
			if err := ended(ctx, first); err != nil {
				return err
			}
			return errors.Join(s.WaitNodes(ctx, 15*time.Second), s.WaitAnswered(ctx, 10*time.Second, nil))
		},
	})

	ctx := t.Context()
	owned, err := s.OwnedBy(ctx, n)
	ok(t, err)
	second := n.Speaker()
	ok(t, second.Pause())
	ok(t, n.StartSecondSpeaker(3))
	ok(t, s.WaitNodes(ctx, 15*time.Second))
	ok(t, s.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
		_, err := a.Drain(ctx, &adminv1.DrainRequest{Node: n.Name})
		return err
	}))
	ok(t, lab.Poll(ctx, 15*time.Second, movedFrom(s, n, owned)))
	ok(t, s.WaitAnswered(ctx, 10*time.Second, []string{n.Name}))
	resumed := time.Now()
	ok(t, second.Resume())
	ok(t, ended(ctx, second))
	ok(t, lab.Wait(ctx, time.Second))
	if claims := by(s, n, owned, resumed); len(claims) > inHand {
		t.Errorf("the old process sent %d frames, the last %v after it resumed", len(claims), claims[len(claims)-1].At.Sub(resumed))
	}
}

// ended waits for a process's own end.
func ended(ctx context.Context, p *lab.Process) error {
	return lab.Poll(ctx, 15*time.Second, func(context.Context) error {
		if p.Running() {
			return fmt.Errorf("%s, pid %d, still runs", p.Name, p.PID())
		}
		return nil
	})
}

// TestDrainWhileTheWatchHangs drains an owner while a follower is cut off from the
// other members, but not from the owner: what the owner watches there stands still.
func TestDrainWhileTheWatchHangs(t *testing.T) {
	s := open(t, scenario.Options{})
	leader, err := s.Leader(t.Context())
	ok(t, err)
	for _, follower := range s.Members() {
		if follower == leader {
			continue
		}
		play(t, s, scenario.Event{
			Name: "drain while " + follower.MemberName + " is cut off from the members",
			Play: func(ctx context.Context, s *scenario.Stage, limits *scenario.Limits) error {
				return drainBeside(ctx, s, leader, follower, limits)
			},
		})
	}
}

func drainBeside(ctx context.Context, s *scenario.Stage, leader, follower *cluster.Node, limits *scenario.Limits) error {
	n, err := s.OwnerOf(ctx, func(n *cluster.Node) bool { return !n.IsMember() })
	if err != nil {
		return err
	}
	if limits.Moves, err = s.OwnedBy(ctx, n); err != nil {
		return err
	}
	var others []string
	for _, m := range s.Members() {
		if m != follower {
			others = append(others, m.Name)
		}
	}
	undo, err := both(s, []string{follower.Name}, others)
	if err != nil {
		return err
	}
	client, err := s.AdminAt(leader)
	if err != nil {
		return err
	}
	if _, err := client.Drain(ctx, &adminv1.DrainRequest{Node: n.Name}); err != nil {
		return errors.Join(err, undo())
	}
	err = lab.Poll(ctx, 10*time.Second, func(ctx context.Context) error {
		resp, err := client.Get(ctx, &adminv1.GetRequest{Kinds: []string{"vips"}})
		if err != nil {
			return err
		}
		for _, v := range resp.GetVips() {
			if v.GetOwner() == n.Name || v.GetOwner() == "" {
				return fmt.Errorf("%s is owned by %q", v.GetAddress(), v.GetOwner())
			}
		}
		return nil
	})
	if err := errors.Join(err, undo()); err != nil {
		return err
	}
	if err := errors.Join(s.WaitMembers(ctx, 15*time.Second), s.WaitAnswered(ctx, 10*time.Second, []string{n.Name})); err != nil {
		return err
	}
	_, err = client.Undrain(ctx, &adminv1.UndrainRequest{Node: n.Name})
	return err
}

// both drops everything between two groups of hosts on the management network.
func both(s *scenario.Stage, left, right []string) (undo func() error, err error) {
	var faults []*lab.Fault
	undo = func() error {
		var errs []error
		for _, f := range faults {
			errs = append(errs, f.Clear())
		}
		return errors.Join(errs...)
	}
	for _, l := range left {
		for _, r := range right {
			for _, pair := range [][2]string{{l, r}, {r, l}} {
				f, err := s.Mgmt.Drop(pair[0], pair[1], 1000)
				if err != nil {
					return undo, err
				}
				faults = append(faults, f)
			}
		}
	}
	return undo, nil
}
