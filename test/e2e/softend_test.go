package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/scenario"
)

// bothFamilies is a node without a member that owns an address of each family.
func bothFamilies(t *testing.T, s *scenario.Stage) (n *cluster.Node, v4, v6 netip.Addr) {
	t.Helper()
	n, owned := ownerWithoutMember(t, s)
	of := func(is6 bool) netip.Addr {
		this := func(a netip.Addr) bool { return a.Is6() == is6 }
		if i := slices.IndexFunc(owned, this); i >= 0 {
			return owned[i]
		}
		a := s.Addrs[slices.IndexFunc(s.Addrs, this)]
		ok(t, s.MoveTo(t.Context(), a, n))
		return a
	}
	return n, of(false), of(true)
}

// TestSoftDrainEndsWithTheConnections drains a node whose kernel tracks connections.
// Each address moves for good when the last one to it is closed, long before the
// grace time is over; the other one, which still has one, does not.
func TestSoftDrainEndsWithTheConnections(t *testing.T) {
	s := open(t, scenario.Options{})
	ctx := t.Context()
	n, v4, v6 := bothFamilies(t, s)
	// A stream of datagrams is a connection, too.
	for _, a := range s.Addrs {
		s.UDP[a].Close()
		s.TCP[a].Close()
	}
	ok(t, n.Host.TrackConnections())
	live := map[netip.Addr]*lab.Live{}
	// One to the node itself shows that its kernel tracks IPv6: the members are heard by IPv4.
	for _, a := range []netip.Addr{v4, v6, n.Host.Addr(cluster.LAN, true)} {
		l, err := s.Client.Live(ctx, a, 1, 200*time.Millisecond)
		ok(t, err)
		if l.Nodes[n.Name] != 1 {
			t.Fatalf("the connection to %s leads to %v", a, l.Nodes)
		}
		live[a] = l
	}

	const grace = 5 * time.Minute
	start := time.Now()
	_, err := s.Ctl(ctx, "drain", n.Name, "--grace", grace.String())
	ok(t, err)
	ok(t, lab.Poll(ctx, 10*time.Second, movedFrom(s, n, []netip.Addr{v4, v6})))
	for _, a := range []netip.Addr{v4, v6} {
		ok(t, lab.Poll(ctx, 20*time.Second, says(s, "; 1 connection left", "describe", "vip", a.String())))
	}
	for _, a := range []netip.Addr{v4, v6} {
		if b := live[a].Broken(); len(b) > 0 {
			t.Errorf("the connection to %s broke: %v", a, b)
		}
		live[a].Close()
		closed := time.Now()
		ok(t, lab.Poll(ctx, 30*time.Second, func(ctx context.Context) error {
			v, err := vipStatus(ctx, s, a)
			if err == nil && v.GetPredecessor() != "" {
				err = fmt.Errorf("%s still answers old clients of %s", n.Name, a)
			}
			return err
		}))
		t.Logf("%s: over %v after its connection, %v after the drain", a, time.Since(closed).Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
		ok(t, says(s, "no connection is left", "history", "address", a.String())(ctx))
		if a == v4 { // which says nothing of the other address
			v, err := vipStatus(ctx, s, v6)
			ok(t, err)
			if v.GetPredecessor() != n.Name {
				t.Errorf("%s: predecessor %q, while a connection lives", v6, v.GetPredecessor())
			}
		}
		owners, err := s.Owners(ctx)
		ok(t, err)
		next := s.Node(owners[a.String()]).Host.MAC(cluster.LAN)
		ok(t, lab.Poll(ctx, 10*time.Second, func(context.Context) error {
			if got, _ := s.Client.Neighbour(a); got != next {
				return fmt.Errorf("the client has %s at %s, not at its new owner", a, s.NameOf(got))
			}
			return nil
		}))
	}
	if took := time.Since(start); took > grace/2 {
		t.Errorf("it took %v of a grace time of %v", took, grace)
	}
}

// says is a check that qlbctl's output has the words.
func says(s *scenario.Stage, words string, args ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		out, err := s.Ctl(ctx, args...)
		if err == nil && !strings.Contains(out, words) {
			err = fmt.Errorf("qlbctl %s does not say %q:\n%s", strings.Join(args, " "), words, out)
		}
		return err
	}
}
