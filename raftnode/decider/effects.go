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
	// Taken and Given are addresses that it loses and gets, Leaving those that stay
	// with it although no pool has them any more.
	Taken, Given, Leaving []netip.Addr
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

// collectEffects reads from the events of a command which addresses change hands.
func collectEffects(t *tx, from mark) effects {
	e := effects{}
	for _, ev := range t.draft.Events()[from.events:] {
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
	}
	return e
}

// list gives those of services that are there in the end, by service.
func (e effects) list(head *fsm.State) (out []Effect) {
	for _, key := range slices.SortedFunc(maps.Keys(e), fsm.ServiceKey.Compare) {
		svc := head.Services[key]
		if svc == nil {
			continue
		}
		one := *e[key]
		one.Pending = svc.Pending
		out = append(out, one)
	}
	return out
}
