package system

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/quorumlb/quorumlb/speakers/internal/nettest"
)

func tracked(proto uint8, to string, state uint8, timeout uint32) *netlink.ConntrackFlow {
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

// seen makes a flow by way of the message in which the kernel tells it.
func seen(proto uint8, to string, state uint8, timeout uint32) flow {
	f := tracked(proto, to, state, timeout)
	nested := func(kind int, of ...*nl.RtAttr) *nl.RtAttr {
		a := nl.NewRtAttr(kind|unix.NLA_F_NESTED, nil)
		for _, o := range of {
			a.AddChild(o)
		}
		return a
	}
	source, dest := nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	if f.FamilyType == unix.AF_INET6 {
		source, dest = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	tuple := func(kind int, t netlink.IPTuple) *nl.RtAttr {
		return nested(kind,
			nested(nl.CTA_TUPLE_IP, nl.NewRtAttr(source, t.SrcIP), nl.NewRtAttr(dest, t.DstIP)),
			nested(nl.CTA_TUPLE_PROTO, nl.NewRtAttr(nl.CTA_PROTO_NUM, []byte{t.Protocol}), nl.NewRtAttr(nl.CTA_PROTO_SRC_PORT, []byte{0, 1})))
	}
	attrs := []*nl.RtAttr{
		tuple(nl.CTA_TUPLE_ORIG, f.Forward), tuple(nl.CTA_TUPLE_REPLY, f.Reverse),
		nl.NewRtAttr(nl.CTA_TIMEOUT, binary.BigEndian.AppendUint32(nil, timeout)),
	}
	if proto == unix.IPPROTO_TCP {
		attrs = append(attrs, nested(nl.CTA_PROTOINFO, nested(nl.CTA_PROTOINFO_TCP, nl.NewRtAttr(nl.CTA_PROTOINFO_TCP_STATE, []byte{state}))))
	}
	msg := (&nl.Nfgenmsg{NfgenFamily: f.FamilyType}).Serialize()
	for _, a := range attrs {
		msg = append(msg, a.Serialize()...)
	}
	return parseFlow(msg)
}

// Whatever the kernel may say, reading it neither fails nor allocates.
func FuzzParseFlow(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 8, 0, 1, 0x80, 4, 0, 1, 0x80})
	f.Add([]byte{2, 0, 0, 0, 255, 255, 1, 0})
	f.Fuzz(func(_ *testing.T, msg []byte) { parseFlow(msg) })
}

func TestParseFlow(t *testing.T) {
	for _, to := range []string{"192.0.2.100", "2001:db8::100"} {
		want := flow{to: netip.MustParseAddr(to), protocol: unix.IPPROTO_TCP, state: nl.TCP_CONNTRACK_ESTABLISHED, timeout: 7}
		if got := seen(unix.IPPROTO_TCP, to, nl.TCP_CONNTRACK_ESTABLISHED, 7); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	msg := []byte{2, 0, 0, 0, 8, 0, 1, 0x80, 4, 0, 1, 0x80}
	if n := testing.AllocsPerRun(100, func() { parseFlow(msg) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestCountFlows(t *testing.T) {
	vip, other := netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr("192.0.2.101")
	const tcp, udp, icmp = unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP
	for name, c := range map[string]struct {
		flows []flow
		want  int
		err   error
	}{
		"an empty table":                 {nil, 0, ErrNotTracked},
		"only what proves nothing":       {[]flow{seen(udp, "192.0.2.1", 0, 120)}, 0, ErrNotTracked},
		"one to another place":           {[]flow{seen(tcp, "192.0.2.1", nl.TCP_CONNTRACK_ESTABLISHED, 99)}, 0, nil},
		"one that is over":               {[]flow{seen(tcp, "192.0.2.1", nl.TCP_CONNTRACK_ESTABLISHED, 9), seen(tcp, "192.0.2.100", nl.TCP_CONNTRACK_TIME_WAIT, 99)}, 0, nil},
		"live ones":                      {[]flow{seen(tcp, "192.0.2.100", nl.TCP_CONNTRACK_ESTABLISHED, 99), seen(tcp, "192.0.2.100", nl.TCP_CONNTRACK_FIN_WAIT, 9)}, 2, nil},
		"a stream and a question by UDP": {[]flow{seen(udp, "192.0.2.100", 0, 110), seen(udp, "192.0.2.100", 0, 29)}, 1, nil},
		"a ping":                         {[]flow{seen(icmp, "192.0.2.100", 0, 29)}, 0, ErrNotTracked},
	} {
		count := newTally([]netip.Addr{vip, other})
		for _, f := range c.flows {
			count.add(f)
		}
		got, err := count.result()
		if !errors.Is(err, c.err) || got[vip] != c.want || got[other] != 0 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// The real kernel: connections that are entered into the table of a namespace of
// our own are counted there.
func TestConntrackOfTheKernel(t *testing.T) {
	host := nettest.NewSegment(t).NewHost("192.0.2.1/24", "2001:db8::1/64")
	// It runs on another goroutine, which must not end the test.
	lacks := host.Try(func() error {
		c := OpenConntrack()
		defer c.Close()
		for _, text := range []string{"192.0.2.100", "2001:db8::100"} {
			vip := netip.MustParseAddr(text)
			_, err := c.Count([]netip.Addr{vip})
			if err != nil && !errors.Is(err, ErrNotTracked) {
				return fmt.Errorf("no connection tracking here: %w", err)
			}
			if !errors.Is(err, ErrNotTracked) {
				t.Errorf("%s: an empty table says something: %v", text, err)
			}
			family := netlink.InetFamily(unix.AF_INET)
			if vip.Is6() {
				family = unix.AF_INET6
			}
			for _, f := range []*netlink.ConntrackFlow{
				tracked(unix.IPPROTO_TCP, text, nl.TCP_CONNTRACK_ESTABLISHED, 300), tracked(unix.IPPROTO_TCP, text, nl.TCP_CONNTRACK_TIME_WAIT, 301),
			} {
				if err := netlink.ConntrackCreate(netlink.ConntrackTable, family, f); err != nil {
					return fmt.Errorf("connections cannot be entered by hand: %w", err)
				}
			}
			got, err := c.Count([]netip.Addr{vip})
			if err != nil || got[vip] != 1 {
				t.Errorf("%s: %v, %v", text, got, err)
			}
		}
		return nil
	})
	if lacks != nil {
		nettest.Lacks(t, lacks)
	}
}
