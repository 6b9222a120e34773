package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/scenario"
)

// TestSoftDrain drains a node that 100 live connections lead to. They go on, also
// when the client's kernel asks whether the node is still there; new clients go to
// the new owner; nothing is claimed unasked until the grace time is over. Then
// everybody is with the new owner, and no datagram was lost.
func TestSoftDrain(t *testing.T) {
	for _, c := range []struct {
		name, config string
	}{{"Hold", scenario.Config}, {"Release", releasing}} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, scenario.Options{Config: c.config, VIPs: scenario.ConfigVIPs})
			for _, v4 := range []bool{true, false} {
				grace, look := 6*time.Second, 3*time.Second
				if v4 && c.name == "Hold" {
					// Longer than an owner may stay unproven after a move of another kind.
					grace, look = 15*time.Second, 12*time.Second
				}
				softDrain(t, s, s.Addrs[slices.IndexFunc(s.Addrs, func(a netip.Addr) bool { return a.Is4() == v4 })], grace, look)
			}
		})
	}
}

// softDrain looks how things are when so much time has passed since the move.
func softDrain(t *testing.T, s *scenario.Stage, addr netip.Addr, grace, look time.Duration) {
	ctx := t.Context()
	owners, err := s.Owners(ctx)
	ok(t, err)
	n := s.Node(owners[addr.String()])
	owned, err := s.OwnedBy(ctx, n)
	ok(t, err)
	late, err := s.NewHost(map[bool]string{true: "late4", false: "late6"}[addr.Is4()])
	ok(t, err)
	ok(t, late.Plug(s.LAN, cluster.LAN, "192.0.2.13/24", "2001:db8:1::13/64"))
	live, err := s.Client.Live(ctx, addr, 100, 200*time.Millisecond)
	ok(t, err)
	if live.Nodes[n.Name] != 100 {
		t.Fatalf("connections lead to %v", live.Nodes)
	}

	start := time.Now()
	out, err := s.Ctl(ctx, "drain", n.Name, "--grace", grace.String())
	ok(t, err)
	t.Logf("%s, which %s owns: %s", addr, n.Name, out)
	ok(t, lab.Poll(ctx, 10*time.Second, movedFrom(s, n, owned)))
	owners, err = s.Owners(ctx)
	ok(t, err)
	next := s.Node(owners[addr.String()])
	moved := time.Now()
	ok(t, lab.Poll(ctx, 5*time.Second, func(ctx context.Context) error {
		who, err := late.Greet(ctx, addr)
		if err == nil && who != next.Name {
			err = fmt.Errorf("a new client gets to %s, want %s", who, next.Name)
		}
		return err
	}))
	// The client's kernel asks the node alone, as it does when its entry is old.
	asked := time.Now()
	mac := n.Host.MAC(cluster.LAN)
	_, err = s.Client.Run(ctx, "ip", "neigh", "replace", addr.String(), "dev", cluster.LAN, "lladdr", mac.String(), "nud", "probe")
	ok(t, err)
	ok(t, lab.Poll(ctx, 3*time.Second, func(context.Context) error {
		for _, f := range s.AtClient.Frames(asked, time.Time{}) {
			if a, from, claims := f.Claim(); claims && a == addr && from == mac && f.Dst == s.Client.MAC(cluster.LAN) && (f.Kind == lab.ARPReply || f.Kind == lab.Advertisement) {
				return nil
			}
		}
		return fmt.Errorf("%s does not answer who asks it alone", n.Name)
	}))
	ok(t, lab.Wait(ctx, time.Until(moved.Add(look))))
	v, err := vipStatus(ctx, s, addr)
	ok(t, err)
	left := time.Until(time.Unix(0, v.GetSoftUntilUnixNano()))
	if v.GetPredecessor() != n.Name || left <= 0 {
		t.Fatalf("it is over too soon to show anything: predecessor %q, %v left", v.GetPredecessor(), left)
	}
	halfway := time.Now()
	if b := live.Broken(); len(b) > 0 {
		t.Errorf("%d of 100 live connections broke: %v", len(b), b[0])
	}
	if got, _ := s.Client.Neighbour(addr); got != mac {
		t.Errorf("the client has it at %v, want %v", got, mac)
	}
	for _, f := range s.AtRouter.Frames(moved, halfway) {
		if a, from, claims := f.Claim(); claims && a == addr && (f.Kind == lab.ARPRequest || f.Kind == lab.ARPReply && f.Target == addr || f.Kind == lab.Advertisement && !f.Solicited) {
			t.Fatalf("%s claims it unasked: %v", s.NameOf(from), f)
		}
	}
	// Nobody but the new owner answers who asks everybody.
	for _, c := range lab.Claims(moved.Add(100*time.Millisecond), halfway, []netip.Addr{addr}, s.AtRouter) {
		if c.MAC != next.Host.MAC(cluster.LAN) {
			t.Fatalf("%s answers the router's question to all", s.NameOf(c.MAC))
		}
	}
	live.Close()

	ok(t, lab.Poll(ctx, left+5*time.Second, func(ctx context.Context) error {
		v, err := vipStatus(ctx, s, addr)
		if err == nil && v.GetPredecessor() != "" {
			err = fmt.Errorf("%s still answers old clients", v.GetPredecessor())
		}
		return err
	}))
	ok(t, s.WaitAnswered(ctx, 5*time.Second, []string{n.Name}))
	if got, _ := s.Client.Neighbour(addr); got != next.Host.MAC(cluster.LAN) {
		t.Errorf("the client has it at %v afterwards, want %v", got, next.Host.MAC(cluster.LAN))
	}
	end := time.Now()
	ok(t, lab.Wait(ctx, lab.Patience))
	for _, a := range owned {
		r := s.UDP[a].Window(start, end)
		t.Logf("%s: %d datagrams, %d lost, longest gap %v, answered by %v", a, r.Sent, r.Lost, r.LongestGap.Round(time.Millisecond), r.Nodes)
		if r.Lost > 0 {
			t.Errorf("%s: %d of %d datagrams lost", a, r.Lost, r.Sent)
		}
		// Those that are being made when the claims come may be cut off.
		if r := s.TCP[a].Window(start, halfway); r.Lost+r.Resets > 0 {
			t.Errorf("%s: of %d new connections %d failed and %d were reset", a, r.Sent, r.Lost, r.Resets)
		}
	}
	out, err = s.Ctl(ctx, "undrain", n.Name)
	ok(t, err)
	_, err = late.PowerOff()
	ok(t, errors.Join(err, s.WaitAnswered(ctx, 5*time.Second, nil)))
	t.Log(out)
}

// TestSoftDrainOverADeath kills the new owner in the grace time: the address goes
// on to another, with the claims that bring everybody there.
func TestSoftDrainOverADeath(t *testing.T) {
	s := open(t, scenario.Options{})
	ctx := t.Context()
	n, owned := ownerWithoutMember(t, s)
	addr := owned[0]
	_, err := s.Ctl(ctx, "drain", n.Name, "--grace", "2m")
	ok(t, err)
	ok(t, lab.Poll(ctx, 10*time.Second, movedFrom(s, n, owned)))
	owners, err := s.Owners(ctx)
	ok(t, err)
	next := s.Node(owners[addr.String()])
	if next.IsMember() { // its member dies with it; one of three may
		t.Logf("%s has a member", next.Name)
	}
	_, err = next.Host.PowerOff()
	ok(t, err)
	ok(t, lab.Poll(ctx, 15*time.Second, func(ctx context.Context) error {
		v, err := vipStatus(ctx, s, addr)
		switch {
		case err != nil:
			return err
		case v.GetOwner() == next.Name || v.GetOwner() == "" || v.GetPredecessor() != "":
			return fmt.Errorf("owner %q, predecessor %q", v.GetOwner(), v.GetPredecessor())
		}
		return nil
	}))
	ok(t, s.WaitAnswered(ctx, 10*time.Second, []string{n.Name, next.Name}))
}
