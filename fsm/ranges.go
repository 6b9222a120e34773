package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"strings"
)

// ErrRange says that a text is not a range of addresses of one family.
var ErrRange = errors.New("not an address range")

// The IPv6 spelling of IPv4 addresses, ::ffff:0:0/96 (RFC 4291, section 2.5.5.2).
var firstMapped, lastMapped = addrKey{0, 0xffff_0000_0000}, addrKey{0, 0xffff_ffff_ffff}

// ParseRange reads a CIDR ("192.0.2.0/24") or an inclusive range
// ("192.0.2.10-192.0.2.20"). A CIDR may have host bits set; the whole prefix is
// meant. Reversed ranges, ranges over two families, zones and IPv4-mapped IPv6
// addresses are refused with an error that wraps ErrRange.
func ParseRange(text string) (Range, error) {
	first, last, dash := strings.Cut(text, "-")
	if !dash {
		return parseCIDR(text)
	}
	r := Range{}
	var err error
	if r.First, err = ParseAddr(strings.TrimSpace(first)); err != nil {
		return Range{}, fmt.Errorf("%w: %q: first address: %w", ErrRange, text, err)
	}
	if r.Last, err = ParseAddr(strings.TrimSpace(last)); err != nil {
		return Range{}, fmt.Errorf("%w: %q: last address: %w", ErrRange, text, err)
	}
	if r.First.Is4() != r.Last.Is4() {
		return Range{}, fmt.Errorf("%w: %q mixes IPv4 and IPv6", ErrRange, text)
	}
	if r.Last.Less(r.First) {
		return Range{}, fmt.Errorf("%w: %q is reversed: %s comes after %s", ErrRange, text, r.First, r.Last)
	}
	return r, r.checkMapped(text)
}

func parseCIDR(text string) (Range, error) {
	p, err := netip.ParsePrefix(strings.TrimSpace(text))
	if err != nil {
		return Range{}, fmt.Errorf("%w: %q is neither a CIDR nor a first-last range", ErrRange, text)
	}
	if p.Addr().Is4In6() {
		return Range{}, fmt.Errorf("%w: %q is IPv4-mapped; write it as IPv4", ErrRange, text)
	}
	p = p.Masked()
	r := Range{First: p.Addr(), Last: lastOf(p)}
	return r, r.checkMapped(text)
}

func (r Range) checkMapped(text string) error {
	if r.First.Is6() && !lastMapped.less(keyOf(r.First)) && !keyOf(r.Last).less(firstMapped) {
		return fmt.Errorf("%w: %q holds IPv4-mapped addresses", ErrRange, text)
	}
	return nil
}

func lastOf(p netip.Prefix) netip.Addr {
	k := keyOf(p.Addr())
	host := p.Addr().BitLen() - p.Bits()
	if host >= 64 {
		k.lo = math.MaxUint64
		k.hi |= 1<<(host-64) - 1
	} else {
		k.lo |= 1<<host - 1
	}
	return k.addr()
}

// ParseAddr reads one address. Zones and IPv4-mapped IPv6 are refused.
func ParseAddr(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", text)
	case a.Zone() != "":
		return netip.Addr{}, fmt.Errorf("%q has a zone", text)
	case a.Is4In6():
		return netip.Addr{}, fmt.Errorf("%q is IPv4-mapped; write it as IPv4", text)
	}
	return a, nil
}

// ToAddr reads the 4 or 16 bytes of an address in the log. Other lengths and
// IPv4-mapped IPv6 are an ErrCorrupt: the same address must not have two names.
func ToAddr(b []byte) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.Addr{}, corruptf("address of %d bytes", len(b))
	}
	if a.Is4In6() {
		return netip.Addr{}, corruptf("IPv4-mapped address %s", a)
	}
	return a, nil
}

// FromAddr gives the bytes of an address as the log holds them.
func FromAddr(a netip.Addr) []byte { return a.AsSlice() }

// Contains tells whether a lies in r.
func (r Range) Contains(a netip.Addr) bool {
	return a.Is4() == r.First.Is4() && !a.Less(r.First) && !r.Last.Less(a)
}

// Overlaps tells whether the two ranges have an address in common.
func (r Range) Overlaps(o Range) bool {
	return r.First.Is4() == o.First.Is4() && !r.Last.Less(o.First) && !o.Last.Less(r.First)
}

// Size counts the addresses, at most 2^63-1.
func (r Range) Size() uint64 {
	a, b := keyOf(r.First), keyOf(r.Last)
	lo, borrow := bits.Sub64(b.lo, a.lo, 0)
	hi, _ := bits.Sub64(b.hi, a.hi, borrow)
	if hi != 0 || lo >= math.MaxInt64 {
		return math.MaxInt64
	}
	return lo + 1
}

// String gives "first-last".
func (r Range) String() string { return r.First.String() + "-" + r.Last.String() }

// Buggy tells whether a is an IPv4 address that ends in .0 or .255, which some
// old devices take for a network or broadcast address.
func Buggy(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	b := a.As4()
	return b[3] == 0 || b[3] == 255
}

// Anycast tells whether a is the Subnet-Router anycast address of a /64 (RFC 4291,
// section 2.6.1): the kernel of every node that forwards answers for it when the
// subnet is the node's own.
func Anycast(a netip.Addr) bool { return a.Is6() && keyOf(a).lo == 0 }

// hasAnycast tells whether the Subnet-Router anycast addresses in r are to be
// left alone. Ranges of one or two addresses name hosts, not subnets (RFC 6164).
func (r Range) hasAnycast() bool { return r.First.Is6() && r.Size() > 2 }

// usable counts the addresses of r that a pool hands out to those who do not ask
// for a certain one, at most 2^63-1.
func (r Range) usable(avoidBuggy bool) uint64 {
	switch {
	case r.hasAnycast():
		size, first, last := r.Size(), keyOf(r.First), keyOf(r.Last)
		if size == math.MaxInt64 {
			return size
		}
		anycast := last.hi - first.hi
		if first.lo == 0 {
			anycast++
		}
		return size - anycast
	case !avoidBuggy || !r.First.Is4():
		return r.Size()
	}
	// below(x) counts the addresses under x that do not end in .0 or .255.
	below := func(x uint64) uint64 {
		last := x & 255
		return x>>8*254 + min(max(last, 1)-1, 254)
	}
	a, b := r.First.As4(), r.Last.As4()
	return below(uint64(binary.BigEndian.Uint32(b[:]))+1) - below(uint64(binary.BigEndian.Uint32(a[:])))
}

// addrKey is an address as a number: IPv4 in its IPv4-mapped form. It holds no
// pointer, so that large indexes cost the garbage collector nothing.
type addrKey struct{ hi, lo uint64 }

func keyOf(a netip.Addr) addrKey {
	b := a.As16()
	return addrKey{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (k addrKey) addr() netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], k.hi)
	binary.BigEndian.PutUint64(b[8:], k.lo)
	return netip.AddrFrom16(b).Unmap()
}

func (k addrKey) less(o addrKey) bool {
	return k.hi < o.hi || k.hi == o.hi && k.lo < o.lo
}

// plus gives the address n further; past the last one it begins anew.
func (k addrKey) plus(n uint64) addrKey {
	lo, carry := bits.Add64(k.lo, n, 0)
	return addrKey{k.hi + carry, lo}
}

// fam is the position of a family in arrays: 0 for IPv4, 1 for IPv6.
func fam(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}
