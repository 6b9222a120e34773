package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/scenario"
)

// deafClient is a client whose kernel ignores gratuitous ARP frames and unsolicited
// neighbour advertisements, and asks again every second or so whether its neighbours
// are where it knows them.
type deafClient struct {
	*lab.Host
	port *lab.Capture
	udp  map[netip.Addr]*lab.UDPProbe
	tcp  map[netip.Addr]*lab.TCPProbe
	live map[netip.Addr]*lab.Live
}

func newDeafClient(t *testing.T, s *scenario.Stage, name string, number int) *deafClient {
	t.Helper()
	h, err := s.NewHost(name)
	ok(t, err)
	ok(t, h.Plug(s.LAN, cluster.LAN, fmt.Sprintf("192.0.2.%d/24", number), fmt.Sprintf("2001:db8:1::%d/64", number)))
	ok(t, h.IgnoreClaims(cluster.LAN))
	for _, family := range []string{"ipv4", "ipv6"} {
		ok(t, h.Sysctl(family+"/neigh/"+cluster.LAN+"/base_reachable_time_ms", "1000"))
		ok(t, h.Sysctl(family+"/neigh/"+cluster.LAN+"/delay_first_probe_time", "1"))
	}
	c := &deafClient{Host: h, udp: map[netip.Addr]*lab.UDPProbe{}, tcp: map[netip.Addr]*lab.TCPProbe{}, live: map[netip.Addr]*lab.Live{}}
	c.port, err = s.LAN.Capture(name)
	ok(t, err)
	return c
}

// knows is a check that the client has each address at the node that wants tells.
func (c *deafClient) knows(s *scenario.Stage, wants map[netip.Addr]*cluster.Node) func(context.Context) error {
	return func(context.Context) error {
		for a, n := range wants {
			if got, _ := c.Neighbour(a); got != n.Host.MAC(cluster.LAN) {
				return fmt.Errorf("%s has %s at %s, want %s", c.Name(), a, s.NameOf(got), n.Name)
			}
		}
		return nil
	}
}

// connected is a check that the live connections are in use still, and lead to the node.
func (c *deafClient) connected(t *testing.T, n *cluster.Node, when string) {
	t.Helper()
	for a, l := range c.live {
		if b := l.Broken(); len(b) > 0 || l.Nodes[n.Name] != 1 {
			t.Errorf("%s: the connection of %s to %s, which leads to %v, broke: %v", when, c.Name(), a, l.Nodes, b)
		}
	}
}

// TestSoftDrainOfDeafClients drains a node that clients know which no gratuitous frame
// leads away, and makes the grace time end. The claim's questions, which are sent to
// them alone, lead them to the new owner. Who ignores these as well finds it when the
// old owner is silent, and until then what it sends arrives there: nobody is ever dark.
func TestSoftDrainOfDeafClients(t *testing.T) {
	s := open(t, scenario.Options{})
	ctx := t.Context()
	n, v4, v6 := bothFamilies(t, s)
	old := map[netip.Addr]*cluster.Node{v4: n, v6: n}
	// Deaf ignores what is said to all, quiet and busy ignore questions from the address,
	// too. Only the datagrams of quiet never tell its kernel that the node is there.
	deaf, quiet, busy := newDeafClient(t, s, "deaf", 13), newDeafClient(t, s, "quiet", 14), newDeafClient(t, s, "busy", 15)
	for a := range old {
		var errs [6]error
		errs[0], errs[1] = quiet.IgnoreQuestionsOf(a), busy.IgnoreQuestionsOf(a)
		deaf.udp[a], errs[2] = deaf.ProbeUDP(a, 20*time.Millisecond)
		deaf.tcp[a], errs[3] = deaf.ProbeTCP(a, 50*time.Millisecond)
		quiet.udp[a], errs[4] = quiet.ProbeUDP(a, 20*time.Millisecond)
		ok(t, errors.Join(errs[:]...))
		for _, c := range []*deafClient{deaf, busy} {
			var err error
			c.live[a], err = c.Live(ctx, a, 1, 200*time.Millisecond)
			ok(t, err)
		}
	}

	// Who asks for the first time in the grace time goes to the new owner at once.
	for _, c := range []*deafClient{deaf, quiet, busy} {
		ok(t, lab.Poll(ctx, 10*time.Second, c.knows(s, old)))
	}

	start := time.Now()
	_, err := s.Ctl(ctx, "drain", n.Name, "--grace", "5m")
	ok(t, err)
	ok(t, lab.Poll(ctx, 10*time.Second, movedFrom(s, n, []netip.Addr{v4, v6})))
	moved := time.Now()
	owners, err := s.Owners(ctx)
	ok(t, err)
	next := map[netip.Addr]*cluster.Node{v4: s.Node(owners[v4.String()]), v6: s.Node(owners[v6.String()])}
	ok(t, lab.Poll(ctx, 20*time.Second, func(context.Context) error { return quiet.revalidated(n, moved, v4, v6) }))
	for _, c := range []*deafClient{deaf, quiet, busy} {
		ok(t, c.knows(s, old)(ctx))
		c.connected(t, n, "in the grace time")
	}

	over := time.Now()
	_, err = s.Ctl(ctx, "drain", n.Name)
	ok(t, err)
	ok(t, lab.Poll(ctx, 15*time.Second, deaf.knows(s, next)))
	told := time.Since(over)
	ok(t, lab.Poll(ctx, 30*time.Second, quiet.knows(s, next)))
	t.Logf("at their new owners: %s after %v, %s after %v", deaf.Name(), told, quiet.Name(), time.Since(over))
	// Its connections tell the kernel of the third that the node is there.
	ok(t, busy.knows(s, old)(ctx))
	busy.connected(t, n, "after the grace time")

	end := time.Now()
	for a := range old {
		for _, c := range []*deafClient{deaf, quiet} {
			ok(t, lab.Poll(ctx, 10*time.Second, func(context.Context) error { return unanswered(c.udp[a].Samples(start, end)) }))
			r := c.udp[a].Window(start, end)
			t.Logf("%s of %s: %d datagrams, longest gap %v, answered by %v", a, c.Name(), r.Sent, r.LongestGap.Round(time.Millisecond), r.Nodes)
		}
		ok(t, lab.Wait(ctx, time.Until(end.Add(lab.Patience))))
		for _, x := range deaf.tcp[a].Samples(start, end) {
			// Those that are being made when the claims come may be cut off.
			cut := x.Reset || strings.Contains(x.Err, unix.ECONNRESET.Error())
			failed := cut && x.Sent.Before(over.Add(-lab.Patience/2)) || !cut && x.Answered.IsZero()
			if pause := s.Control.Window(x.Sent, x.Sent.Add(lab.Patience)).LongestGap; failed && pause < lab.Patience/4 {
				t.Errorf("%s: a new connection failed %v before the end of the grace time: %s", a, over.Sub(x.Sent), x.Err)
			}
		}
	}
}

// revalidated says whether the client has asked the node alone for each of the
// addresses since a moment, of itself, and had its answer.
func (c *deafClient) revalidated(n *cluster.Node, since time.Time, addrs ...netip.Addr) error {
	asked, answered := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, f := range c.port.Frames(since, time.Time{}) {
		switch a, mac, claims := f.Claim(); {
		case f.Dst == n.Host.MAC(cluster.LAN) && (f.Kind == lab.ARPRequest || f.Kind == lab.Solicitation):
			asked[f.Target] = true
		case claims && mac == n.Host.MAC(cluster.LAN) && f.Dst == c.MAC(cluster.LAN) && asked[a]:
			answered[a] = true
		}
	}
	for _, a := range addrs {
		if !answered[a] {
			return fmt.Errorf("%s has not asked %s alone for %s and had its answer", c.Name(), n.Name, a)
		}
	}
	return nil
}

// unanswered is an error when one of the datagrams has no answer, however late.
func unanswered(samples []lab.Sample) error {
	none := 0
	for _, x := range samples {
		if x.Answered.IsZero() {
			none++
		}
	}
	if none > 0 {
		return fmt.Errorf("%d of %d datagrams have no answer", none, len(samples))
	}
	return nil
}
