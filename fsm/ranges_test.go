package fsm

import (
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseRange(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.0/24":               "192.0.2.0-192.0.2.255",
		"192.0.2.77/24":              "192.0.2.0-192.0.2.255",
		"192.0.2.1/32":               "192.0.2.1-192.0.2.1",
		"0.0.0.0/0":                  "0.0.0.0-255.255.255.255",
		"192.0.2.10-192.0.2.20":      "192.0.2.10-192.0.2.20",
		" 192.0.2.10 - 192.0.2.20 ":  "192.0.2.10-192.0.2.20",
		"192.0.2.9-192.0.2.9":        "192.0.2.9-192.0.2.9",
		"2001:db8::/64":              "2001:db8::-2001:db8::ffff:ffff:ffff:ffff",
		"2001:db8::/65":              "2001:db8::-2001:db8::7fff:ffff:ffff:ffff",
		"2001:db8::/63":              "2001:db8::-2001:db8:0:1:ffff:ffff:ffff:ffff",
		"2001:db8::1/128":            "2001:db8::1-2001:db8::1",
		"2001:db8::1-2001:db8::ffff": "2001:db8::1-2001:db8::ffff",
		"fc00::/7":                   "fc00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
	} {
		r, err := ParseRange(text)
		if err != nil || r.String() != want {
			t.Errorf("%q: %s, %v, want %s", text, r, err, want)
		}
	}
	for text, want := range map[string]string{
		"":                              "neither a CIDR nor",
		"192.0.2.1":                     "neither a CIDR nor",
		"192.0.2.0/33":                  "neither a CIDR nor",
		"192.0.2.20-192.0.2.10":         "reversed",
		"192.0.2.1-2001:db8::1":         "mixes IPv4 and IPv6",
		"192.0.2.1-":                    "last address",
		"-192.0.2.1":                    "first address",
		"192.0.2.1-192.0.2.2-192.0.2.3": "last address",
		"192.0.2.1-192.0.2.0/24":        "last address",
		"fe80::1%eth0-fe80::2%eth0":     "zone",
		"fe80::%eth0/64":                "neither a CIDR nor",
		"::ffff:192.0.2.0/120":          "IPv4-mapped",
		"::ffff:1.2.3.4-::ffff:1.2.3.9": "IPv4-mapped",
		"::/0":                          "IPv4-mapped",
		"::fffe:0:0-::1:0:0:0":          "IPv4-mapped",
	} {
		if r, err := ParseRange(text); !errors.Is(err, ErrRange) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %s, %v, want %q", text, r, err, want)
		}
	}
}

func TestRangeSizes(t *testing.T) {
	for text, want := range map[string][2]uint64{ // all, and without .0 and .255
		"192.0.2.0/24":            {256, 254},
		"192.0.0.0/16":            {65536, 256 * 254},
		"0.0.0.0/0":               {1 << 32, 1 << 24 * 254},
		"192.0.2.255-192.0.3.0":   {2, 0},
		"192.0.2.254-192.0.3.1":   {4, 2},
		"192.0.2.10-192.0.2.20":   {11, 11},
		"192.0.2.0-192.0.2.0":     {1, 0},
		"2001:db8::/64":           {math.MaxInt64, math.MaxInt64},
		"2001:db8::/66":           {1<<62 - 1, 1<<62 - 1}, // without the Subnet-Router anycast address
		"2001:db8::/127":          {2, 2},
		"2001:db8::/126":          {3, 3},
		"2001:db8::1-2001:db8::5": {5, 5},
		"2001:db8:0:1:ffff:ffff:ffff:fffe-2001:db8:0:2::1": {3, 3},
		"2001:db8::/65":              {math.MaxInt64, math.MaxInt64},
		"2001:db8::ff-2001:db8::100": {2, 2},
		"fc00::/7":                   {math.MaxInt64, math.MaxInt64},
	} {
		r, err := ParseRange(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]uint64{r.usable(false), r.usable(true)}; got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
}

// The size without buggy addresses is what counting gives.
func TestUsableIsACount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.Uint32Range(0, 70000).Draw(t, "first")
		n := rapid.Uint32Range(0, 1200).Draw(t, "n")
		at := func(v uint32) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(v >> 16), byte(v >> 8), byte(v)}) }
		r := Range{at(first), at(first + n)}
		want := uint64(0)
		for v := range n + 1 {
			if !Buggy(at(first + v)) {
				want++
			}
		}
		if got := r.usable(true); got != want {
			t.Fatalf("%s: %d, counted %d", r, got, want)
		}
	})
}

func TestAddrKeysKeepOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) netip.Addr {
			b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, name)
			if rapid.Bool().Draw(t, name+" is IPv4") {
				return netip.AddrFrom4([4]byte(b[:4]))
			}
			b[0] |= 0x20
			return netip.AddrFrom16([16]byte(b))
		}
		a, b := draw("a"), draw("b")
		if keyOf(a).addr() != a {
			t.Fatalf("%s came back as %s", a, keyOf(a).addr())
		}
		if keyOf(a).less(keyOf(b)) != a.Less(b) {
			t.Fatalf("%s and %s change places", a, b)
		}
	})
}
