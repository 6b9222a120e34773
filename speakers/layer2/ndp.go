package layer2

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"

	"github.com/quorumlb/quorumlb/speakers/system"
)

// Offsets of an NDP message in an IPv6 packet without extension headers, from
// the start of the frame (RFC 8200, RFC 4861 section 4).
const (
	ip6Length   = 18
	ip6Next     = 20
	ip6HopLimit = 21
	ip6Source   = 22
	ip6Target   = 38 // destination
	icmpType    = 54
	icmpCode    = 55
	icmpSum     = 56
	ndpFlags    = 58
	ndpTarget   = 62
	ndpOptions  = 78
	advertEnd   = ndpOptions + 8 // one link-layer address option
)

const (
	solicitation  = 135
	advertisement = 136

	optionSource = 1
	optionTarget = 2

	flagSolicited = 0x40
	flagOverride  = 0x20

	maxHops = 255
)

var (
	allNodes    = netip.MustParseAddr("ff02::1")
	allNodesMAC = system.MAC{0x33, 0x33, 0, 0, 0, 1}
)

// ndpMessage is a parsed neighbour solicitation or advertisement.
type ndpMessage struct {
	dst, src system.MAC // of the Ethernet frame
	from     netip.Addr
	to       netip.Addr
	advert   bool
	flags    byte
	target   netip.Addr
	// mac is the sender's in a solicitation, the target's in an advertisement, if
	// the message names it.
	mac    system.MAC
	hasMAC bool
}

// parseNDP reads an Ethernet frame and checks what RFC 4861 sections 7.1.1 and
// 7.1.2 ask for. It allocates nothing.
func parseNDP(b []byte) (ndpMessage, Verdict) {
	if len(b) < ndpOptions || binary.BigEndian.Uint16(b[ethType:]) != 0x86dd || b[ethHeader]>>4 != 6 ||
		b[ip6Next] != 58 || b[ip6HopLimit] != maxHops || b[icmpCode] != 0 {
		return ndpMessage{}, Malformed
	}
	end := icmpType + int(binary.BigEndian.Uint16(b[ip6Length:]))
	if end < ndpOptions || end > len(b) {
		return ndpMessage{}, Malformed
	}
	m := ndpMessage{
		dst:    system.MAC(b),
		src:    system.MAC(b[ethSource:]),
		from:   netip.AddrFrom16([16]byte(b[ip6Source:])),
		to:     netip.AddrFrom16([16]byte(b[ip6Target:])),
		flags:  b[ndpFlags],
		target: netip.AddrFrom16([16]byte(b[ndpTarget:])),
	}
	var option byte
	switch b[icmpType] {
	case solicitation:
		option = optionSource
	case advertisement:
		m.advert, option = true, optionTarget
	default:
		return ndpMessage{}, Malformed
	}
	if !m.options(b[ndpOptions:end], option) || !m.valid() {
		return ndpMessage{}, Malformed
	}
	if checksum(b[:end]) != 0 {
		return ndpMessage{}, BadChecksum
	}
	if !m.advert && m.hasMAC && m.mac != m.src {
		return m, SourceMismatch
	}
	return m, 0
}

// options looks for the link-layer address option and checks all lengths.
func (m *ndpMessage) options(b []byte, wanted byte) bool {
	for len(b) > 0 {
		if len(b) < 8 || b[1] == 0 || len(b) < int(b[1])*8 {
			return false
		}
		if b[0] == wanted && b[1] == 1 {
			m.mac, m.hasMAC = system.MAC(b[2:]), true
		}
		b = b[int(b[1])*8:]
	}
	return true
}

func (m *ndpMessage) valid() bool {
	switch {
	case m.target.IsMulticast(), m.src.IsZero(), m.src.IsGroup(), m.from.IsMulticast():
		return false
	case m.hasMAC && (m.mac.IsZero() || m.mac.IsGroup()):
		return false
	case m.advert:
		return !m.to.IsMulticast() || m.flags&flagSolicited == 0
	case m.from.IsUnspecified():
		// Duplicate address detection.
		return !m.hasMAC && m.to == solicitedNode(m.target)
	default:
		return m.to == m.target || m.to == solicitedNode(m.target)
	}
}

// solicitedNode is the group that an address is asked for at (RFC 4291 section 2.7.1).
func solicitedNode(addr netip.Addr) netip.Addr {
	a := addr.As16()
	return netip.AddrFrom16([16]byte{0xff, 0x02, 11: 0x01, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]})
}

// groupMAC is the Ethernet address of an IPv6 group (RFC 2464 section 7).
func groupMAC(group netip.Addr) system.MAC {
	a := group.As16()
	return system.MAC{0x33, 0x33, a[12], a[13], a[14], a[15]}
}

// checksum sums the ICMPv6 message at the end of a frame with its pseudo-header
// (RFC 4443 section 2.3): 0 if the message carries a right checksum, and the
// checksum itself if that field is 0.
func checksum(b []byte) uint16 {
	sum := uint32(len(b)-icmpType) + 58
	for rest := b[ip6Source:]; len(rest) > 1; rest = rest[2:] {
		sum += uint32(binary.BigEndian.Uint16(rest))
	}
	if len(b)%2 != 0 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// replyNDP turns a parsed solicitation, in place, into the advertisement that
// mac has its target (RFC 4861 section 7.2.4). It always overrides and always
// carries the MAC, or neighbours would ignore it. It allocates nothing.
func replyNDP(b []byte, m *ndpMessage, mac system.MAC) []byte {
	b = b[:advertEnd]
	to, dst, flags := m.from, m.src, byte(flagSolicited|flagOverride)
	if m.from.IsUnspecified() {
		to, dst, flags = allNodes, allNodesMAC, flagOverride
	}
	copy(b[0:], dst[:])
	copy(b[ethSource:], mac[:])
	binary.BigEndian.PutUint32(b[ethHeader:], 6<<28)
	binary.BigEndian.PutUint16(b[ip6Length:], advertEnd-icmpType)
	b[ip6Next], b[ip6HopLimit] = 58, maxHops
	source, dest := m.target.As16(), to.As16()
	copy(b[ip6Source:], source[:])
	copy(b[ip6Target:], dest[:])
	b[icmpType], b[icmpCode] = advertisement, 0
	b[icmpSum], b[icmpSum+1] = 0, 0
	binary.BigEndian.PutUint32(b[ndpFlags:], uint32(flags)<<24)
	copy(b[ndpTarget:], source[:])
	b[ndpOptions], b[ndpOptions+1] = optionTarget, 1
	copy(b[ndpOptions+2:], mac[:])
	binary.BigEndian.PutUint16(b[icmpSum:], checksum(b))
	return b
}

// marshalNDP encodes a frame of our own.
func marshalNDP(dst, src system.MAC, from, to netip.Addr, m ndp.Message) ([]byte, error) {
	message, err := ndp.MarshalMessageChecksum(m, from, to)
	if err != nil {
		return nil, fmt.Errorf("encode NDP: %w", err)
	}
	payload := make([]byte, icmpType-ethHeader, icmpType-ethHeader+len(message))
	binary.BigEndian.PutUint32(payload, 6<<28)
	binary.BigEndian.PutUint16(payload[ip6Length-ethHeader:], uint16(len(message)))
	payload[ip6Next-ethHeader], payload[ip6HopLimit-ethHeader] = 58, maxHops
	f, t := from.As16(), to.As16()
	copy(payload[ip6Source-ethHeader:], f[:])
	copy(payload[ip6Target-ethHeader:], t[:])
	payload = append(payload, message...)
	frame := ethernet.Frame{Destination: net.HardwareAddr(dst[:]), Source: net.HardwareAddr(src[:]), EtherType: ethernet.EtherTypeIPv6, Payload: payload}
	return frame.MarshalBinary()
}

// announceAdvert tells all nodes that mac has the address (RFC 4861 section 7.2.6).
func announceAdvert(mac system.MAC, addr netip.Addr) ([]byte, error) {
	return marshalNDP(allNodesMAC, mac, addr, allNodes, &ndp.NeighborAdvertisement{
		Override:      true,
		TargetAddress: addr,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac[:]}},
	})
}

// directedSolicit asks a neighbour from the address; see directedRequest. Given
// the neighbour's MAC, it goes to it alone.
func directedSolicit(mac system.MAC, addr netip.Addr, to system.MAC, neighbour netip.Addr) ([]byte, error) {
	dst := neighbour
	if to == system.Broadcast {
		dst = solicitedNode(neighbour)
		to = groupMAC(dst)
	}
	return solicit(mac, addr, to, dst, neighbour)
}

// probeSolicit asks who has an address. Source is a link-local address of ours, or
// unspecified, which makes it a DAD probe that is answered to all.
func probeSolicit(mac system.MAC, source, addr netip.Addr) ([]byte, error) {
	group := solicitedNode(addr)
	return solicit(mac, source, groupMAC(group), group, addr)
}

func solicit(mac system.MAC, source netip.Addr, dst system.MAC, to, target netip.Addr) ([]byte, error) {
	m := &ndp.NeighborSolicitation{TargetAddress: target}
	if !source.IsUnspecified() {
		m.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac[:]}}
	}
	return marshalNDP(dst, mac, source, to, m)
}
