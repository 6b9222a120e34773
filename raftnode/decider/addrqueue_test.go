package decider

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// A timeQueue gives every address that was added, once, in the order of the earliest
// times that were asked for.
func TestTimeQueueHasEachAddressOnce(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var q timeQueue
		want := map[netip.Addr]time.Duration{}
		for range random.IntN(60) {
			a, at := netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(20))}), time.Duration(random.IntN(50))
			q.add(at, a)
			if first, in := want[a]; !in || at < first {
				want[a] = at
			}
			if random.IntN(4) == 0 {
				delete(want, q.pop())
			}
		}
		if q.len() != len(want) {
			t.Fatalf("%d entries for %d addresses", q.len(), len(want))
		}
		for last := time.Duration(0); q.len() > 0; {
			at := q.first()
			a := q.pop()
			if at < last || want[a] != at {
				t.Fatalf("%v at %d, want %d; the one before at %d", a, at, want[a], last)
			}
			delete(want, a)
			last = at
		}
	}
}
