package fsm

import (
	"fmt"
	"iter"
	"math"
	"net/netip"
	"slices"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Reservation is a declared reservation. It takes nothing from a service that has
// one of its addresses already.
type Reservation struct {
	Spec      *logv1.Reservation
	Ranges    []Range
	DefinedAt uint64
}

// Key is the service that may have the addresses; zero for nobody.
func (r *Reservation) Key() ServiceKey {
	return KeyOf(r.Spec.GetServiceNamespace(), r.Spec.GetServiceName())
}

// Holds tells whether the reservation is in force at a time.
func (r *Reservation) Holds(unixNano int64) bool {
	return r.Spec.GetUntilUnixNano() == 0 || unixNano < r.Spec.GetUntilUnixNano()
}

// ParseReserved reads what a reservation may name: an address, a CIDR or a range.
func ParseReserved(text string) (Range, error) {
	if a, err := ParseAddr(text); err == nil {
		return Range{a, a}, nil
	}
	return ParseRange(text)
}

func newReservation(spec *logv1.Reservation, definedAt uint64) (*Reservation, error) {
	r := &Reservation{Spec: spec, DefinedAt: definedAt}
	for i, text := range spec.GetAddresses() {
		one, err := ParseReserved(text)
		if err != nil {
			return nil, corruptf("reservation %s: addresses[%d]: %v", spec.GetName(), i, err)
		}
		r.Ranges = append(r.Ranges, one)
	}
	return r, nil
}

// ReservationOf is the reservation in force at State.Time that an address belongs
// to; nil for none.
func (s *State) ReservationOf(a netip.Addr) (found *Reservation) {
	if name := s.idx.reservedBy(a); name != "" {
		found = s.Reservations[name]
	}
	return found
}

// ReservedFor iterates over the reservations in force for a service, by name.
func (s *State) ReservedFor(key ServiceKey) iter.Seq[*Reservation] {
	return func(yield func(*Reservation) bool) {
		for _, name := range s.idx.reservedFor[key] {
			if !yield(s.Reservations[name]) {
				return
			}
		}
	}
}

func (x *indexes) isReserved(a netip.Addr) bool { return x.reservedBy(a) != "" }

// reservedBy names a reservation in force that has the address; "" for none.
func (x *indexes) reservedBy(a netip.Addr) (name string) {
	k := keyOf(a)
	x.reserved.Descend(poolRange{first: k, pool: "\xff"}, func(r poolRange) bool {
		if !r.last.less(k) {
			name = r.pool
		}
		return name == "" && x.crossing
	})
	return name
}

// NextReservationEnd is when the next of the reservations in force ends; false
// when none does.
func (s *State) NextReservationEnd() (unixNano int64, ok bool) {
	t, ok := s.idx.reservationEnds.Min()
	return t.time, ok
}

// PoolReserved counts the addresses of a pool that are promised or held back, at
// most 2^63-1.
func (s *State) PoolReserved(name string) (n uint64) {
	if s.Pools[name] == nil {
		return 0
	}
	for _, r := range s.Pools[name].Ranges {
		for _, hole := range s.idx.holes(r) {
			n = min(n+hole.Size(), math.MaxInt64)
		}
	}
	return n
}

func (f *folding) reservationDefined(e *logv1.ReservationDefined) error {
	spec := e.GetReservation()
	if spec.GetName() == "" || len(spec.GetAddresses()) == 0 {
		return corruptf("ReservationDefined without a name or addresses")
	}
	r, err := newReservation(spec, f.revision)
	if err != nil {
		return err
	}
	old := f.s.Reservations[spec.GetName()]
	f.s.Reservations[spec.GetName()] = r
	f.s.idx.unreserve(old)
	f.s.idx.reserve(f.s, r)
	f.reserved = true
	return nil
}

func (f *folding) reservationDeleted(e *logv1.ReservationDeleted) error {
	old := f.s.Reservations[e.GetName()]
	if old == nil {
		return corruptf("ReservationDeleted of unknown reservation %q", e.GetName())
	}
	delete(f.s.Reservations, e.GetName())
	f.s.idx.unreserve(old)
	return nil
}

// checkReservations tells whether no two of those in force have an address in
// common.
func (s *State) checkReservations() error {
	var all []poolRange
	for name, r := range s.Reservations { // order-free: sorted below
		if !r.Holds(s.Time) {
			continue
		}
		for _, one := range r.Ranges {
			all = append(all, poolRange{keyOf(one.First), keyOf(one.Last), name})
		}
	}
	slices.SortFunc(all, compareRange)
	for i := 1; i < len(all); i++ {
		if !all[i-1].last.less(all[i].first) {
			return corruptf("reservations %s and %s overlap", all[i-1].pool, all[i].pool)
		}
	}
	return nil
}

func compareRange(a, b poolRange) int {
	switch {
	case lessRange(a, b):
		return -1
	case lessRange(b, a):
		return 1
	}
	return 0
}

// reserve enters a reservation if it is in force. What the pools hand out has to be
// refitted then.
func (x *indexes) reserve(s *State, r *Reservation) {
	if r == nil || !r.Holds(s.Time) {
		return
	}
	name := r.Spec.GetName()
	for _, one := range r.Ranges {
		first, last := keyOf(one.First), keyOf(one.Last)
		x.reserved.Descend(poolRange{first: last, pool: "\xff"}, func(o poolRange) bool {
			x.crossing = x.crossing || !o.last.less(first)
			return false
		})
		x.reserved.Set(poolRange{first, last, name})
	}
	if until := r.Spec.GetUntilUnixNano(); until != 0 {
		x.reservationEnds.Set(textTime{until, name})
	}
	if r.Key() != (ServiceKey{}) {
		names := x.reservedFor[r.Key()]
		at, _ := slices.BinarySearch(names, name)
		x.reservedFor[r.Key()] = slices.Insert(slices.Clone(names), at, name)
	}
	x.unfit = append(x.unfit, r.Ranges...)
}

func (x *indexes) unreserve(r *Reservation) {
	if r == nil {
		return
	}
	name := r.Spec.GetName()
	for _, one := range r.Ranges {
		x.reserved.Delete(poolRange{keyOf(one.First), keyOf(one.Last), name})
	}
	x.reservationEnds.Delete(textTime{r.Spec.GetUntilUnixNano(), name})
	if names := x.reservedFor[r.Key()]; slices.Contains(names, name) {
		if names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name }); len(names) == 0 {
			delete(x.reservedFor, r.Key())
		} else {
			x.reservedFor[r.Key()] = names
		}
	}
	x.unfit = append(x.unfit, r.Ranges...)
}

// endReservations drops those whose time is over.
func (x *indexes) endReservations(s *State) {
	for {
		t, ok := x.reservationEnds.Min()
		if !ok || t.time > s.Time {
			x.refit(s)
			return
		}
		x.unreserve(s.Reservations[t.text])
	}
}

// refit makes the indexes of the pools anew that have an address of a reservation
// that came or went. A batch may hold many, so it is done when the pools are read,
// and at its end.
func (x *indexes) refit(s *State) {
	if len(x.unfit) == 0 {
		return
	}
	ranges := x.unfit
	x.unfit = nil
	for _, name := range x.poolOrder {
		p := x.pools[name]
		if !slices.ContainsFunc(ranges, func(r Range) bool {
			return slices.ContainsFunc(p.families[fam(r.First)].ranges, r.Overlaps)
		}) {
			continue
		}
		pool := s.Pools[name]
		x.removePool(pool)
		x.addPool(s, pool)
	}
}

// holes are the parts of a range that are reserved, in order.
func (x *indexes) holes(r Range) (holes []Range) {
	first, last := keyOf(r.First), keyOf(r.Last)
	start := poolRange{first: first}
	x.reserved.Descend(poolRange{first: first, pool: "\xff"}, func(o poolRange) bool {
		if !o.last.less(first) {
			start = o
		}
		return x.crossing
	})
	x.reserved.Ascend(start, func(o poolRange) bool {
		if last.less(o.first) {
			return false
		}
		if o.last.less(first) {
			return true
		}
		hole := Range{r.First, r.Last}
		if first.less(o.first) {
			hole.First = o.first.addr()
		}
		if o.last.less(last) {
			hole.Last = o.last.addr()
		}
		if n := len(holes) - 1; n >= 0 && !holes[n].Last.Less(hole.First) {
			if holes[n].Last.Less(hole.Last) {
				holes[n].Last = hole.Last
			}
			return true
		}
		holes = append(holes, hole)
		return true
	})
	return holes
}

// without cuts the holes, which are in order, out of a range.
func (r Range) without(holes []Range) (rest []Range) {
	for _, h := range holes {
		if r.First.Less(h.First) {
			rest = append(rest, Range{r.First, h.First.Prev()})
		}
		if h.Last == r.Last {
			return rest
		}
		r.First = h.Last.Next()
	}
	return append(rest, r)
}

func reservationsOf(s *State) map[string]*Reservation { return s.Reservations }

func encodeReservation(e *encoder, r *Reservation) {
	e.reservation(r.Spec)
	e.uint(r.DefinedAt)
}

func (e *encoder) reservation(r *logv1.Reservation) {
	e.str(r.GetName())
	e.labels(r.GetLabels())
	e.strs(r.GetAddresses())
	e.str(r.GetServiceNamespace())
	e.str(r.GetServiceName())
	e.int(r.GetUntilUnixNano())
}

func (d *decoder) reservation() *logv1.Reservation {
	return &logv1.Reservation{
		Name: d.name(), Labels: d.labels(), Addresses: d.strs(),
		ServiceNamespace: d.name(), ServiceName: d.str(), UntilUnixNano: d.int(),
	}
}

func decodeReservation(d *decoder) (string, *Reservation) {
	spec := d.reservation()
	r, err := newReservation(spec, d.uint())
	if err != nil {
		d.fail(err.Error())
		return spec.GetName(), nil
	}
	return spec.GetName(), r
}

// ValidateReservation tells what is wrong with a reservation by itself.
func ValidateReservation(r *logv1.Reservation) []FieldError {
	var f faults
	f.name("metadata.name", r.GetName())
	f.labels("metadata.labels", r.GetLabels())
	if len(r.GetAddresses()) == 0 {
		f.add("spec.addresses", "at least one address, CIDR or range is required")
	}
	var ranges []Range
	for i, text := range r.GetAddresses() {
		path := fmt.Sprintf("spec.addresses[%d]", i)
		one, err := ParseReserved(text)
		if err != nil {
			f.add(path, "%v", err)
			continue
		}
		for j, o := range ranges {
			if o.Overlaps(one) {
				f.add(path, "%q overlaps %q", text, r.GetAddresses()[j])
			}
		}
		ranges = append(ranges, one)
	}
	if r.GetServiceNamespace() != "" || r.GetServiceName() != "" {
		f.label("spec.service.namespace", r.GetServiceNamespace())
		f.name("spec.service.name", r.GetServiceName())
	}
	if r.GetUntilUnixNano() < 0 {
		f.add("spec.until", "is before 1970")
	}
	return f
}

// ValidateReservations tells what is wrong with reservations that are to be
// defined together, beside the others and the state's. The answer has one element
// for each.
func ValidateReservations(s *State, list []*logv1.Reservation) [][]FieldError {
	type entry struct {
		name, text string
		Range
	}
	var all []entry
	again := map[string]bool{}
	for _, r := range list {
		again[r.GetName()] = true
	}
	for name, r := range s.Reservations { // order-free: the answers are sorted by field
		if !again[name] && r.Holds(s.Time) {
			for i, one := range r.Ranges {
				all = append(all, entry{name, r.Spec.GetAddresses()[i], one})
			}
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return a.First.Compare(b.First) })
	out := make([][]FieldError, len(list))
	for at, r := range list {
		out[at] = ValidateReservation(r)
		var own []entry
		for i, text := range r.GetAddresses() {
			one, err := ParseReserved(text)
			if err != nil {
				continue
			}
			for _, o := range all {
				if o.Overlaps(one) {
					out[at] = append(out[at], FieldError{fmt.Sprintf("spec.addresses[%d]", i),
						fmt.Sprintf("%q overlaps %q of reservation %q", text, o.text, o.name)})
				}
			}
			own = append(own, entry{r.GetName(), text, one})
		}
		all = append(all, own...)
	}
	return out
}
