package system

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
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
	socket *nl.SocketHandle
	err    error
}

// OpenConntrack opens it in the network namespace of the calling thread. Where
// that is not possible every Count says why.
func OpenConntrack() *Conntrack {
	socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_NETFILTER)
	if err != nil {
		err = fmt.Errorf("open netlink for connection tracking: %w", err)
	}
	return &Conntrack{socket: &nl.SocketHandle{Socket: socket}, err: err}
}

// Close ends it.
func (c *Conntrack) Close() {
	if c.err == nil {
		c.socket.Close()
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
	family := uint8(unix.AF_INET)
	if addrs[0].Is6() {
		family = unix.AF_INET6
	}
	// A node may track a million connections, so none is kept.
	t := newTally(addrs)
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: c.socket}
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	if err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(msg []byte) bool {
		t.add(parseFlow(msg))
		return true
	}); err != nil {
		return nil, fmt.Errorf("read connection tracking: %w", err)
	}
	return t.result()
}

// flow is what matters of a tracked connection.
type flow struct {
	to       netip.Addr
	protocol uint8
	state    uint8  // of TCP; 0 if unknown
	timeout  uint32 // seconds
}

// parseFlow reads a message of the kernel's; what it lacks is zero. It allocates nothing.
func parseFlow(msg []byte) (f flow) {
	if len(msg) < nl.SizeofNfgenmsg {
		return f
	}
	msg = msg[nl.SizeofNfgenmsg:]
	forward := attribute(msg, nl.CTA_TUPLE_ORIG)
	ip := attribute(forward, nl.CTA_TUPLE_IP)
	to, ok := netip.AddrFromSlice(attribute(ip, nl.CTA_IP_V4_DST))
	if !ok {
		to, _ = netip.AddrFromSlice(attribute(ip, nl.CTA_IP_V6_DST))
	}
	f.to = to.Unmap()
	if b := attribute(attribute(forward, nl.CTA_TUPLE_PROTO), nl.CTA_PROTO_NUM); len(b) > 0 {
		f.protocol = b[0]
	}
	if b := attribute(attribute(attribute(msg, nl.CTA_PROTOINFO), nl.CTA_PROTOINFO_TCP), nl.CTA_PROTOINFO_TCP_STATE); len(b) > 0 {
		f.state = b[0]
	}
	if b := attribute(msg, nl.CTA_TIMEOUT); len(b) == 4 {
		f.timeout = binary.BigEndian.Uint32(b)
	}
	return f
}

// attribute returns the value of the first netlink attribute of a kind; nil if none.
func attribute(b []byte, kind uint16) []byte {
	const nestedOrOrder = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
	for len(b) >= unix.SizeofNlAttr {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofNlAttr || length > len(b) {
			return nil
		}
		if binary.NativeEndian.Uint16(b[2:])&^nestedOrOrder == kind {
			return b[unix.SizeofNlAttr:length]
		}
		b = b[min(len(b), (length+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	}
	return nil
}

// tally counts live connections to addresses.
type tally struct {
	counts map[netip.Addr]int
	tracks bool
}

func newTally(addrs []netip.Addr) *tally {
	t := &tally{counts: make(map[netip.Addr]int, len(addrs))}
	for _, a := range addrs {
		t.counts[a] = 0
	}
	return t
}

func (t *tally) add(f flow) {
	if !f.to.IsValid() || !f.live() {
		return
	}
	t.tracks = t.tracks || f.protocol == unix.IPPROTO_TCP
	if _, wanted := t.counts[f.to]; wanted {
		t.counts[f.to]++
		t.tracks = true
	}
}

func (t *tally) result() (map[netip.Addr]int, error) {
	if !t.tracks {
		return nil, ErrNotTracked
	}
	return t.counts, nil
}

// live tells whether a connection would notice if its packets went elsewhere.
func (f *flow) live() bool {
	switch f.protocol {
	case unix.IPPROTO_TCP:
		return f.state != nl.TCP_CONNTRACK_TIME_WAIT && f.state != nl.TCP_CONNTRACK_CLOSE
	case unix.IPPROTO_UDP:
		return f.timeout > streamTimeout
	case unix.IPPROTO_SCTP:
		return true
	}
	return false
}
