package layer2

import (
	"encoding/binary"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/ethernet"

	"github.com/quorumlb/quorumlb/speakers/system"
)

// A switch that snoops MLD forwards a group only to ports that reported it
// lately. The kernel reports when it joins and when a querier asks; where there is
// no querier, switches forget after some minutes. So each refresh repeats the
// report for the solicited-node groups of our addresses.

// allRouters is the group of MLDv2-capable routers (RFC 3810 section 5.2.14).
var allRouters = netip.MustParseAddr("ff02::16")

const (
	mldReport  = 143
	isExclude  = 2  // MODE_IS_EXCLUDE without sources: everything for the group
	mldRecords = 60 // in one report, which then fits any Ethernet
)

// memberReports encodes MLDv2 reports of the groups (RFC 3810 section 5.2), from a link-local
// address as section 5.2.13 demands.
func memberReports(mac system.MAC, source netip.Addr, groups []netip.Addr) ([][]byte, error) {
	var frames [][]byte
	for chunk := range slices.Chunk(groups, mldRecords) {
		const options = 8 // the hop-by-hop header with a router alert (RFC 2711)
		payload := make([]byte, icmpType-ethHeader+options, 2048)
		binary.BigEndian.PutUint32(payload, 6<<28)
		binary.BigEndian.PutUint16(payload[ip6Length-ethHeader:], uint16(options+8+20*len(chunk)))
		payload[ip6HopLimit-ethHeader] = 1
		from, to := source.As16(), allRouters.As16()
		copy(payload[ip6Source-ethHeader:], from[:])
		copy(payload[ip6Target-ethHeader:], to[:])
		copy(payload[icmpType-ethHeader:], []byte{58, 0, 5, 2, 0, 0, 1, 0})

		report := make([]byte, 8, 8+20*len(chunk))
		report[0] = mldReport
		binary.BigEndian.PutUint16(report[6:], uint16(len(chunk)))
		for _, g := range chunk {
			group := g.As16()
			report = append(report, isExclude, 0, 0, 0)
			report = append(report, group[:]...)
		}
		// The checksum's pseudo-header does not count the options.
		plain := slices.Concat(make([]byte, ip6Source), from[:], to[:], report)
		binary.BigEndian.PutUint16(report[2:], checksum(plain))
		dst := groupMAC(allRouters)
		f := ethernet.Frame{Destination: net.HardwareAddr(dst[:]), Source: net.HardwareAddr(mac[:]),
			EtherType: ethernet.EtherTypeIPv6, Payload: append(payload, report...)}
		frame, err := f.MarshalBinary()
		if err != nil {
			return nil, err
		}
		frames = append(frames, frame)
	}
	return frames, nil
}

// reportGroups repeats the reports of all groups on a link.
func (l *Layer2) reportGroups(k *link, now time.Duration) {
	source := linkLocal(k)
	if !source.IsValid() {
		return
	}
	var groups []netip.Addr
	for key := range maps.Keys(l.groups.count) {
		if key.link == k.Index {
			groups = append(groups, key.group)
		}
	}
	slices.SortFunc(groups, netip.Addr.Compare)
	frames, err := memberReports(k.MAC, source, groups)
	if err != nil {
		l.log.Error("encode MLD reports", "interface", k.Name, "error", err)
		return
	}
	if len(frames) > 0 {
		l.pacer.add(&burst{link: k.Index, kind: KindGroups, frames: frames, rounds: 1, step: stepAnnounce, due: now})
	}
}

// linkLocal returns a link-local address of a link; invalid if it has none.
func linkLocal(k *link) netip.Addr {
	for _, p := range k.Prefixes {
		if p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}
