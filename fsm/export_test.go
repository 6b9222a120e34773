package fsm

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/tidwall/btree"
)

// CheckRows tells whether the rows fit together, as a restore demands.
func (s *State) CheckRows() error { return s.check() }

// CheckIndexes holds the indexes against a rebuild from the rows.
func (s *State) CheckIndexes() error {
	c := *s
	c.rebuild()
	have, want := &s.idx, &c.idx
	for _, err := range []error{
		same("touched", have.touched, want.touched),
		same("freed", have.freed, want.freed),
		same("sharing", have.sharing, want.sharing),
		same("keptKey", have.keptKey, want.keptKey),
		same("keptSharing", have.keptSharing, want.keptSharing),
		same("kept", have.kept, want.kept),
		same("rests", have.rests, want.rests),
		same("pending", have.pending, want.pending),
		same("waiting", have.waiting, want.waiting),
		same("waitPool", have.waitPool, want.waitPool),
		same("waitAddr", have.waitAddr, want.waitAddr),
		same("waitKey", have.waitKey, want.waitKey),
		same("leaving", have.leaving, want.leaving),
		same("reserved", have.reserved, want.reserved),
		same("reservationEnds", have.reservationEnds, want.reservationEnds),
		same("ranges", have.ranges, want.ranges),
		same("quarantine", have.quarantine, want.quarantine),
		sameKeys("owners", have.owners, want.owners),
		sameKeys("soft", have.soft, want.soft),
		sameKeys("pools", have.pools, want.pools),
	} {
		if err != nil {
			return err
		}
	}
	if !slices.Equal(have.poolOrder, want.poolOrder) {
		return fmt.Errorf("poolOrder: %v, rebuilt %v", have.poolOrder, want.poolOrder)
	}
	if !maps.EqualFunc(have.reservedFor, want.reservedFor, slices.Equal) {
		return fmt.Errorf("reservedFor: %v, rebuilt %v", have.reservedFor, want.reservedFor)
	}
	if !slices.Equal(have.tryOrder, want.tryOrder) {
		return fmt.Errorf("tryOrder: %v, rebuilt %v", have.tryOrder, want.tryOrder)
	}
	if len(have.overlapping) > 0 {
		return fmt.Errorf("overlapping: %v", have.overlapping)
	}
	if have.crossing || len(have.unfit) > 0 {
		return fmt.Errorf("reservations cross: %t; unfit: %v", have.crossing, have.unfit)
	}
	for node, t := range want.owners {
		if err := same("owner "+node, have.owners[node], t); err != nil {
			return err
		}
	}
	for node, t := range want.soft {
		if err := same("soft "+node, have.soft[node], t); err != nil {
			return err
		}
	}
	for name, p := range want.pools {
		if err := samePool(have.pools[name], p); err != nil {
			return fmt.Errorf("pool %s: %w", name, err)
		}
	}
	return nil
}

func samePool(have, want *poolIndex) error {
	if !maps.Equal(have.owned, want.owned) {
		return fmt.Errorf("owned: %v, rebuilt %v", have.owned, want.owned)
	}
	if !maps.Equal(have.namespaces, want.namespaces) {
		return fmt.Errorf("namespaces: %v, rebuilt %v", have.namespaces, want.namespaces)
	}
	if !maps.Equal(have.soft, want.soft) {
		return fmt.Errorf("soft: %v, rebuilt %v", have.soft, want.soft)
	}
	for i := range have.families {
		h, w := have.families[i], want.families[i]
		if err := same("queue", h.queue, w.queue); err != nil {
			return err
		}
		if err := same("later", h.later, w.later); err != nil {
			return err
		}
		h.queue, w.queue, h.later, w.later = nil, nil, nil, nil
		if !reflect.DeepEqual(h, w) {
			return fmt.Errorf("family %d: %+v, rebuilt %+v", i, h, w)
		}
	}
	return nil
}

func same[T any](name string, have, want *btree.BTreeG[T]) error {
	if h, w := have.Items(), want.Items(); !reflect.DeepEqual(h, w) {
		return fmt.Errorf("%s: %v, rebuilt %v", name, h, w)
	}
	return nil
}

func sameKeys[V any](name string, have, want map[string]V) error {
	h, w := slices.Sorted(maps.Keys(have)), slices.Sorted(maps.Keys(want))
	if !slices.Equal(h, w) {
		return fmt.Errorf("%s: %v, rebuilt %v", name, h, w)
	}
	return nil
}

// EventTypes gives the numbers of the events that have a handler, with its name.
func EventTypes() map[int]string {
	types := map[int]string{}
	for n, h := range handlers {
		if h.fold != nil {
			types[n] = h.name
		}
	}
	return types
}

// Touched tells whether an address is or was in use.
func (s *State) Touched(r Range) (n int) {
	for range s.idx.within(r) {
		n++
	}
	return n
}
