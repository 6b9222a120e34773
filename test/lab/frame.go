package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// Kind says what an ARP or neighbour discovery frame is.
type Kind int

// Kinds of frames. The zero value is none.
const (
	ARPRequest Kind = iota + 1 // who has Target? tell Sender
	ARPReply
	Solicitation  // NS
	Advertisement // NA
)

// String names the kind as operators know it.
func (k Kind) String() string {
	switch k {
	case ARPRequest:
		return "ARP request"
	case ARPReply:
		return "ARP reply"
	case Solicitation:
		return "NS"
	case Advertisement:
		return "NA"
	default:
		return fmt.Sprintf("Kind(%d)", int(k))
	}
}

// Frame is a decoded ARP or neighbour discovery frame.
type Frame struct {
	At       time.Time // the kernel's time
	Port     string    // where it was captured
	Kind     Kind
	Src, Dst MAC // of the Ethernet header
	// Sender is who the frame is from: ARP's sender protocol address, NDP's
	// IPv6 source. SenderMAC is the link-layer address that it gives for
	// Sender (ARP, NS) or for Target (NA); zero when it gives none.
	Sender    netip.Addr
	SenderMAC MAC
	Target    netip.Addr
	Override  bool // NA only: O=1
	Solicited bool // NA only: S=1
}

// Claim gives the address for which the frame names a link-layer address, to
// whoever hears it: an ARP frame's sender (RFC 826), an NS's source (RFC 4861
// section 7.2.3), an NA's target.
func (f Frame) Claim() (netip.Addr, MAC, bool) {
	addr := f.Sender
	if f.Kind == Advertisement {
		addr = f.Target
	}
	ok := f.SenderMAC != MAC{} && addr.IsValid() && !addr.IsUnspecified()
	return addr, f.SenderMAC, ok
}

// String writes the frame in tcpdump's manner.
func (f Frame) String() string {
	return fmt.Sprintf("%s %s %s > %s: %s sender %s (%s) target %s",
		f.At.Format("15:04:05.000000"), f.Port, f.Src, f.Dst, f.Kind, f.Sender, f.SenderMAC, f.Target)
}

const (
	etherLen  = 14
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
	ipv6Len   = 40
	icmpv6    = 58

	typeNS = 135
	typeNA = 136

	optSourceMAC = 1
	optTargetMAC = 2
)

// decode reads a whole Ethernet frame; false when it is neither ARP for IPv4
// nor a neighbour solicitation or advertisement.
func decode(b []byte) (Frame, bool) {
	if len(b) < etherLen {
		return Frame{}, false
	}
	f := Frame{Dst: MAC(b[0:6]), Src: MAC(b[6:12])}
	switch binary.BigEndian.Uint16(b[12:]) {
	case etherARP:
		return f, f.decodeARP(b[etherLen:])
	case etherIPv6:
		return f, f.decodeNDP(b[etherLen:])
	default:
		return f, false
	}
}

func (f *Frame) decodeARP(b []byte) bool {
	// Hardware Ethernet, protocol IPv4, lengths 6 and 4.
	if len(b) < 28 || binary.BigEndian.Uint64(b)>>16 != 0x000108000604 {
		return false
	}
	switch binary.BigEndian.Uint16(b[6:]) {
	case 1:
		f.Kind = ARPRequest
	case 2:
		f.Kind = ARPReply
	default:
		return false
	}
	f.SenderMAC, f.Sender = MAC(b[8:14]), netip.AddrFrom4([4]byte(b[14:18]))
	f.Target = netip.AddrFrom4([4]byte(b[24:28]))
	return true
}

func (f *Frame) decodeNDP(b []byte) bool {
	if len(b) < ipv6Len+24 || b[6] != icmpv6 {
		return false
	}
	f.Sender = netip.AddrFrom16([16]byte(b[8:24]))
	msg := b[ipv6Len:]
	f.Target = netip.AddrFrom16([16]byte(msg[8:24]))
	want := byte(optSourceMAC)
	switch msg[0] {
	case typeNS:
		f.Kind = Solicitation
	case typeNA:
		f.Kind, want = Advertisement, optTargetMAC
		f.Solicited, f.Override = msg[4]&0x40 != 0, msg[4]&0x20 != 0
	default:
		return false
	}
	for opts := msg[24:]; len(opts) >= 8 && opts[1] > 0; {
		if opts[0] == want {
			f.SenderMAC = MAC(opts[2:8])
		}
		opts = opts[min(len(opts), 8*int(opts[1])):]
	}
	return true
}

// whoHas builds the broadcast question for an IPv4 address (RFC 826), or the
// multicast one for an IPv6 address (RFC 4861 section 4.3).
func whoHas(mac MAC, from, addr netip.Addr) []byte {
	if addr.Is4() {
		return arpRequest(mac, from, addr)
	}
	return solicitation(mac, from, addr)
}

func arpRequest(mac MAC, from, addr netip.Addr) []byte {
	b := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	b = append(b, mac[:]...)
	b = append(b, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1)
	b = append(b, mac[:]...)
	b = append(b, from.AsSlice()...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return append(b, addr.AsSlice()...)
}

func solicitation(mac MAC, from, addr netip.Addr) []byte {
	target := addr.As16()
	group := [16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: target[13], 14: target[14], 15: target[15]}
	msg := append([]byte{typeNS, 0, 0, 0, 0, 0, 0, 0}, target[:]...)
	msg = append(msg, optSourceMAC, 1)
	msg = append(msg, mac[:]...)
	src := from.As16()
	binary.BigEndian.PutUint16(msg[2:], checksum6(src, group, msg))

	b := []byte{0x33, 0x33, 0xff, target[13], target[14], target[15]}
	b = append(b, mac[:]...)
	b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(msg)), icmpv6, 255)
	b = append(b, src[:]...)
	b = append(b, group[:]...)
	return append(b, msg...)
}

// checksum6 is the ICMPv6 checksum with its pseudo header (RFC 8200 section 8.1).
func checksum6(src, dst [16]byte, msg []byte) uint16 {
	sum := uint32(len(msg)) + icmpv6
	for _, part := range [][]byte{src[:], dst[:], msg} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
