package fsm

import (
	"iter"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// addressQuarantined keeps a free address from being given to anybody who does
// not ask for it. Once more for one that is in quarantine: its time is longer.
func (f *folding) addressQuarantined(e *logv1.AddressQuarantined) error {
	a, err := ToAddr(e.GetAddress())
	if err != nil {
		return err
	}
	free := f.s.Free[a]
	switch {
	case free == nil:
		return corruptf("quarantine for %s, which is not free after use", a)
	case len(e.GetMac()) != len(MAC{}):
		return corruptf("quarantine for %s: MAC of %d bytes", a, len(e.GetMac()))
	case e.GetUntilUnixNano() <= 0:
		return corruptf("quarantine for %s without an end", a)
	}
	x := &f.s.idx
	c := *free
	c.Conflict, c.ConflictNode, c.QuarantineUntil = MAC(e.GetMac()), e.GetNode(), e.GetUntilUnixNano()
	if !free.Quarantined() {
		c.QuarantineSince = f.s.Time
		c.KeptUntil = 0 // for nobody's return
		x.forget(free)
		x.quarantine.Set(keyOf(a))
		for _, p := range x.containing(nil, a) {
			fi := p.family(a)
			fi.removeFree(f.s, free)
			fi.quarantined++
		}
	}
	f.s.Free[a] = &c
	f.touchAddress(a)
	return nil
}

func (f *folding) quarantineEnded(e *logv1.QuarantineEnded) error {
	a, err := ToAddr(e.GetAddress())
	if err != nil {
		return err
	}
	free := f.s.Free[a]
	if free == nil || !free.Quarantined() {
		return corruptf("quarantine of %s ended, which is in none", a)
	}
	c := *free
	c.Conflict, c.ConflictNode, c.QuarantineSince, c.QuarantineUntil = MAC{}, "", 0, 0
	f.s.Free[a] = &c
	x := &f.s.idx
	x.quarantine.Delete(keyOf(a))
	for _, p := range x.containing(nil, a) {
		fi := p.family(a)
		fi.quarantined--
		fi.enqueue(x, &c)
	}
	f.touchAddress(a)
	return nil
}

// Quarantined iterates over the addresses in quarantine, in a fixed order.
func (s *State) Quarantined() iter.Seq[*Free] {
	return func(yield func(*Free) bool) {
		s.idx.quarantine.Scan(func(k addrKey) bool { return yield(s.Free[k.addr()]) })
	}
}
