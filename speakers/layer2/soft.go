package layer2

import (
	"net/netip"
	"slices"
	"time"
)

// soften makes an owned address one that moves away softly: those who know it
// here are still answered, nobody else is, and nothing is said unasked. The reply
// to a question that is being judged may still go out: Install waits for it.
func (l *Layer2) soften(v *vip) {
	v.endBursts()
	v.pending, v.held = 0, false
	v.proven, v.foreign, v.yielded = nil, nil, false
	v.checked, v.connections = Check{}, -1
	if v.entry != nil {
		v.entry.muted.Store(false) // or the new entry would inherit it
	}
	delete(l.troubled, v)
	l.uncheck(v)
	// Who asks the group asks the new owner; a switch that snoops need not bring it here.
	l.leave(v, slices.Clone(v.joined))
}

// joinAll holds the groups of an address that is answered without being announced.
func (l *Layer2) joinAll(v *vip, now time.Duration) {
	for _, index := range v.on {
		_ = l.join(v, index, now) // tried again by lookAtGroups
	}
}

// Soft returns the addresses that move away softly, sorted.
func (l *Layer2) Soft() []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []netip.Addr
	for addr, v := range l.vips {
		if v.Soft {
			out = append(out, addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// SetConnections tells how many connections of clients the kernel tracks to
// addresses that move away softly.
func (l *Layer2) SetConnections(counts map[netip.Addr]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for addr, n := range counts {
		if v := l.vips[addr]; v != nil && v.Soft {
			v.connections = n
			l.touch(v)
		}
	}
}
