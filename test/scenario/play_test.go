package scenario

import (
	"net/netip"
	"testing"
)

func TestJudgeOwners(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr("2001:db8:1::100")
	before := map[string]string{a.String(): "n1", b.String(): "n2"}
	for _, tt := range []struct {
		name   string
		after  map[string]string
		moves  []netip.Addr
		misses int
	}{
		{"nothing moved", before, nil, 0},
		{"one moved and may not", map[string]string{a.String(): "n3", b.String(): "n2"}, nil, 1},
		{"one moved as it must", map[string]string{a.String(): "n3", b.String(): "n2"}, []netip.Addr{a}, 0},
		{"the wrong one moved", map[string]string{a.String(): "n3", b.String(): "n2"}, []netip.Addr{b}, 2},
		{"none moved and one must", before, []netip.Addr{a}, 1},
		{"one is gone", map[string]string{a.String(): "n1"}, nil, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var o Outcome
			o.judgeOwners([]netip.Addr{a, b}, before, tt.after, Limits{Moves: tt.moves})
			if len(o.Misses) != tt.misses {
				t.Errorf("%d misses: %q; want %d", len(o.Misses), o.Misses, tt.misses)
			}
		})
	}
}
