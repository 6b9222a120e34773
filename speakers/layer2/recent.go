package layer2

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"

	"github.com/quorumlb/quorumlb/speakers/system"
)

// client is a station that asked for an address.
type client struct {
	addr netip.Addr
	mac  system.MAC
	link int
	at   int64 // wall time in nanoseconds
}

// recent remembers who asked lately for which address, ours or not: when an
// address moves here, its clients of yesterday's owner have been heard asking.
// It has room for a fixed number; newer entries take the place of older ones.
type recent struct {
	mu    sync.Mutex
	slots [1024]struct {
		target netip.Addr
		client client
	}
}

// note remembers that c asked for target. It allocates nothing.
func (r *recent) note(target netip.Addr, c client) {
	slot := &r.slots[hash(target, c.addr)%uint64(len(r.slots))]
	r.mu.Lock()
	slot.target, slot.client = target, c
	r.mu.Unlock()
}

// hash is FNV-1a over both addresses.
func hash(a, b netip.Addr) uint64 {
	h := uint64(14695981039346656037)
	for _, addr := range [2]netip.Addr{a, b} {
		for _, c := range addr.As16() {
			h = (h ^ uint64(c)) * 1099511628211
		}
	}
	return h ^ h>>32
}

// clients returns, for each wanted address, who asked for it at or after since,
// the newest first and at most limit.
func (r *recent) clients(wanted map[netip.Addr]struct{}, since int64, limit int) map[netip.Addr][]client {
	found := make(map[netip.Addr][]client)
	r.mu.Lock()
	for i := range r.slots {
		s := &r.slots[i]
		if _, ok := wanted[s.target]; ok && s.client.at >= since {
			found[s.target] = append(found[s.target], s.client)
		}
	}
	r.mu.Unlock()
	for target, list := range found {
		slices.SortFunc(list, func(a, b client) int { return cmp.Compare(b.at, a.at) })
		found[target] = list[:min(limit, len(list))]
	}
	return found
}
