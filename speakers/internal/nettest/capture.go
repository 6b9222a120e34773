package nettest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

// Packet is an ARP packet or an NDP message as it passed at a host's link.
type Packet struct {
	At       time.Time
	Outgoing bool
	Src, Dst net.HardwareAddr
	// Raw is the whole frame.
	Raw []byte

	ARP *arp.Packet

	NDP      ndp.Message
	SrcIP    netip.Addr
	DstIP    netip.Addr
	HopLimit uint8
}

// String describes the packet as tcpdump would.
func (p Packet) String() string {
	at := p.At.Format("05.000000")
	switch {
	case p.ARP != nil:
		return fmt.Sprintf("%s %v > %v arp %v %v(%v) > %v(%v)", at, p.Src, p.Dst, p.ARP.Operation,
			p.ARP.SenderIP, p.ARP.SenderHardwareAddr, p.ARP.TargetIP, p.ARP.TargetHardwareAddr)
	case p.NDP != nil:
		return fmt.Sprintf("%s %v > %v %v > %v %+v", at, p.Src, p.Dst, p.SrcIP, p.DstIP, p.NDP)
	default:
		return fmt.Sprintf("%s %v > %v %d bytes", at, p.Src, p.Dst, len(p.Raw))
	}
}

// Capture records ARP and NDP at a host's link, both directions.
type Capture struct {
	mu      sync.Mutex
	packets []Packet
}

// Capture records until the test ends.
func (h *Host) Capture(link string) *Capture {
	h.t.Helper()
	c := &Capture{}
	var file *os.File
	h.Do(func() error {
		ifi, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "capture")
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
			return err
		}
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all & 0xffff, Ifindex: ifi.Index})
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.run(h.t, file)
	}()
	h.t.Cleanup(func() {
		file.Close()
		<-ended
	})
	return c
}

func (c *Capture) run(t testing.TB, file *os.File) {
	raw, err := file.SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	buf, oob := make([]byte, 2048), make([]byte, 128)
	for {
		var n, oobn int
		var from unix.Sockaddr
		var rerr error
		err := raw.Read(func(fd uintptr) bool {
			n, oobn, _, from, rerr = unix.Recvmsg(int(fd), buf, oob, 0)
			return !errors.Is(rerr, unix.EAGAIN)
		})
		if err != nil {
			return
		}
		if rerr != nil {
			continue // the link went down
		}
		p, ok := parse(buf[:n])
		if !ok {
			continue
		}
		p.At = stamp(oob[:oobn])
		if sll, ok := from.(*unix.SockaddrLinklayer); ok {
			p.Outgoing = sll.Pkttype == unix.PACKET_OUTGOING
		}
		c.mu.Lock()
		c.packets = append(c.packets, p)
		c.mu.Unlock()
	}
}

func stamp(oob []byte) time.Time {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) == 0 || len(msgs[0].Data) < 16 {
		return time.Now()
	}
	d := msgs[0].Data
	return time.Unix(int64(binary.NativeEndian.Uint64(d)), int64(binary.NativeEndian.Uint64(d[8:])))
}

// parse reads with the libraries, not with our own code.
func parse(b []byte) (Packet, bool) {
	if len(b) < 14 {
		return Packet{}, false
	}
	p := Packet{Raw: slices.Clone(b)}
	p.Dst, p.Src = net.HardwareAddr(p.Raw[0:6]), net.HardwareAddr(p.Raw[6:12])
	switch binary.BigEndian.Uint16(b[12:]) {
	case unix.ETH_P_ARP:
		p.ARP = new(arp.Packet)
		return p, p.ARP.UnmarshalBinary(p.Raw[14:]) == nil
	case unix.ETH_P_IPV6:
		if len(b) < 58 || b[20] != unix.IPPROTO_ICMPV6 {
			return p, false
		}
		p.HopLimit = b[21]
		p.SrcIP, _ = netip.AddrFromSlice(b[22:38])
		p.DstIP, _ = netip.AddrFromSlice(b[38:54])
		m, err := ndp.ParseMessage(p.Raw[54:])
		p.NDP = m
		return p, err == nil
	}
	return p, false
}

// Packets returns what has passed so far and satisfies all conditions.
func (c *Capture) Packets(conditions ...func(Packet) bool) []Packet {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Packet
next:
	for _, p := range c.packets {
		for _, ok := range conditions {
			if !ok(p) {
				continue next
			}
		}
		out = append(out, p)
	}
	return out
}

// Reset forgets what has passed.
func (c *Capture) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.packets = nil
}

// From selects packets with this Ethernet source.
func From(mac net.HardwareAddr) func(Packet) bool {
	return func(p Packet) bool { return slices.Equal(p.Src, mac) }
}

// Claims selects packets that say that the sender has the address: ARP with it
// as sender, and advertisements of it.
func Claims(addr netip.Addr) func(Packet) bool {
	return func(p Packet) bool {
		if p.ARP != nil {
			return p.ARP.SenderIP == addr
		}
		na, ok := p.NDP.(*ndp.NeighborAdvertisement)
		return ok && na.TargetAddress == addr
	}
}

// Answers selects ARP replies and solicited or DAD-answering advertisements of
// the address to somebody else than all.
func Answers(addr netip.Addr) func(Packet) bool {
	return func(p Packet) bool {
		if p.ARP != nil {
			return p.ARP.Operation == arp.OperationReply && p.ARP.SenderIP == addr && p.Dst[0]&1 == 0
		}
		na, ok := p.NDP.(*ndp.NeighborAdvertisement)
		return ok && na.TargetAddress == addr && na.Solicited
	}
}
