package layer2

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"

	"github.com/quorumlb/quorumlb/speakers/system"
)

var (
	macA = system.MAC{0x02, 0, 0, 0, 0, 0x0a}
	macB = system.MAC{0x02, 0, 0, 0, 0, 0x0b}
	macC = system.MAC{0x02, 0, 0, 0, 0, 0x0c}

	vip4    = netip.MustParseAddr("192.0.2.100")
	client4 = netip.MustParseAddr("192.0.2.2")
	vip6    = netip.MustParseAddr("2001:db8::100")
	client6 = netip.MustParseAddr("2001:db8::2")
)

// buffer gives a frame the room that the socket's buffers have.
func buffer(t testing.TB, frame []byte, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return append(make([]byte, 0, 512), frame...)
}

func requestFrame(t testing.TB, from system.MAC, fromIP, addr netip.Addr) []byte {
	f, err := marshalARP(system.Broadcast, arp.OperationRequest, from, fromIP, system.MAC{}, addr)
	return buffer(t, f, err)
}

func solicitFrame(t testing.TB, from system.MAC, fromIP, addr netip.Addr) []byte {
	group := solicitedNode(addr)
	f, err := solicit(from, fromIP, groupMAC(group), group, addr)
	return buffer(t, f, err)
}

func TestReplyARPEqualsTheLibrarys(t *testing.T) {
	for _, asker := range []netip.Addr{client4, netip.IPv4Unspecified()} {
		b := requestFrame(t, macB, asker, vip4)
		if _, v := parseARP(b); v != 0 {
			t.Fatalf("request judged %v", v)
		}
		got := replyARP(b, macA)
		want, err := marshalARP(macB, arp.OperationReply, macA, vip4, macB, asker)
		if err != nil {
			t.Fatal(err)
		}
		// The library pads to the shortest frame; the driver does it for us.
		if !bytes.Equal(got, want[:arpEnd]) {
			t.Errorf("asked by %v\n got %x\nwant %x", asker, got, want[:arpEnd])
		}
	}
}

func TestReplyNDPEqualsTheLibrarys(t *testing.T) {
	for name, tc := range map[string]struct {
		from      netip.Addr
		solicited bool
		to        netip.Addr
		dst       system.MAC
	}{
		"client": {client6, true, client6, macB},
		"dad":    {netip.IPv6Unspecified(), false, allNodes, allNodesMAC},
	} {
		t.Run(name, func(t *testing.T) {
			b := solicitFrame(t, macB, tc.from, vip6)
			m, v := parseNDP(b)
			if v != 0 {
				t.Fatalf("solicitation judged %v", v)
			}
			got := replyNDP(b, &m, macA)
			want, err := marshalNDP(tc.dst, macA, vip6, tc.to, &ndp.NeighborAdvertisement{
				Solicited: tc.solicited, Override: true, TargetAddress: vip6,
				Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: macA[:]}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("\n got %x\nwant %x", got, want)
			}
		})
	}
}

// A unicast solicitation of neighbour unreachability detection carries no MAC.
func TestParseNDPWithoutSourceOption(t *testing.T) {
	f, err := marshalNDP(macA, macB, client6, vip6, &ndp.NeighborSolicitation{TargetAddress: vip6})
	m, v := parseNDP(buffer(t, f, err))
	if v != 0 || m.hasMAC || m.src != macB || m.from != client6 || m.to != vip6 || m.target != vip6 {
		t.Errorf("verdict %v, message %+v", v, m)
	}
}

func TestParseARPRefuses(t *testing.T) {
	good := func() []byte { return requestFrame(t, macB, client4, vip4) }
	for name, tc := range map[string]struct {
		break_ func(b []byte) []byte
		want   Verdict
	}{
		"short":            {func(b []byte) []byte { return b[:arpEnd-1] }, Malformed},
		"hardware type":    {func(b []byte) []byte { b[15] = 6; return b }, Malformed},
		"protocol type":    {func(b []byte) []byte { b[17] = 1; return b }, Malformed},
		"hardware length":  {func(b []byte) []byte { b[18] = 8; return b }, Malformed},
		"protocol length":  {func(b []byte) []byte { b[19] = 16; return b }, Malformed},
		"operation":        {func(b []byte) []byte { b[21] = 3; return b }, Malformed},
		"group sender":     {func(b []byte) []byte { b[6], b[22] = 1, 1; return b }, Malformed},
		"zero sender":      {func(b []byte) []byte { clear(b[6:12]); clear(b[22:28]); return b }, Malformed},
		"source mismatch":  {func(b []byte) []byte { b[11] = 99; return b }, SourceMismatch},
		"nothing is wrong": {func(b []byte) []byte { return b }, 0},
	} {
		if _, v := parseARP(tc.break_(good())); v != tc.want {
			t.Errorf("%s: %v, want %v", name, v, tc.want)
		}
	}
}

func TestParseNDPRefuses(t *testing.T) {
	// sum makes the checksum right again.
	sum := func(b []byte) []byte {
		end := icmpType + int(binary.BigEndian.Uint16(b[ip6Length:]))
		b[icmpSum], b[icmpSum+1] = 0, 0
		binary.BigEndian.PutUint16(b[icmpSum:], checksum(b[:end]))
		return b
	}
	good := func() []byte { return solicitFrame(t, macB, client6, vip6) }
	dad := func() []byte { return solicitFrame(t, macB, netip.IPv6Unspecified(), vip6) }
	set := func(b []byte, at int, v byte) []byte { b[at] = v; return b }
	other := netip.MustParseAddr("2001:db8::999").As16()
	withOption, err := marshalNDP(groupMAC(solicitedNode(vip6)), macB, netip.IPv6Unspecified(), solicitedNode(vip6), &ndp.NeighborSolicitation{
		TargetAddress: vip6, Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: macB[:]}}})
	dadWithOption := buffer(t, withOption, err)
	solicitedToAll, err := marshalNDP(allNodesMAC, macB, vip6, allNodes, &ndp.NeighborAdvertisement{Solicited: true, TargetAddress: vip6})
	advert := buffer(t, solicitedToAll, err)
	for name, tc := range map[string]struct {
		frame []byte
		want  Verdict
	}{
		"good":                    {good(), 0},
		"good probe":              {dad(), 0},
		"short":                   {good()[:ndpOptions-1], Malformed},
		"hop limit 254":           {set(good(), ip6HopLimit, 254), Malformed},
		"code":                    {sum(set(good(), icmpCode, 1)), Malformed},
		"router solicitation":     {sum(set(good(), icmpType, 133)), Malformed},
		"length beyond the frame": {set(good(), ip6Length+1, 200), Malformed},
		"length too small":        {set(good(), ip6Length+1, 16), Malformed},
		"option of length 0":      {sum(set(good(), ndpOptions+1, 0)), Malformed},
		"option too long":         {sum(set(good(), ndpOptions+1, 2)), Malformed},
		"multicast target":        {sum(set(good(), ndpTarget, 0xff)), Malformed},
		"checksum":                {set(good(), icmpSum, good()[icmpSum]^1), BadChecksum},
		"to somebody else":        {sum(func() []byte { b := good(); copy(b[ip6Target:], other[:]); return b }()), Malformed},
		"source mismatch":         {set(good(), 11, 99), SourceMismatch},
		"probe with our MAC":      {dadWithOption, Malformed},
		"solicited, to all":       {advert, Malformed},
	} {
		if _, v := parseNDP(tc.frame); v != tc.want {
			t.Errorf("%s: %v, want %v", name, v, tc.want)
		}
	}
}

// arpSeeds are the forms that are seen on real segments.
func arpSeeds(f *testing.F) [][]byte {
	frames := [][]byte{requestFrame(f, macB, client4, vip4), requestFrame(f, macB, netip.IPv4Unspecified(), vip4)}
	for _, mk := range []func() ([]byte, error){
		func() ([]byte, error) { return announceRequest(macB, vip4) },
		func() ([]byte, error) { return announceReply(macB, vip4) },
		func() ([]byte, error) { return directedRequest(macB, vip4, macA, client4) },
		func() ([]byte, error) { return marshalARP(macA, arp.OperationReply, macB, client4, macA, vip4) },
	} {
		b, err := mk()
		frames = append(frames, buffer(f, b, err))
	}
	return frames
}

func fuzzTable() *Table {
	e4 := &Entry{Addr: vip4, Epoch: 7, Mode: Hold, links: []int{1}}
	e6 := &Entry{Addr: vip6, Epoch: 7, Mode: Hold, links: []int{1}}
	return &Table{
		entries: map[netip.Addr]*Entry{vip4: e4, vip6: e6},
		links:   map[int]system.MAC{1: macA},
		own:     map[system.MAC]struct{}{macA: {}},
		peers:   map[system.MAC]string{macC: "n2"},
		wanted:  map[netip.Addr]struct{}{client4: {}, client6: {}},
	}
}

// FuzzARP: no frame makes the judge fail, and whatever it answers is a proper
// reply for an address of ours, to the one who asked.
func FuzzARP(f *testing.F) {
	for _, b := range arpSeeds(f) {
		f.Add(b, byte(system.ToAll))
	}
	f.Fuzz(func(t *testing.T, data []byte, to byte) {
		in := append(make([]byte, 0, 512), data[:min(len(data), 512)]...)
		var seen recent
		j := judgeARP(fuzzTable(), &seen, &system.Frame{Data: bytes.Clone(in)[:len(in):len(in)], Link: 1, Type: to})
		var lib arp.Packet
		if j.verdict == Replied {
			if err := lib.UnmarshalBinary(j.reply[ethHeader:]); err != nil {
				t.Fatalf("the reply is no ARP packet: %v", err)
			}
			if lib.Operation != arp.OperationReply || lib.SenderIP != vip4 || system.MAC(lib.SenderHardwareAddr) != macA ||
				!bytes.Equal(j.reply[:6], in[6:12]) || !bytes.Equal(lib.TargetHardwareAddr, in[arpSender:arpSenderIP]) {
				t.Fatalf("reply %x to %x", j.reply, in)
			}
		}
		if j.verdict != Malformed && lib.UnmarshalBinary(in[min(len(in), ethHeader):]) != nil {
			t.Fatalf("the library refuses what was judged %v: %x", j.verdict, in)
		}
	})
}

// FuzzNDP is the same for NDP.
func FuzzNDP(f *testing.F) {
	f.Add(solicitFrame(f, macB, client6, vip6), byte(system.ToGroup))
	f.Add(solicitFrame(f, macB, netip.IPv6Unspecified(), vip6), byte(system.ToGroup))
	for _, mk := range []func() ([]byte, error){
		func() ([]byte, error) { return announceAdvert(macB, vip6) },
		func() ([]byte, error) { return directedSolicit(macB, vip6, macA, client6) },
		func() ([]byte, error) {
			return marshalNDP(macA, macB, client6, vip6, &ndp.NeighborAdvertisement{Solicited: true, TargetAddress: client6})
		},
	} {
		b, err := mk()
		f.Add(buffer(f, b, err), byte(system.ToHost))
	}
	f.Fuzz(func(t *testing.T, data []byte, to byte) {
		in := append(make([]byte, 0, 512), data[:min(len(data), 512)]...)
		if len(in) >= ndpOptions {
			// A right checksum, or nothing behind that check would ever be reached.
			in[icmpSum], in[icmpSum+1] = 0, 0
			if end := icmpType + int(binary.BigEndian.Uint16(in[ip6Length:])); end <= len(in) {
				binary.BigEndian.PutUint16(in[icmpSum:], checksum(in[:end]))
			}
		}
		var seen recent
		work := append(make([]byte, 0, 512), in...)
		j := judgeNDP(fuzzTable(), &seen, &system.Frame{Data: work, Link: 1, Type: to})
		if j.verdict != Replied {
			return
		}
		m, v := parseNDP(j.reply)
		if v != 0 || !m.advert || m.target != vip6 || m.from != vip6 || m.mac != macA || m.src != macA {
			t.Fatalf("reply %x (%v) to %x", j.reply, v, in)
		}
		var frame ethernet.Frame
		if err := frame.UnmarshalBinary(j.reply); err != nil {
			t.Fatal(err)
		}
		lib, err := ndp.ParseMessage(j.reply[icmpType:])
		na, ok := lib.(*ndp.NeighborAdvertisement)
		if err != nil || !ok || !na.Override || na.Router || na.Solicited == bytes.Equal(frame.Destination, net.HardwareAddr(allNodesMAC[:])) {
			t.Fatalf("reply %+v (%v) to %x", lib, err, in)
		}
	})
}
