package system

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrNotTracked means that the kernel tells nothing of connections: it tracks
// none here, or not those of the family.
var ErrNotTracked = errors.New("the kernel tracks no connections of this family here")

// streamTimeout, in seconds, tells a UDP flow that went both ways for some time
// from a single question and its answer: the kernel gives those 30 s, and streams more.
const streamTimeout = 30

// Conntrack reads the kernel's connection tracking.
type Conntrack struct {
	handle *netlink.Handle
	err    error
}

// OpenConntrack opens it in the network namespace of the calling thread. Where
// that is not possible every Count says why.
func OpenConntrack() *Conntrack {
	handle, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		err = fmt.Errorf("open netlink for connection tracking: %w", err)
	}
	return &Conntrack{handle: handle, err: err}
}

// Close ends it.
func (c *Conntrack) Close() {
	if c.err == nil {
		c.handle.Close()
	}
}

// Count counts the connections that clients have to each of the addresses, which
// are of one family. An empty table is no proof that there are none, for the
// kernel tracks only where a rule asks for it: unless it shows some live TCP
// connection of the family the error is ErrNotTracked.
func (c *Conntrack) Count(addrs []netip.Addr) (map[netip.Addr]int, error) {
	if c.err != nil || len(addrs) == 0 {
		return nil, c.err
	}
	family := netlink.InetFamily(unix.AF_INET)
	if addrs[0].Is6() {
		family = unix.AF_INET6
	}
	flows, err := c.handle.ConntrackTableList(netlink.ConntrackTable, family)
	if err != nil {
		return nil, fmt.Errorf("read connection tracking: %w", err)
	}
	return countFlows(flows, addrs)
}

func countFlows(flows []*netlink.ConntrackFlow, addrs []netip.Addr) (map[netip.Addr]int, error) {
	counts := make(map[netip.Addr]int, len(addrs))
	for _, a := range addrs {
		counts[a] = 0
	}
	tracks := false
	for _, f := range flows {
		to, ok := netip.AddrFromSlice(f.Forward.DstIP)
		if !ok || !liveFlow(f) {
			continue
		}
		tracks = tracks || f.Forward.Protocol == unix.IPPROTO_TCP
		if _, wanted := counts[to.Unmap()]; wanted {
			counts[to.Unmap()]++
			tracks = true
		}
	}
	if !tracks {
		return nil, ErrNotTracked
	}
	return counts, nil
}

// liveFlow tells whether a connection would notice if its packets went elsewhere.
func liveFlow(f *netlink.ConntrackFlow) bool {
	switch f.Forward.Protocol {
	case unix.IPPROTO_TCP:
		tcp, ok := f.ProtoInfo.(*netlink.ProtoInfoTCP)
		return !ok || tcp.State != nl.TCP_CONNTRACK_TIME_WAIT && tcp.State != nl.TCP_CONNTRACK_CLOSE
	case unix.IPPROTO_UDP:
		return f.TimeOut > streamTimeout
	case unix.IPPROTO_SCTP:
		return true
	}
	return false
}
