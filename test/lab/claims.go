package lab

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Claim is a station's word on the wire that an address is at its MAC.
type Claim struct {
	At   time.Time
	Addr netip.Addr
	MAC  MAC
	Kind Kind
}

// Claims picks the claims for the addresses out of the captures' frames of
// [from, to), in the order of time.
func Claims(from, to time.Time, addrs []netip.Addr, captures ...*Capture) []Claim {
	var claims []Claim
	for _, c := range captures {
		for _, f := range c.Frames(from, to) {
			if addr, mac, ok := f.Claim(); ok && slices.Contains(addrs, addr) {
				claims = append(claims, Claim{At: f.At, Addr: addr, MAC: mac, Kind: f.Kind})
			}
		}
	}
	slices.SortStableFunc(claims, func(a, b Claim) int { return a.At.Compare(b.At) })
	return claims
}

// Distinct drops the second sight of a frame that two captures saw. The claims are in
// order of time.
func Distinct(claims []Claim) (list []Claim) {
	same := func(a, b Claim) bool { return a.Addr == b.Addr && a.MAC == b.MAC && a.Kind == b.Kind }
	for _, c := range claims {
		i := len(list) - 1
		for i >= 0 && c.At.Sub(list[i].At) < time.Millisecond && !same(list[i], c) {
			i--
		}
		if i < 0 || c.At.Sub(list[i].At) >= time.Millisecond {
			list = append(list, c)
		}
	}
	return list
}

// Tenure is a time in which one MAC claimed an address and no other did.
type Tenure struct {
	Addr     netip.Addr
	MAC      MAC
	From, To time.Time // first and last claim
	Claims   int
}

// Tenures folds claims (in order of time) into who had each address, one after
// the other.
func Tenures(claims []Claim) map[netip.Addr][]Tenure {
	out := map[netip.Addr][]Tenure{}
	for _, c := range claims {
		list := out[c.Addr]
		if n := len(list); n > 0 && list[n-1].MAC == c.MAC {
			list[n-1].To = c.At
			list[n-1].Claims++
			continue
		}
		out[c.Addr] = append(list, Tenure{Addr: c.Addr, MAC: c.MAC, From: c.At, To: c.At, Claims: 1})
	}
	return out
}

// Overlap is a time in which two stations claimed one address.
type Overlap struct {
	Addr     netip.Addr
	New, Old MAC
	// From is the first claim of the new station, To the last one of the old.
	From, To time.Time
}

// For is how long the old station went on after the new one had begun.
func (o Overlap) For() time.Duration { return o.To.Sub(o.From) }

// String is for failed tests.
func (o Overlap) String() string {
	return fmt.Sprintf("%s: %s still claimed it %v after %s had begun (at %s)",
		o.Addr, o.Old, o.For(), o.New, o.From.Format("15:04:05.000000"))
}

// Overlaps finds every station that was heard again after a newer one had
// claimed its address. The claims must be those of one event: within them no
// address may rightly return to a station that has lost it.
func Overlaps(claims []Claim) []Overlap {
	var out []Overlap
	for addr, list := range Tenures(claims) {
		var known []MAC // in order of first claim
		since := map[MAC]time.Time{}
		worst := map[MAC]Overlap{}
		for _, t := range list {
			i := slices.Index(known, t.MAC)
			if i < 0 {
				known, since[t.MAC] = append(known, t.MAC), t.From
				continue
			}
			if i+1 < len(known) { // a newer one has begun
				worst[t.MAC] = Overlap{Addr: addr, Old: t.MAC, New: known[i+1], From: since[known[i+1]], To: t.To}
			}
		}
		out = slices.AppendSeq(out, maps.Values(worst))
	}
	slices.SortFunc(out, func(a, b Overlap) int {
		return cmp.Or(a.From.Compare(b.From), a.Addr.Compare(b.Addr))
	})
	return out
}

// LongestOverlap is the worst of them, zero when there is none.
func LongestOverlap(list []Overlap) (worst time.Duration) {
	for _, o := range list {
		worst = max(worst, o.For())
	}
	return worst
}
