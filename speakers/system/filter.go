package system

import (
	"fmt"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets from the start of the Ethernet frame.
const (
	offEtherType = 12

	offARPHeader = 14 // hardware type, protocol type, lengths
	offARPOp     = 20

	offIPv6NextHeader = 20
	offIPv6HopLimit   = 21
	offICMPv6Type     = 54
)

// snapLength is how much of a frame the kernel hands over: all of an ARP
// packet, and an NDP message with every option that is in use.
const snapLength = 512

// arpFilter passes well-formed requests and replies of Ethernet and IPv4 that
// were sent to this station or to all.
//
// A frame for another station is dropped here, and for a reason beyond
// promiscuous mode: on a trunk, a frame with the tag of a VLAN that this host
// does not have arrives with the tag taken off and nothing but the packet type
// "other host" to tell it from an untagged one.
func arpFilter() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: unix.PACKET_BROADCAST, SkipTrue: 8},
		bpf.LoadAbsolute{Off: offEtherType, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_ARP, SkipTrue: 6},
		bpf.LoadAbsolute{Off: offARPHeader, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x0001_0800, SkipTrue: 4},
		bpf.LoadAbsolute{Off: offARPOp - 2, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0604_0001, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x0604_0002, SkipTrue: 1},
		bpf.RetConstant{Val: snapLength},
		bpf.RetConstant{Val: 0},
	}
}

// ndpFilter passes neighbour solicitations and advertisements with hop limit
// 255 (RFC 4861 section 7.1) that were sent to this station or to a group.
func ndpFilter() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: unix.PACKET_MULTICAST, SkipTrue: 8},
		bpf.LoadAbsolute{Off: offEtherType, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IPV6, SkipTrue: 6},
		bpf.LoadAbsolute{Off: offIPv6NextHeader, Size: 2}, // next header, hop limit
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6<<8 | 255, SkipTrue: 4},
		bpf.LoadAbsolute{Off: offICMPv6Type, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 135, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 136, SkipTrue: 1},
		bpf.RetConstant{Val: snapLength},
		bpf.RetConstant{Val: 0},
	}
}

// attachFilter puts the program on a socket that is not bound yet, so that no
// frame slips in before it.
func attachFilter(fd int, program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("assemble the socket filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, ins := range raw {
		filter[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return fmt.Errorf("attach the socket filter: %w", err)
	}
	return nil
}
