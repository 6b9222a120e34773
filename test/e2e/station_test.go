package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/scenario"
)

// TestForeignStation puts a station on the segment that claims an address. The
// owner defends it, the operator sees it, and it is over when the station goes.
func TestForeignStation(t *testing.T) {
	s := open(t, scenario.Options{})
	ctx := t.Context()
	i := slices.IndexFunc(s.Addrs, netip.Addr.Is4)
	vip := s.Addrs[i]
	if out, err := s.Ctl(ctx, "probe", vip.String()); err != nil {
		t.Errorf("probe: %v", err)
	} else {
		t.Logf("probe:\n%s", out)
	}

	rogue, err := s.NewHost("rogue")
	ok(t, err)
	start := time.Now()
	ok(t, rogue.Plug(s.LAN, cluster.LAN, vip.String()+"/24"))
	ok(t, lab.Poll(ctx, 5*time.Second, func(context.Context) error { // a link that has just come up drops frames
		if err := rogue.Announce(cluster.LAN, vip); err != nil {
			return err
		}
		for _, f := range s.AtRouter.Frames(start, time.Time{}) {
			if f.Src == rogue.MAC(cluster.LAN) && f.Sender == vip && f.Target == vip {
				return nil
			}
		}
		return errors.New("no announcement on the wire")
	}))
	ok(t, lab.Poll(ctx, 10*time.Second, func(ctx context.Context) error {
		v, err := vipStatus(ctx, s, vip)
		if err != nil {
			return err
		}
		mac := rogue.MAC(cluster.LAN)
		if string(v.GetConflictMac()) != string(mac[:]) {
			return fmt.Errorf("conflict with %x, want %s", v.GetConflictMac(), mac)
		}
		return nil
	}))
	out, err := s.Ctl(ctx, "probe", vip.String())
	if err == nil {
		t.Errorf("probe says that one station answers:\n%s", out)
	}
	if !strings.Contains(out, rogue.MAC(cluster.LAN).String()) {
		t.Errorf("probe does not name the foreign station:\n%s", out)
	}
	owners, err := s.Owners(ctx)
	ok(t, err)
	owner := s.Node(owners[vip.String()])
	announcements := 0
	for _, f := range s.AtRouter.Frames(start, time.Time{}) {
		if addr, mac, ok := f.Claim(); ok && addr == vip && f.Target == vip && mac == owner.Host.MAC(cluster.LAN) && f.Kind == lab.ARPRequest {
			announcements++
		}
	}
	if announcements == 0 {
		t.Error("the owner did not defend its address")
	}

	_, err = rogue.PowerOff()
	ok(t, err)
	ok(t, lab.Poll(ctx, 90*time.Second, func(ctx context.Context) error {
		v, err := vipStatus(ctx, s, vip)
		if err == nil && len(v.GetConflictMac()) > 0 {
			err = errors.New("the conflict is still there")
		}
		return err
	}))
}

func vipStatus(ctx context.Context, s *scenario.Stage, addr netip.Addr) (*adminv1.VipStatus, error) {
	vips, err := s.VIPs(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(vips, func(v *adminv1.VipStatus) bool { return v.GetAddress() == addr.String() })
	if i < 0 {
		return nil, fmt.Errorf("no %s", addr)
	}
	return vips[i], nil
}

// TestLinkDown takes an owner's link to the segment down: nobody need wait for
// the detection time, the owner itself says so.
func TestLinkDown(t *testing.T) {
	s := open(t, scenario.Options{})
	n, owned := ownerWithoutMember(t, s)
	// For F after a session's start an older process of the node may still run.
	ok(t, lab.Wait(t.Context(), 2*time.Second))
	out := play(t, s, scenario.Event{
		Name: "the owner's link goes down",
		Play: func(ctx context.Context, s *scenario.Stage, limits *scenario.Limits) error {
			limits.Dark, limits.Moves, limits.DarkFor = owned, owned, 700*time.Millisecond
			if err := s.LAN.PortDown(n.Name); err != nil {
				return err
			}
			return s.WaitAnswered(ctx, 10*time.Second, []string{n.Name})
		},
	})
	t.Logf("dark for %v", out.Gap)
	play(t, s, scenario.Event{
		Name: "and comes back",
		Play: func(ctx context.Context, s *scenario.Stage, _ *scenario.Limits) error {
			return errors.Join(s.LAN.PortUp(n.Name), s.WaitNodes(ctx, 10*time.Second))
		},
	})
}

// TestSpeakerRestartedWithoutMembers: a speaker that starts while nobody can
// confirm it answers for nothing, and answers again when the members are back.
func TestSpeakerRestartedWithoutMembers(t *testing.T) {
	s := open(t, scenario.Options{})
	ctx := t.Context()
	n, owned := ownerWithoutMember(t, s)
	ok(t, scenario.KillMembers(s.Members()...))
	ok(t, n.Speaker().Kill())
	started := time.Now()
	ok(t, n.StartSpeaker())
	ok(t, lab.Wait(ctx, 3*time.Second))
	if claims := by(s, n, owned, started); len(claims) > 0 {
		t.Errorf("a speaker that knows of no session claimed %s", claims[0].Addr)
	}
	for _, m := range s.Members() {
		ok(t, m.StartMember())
	}
	ok(t, s.WaitMembers(ctx, 20*time.Second))
	ok(t, s.WaitNodes(ctx, 20*time.Second))
	ok(t, s.WaitAnswered(ctx, 20*time.Second, nil))
	owners, err := s.Owners(ctx)
	ok(t, err)
	for _, a := range owned {
		if owners[a.String()] != n.Name {
			t.Errorf("%s moved from %s to %s", a, n.Name, owners[a.String()])
		}
	}
}

// TestLossyNetworks drops every tenth frame of both networks: slower perhaps,
// but nobody is taken for dead and every address is answered.
func TestLossyNetworks(t *testing.T) {
	s := open(t, scenario.Options{UDPEvery: 50 * time.Millisecond, TCPEvery: 200 * time.Millisecond})
	ctx := t.Context()
	var faults []*lab.Fault
	for _, sw := range []*lab.Switch{s.LAN, s.Mgmt} {
		f, err := sw.Drop("", "", 100)
		ok(t, err)
		faults = append(faults, f)
	}
	start := time.Now()
	ok(t, lab.Wait(ctx, 10*time.Second))
	end := time.Now()
	for _, f := range faults {
		ok(t, f.Clear())
	}
	ok(t, s.WaitMembers(ctx, 20*time.Second))
	ok(t, s.WaitNodes(ctx, 20*time.Second))
	ok(t, s.WaitAnswered(ctx, 20*time.Second, nil))
	for _, x := range s.Overlong(lab.Overlaps(lab.Claims(start, end, s.Addrs, s.AtClient, s.AtRouter)), 0) {
		t.Error(x)
	}
	noExpiry(t, s)
}
