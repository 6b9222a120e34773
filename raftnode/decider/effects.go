package decider

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/quorumlb/quorumlb/fsm"
)

// Effect is what a change does to a service.
type Effect struct {
	Service fsm.ServiceKey
	// Deleted: the service is no more then.
	Deleted bool
	// Taken and Given are addresses that it loses and gets, Leaving those that stay
	// with it although no pool has them any more, Unselected those that stay although
	// their pool is no longer for the service.
	Taken, Given, Leaving, Unselected []netip.Addr
	// Owners are its addresses that another node would announce then, or none, or on
	// other interfaces.
	Owners []OwnerEffect
	// Pending says why it has fewer than it asks for then.
	Pending string
}

type effects map[fsm.ServiceKey]*Effect

func (e effects) of(key fsm.ServiceKey) *Effect {
	if e[key] == nil {
		e[key] = &Effect{Service: key}
	}
	return e[key]
}

// collectEffects tells what a dry run, whose events are those of t, does to the services
// that were there before. head is the state after it.
func collectEffects(t *tx, head *fsm.State) effects {
	e := effects{}
	for _, ev := range t.draft.Events() {
		if f := ev.GetAddressReleased(); f != nil {
			if a, err := fsm.ToAddr(f.GetAddress()); err == nil {
				one := e.of(fsm.KeyOf(f.GetNamespace(), f.GetName()))
				one.Taken = append(one.Taken, a)
			}
		}
		if f := ev.GetAddressAllocated(); f != nil {
			if a, err := fsm.ToAddr(f.GetAddress()); err == nil {
				one := e.of(fsm.KeyOf(f.GetNamespace(), f.GetName()))
				one.Given = append(one.Given, a)
			}
		}
		if f := ev.GetAllocationRefused(); f != nil {
			e.of(fsm.KeyOf(f.GetNamespace(), f.GetName()))
		}
		if f := ev.GetServiceDeleted(); f != nil {
			e.of(fsm.KeyOf(f.GetNamespace(), f.GetName())).Deleted = true
		}
	}
	e.keep(t.before, head)
	e.announce(t, head)
	return e
}

// keep finds the addresses that stay with services that their pool is no longer for.
func (e effects) keep(before, head *fsm.State) {
	for key, svc := range head.Services {
		old := before.Services[key]
		if old == nil {
			continue
		}
		for _, a := range svc.Addresses {
			if slices.Contains(old.Addresses, a) && selected(before, old, a) && !selected(head, svc, a) && !head.Leaving(a) {
				one := e.of(key)
				one.Unselected = append(one.Unselected, a)
			}
		}
	}
}

// selected tells whether the address lies in a pool that is for the service.
func selected(s *fsm.State, svc *fsm.Service, a netip.Addr) bool {
	pool := s.Pools[s.PoolOf(a)]
	return pool != nil && s.PoolSelects(pool.Spec, svc.Spec)
}

// list gives those of services that were there before, by service.
func (e effects) list(before, head *fsm.State) (out []Effect) {
	for _, key := range slices.SortedFunc(maps.Keys(e), fsm.ServiceKey.Compare) {
		if before.Services[key] == nil {
			continue
		}
		one := *e[key]
		if svc := head.Services[key]; svc != nil {
			one.Pending = svc.Pending
		}
		out = append(out, one)
	}
	return out
}
