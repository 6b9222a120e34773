package layer2

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"

	"github.com/quorumlb/quorumlb/speakers/system"
)

// Offsets of an ARP packet for IPv4 on Ethernet, from the start of the frame (RFC 826).
const (
	ethSource   = 6
	ethType     = 12
	ethHeader   = 14
	arpOp       = 20
	arpSender   = 22
	arpSenderIP = 28
	arpTarget   = 32
	arpTargetIP = 38
	arpEnd      = 42
)

const (
	arpRequest = 1
	arpReply   = 2
)

// arpFixed is the part that is the same in every packet: Ethernet type, hardware
// type, protocol type, lengths.
var arpFixed = [arpOp - ethType]byte{0x08, 0x06, 0, 1, 0x08, 0, 6, 4}

// arpPacket is a parsed ARP packet.
type arpPacket struct {
	dst, src system.MAC // of the Ethernet frame
	op       uint16
	sender   system.MAC
	senderIP netip.Addr
	targetIP netip.Addr
}

// parseARP reads an Ethernet frame. It allocates nothing.
func parseARP(b []byte) (arpPacket, Verdict) {
	if len(b) < arpEnd || [len(arpFixed)]byte(b[ethType:arpOp]) != arpFixed {
		return arpPacket{}, Malformed
	}
	p := arpPacket{
		dst:      system.MAC(b),
		src:      system.MAC(b[ethSource:]),
		op:       binary.BigEndian.Uint16(b[arpOp:]),
		sender:   system.MAC(b[arpSender:]),
		senderIP: netip.AddrFrom4([4]byte(b[arpSenderIP:])),
		targetIP: netip.AddrFrom4([4]byte(b[arpTargetIP:])),
	}
	if p.op != arpRequest && p.op != arpReply || p.sender.IsZero() || p.sender.IsGroup() {
		return arpPacket{}, Malformed
	}
	if p.src != p.sender {
		return p, SourceMismatch
	}
	return p, 0
}

// replyARP turns a parsed request, in place, into the reply that mac has the
// address that was asked for. It allocates nothing.
func replyARP(b []byte, mac system.MAC) []byte {
	b = b[:arpEnd]
	copy(b[0:6], b[arpSender:arpSender+6])
	copy(b[ethSource:], mac[:])
	b[arpOp+1] = arpReply
	wanted := [4]byte(b[arpTargetIP:])
	copy(b[arpTarget:arpEnd], b[arpSender:arpTarget]) // sender's MAC and address
	copy(b[arpSender:], mac[:])
	copy(b[arpSenderIP:], wanted[:])
	return b
}

// marshalARP encodes a frame of our own.
func marshalARP(dst system.MAC, op arp.Operation, from system.MAC, fromIP netip.Addr, to system.MAC, toIP netip.Addr) ([]byte, error) {
	p, err := arp.NewPacket(op, from[:], fromIP, to[:], toIP)
	if err != nil {
		return nil, fmt.Errorf("encode ARP: %w", err)
	}
	payload, err := p.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("encode ARP: %w", err)
	}
	f := ethernet.Frame{Destination: net.HardwareAddr(dst[:]), Source: net.HardwareAddr(from[:]), EtherType: ethernet.EtherTypeARP, Payload: payload}
	return f.MarshalBinary()
}

// announceRequest is a gratuitous request: sender = target address (RFC 5227
// section 3 argues for this form).
func announceRequest(mac system.MAC, addr netip.Addr) ([]byte, error) {
	return marshalARP(system.Broadcast, arp.OperationRequest, mac, addr, system.MAC{}, addr)
}

// announceReply is a gratuitous reply. Its target MAC is the sender's: Linux takes
// a reply for gratuitous in that form only, and otherwise ignores it while its
// entry is younger than a second.
func announceReply(mac system.MAC, addr netip.Addr) ([]byte, error) {
	return marshalARP(system.Broadcast, arp.OperationReply, mac, addr, mac, addr)
}

// directedRequest asks a neighbour from the address. It creates or replaces the
// neighbour's entry for the address, and the answer proves it. The neighbour's
// MAC may be Broadcast if it is not known.
func directedRequest(mac system.MAC, addr netip.Addr, to system.MAC, neighbour netip.Addr) ([]byte, error) {
	return marshalARP(to, arp.OperationRequest, mac, addr, system.MAC{}, neighbour)
}

// probeRequest asks who has an address and says nothing of ourselves (RFC 5227
// section 1.1, "ARP Probe").
func probeRequest(mac system.MAC, addr netip.Addr) ([]byte, error) {
	return marshalARP(system.Broadcast, arp.OperationRequest, mac, netip.IPv4Unspecified(), system.MAC{}, addr)
}
