package fsm

import (
	"iter"
	"net/netip"
)

// An address in use that its pool no longer has stays with its services, in the
// name of that pool, until they give it up or a pool has it again. Nobody else
// may have it.

// leaver is an address that leaves a pool.
type leaver struct {
	addr addrKey
	pool string
}

func lessLeaver(a, b leaver) bool { return a.addr.less(b.addr) }

// Leaving tells whether an address is in use and in no pool any more.
func (s *State) Leaving(a netip.Addr) bool { return s.Addresses[a] != nil && s.idx.poolOf(a) == "" }

// LeavingPool iterates over the addresses in use that a pool no longer has.
func (s *State) LeavingPool(name string) iter.Seq[*Address] {
	return func(yield func(*Address) bool) {
		s.idx.leaving.Scan(func(l leaver) bool {
			return l.pool != name || yield(s.Addresses[l.addr.addr()])
		})
	}
}

// leave enters an address in use that no pool has.
func (x *indexes) leave(rec *Address) {
	if _, already := x.leaving.Set(leaver{keyOf(rec.Addr), rec.Pool}); already {
		return
	}
	if p := x.pools[rec.Pool]; p != nil {
		p.countLeaver(rec, 1)
	}
}

// stay takes it back: a pool has the address again.
func (x *indexes) stay(rec *Address) {
	l, was := x.leaving.Delete(leaver{addr: keyOf(rec.Addr)})
	if p := x.pools[l.pool]; was && p != nil {
		p.countLeaver(rec, -1)
	}
}

// stayWithin does so for all addresses in the ranges.
func (x *indexes) stayWithin(s *State, ranges []Range) {
	for _, r := range ranges {
		last := keyOf(r.Last)
		var found []leaver
		x.leaving.Ascend(leaver{addr: keyOf(r.First)}, func(l leaver) bool {
			if last.less(l.addr) {
				return false
			}
			found = append(found, l)
			return true
		})
		for _, l := range found {
			x.stay(s.Addresses[l.addr.addr()])
		}
	}
}

// countLeaver counts what a pool knows of addresses that leave it.
func (p *poolIndex) countLeaver(rec *Address, delta int) {
	p.addOwned(rec.Owner, delta)
	p.addSoft(rec.SoftNode, delta)
	for i, key := range rec.Services {
		if !hasNamespace(rec.Services[:i], key.Namespace) {
			p.addNamespace(key.Namespace, delta)
		}
	}
}
