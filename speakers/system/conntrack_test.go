package system

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/quorumlb/quorumlb/speakers/internal/nettest"
)

func flow(proto uint8, to string, state uint8, timeout uint32) *netlink.ConntrackFlow {
	f := &netlink.ConntrackFlow{FamilyType: unix.AF_INET, TimeOut: timeout}
	client, vip := net.ParseIP("192.0.2.9"), net.ParseIP(to)
	if vip.To4() != nil {
		client, vip = client.To4(), vip.To4()
	} else {
		f.FamilyType, client = unix.AF_INET6, net.ParseIP("2001:db8::9")
	}
	f.Forward = netlink.IPTuple{Protocol: proto, SrcIP: client, DstIP: vip, SrcPort: uint16(1024 + timeout%1000), DstPort: 80}
	f.Reverse = netlink.IPTuple{Protocol: proto, SrcIP: vip, DstIP: client, SrcPort: 80, DstPort: f.Forward.SrcPort}
	if proto == unix.IPPROTO_TCP {
		f.ProtoInfo = &netlink.ProtoInfoTCP{State: state}
	}
	return f
}

func TestCountFlows(t *testing.T) {
	vip, other := netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr("192.0.2.101")
	const tcp, udp, icmp = unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP
	for name, c := range map[string]struct {
		flows []*netlink.ConntrackFlow
		want  int
		err   error
	}{
		"an empty table":                 {nil, 0, ErrNotTracked},
		"only what proves nothing":       {[]*netlink.ConntrackFlow{flow(udp, "192.0.2.1", 0, 120)}, 0, ErrNotTracked},
		"one to another place":           {[]*netlink.ConntrackFlow{flow(tcp, "192.0.2.1", nl.TCP_CONNTRACK_ESTABLISHED, 99)}, 0, nil},
		"one that is over":               {[]*netlink.ConntrackFlow{flow(tcp, "192.0.2.1", nl.TCP_CONNTRACK_ESTABLISHED, 9), flow(tcp, "192.0.2.100", nl.TCP_CONNTRACK_TIME_WAIT, 99)}, 0, nil},
		"live ones":                      {[]*netlink.ConntrackFlow{flow(tcp, "192.0.2.100", nl.TCP_CONNTRACK_ESTABLISHED, 99), flow(tcp, "192.0.2.100", nl.TCP_CONNTRACK_FIN_WAIT, 9)}, 2, nil},
		"a stream and a question by UDP": {[]*netlink.ConntrackFlow{flow(udp, "192.0.2.100", 0, 110), flow(udp, "192.0.2.100", 0, 29)}, 1, nil},
		"a ping":                         {[]*netlink.ConntrackFlow{flow(icmp, "192.0.2.100", 0, 29)}, 0, ErrNotTracked},
	} {
		got, err := countFlows(c.flows, []netip.Addr{vip, other})
		if !errors.Is(err, c.err) || got[vip] != c.want || got[other] != 0 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// The real kernel: connections that are entered into the table of a namespace of
// our own are counted there.
func TestConntrackOfTheKernel(t *testing.T) {
	host := nettest.NewSegment(t).NewHost("192.0.2.1/24", "2001:db8::1/64")
	host.Do(func() error {
		c := OpenConntrack()
		defer c.Close()
		for _, text := range []string{"192.0.2.100", "2001:db8::100"} {
			vip := netip.MustParseAddr(text)
			_, err := c.Count([]netip.Addr{vip})
			if err != nil && !errors.Is(err, ErrNotTracked) {
				t.Skipf("no connection tracking here: %v", err)
			}
			if !errors.Is(err, ErrNotTracked) {
				t.Errorf("%s: an empty table says something: %v", text, err)
			}
			family := netlink.InetFamily(unix.AF_INET)
			if vip.Is6() {
				family = unix.AF_INET6
			}
			for _, f := range []*netlink.ConntrackFlow{
				flow(unix.IPPROTO_TCP, text, nl.TCP_CONNTRACK_ESTABLISHED, 300), flow(unix.IPPROTO_TCP, text, nl.TCP_CONNTRACK_TIME_WAIT, 301),
			} {
				if err := netlink.ConntrackCreate(netlink.ConntrackTable, family, f); err != nil {
					t.Skipf("connections cannot be entered by hand: %v", err)
				}
			}
			got, err := c.Count([]netip.Addr{vip})
			if err != nil || got[vip] != 1 {
				t.Errorf("%s: %v, %v", text, got, err)
			}
		}
		return nil
	})
}
