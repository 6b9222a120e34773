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
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/scenario"
)

// newest is the revision of the group's state.
func newest(t *testing.T, s *scenario.Stage) uint64 {
	t.Helper()
	got, err := s.Get(t.Context(), false, "vips")
	ok(t, err)
	return got.GetRevision()
}

// assigned lists to whom an address was given after a revision, and why: "n2 MOVE".
func assigned(ctx context.Context, s *scenario.Stage, addr netip.Addr, after uint64) (list []string, err error) {
	facts, err := s.Facts(ctx, after+1)
	for _, f := range facts {
		a := f.GetEvent().GetOwnerAssigned()
		if ip, _ := netip.AddrFromSlice(a.GetAddress()); a != nil && ip == addr {
			list = append(list, a.GetNode()+" "+strings.TrimPrefix(a.GetReason().String(), "OWNER_REASON_"))
		}
	}
	return list, err
}

// onHost runs a command on a host.
func onHost(t *testing.T, h *lab.Host, command string) {
	t.Helper()
	if out, err := h.Run(t.Context(), strings.Fields(command)...); err != nil {
		t.Fatalf("%s: %s: %v\n%s", h.Name(), command, err, out)
	}
}

// goes waits until an address has left a node, once, for one of the reasons, and is
// answered where it went.
func goes(t *testing.T, s *scenario.Stage, addr netip.Addr, from *cluster.Node, after uint64, reasons ...string) *cluster.Node {
	t.Helper()
	var to *cluster.Node
	ok(t, lab.Poll(t.Context(), 20*time.Second, func(ctx context.Context) error {
		list, err := assigned(ctx, s, addr, after)
		if err == nil && len(list) == 0 {
			err = fmt.Errorf("%s has not left %s", addr, from.Name)
		}
		if err != nil {
			return err
		}
		node, why, _ := strings.Cut(list[0], " ")
		to = s.Node(node)
		if to == from || !slices.Contains(reasons, why) {
			return fmt.Errorf("%s went from %s to %v, want reasons %v", addr, from.Name, list, reasons)
		}
		return nil
	}))
	if slices.Contains(s.Addrs, addr) {
		ok(t, s.WaitAnswered(t.Context(), 20*time.Second, nil))
	}
	stays(t, s, addr, after, 1)
	return to
}

// stays checks that an address was given away so often after a revision, and no more.
func stays(t *testing.T, s *scenario.Stage, addr netip.Addr, after uint64, times int) {
	t.Helper()
	list, err := assigned(t.Context(), s, addr, after)
	ok(t, err)
	if len(list) != times {
		t.Errorf("%s was given away %d times, want %d: %v", addr, len(list), times, list)
	}
}

// TestHandOver has an owner unable to announce, in the ways that its speaker sees
// itself, and gives and takes the subnet of an address. Each time the address goes to
// another node once, and stays there when the trouble is over.
func TestHandOver(t *testing.T) {
	s := open(t, scenario.Options{})
	ctx := t.Context()
	of := func(is6 bool) netip.Addr {
		return s.Addrs[slices.IndexFunc(s.Addrs, func(a netip.Addr) bool { return a.Is6() == is6 })]
	}
	rename := func(from, to string) []string {
		return []string{"ip link set " + from + " down", "ip link set " + from + " name " + to, "ip link set " + to + " up"}
	}
	for _, c := range []struct {
		name          string
		addr          netip.Addr
		trouble, cure []string
		reasons       []string
	}{
		// The kernel takes IPv6 addresses from lo, and lets the speaker add none.
		{"it cannot be delivered", of(true), []string{"sysctl -q -w net.ipv6.conf.lo.disable_ipv6=1"},
			[]string{"sysctl -q -w net.ipv6.conf.lo.disable_ipv6=0"}, []string{"ANNOUNCE_FAILED"}},
		// That the link is down, that nothing can be announced and that the subnet is gone is said at once; any may be decided first.
		{"the link is set down", of(false), []string{"ip link set eth0 down"}, []string{"ip link set eth0 up"}, []string{"LINK_DOWN", "ANNOUNCE_FAILED"}},
		{"the interface is gone", of(false), rename("eth0", "other0"), rename("other0", "eth0"), []string{"LINK_DOWN", "ANNOUNCE_FAILED", "OFF_SUBNET"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, err := vipStatus(ctx, s, c.addr)
			ok(t, err)
			n, after, start := s.Node(v.GetOwner()), newest(t, s), time.Now()
			for _, command := range c.trouble {
				onHost(t, n.Host, command)
			}
			to := goes(t, s, c.addr, n, after, c.reasons...)
			t.Logf("%s went from %s to %s, answered %v after the trouble began", c.addr, n.Name, to.Name, time.Since(start).Round(time.Millisecond))
			for _, command := range c.cure {
				onHost(t, n.Host, command)
			}
			// A link that goes down loses its IPv6 addresses.
			onHost(t, n.Host, "ip addr replace "+n.Host.Addr(cluster.LAN, true).String()+"/64 dev eth0 nodad")
			ok(t, lab.Poll(ctx, 20*time.Second, func(ctx context.Context) error {
				for _, l := range linksOf(ctx, s, n.Name) {
					if l.GetName() == cluster.LAN && l.GetUp() {
						return nil
					}
				}
				return errors.New(n.Name + " has no link that is up")
			}))
			ok(t, s.WaitAnswered(ctx, 20*time.Second, nil))
			stays(t, s, c.addr, after, 1)
		})
	}
	t.Run("the subnet", func(t *testing.T) { subnet(t, s) })
}

// TestHandOverWithASecondLink has an owner lose the carrier of the link that has the address's
// subnet while another link to announce on stays up: the address leaves at once, again and
// again, although it has flapped by then and would make no voluntary move.
func TestHandOverWithASecondLink(t *testing.T) {
	s := open(t, scenario.Options{Cluster: cluster.Options{SpeakerArgs: []string{"--interfaces", "second*"}}})
	ctx := t.Context()
	for i, n := range s.Nodes {
		onHost(t, n.Host, "ip link add second0 type veth peer name other0")
		onHost(t, n.Host, fmt.Sprintf("ip addr add 198.51.100.%d/24 dev second0", i+1))
		onHost(t, n.Host, "ip link set other0 up")
		onHost(t, n.Host, "ip link set second0 up")
	}
	up := func(n *cluster.Node, names ...string) {
		t.Helper()
		ok(t, lab.Poll(ctx, 20*time.Second, func(ctx context.Context) error {
			var is []string
			for _, l := range linksOf(ctx, s, n.Name) {
				if l.GetUp() {
					is = append(is, l.GetName())
				}
			}
			if slices.Sort(is); !slices.Equal(is, names) {
				return fmt.Errorf("%s has the links %v up, want %v", n.Name, is, names)
			}
			return nil
		}))
	}
	for _, n := range s.Nodes {
		up(n, cluster.LAN, "second0")
	}
	addr := s.Addrs[slices.IndexFunc(s.Addrs, netip.Addr.Is4)]
	for range 4 {
		v, err := vipStatus(ctx, s, addr)
		ok(t, err)
		n, after, start := s.Node(v.GetOwner()), newest(t, s), time.Now()
		ok(t, s.LAN.PortDown(n.Name))
		to := goes(t, s, addr, n, after, "LINK_DOWN", "ANNOUNCE_FAILED")
		t.Logf("%s went from %s to %s, seen %v after its carrier was lost", addr, n.Name, to.Name, time.Since(start).Round(time.Millisecond))
		up(n, "second0")
		ok(t, s.LAN.PortUp(n.Name))
		up(n, cluster.LAN, "second0")
	}
}

// linksOf are the links of a node, as the leader knows them.
func linksOf(ctx context.Context, s *scenario.Stage, node string) []*logv1.Link {
	got, _ := s.Get(ctx, false, "nodes")
	i := slices.IndexFunc(got.GetNodes(), func(n *adminv1.NodeStatus) bool { return n.GetName() == node })
	if i < 0 {
		return nil
	}
	return got.GetNodes()[i].GetLinks()
}

// subnet has an address whose subnet is nowhere, and then on one node and another.
func subnet(t *testing.T, s *scenario.Stage) {
	ctx := t.Context()
	_, err := s.Apply(ctx, poolFor("beyond", "203.0.113.1-203.0.113.9")+serviceIn("beyond", "beyond", ""))
	ok(t, err)
	v := has(t, s, "beyond", func(*adminv1.VipStatus) error { return nil })
	addr, first := netip.MustParseAddr(v.GetAddress()), s.Node(v.GetOwner())
	others := slices.DeleteFunc(slices.Clone(s.Nodes), func(n *cluster.Node) bool { return n == first })
	x, y := others[0], others[1]
	after := newest(t, s)
	// put adds or deletes an address, and waits until the leader knows.
	put := func(n *cluster.Node, verb, prefix string) {
		t.Helper()
		onHost(t, n.Host, "ip addr "+verb+" "+prefix+" dev "+cluster.LAN)
		network := netip.MustParsePrefix(prefix).Masked()
		ok(t, lab.Poll(ctx, 20*time.Second, func(ctx context.Context) error {
			links := linksOf(ctx, s, n.Name)
			there := slices.ContainsFunc(links, func(l *logv1.Link) bool {
				return slices.ContainsFunc(l.GetPrefixes(), func(text string) bool {
					p, err := netip.ParsePrefix(text)
					return err == nil && p.Masked() == network
				})
			})
			if len(links) == 0 || there != (verb == "add") {
				return fmt.Errorf("%s: after %s %s the leader knows %v", n.Name, verb, prefix, links)
			}
			return nil
		}))
	}
	// A subnet that is not the address's is nothing to it: it is routed to the nodes.
	put(x, "add", "198.51.100.201/24")
	stays(t, s, addr, after, 0)

	put(x, "add", "203.0.113.201/24")
	if to := goes(t, s, addr, first, after, "OFF_SUBNET"); to != x {
		t.Errorf("it went to %s, the subnet is at %s", to.Name, x.Name)
	}
	after = newest(t, s)
	put(y, "add", "203.0.113.202/24")
	stays(t, s, addr, after, 0) // both have it
	put(x, "del", "203.0.113.201/24")
	if to := goes(t, s, addr, x, after, "OFF_SUBNET"); to != y {
		t.Errorf("it went to %s, the subnet is at %s", to.Name, y.Name)
	}
	put(y, "del", "203.0.113.202/24")
	put(x, "del", "198.51.100.201/24")
	stays(t, s, addr, after, 1) // nobody has it any more
	ok(t, s.WaitAnswered(ctx, 20*time.Second, nil))
}

// unprovenLong is longer than a new owner may take to see a neighbour reach an address.
const unprovenLong = 12 * time.Second

// TestUnprovenMove has nothing arrive at the nodes to which the addresses of a drained
// one go. They were proven before, so they move on, once, and then stay.
func TestUnprovenMove(t *testing.T) {
	s := open(t, scenario.Options{UDPEvery: 50 * time.Millisecond, TCPEvery: 200 * time.Millisecond})
	ctx := t.Context()
	n, owned := ownerWithoutMember(t, s)
	ok(t, lab.Poll(ctx, 20*time.Second, func(ctx context.Context) error {
		for _, a := range owned {
			v, err := vipStatus(ctx, s, a)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(v.GetAnnounced(), func(x *adminv1.NodeAnnouncement) bool {
				return x.GetNode() == n.Name && x.GetStatus().GetAnnounced() == speakerv1.Announced_ANNOUNCED_PROVEN
			}) {
				return fmt.Errorf("%s is not proven at %s: %v", a, n.Name, v.GetAnnounced())
			}
		}
		return nil
	}))
	var deaf []*lab.Fault
	for _, o := range s.Nodes {
		if o != n {
			f, err := s.LAN.Drop("", o.Name, 1000)
			ok(t, err)
			deaf = append(deaf, f)
		}
	}
	after := newest(t, s)
	_, err := s.Ctl(ctx, "drain", n.Name)
	ok(t, err)
	ok(t, lab.Poll(ctx, 40*time.Second, func(ctx context.Context) error {
		for _, a := range owned {
			list, err := assigned(ctx, s, a, after)
			if err != nil {
				return err
			}
			if len(list) != 2 || !strings.HasSuffix(list[0], " DRAIN") || !strings.HasSuffix(list[1], " UNPROVEN") {
				return fmt.Errorf("%s went from %s to %v", a, n.Name, list)
			}
		}
		return nil
	}))
	ok(t, lab.Wait(ctx, unprovenLong))
	for _, a := range owned {
		stays(t, s, a, after, 2)
	}
	for _, f := range deaf {
		ok(t, f.Clear())
	}
	ok(t, s.WaitAnswered(ctx, 20*time.Second, []string{n.Name}))
	for _, a := range owned {
		stays(t, s, a, after, 2)
	}
}
