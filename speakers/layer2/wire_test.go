package layer2

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"

	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/speakers/internal/nettest"
	"github.com/quorumlb/quorumlb/speakers/links"
	"github.com/quorumlb/quorumlb/speakers/system"
)

// node is a Layer2 with its link monitor in a network namespace of its own.
type node struct {
	*Layer2
	host *nettest.Host
	t    testing.TB
}

func startNode(t testing.TB, host *nettest.Host, cfg Config) *node {
	t.Helper()
	cfg.Clock, cfg.Log = clock.Boottime, slog.New(slog.DiscardHandler)
	if cfg.Rate == 0 {
		cfg.Rate = DefaultRate
	}
	n := &node{host: host, t: t}
	host.Do(func() (err error) {
		n.Layer2, err = Open(cfg)
		return err
	})
	selector, err := links.NewSelector(nil, links.DefaultExclude())
	if err != nil {
		t.Fatal(err)
	}
	monitor := links.NewMonitor(func() (s links.Source, err error) {
		err = host.Try(func() error { s, err = links.OpenSystem(); return err })
		return s, err
	}, selector, n.SetLinks, cfg.Log)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- n.Run(ctx) }()
	go func() { ended <- monitor.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("%s: %v", host.Name, err)
			}
		}
	})
	nettest.Eventually(t, "links known", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.Layer2.links) == 1 && n.Layer2.links[host.Link].Up
	})
	return n
}

// confirmFor confirms the node once, for d.
func (n *node) confirmFor(d time.Duration) {
	now := n.clock.Now()
	n.Confirm(Confirmation{Sent: now, Until: now + d, Fresh: now + d/2})
}

func (n *node) state(addr netip.Addr) State {
	all, _, _, _ := n.Statuses(0)
	for _, s := range all {
		if s.Addr == addr {
			return s.State
		}
	}
	return 0
}

// sendTo makes the kernel of a host resolve an address.
func sendTo(t testing.TB, h *nettest.Host, addr netip.Addr) {
	t.Helper()
	h.Do(func() error {
		c, err := net.Dial("udp", netip.AddrPortFrom(addr, 9).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, _ = c.Write([]byte("x")) // an error of an earlier datagram does not matter
		return nil
	})
}

// neighbour returns the MAC that the kernel of a host has for an address.
func neighbour(h *nettest.Host, addr netip.Addr) string {
	f := strings.Fields(h.IP("neigh", "show", addr.String(), "dev", "eth0"))
	for i := range f {
		if f[i] == "lladdr" {
			return f[i+1]
		}
	}
	return ""
}

func bothVips() []Vip { return []Vip{hold4, hold6} }

// inherited makes vips that are announced only once.
func inherited(vips []Vip) []Vip {
	for i := range vips {
		vips[i].Inherited = true
	}
	return vips
}

func TestWireKernelClientFollowsATakeover(t *testing.T) {
	seg := nettest.NewSegment(t)
	client := seg.NewHost("192.0.2.2/24", "2001:db8::2/64")
	n1 := startNode(t, seg.NewHost("192.0.2.11/24", "2001:db8::11/64"), Config{})
	n2 := startNode(t, seg.NewHost("192.0.2.12/24", "2001:db8::12/64"), Config{})
	n1.confirmFor(time.Minute)
	n2.confirmFor(time.Minute)
	n1.Apply(View{Cluster: "c", Vips: bothVips()})
	for _, vip := range []netip.Addr{vip4, vip6} {
		sendTo(t, client, vip)
		nettest.Eventually(t, "resolved to n1", func() bool { return neighbour(client, vip) == n1.host.MAC.String() })
	}
	nettest.Eventually(t, "proven", func() bool { return n1.state(vip6) == Proven || n1.state(vip6) == Unproven })

	capture := client.Capture("eth0")
	n1.Apply(View{Cluster: "c"})
	moved := []Vip{{Addr: vip4, Epoch: 20, Mode: Hold}, {Addr: vip6, Epoch: 20, Mode: Hold}}
	start := time.Now()
	n2.Apply(View{Cluster: "c", Vips: moved})
	for _, vip := range []netip.Addr{vip4, vip6} {
		// The entry is younger than a second, which a kernel protects against all but the right forms.
		nettest.Eventually(t, "moved to n2", func() bool { return neighbour(client, vip) == n2.host.MAC.String() })
	}
	t.Logf("both entries moved %v after Apply", time.Since(start))
	// n2 heard the client ask n1 for the IPv4 address, so it asks the client, whose answer proves the move.
	nettest.Eventually(t, "n2 proven by the client", func() bool { return n2.state(vip4) == Proven })
	for _, p := range capture.Packets() {
		t.Log(p)
	}
	if got := capture.Packets(nettest.From(n1.host.MAC), nettest.Claims(vip4)); len(got) > 0 {
		t.Errorf("n1 still says %v", got)
	}
}

// injector sends raw frames out of a host's eth0.
func injector(t testing.TB, h *nettest.Host) func(frame []byte) {
	t.Helper()
	var fd int
	h.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	t.Cleanup(func() { unix.Close(fd) })
	return func(frame []byte) {
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: h.Link}); err != nil {
			t.Errorf("inject: %v", err)
		}
	}
}

func TestWireAnswers(t *testing.T) {
	seg := nettest.NewSegment(t)
	client := seg.NewHost("192.0.2.2/24", "2001:db8::2/64")
	inject := injector(t, client)
	n := startNode(t, seg.NewHost("192.0.2.11/24", "2001:db8::11/64"), Config{})
	n.confirmFor(time.Minute)
	capture := client.Capture("eth0")
	n.Apply(View{Cluster: "c", Vips: inherited(bothVips())})
	nettest.Eventually(t, "the announcements are over and captured", func() bool {
		return n.quiet() && len(capture.Packets(nettest.From(n.host.MAC))) >= 3
	})
	nodeMAC, mac := system.MAC(n.host.MAC), system.MAC(client.MAC)
	group := solicitedNode(vip6)
	for name, tc := range map[string]struct {
		frame  func() ([]byte, error)
		answer func(p nettest.Packet) bool
	}{
		"request to all": {
			func() ([]byte, error) { return directedRequest(mac, client4, system.Broadcast, vip4) },
			func(p nettest.Packet) bool {
				return p.ARP != nil && p.ARP.Operation == arp.OperationReply && p.ARP.SenderIP == vip4 && p.ARP.TargetIP == client4 &&
					system.MAC(p.Dst) == mac && system.MAC(p.ARP.SenderHardwareAddr) == nodeMAC
			},
		},
		"request to our MAC": {
			func() ([]byte, error) { return directedRequest(mac, client4, nodeMAC, vip4) },
			func(p nettest.Packet) bool {
				return p.ARP != nil && p.ARP.Operation == arp.OperationReply && system.MAC(p.Dst) == mac
			},
		},
		"probe of RFC 5227": {
			func() ([]byte, error) { return probeRequest(mac, vip4) },
			func(p nettest.Packet) bool {
				return p.ARP != nil && p.ARP.Operation == arp.OperationReply && p.ARP.TargetIP == netip.IPv4Unspecified() && system.MAC(p.Dst) == mac
			},
		},
		"solicitation to the group": {
			func() ([]byte, error) { return solicit(mac, client6, groupMAC(group), group, vip6) },
			func(p nettest.Packet) bool {
				na, ok := p.NDP.(*ndp.NeighborAdvertisement)
				return ok && na.Solicited && na.Override && !na.Router && p.DstIP == client6 && p.SrcIP == vip6 && p.HopLimit == 255 && len(na.Options) == 1
			},
		},
		"unreachability detection": {
			func() ([]byte, error) {
				return marshalNDP(nodeMAC, mac, client6, vip6, &ndp.NeighborSolicitation{TargetAddress: vip6})
			},
			func(p nettest.Packet) bool {
				na, ok := p.NDP.(*ndp.NeighborAdvertisement)
				return ok && na.Solicited && na.Override && len(na.Options) == 1 && system.MAC(p.Dst) == mac
			},
		},
		"duplicate address detection": {
			func() ([]byte, error) { return probeSolicit(mac, netip.IPv6Unspecified(), vip6) },
			func(p nettest.Packet) bool {
				na, ok := p.NDP.(*ndp.NeighborAdvertisement)
				return ok && !na.Solicited && na.Override && p.DstIP == allNodes && system.MAC(p.Dst) == allNodesMAC
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			capture.Reset()
			inject(must(t)(tc.frame()))
			t.Cleanup(func() {
				if t.Failed() {
					t.Log(capture.Packets())
				}
			})
			nettest.Eventually(t, "answered rightly", func() bool {
				return len(capture.Packets(nettest.From(n.host.MAC), tc.answer)) == 1
			})
		})
	}
}

// quiet reports whether no announcement is left to be sent.
func (n *node) quiet() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, v := range n.vips {
		if v.announcing() || v.pending > 0 {
			return false
		}
	}
	return true
}

// The kernels' own probes: a client keeps its entries REACHABLE by unicast.
func TestWireKernelRevalidatesByUnicast(t *testing.T) {
	seg := nettest.NewSegment(t)
	client := seg.NewHost("192.0.2.2/24", "2001:db8::2/64")
	n := startNode(t, seg.NewHost("192.0.2.11/24", "2001:db8::11/64"), Config{})
	n.confirmFor(time.Minute)
	n.Apply(View{Cluster: "c", Vips: bothVips()})
	capture := client.Capture("eth0")
	for _, vip := range []netip.Addr{vip4, vip6} {
		client.IP("neigh", "replace", vip.String(), "lladdr", n.host.MAC.String(), "dev", "eth0", "nud", "probe")
		nettest.Eventually(t, "REACHABLE", func() bool {
			return strings.Contains(client.IP("neigh", "show", vip.String()), "REACHABLE")
		})
	}
	asked := capture.Packets(nettest.From(client.MAC), func(p nettest.Packet) bool { return system.MAC(p.Dst) == system.MAC(n.host.MAC) })
	if len(asked) < 2 {
		t.Errorf("the client asked by unicast %d times, want 2", len(asked))
	}
	nettest.Eventually(t, "which is proof that it has us", func() bool { return n.state(vip4) == Proven && n.state(vip6) == Proven })
}

func TestWireBurst(t *testing.T) {
	seg := nettest.NewSegment(t)
	gateway := seg.NewHost("192.0.2.254/24", "2001:db8::fe/64")
	host := seg.NewHost("192.0.2.11/24", "2001:db8::11/64")
	host.IP("route", "add", "default", "via", "192.0.2.254")
	host.IP("route", "add", "default", "via", "2001:db8::fe")
	n := startNode(t, host, Config{})
	n.confirmFor(time.Minute)
	capture := gateway.Capture("eth0")
	n.Apply(View{Cluster: "c", Vips: bothVips()})
	for _, vip := range []netip.Addr{vip4, vip6} {
		nettest.Eventually(t, "proven by the gateway", func() bool { return n.state(vip) == Proven })
		if neighbour(gateway, vip) != host.MAC.String() {
			t.Errorf("the gateway has %q for %v", neighbour(gateway, vip), vip)
		}
	}
	announcement := func(v6 bool) func(nettest.Packet) bool {
		return func(p nettest.Packet) bool {
			if na, ok := p.NDP.(*ndp.NeighborAdvertisement); ok && v6 {
				return na.Override && !na.Solicited && p.DstIP == allNodes
			}
			return !v6 && p.ARP != nil && p.ARP.Operation == arp.OperationRequest && p.ARP.SenderIP == p.ARP.TargetIP
		}
	}
	nettest.Eventually(t, "all rounds", func() bool { return n.quiet() })
	for _, v6 := range []bool{false, true} {
		var got []nettest.Packet
		nettest.Eventually(t, "every round is captured", func() bool {
			got = capture.Packets(nettest.From(host.MAC), announcement(v6))
			return len(got) == allRounds
		})
		var at []time.Duration
		for i, p := range got {
			at = append(at, p.At.Sub(got[0].At).Round(time.Millisecond))
			if i == 0 {
				continue
			}
			// Each round is due after the one before, however late that was. A frame that is
			// late itself, between the look at the clock and the wire, makes the next seem early.
			gap, want := p.At.Sub(got[i-1].At), schedule[i]-schedule[i-1]
			if gap < want-50*time.Millisecond || gap > want+2*time.Second {
				t.Errorf("v6=%t: announcement %d comes %v after the one before, want %v", v6, i, gap, want)
			}
		}
		t.Logf("v6=%t: announced at %v", v6, at)
	}
	nettest.Eventually(t, "as many gratuitous replies with target = sender MAC", func() bool {
		return allRounds == len(capture.Packets(nettest.From(host.MAC), func(p nettest.Packet) bool {
			return p.ARP != nil && p.ARP.Operation == arp.OperationReply && p.ARP.SenderIP == p.ARP.TargetIP &&
				system.MAC(p.ARP.TargetHardwareAddr) == system.MAC(p.ARP.SenderHardwareAddr)
		}))
	})
}

func TestWireCarrierReturnAnnounces(t *testing.T) {
	seg := nettest.NewSegment(t)
	client := seg.NewHost("192.0.2.2/24")
	n := startNode(t, seg.NewHost("192.0.2.11/24"), Config{})
	n.confirmFor(time.Minute)
	capture := client.Capture("eth0")
	n.Apply(View{Cluster: "c", Vips: inherited([]Vip{hold4})})
	nettest.Eventually(t, "all rounds", func() bool { return n.quiet() })
	n.host.SetPort(false)
	nettest.Eventually(t, "reported", func() bool { return n.state(vip4) == Failed })
	capture.Reset()
	start := time.Now()
	n.host.SetPort(true)
	nettest.Eventually(t, "announced again", func() bool { return len(capture.Packets(nettest.Claims(vip4))) > 0 })
	t.Logf("announced %v after the port came up", capture.Packets(nettest.Claims(vip4))[0].At.Sub(start))
}

// Behind a port of the host's own bridge that has carrier again nobody knows where
// the address is, though the bridge itself was up all the while.
func TestWireBridgePortReturnAnnounces(t *testing.T) {
	front, back := nettest.NewSegment(t), nettest.NewSegment(t)
	n := startNode(t, front.NewHost("192.0.2.11/24"), Config{})
	client := back.NewHost("192.0.2.2/24")
	port := back.Attach(n.host, "eth8")
	front.Attach(n.host, "eth9") // keeps the bridge up
	n.host.IP("link", "add", "br1", "address", macB.String(), "type", "bridge")
	for _, name := range []string{"eth8", "eth9"} {
		n.host.IP("link", "set", name, "master", "br1", "up")
	}
	n.host.IP("link", "set", "br1", "up")
	vip := hold4
	vip.Interfaces, vip.Inherited = []string{"br1"}, true
	path := func(want string) func() bool {
		return func() bool {
			n.mu.Lock()
			defer n.mu.Unlock()
			for _, k := range n.Layer2.links {
				if k.Name == "br1" {
					return k.Up && k.Path == want
				}
			}
			return false
		}
	}
	nettest.Eventually(t, "both ports", path("eth8 eth9"))
	n.confirmFor(time.Minute)
	n.Apply(View{Cluster: "c", Vips: []Vip{vip}})
	nettest.Eventually(t, "all rounds", n.quiet)
	back.SetPort(port, false)
	nettest.Eventually(t, "one port", path("eth9"))
	if s := n.state(vip4); s != Unproven {
		t.Errorf("state %v while the bridge is up", s)
	}
	capture := client.Capture("eth0")
	back.SetPort(port, true)
	nettest.Eventually(t, "announced again behind the port", func() bool {
		return len(capture.Packets(nettest.From(macB[:]), nettest.Claims(vip4))) > 0
	})
}

// A frame for another station, and one with the tag of a VLAN that the host does
// not have, must not be answered: the kernel delivers both to packet sockets.
func TestWireIgnoresWhatIsForOthers(t *testing.T) {
	seg := nettest.NewSegment(t)
	client := seg.NewHost("192.0.2.2/24")
	inject := injector(t, client)
	n := startNode(t, seg.NewHost("192.0.2.11/24"), Config{})
	n.host.IP("link", "set", "eth0", "promisc", "on")
	n.confirmFor(time.Minute)
	capture := client.Capture("eth0")
	n.Apply(View{Cluster: "c", Vips: []Vip{hold4}})
	other := must(t)(directedRequest(system.MAC(client.MAC), client4, macC, vip4))
	untagged := must(t)(directedRequest(system.MAC(client.MAC), client4, system.Broadcast, vip4))
	tagged := append(append(append([]byte{}, untagged[:12]...), 0x81, 0x00, 0x00, 42), untagged[12:]...)
	priority := append(append(append([]byte{}, untagged[:12]...), 0x81, 0x00, 0xe0, 0), untagged[12:]...)
	inject(other)
	inject(tagged)
	inject(untagged) // the mark behind them
	nettest.Eventually(t, "one answer", func() bool { return len(capture.Packets(nettest.Answers(vip4))) > 0 })
	if got := capture.Packets(nettest.Answers(vip4)); len(got) != 1 {
		t.Errorf("%d answers, want 1: %v", len(got), got)
	}
	if n.responder.ears[0].received[OtherHost].Load() != 0 {
		t.Error("the kernel's filter let a frame for others through")
	}
	inject(priority) // VLAN 0 is no VLAN
	nettest.Eventually(t, "a second answer", func() bool { return len(capture.Packets(nettest.Answers(vip4))) == 2 })
}

// An owner that is cut off yields to the first frame of its successor.
func TestWireUnconfirmedYieldsToTheFirstFrame(t *testing.T) {
	seg := nettest.NewSegment(t)
	client := seg.NewHost("192.0.2.2/24", "2001:db8::2/64")
	inject := injector(t, client)
	n1 := startNode(t, seg.NewHost("192.0.2.11/24"), Config{})
	n2 := startNode(t, seg.NewHost("192.0.2.12/24"), Config{})
	n1.confirmFor(250 * time.Millisecond)
	n1.Apply(View{Cluster: "c", Vips: bothVips(), Peers: map[system.MAC]string{system.MAC(n2.host.MAC): "n2"}})
	nettest.Eventually(t, "n1 unconfirmed", func() bool { return n1.state(vip4) == Held })
	capture := client.Capture("eth0")
	stop := make(chan struct{})
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		mac := system.MAC(client.MAC)
		group := solicitedNode(vip6)
		q4 := must(t)(directedRequest(mac, client4, system.Broadcast, vip4))
		q6 := must(t)(solicit(mac, client6, groupMAC(group), group, vip6))
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				inject(q4)
				inject(q6)
			}
		}
	}()
	n2.confirmFor(time.Minute)
	nettest.Eventually(t, "n1 answers unconfirmed", func() bool {
		return len(capture.Packets(nettest.From(n1.host.MAC), nettest.Answers(vip4))) > 5 && len(capture.Packets(nettest.From(n1.host.MAC), nettest.Answers(vip6))) > 5
	})
	if got := capture.Packets(nettest.From(n1.host.MAC), func(p nettest.Packet) bool { return p.Dst[0]&1 != 0 }); len(got) > 0 {
		t.Errorf("unsolicited frames of an unconfirmed owner: %v", got)
	}
	n2.Apply(View{Cluster: "c", Vips: []Vip{{Addr: vip4, Epoch: 20, Mode: Hold}, {Addr: vip6, Epoch: 20, Mode: Hold}}})
	nettest.Eventually(t, "n2 has answered for a second", func() bool {
		for _, vip := range []netip.Addr{vip4, vip6} {
			got := capture.Packets(nettest.From(n2.host.MAC), nettest.Answers(vip))
			if len(got) == 0 || got[len(got)-1].At.Sub(got[0].At) < time.Second {
				return false
			}
		}
		return true
	})
	close(stop)
	<-asked
	// Requests that stood before the claim in n1's socket are rightly answered after
	// it, but no later than this. The rest is for a process that is held up between
	// its look at the clock and the wire; without the yield n1 would answer all the while.
	const last = maxWaitUnsure + 200*time.Millisecond
	for _, vip := range []netip.Addr{vip4, vip6} {
		first := capture.Packets(nettest.From(n2.host.MAC), nettest.Claims(vip))[0]
		for _, p := range capture.Packets(nettest.From(n1.host.MAC), nettest.Answers(vip)) {
			if after := p.At.Sub(first.At); after > last {
				t.Errorf("%v: n1 answered %v after n2's first frame", vip, after)
			} else if after > 0 {
				t.Logf("%v: n1 answered %v after the claim", vip, after)
			}
		}
		nettest.Eventually(t, "n1 has yielded", func() bool { return n1.state(vip) == Silenced })
	}
}

func TestWireDefence(t *testing.T) {
	seg := nettest.NewSegment(t)
	client := seg.NewHost("192.0.2.2/24")
	inject := injector(t, client)
	n := startNode(t, seg.NewHost("192.0.2.11/24"), Config{})
	n.confirmFor(time.Minute)
	n.Apply(View{Cluster: "c", Vips: inherited([]Vip{hold4})})
	nettest.Eventually(t, "announced", func() bool { return n.quiet() })
	capture := client.Capture("eth0")
	claim := must(t)(announceRequest(system.MAC(client.MAC), vip4))
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		inject(claim)
	}
	defences := func() []nettest.Packet { return capture.Packets(nettest.From(n.host.MAC), nettest.Claims(vip4)) }
	nettest.Eventually(t, "defended", func() bool { return len(defences()) > 0 })
	if got := defences(); len(got) != 1 {
		t.Errorf("%d defences in 1.5 s, want 1: %v", len(got), got)
	}
	nettest.Eventually(t, "the conflict is reported", func() bool {
		all, _, _, _ := n.Statuses(0)
		return len(all) == 1 && all[0].Foreign == system.MAC(client.MAC)
	})
}

func TestWireProbe(t *testing.T) {
	seg := nettest.NewSegment(t)
	owner := seg.NewHost("192.0.2.2/24", "2001:db8::2/64")
	n := startNode(t, seg.NewHost("192.0.2.11/24", "2001:db8::11/64", "fe80::11/64"), Config{})
	for _, addr := range []netip.Addr{client4, client6} {
		hits, err := n.Probe(t.Context(), addr, time.Second)
		if err != nil || len(hits) != 1 || hits[0] != (Hit{MAC: system.MAC(owner.MAC), Interface: "eth0"}) {
			t.Errorf("%v: %v, %v", addr, hits, err)
		}
	}
	twin := seg.NewHost("192.0.2.2/24")
	hits, err := n.Probe(t.Context(), client4, time.Second)
	if err != nil || len(hits) != 2 {
		t.Errorf("two owners (also %v): %v, %v", twin.MAC, hits, err)
	}
	if hits, err := n.Probe(t.Context(), vip4, 100*time.Millisecond); err != nil || len(hits) != 0 {
		t.Errorf("nobody has it: %v, %v", hits, err)
	}
}

// A switch that snoops and has forgotten the group learns it again by the report
// of a refresh; the kernel's own comes at the join only.
func TestWireGroupReportIsUnderstood(t *testing.T) {
	seg := nettest.NewSegment(t)
	seg.Switch().IP("link", "set", "br0", "type", "bridge", "mcast_snooping", "1", "mcast_mld_version", "2", "mcast_membership_interval", "300")
	n := startNode(t, seg.NewHost("2001:db8::11/64", "fe80::11/64"), Config{})
	n.confirmFor(time.Minute)
	group := solicitedNode(vip6).String()
	known := func() bool {
		out, err := seg.Switch().Run("bridge", "mdb", "show", "dev", "br0")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(out, group)
	}
	n.Apply(View{Cluster: "c", Vips: inherited([]Vip{hold6})})
	nettest.Eventually(t, "the switch learns of the join", known)
	nettest.Eventually(t, "the switch forgets", func() bool { return !known() })
	n.mu.Lock()
	n.Layer2.links[n.host.Link].refresh = 0
	n.mu.Unlock()
	n.wake()
	nettest.Eventually(t, "the switch learns of the report", known)
}

const helperEnv = "QLB_TEST_LAYER2_HELPER"

// TestMain lets the test's own program be a node in a process that can be stopped.
func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) == "" {
		os.Exit(m.Run())
	}
	if err := helper(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// helper runs a node that owns vip4 with Release. Each line that it reads is the
// boot time at which a heartbeat was sent, and confirms it for 500 ms from then.
func helper() error {
	l, err := Open(Config{Clock: clock.Boottime, Log: slog.New(slog.DiscardHandler), Rate: DefaultRate})
	if err != nil {
		return err
	}
	selector, err := links.NewSelector(nil, links.DefaultExclude())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go links.NewMonitor(links.OpenSystem, selector, l.SetLinks, slog.New(slog.DiscardHandler)).Run(ctx) //nolint:errcheck // ends with the process
	go l.Run(ctx)                                                                                       //nolint:errcheck // as well
	l.Apply(View{Cluster: "c", Vips: []Vip{release4}})
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		sent, err := time.ParseDuration(in.Text())
		if err != nil {
			return err
		}
		l.Confirm(Confirmation{Sent: sent, Until: sent + 500*time.Millisecond, Fresh: sent + 200*time.Millisecond})
	}
	return nil
}

// stopped reports whether all threads of a process are.
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(stats) == 0 {
		t.Fatalf("threads of %d: %v, %v", pid, stats, err)
	}
	for _, name := range stats {
		b, err := os.ReadFile(name)
		// The state follows the program's name in brackets.
		if _, state, ok := strings.Cut(string(b), ") "); err != nil || !ok || state[0] != 'T' {
			return false
		}
	}
	return true
}

func TestWireStoppedProcessReleases(t *testing.T) {
	seg := nettest.NewSegment(t)
	client := seg.NewHost("192.0.2.2/24")
	inject := injector(t, client)
	host := seg.NewHost("192.0.2.11/24")
	cmd := host.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	capture := client.Capture("eth0")
	ask := must(t)(directedRequest(system.MAC(client.MAC), client4, system.Broadcast, vip4))
	// answers counts those that passed between two moments, whenever they are read. The gratuitous
	// replies of the takeover go to all and are not counted.
	answers := func(from, to time.Time) int {
		return len(capture.Packets(nettest.Answers(vip4), func(p nettest.Packet) bool { return p.At.After(from) && p.At.Before(to) }))
	}
	askFor := func(d time.Duration, confirm bool) {
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			inject(ask)
			if confirm {
				if _, err := fmt.Fprintln(stdin, clock.Boottime.Now()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	begun := time.Now()
	nettest.Eventually(t, "answers", func() bool { askFor(20*time.Millisecond, true); return answers(begun, time.Now()) > 10 })
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, "stopped", func() bool { return stopped(t, cmd.Process.Pid) })
	askFor(50*time.Millisecond, false) // what was in flight arrives
	stop := time.Now()
	askFor(1500*time.Millisecond, false)
	resumed := time.Now()
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	// Three hundred requests wait in its socket, and more come.
	askFor(500*time.Millisecond, false)
	again := time.Now()
	// Then all that waited has been looked at.
	nettest.Eventually(t, "answers again once confirmed", func() bool { askFor(20*time.Millisecond, true); return answers(again, time.Now()) > 10 })
	if got := answers(stop, resumed); got > 0 {
		t.Errorf("%d answers of a stopped process", got)
	}
	if got := answers(resumed, again); got > 1 {
		t.Errorf("%d answers after the deadline, want at most the frame in hand", got)
	}
}
