package system

import (
	"fmt"
	"net"
)

// MAC is an Ethernet address. It is comparable, so that it can be a map's key.
type MAC [6]byte

// Broadcast is the address of all stations of a segment.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// String returns the usual form, for example "02:00:00:00:00:01".
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// IsZero reports whether the address is all zeros, which no station has.
func (m MAC) IsZero() bool { return m == MAC{} }

// IsGroup reports whether the address names more than one station.
func (m MAC) IsGroup() bool { return m[0]&1 != 0 }

// MACFrom converts a slice of exactly 6 bytes.
func MACFrom(b []byte) (MAC, error) {
	if len(b) != 6 {
		return MAC{}, fmt.Errorf("link-layer address of %d bytes, want 6", len(b))
	}
	return MAC(b), nil
}
