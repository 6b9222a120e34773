package lab

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestDecode(t *testing.T) {
	eth := func(ethertype string) string { return "ffffffffffff" + "0251000000aa" + ethertype }
	arp := func(op string) string {
		return eth("0806") + "0001080006 04" + op + "0251000000aa" + "c000020a" + "000000000000" + "c000020b"
	}
	ndp := func(typ, flags, opts string) string {
		return eth("86dd") + "60000000" + "0020" + "3a" + "ff" +
			"20010db8000000000000000000000001" + "ff0200000000000000000001ff00000b" +
			typ + "000000" + flags + "000000" + "20010db800000000000000000000000b" + opts
	}
	v4, v6 := netip.MustParseAddr, netip.MustParseAddr
	mac := MAC{0x02, 0x51, 0, 0, 0, 0xaa}
	for _, tt := range []struct {
		name, frame string
		kind        Kind // 0: not decoded
		claim       string
	}{
		{"request", arp("0001"), ARPRequest, "192.0.2.10"},
		{"reply", arp("0002"), ARPReply, "192.0.2.10"},
		{"reverse ARP", arp("0003"), 0, ""},
		{"short ARP", arp("0001")[:61], 0, ""},
		{"ARP for something else", strings.Replace(arp("0001"), "00010800", "00010801", 1), 0, ""},
		{"NS", ndp("87", "00", "01010251000000aa"), Solicitation, "2001:db8::1"},
		{"NS without option", ndp("87", "00", ""), Solicitation, ""},
		{"NA", ndp("88", "60", "02010251000000aa"), Advertisement, "2001:db8::b"},
		{"NA, second option", ndp("88", "20", "0e01000000000000"+"02010251000000aa"), Advertisement, "2001:db8::b"},
		{"NA, option of length 0", ndp("88", "20", "0200000000000000"), Advertisement, ""},
		{"NA with the wrong option", ndp("88", "20", "01010251000000aa"), Advertisement, ""},
		{"RA", ndp("86", "00", ""), 0, ""},
		{"IPv4", eth("0800") + "45000000", 0, ""},
		{"nothing", "", 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			raw, err := hex.DecodeString(strings.ReplaceAll(tt.frame, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			f, ok := decode(raw)
			if ok != (tt.kind != 0) || ok && f.Kind != tt.kind {
				t.Fatalf("decoded %v, %v; want %v", ok, f.Kind, tt.kind)
			}
			if !ok {
				return
			}
			addr, by, ok := f.Claim()
			if ok != (tt.claim != "") {
				t.Fatalf("claim %v (%v at %v), want %q", ok, addr, by, tt.claim)
			}
			if ok && (addr != netip.MustParseAddr(tt.claim) || by != mac) {
				t.Errorf("claims %s at %s, want %s at %s", addr, by, tt.claim, mac)
			}
		})
	}
	for _, pair := range [][2]netip.Addr{{v4("192.0.2.1"), v4("192.0.2.7")}, {v6("2001:db8::1"), v6("2001:db8::7:8:9")}} {
		f, ok := decode(whoHas(mac, pair[0], pair[1]))
		if !ok || f.Target != pair[1] || f.Sender != pair[0] || f.SenderMAC != mac {
			t.Errorf("whoHas(%s) decodes to %v, %v", pair[1], f, ok)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(whoHas(MAC{2, 1}, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.7")))
	f.Add(whoHas(MAC{2, 1}, netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::7")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		frame, ok := decode(raw)
		if ok && frame.Kind == 0 {
			t.Fatal("decoded to no kind")
		}
		frame.Claim()
	})
}

func TestOverlaps(t *testing.T) {
	const ms = time.Millisecond
	t0 := time.Unix(1000, 0)
	x, y := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.11")
	a, b, c := MAC{0xa}, MAC{0xb}, MAC{0xc}
	at := func(d time.Duration, addr netip.Addr, mac MAC) Claim {
		return Claim{At: t0.Add(d), Addr: addr, MAC: mac}
	}
	for _, tt := range []struct {
		name   string
		claims []Claim
		want   []time.Duration
	}{
		{"one station", []Claim{at(0, x, a), at(ms, x, a)}, nil},
		{"a clean move", []Claim{at(0, x, a), at(ms, x, b), at(2*ms, x, b)}, nil},
		{"two clean moves", []Claim{at(0, x, a), at(ms, x, b), at(2*ms, x, c)}, nil},
		{"two addresses", []Claim{at(0, x, a), at(ms, y, b), at(2*ms, x, a)}, nil},
		{"a late frame", []Claim{at(0, x, a), at(ms, x, b), at(2*ms, x, a), at(3*ms, x, b)}, []time.Duration{ms}},
		{"both for long", []Claim{at(0, x, a), at(ms, x, b), at(2*ms, x, a), at(3*ms, x, b), at(9*ms, x, a)}, []time.Duration{8 * ms}},
		{"back after a third", []Claim{at(0, x, a), at(ms, x, b), at(2*ms, x, c), at(5*ms, x, a)}, []time.Duration{4 * ms}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Overlaps(tt.claims)
			if len(got) != len(tt.want) {
				t.Fatalf("%d overlaps: %v; want %v", len(got), got, tt.want)
			}
			for i, w := range tt.want {
				if got[i].For() != w {
					t.Errorf("overlap %d is %v, want %v", i, got[i], w)
				}
			}
		})
	}
}

func TestWindow(t *testing.T) {
	const ms = time.Millisecond
	t0 := time.Unix(1000, 0)
	var s series
	for i := range 100 { // one each 10 ms; dark from 300 to 500 ms; from 800 ms answered by n2
		x := Sample{Sent: t0.Add(time.Duration(i) * 10 * ms), Node: "n1"}
		if i >= 80 {
			x.Node = "n2"
		}
		if i < 30 || i >= 50 {
			x.Answered = x.Sent.Add(ms)
		}
		if i == 60 {
			x.Answered = x.Sent.Add(Patience + ms) // too late
		}
		s.add(x)
	}
	r := s.Window(t0, t0.Add(time.Second))
	if r.Sent != 100 || r.Lost != 21 || r.LongestGap != 210*ms || !r.GapFrom.Equal(t0.Add(291*ms)) || len(r.Nodes) != 2 {
		t.Errorf("whole: %+v", r)
	}
	if r := s.Window(t0.Add(100*ms), t0.Add(200*ms)); r.Sent != 10 || r.Lost != 0 || r.LongestGap != 10*ms {
		t.Errorf("quiet part: %+v", r)
	}
	if r := s.Window(t0.Add(350*ms), t0.Add(450*ms)); r.Sent != 10 || r.Lost != 10 || r.LongestGap != 100*ms {
		t.Errorf("dark part: %+v", r)
	}
	if r := s.Window(t0.Add(time.Hour), t0); r.Sent != 0 {
		t.Errorf("window that ends before it begins: %+v", r)
	}
}
