package decider

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Kinds of resources, as in the admin API.
const (
	KindPool        = "IPAddressPool"
	KindAd          = "L2Advertisement"
	KindService     = "VirtualService"
	KindNamespace   = "Namespace"
	KindReservation = "Reservation"
)

// DefaultSource declares what names no source.
const DefaultSource = "apply"

// Apply declares resources: all of them or none. Addresses in use that a pool lets
// go stay with their services. Errors: *InvalidError, *StaleError.
type Apply struct {
	Resources []*adminv1.Resource
	// DryRun: decide and answer, change nothing.
	DryRun bool
	// Force takes addresses that a pool lets go from their services, which get others.
	Force bool
	// Source declares ("" is DefaultSource). Generation counts its declarations of
	// a service; an older one never overwrites a newer one. 0: always newest.
	Source     string
	Generation uint64
	Actor      string
}

func (c *Apply) kind() string  { return "Apply" }
func (c *Apply) actor() string { return c.Actor }

// applying is one Apply on its way.
type applying struct {
	*Apply
	t *tx
	// outcomes and keys are one for each resource.
	outcomes []Outcome
	changed  []bool
	pools    poolSet
}

func (c *Apply) decide(t *tx) (answer, error) {
	a := &applying{Apply: c, t: t}
	if err := a.check(); err != nil {
		return nil, err
	}
	if err := a.compare(); err != nil {
		return nil, err
	}
	if err := a.checkPools(); err != nil {
		return nil, err
	}
	if err := a.checkReservations(); err != nil {
		return nil, err
	}
	if err := a.checkRequests(); err != nil {
		return nil, err
	}
	a.declareNamespaces()
	a.declarePools()
	a.declareReservations()
	a.declareAds()
	if err := a.declareServices(); err != nil {
		return nil, err
	}
	return a.answer, nil
}

// check looks at each resource by itself.
func (a *applying) check() error {
	var f faults
	first := map[string]int{}
	for i, res := range a.Resources {
		path := fmt.Sprintf("resources[%d]", i)
		checkResource(&f, path, res)
		id := resourceKind(res) + " " + resourceName(res)
		if j, twice := first[id]; twice {
			f.add(path+".metadata.name", "%s is declared twice, first by resources[%d]", id, j)
		} else {
			first[id] = i
		}
	}
	return f.err()
}

// compare finds what differs from the state, and refuses what is out of date.
func (a *applying) compare() error {
	var stale []FieldError
	for i, res := range a.Resources {
		var outcome Outcome
		write := true
		switch {
		case res.GetPool() != nil:
			outcome = compare(a.t.s.Pools[res.GetPool().GetName()] != nil, func() bool {
				return proto.Equal(a.t.s.Pools[res.GetPool().GetName()].Spec, res.GetPool())
			})
		case res.GetL2Advertisement() != nil:
			outcome = compare(a.t.s.Ads[res.GetL2Advertisement().GetName()] != nil, func() bool {
				return proto.Equal(a.t.s.Ads[res.GetL2Advertisement().GetName()].Spec, res.GetL2Advertisement())
			})
		case res.GetNamespace() != nil:
			outcome = compare(a.t.s.Namespaces[res.GetNamespace().GetName()] != nil, func() bool {
				return proto.Equal(a.t.s.Namespaces[res.GetNamespace().GetName()].Spec, res.GetNamespace())
			})
		case res.GetReservation() != nil:
			outcome = compare(a.t.s.Reservations[res.GetReservation().GetName()] != nil, func() bool {
				return proto.Equal(a.t.s.Reservations[res.GetReservation().GetName()].Spec, res.GetReservation())
			})
		default:
			svc := a.t.s.Services[keyOf(res.GetService())]
			outcome = compare(svc != nil, func() bool { return proto.Equal(svc.Spec, res.GetService()) })
			if svc == nil {
				break
			}
			if a.Generation != 0 && svc.Source == a.source() && a.Generation < svc.Generation {
				stale = append(stale, FieldError{
					Path:    fmt.Sprintf("resources[%d]", i),
					Message: fmt.Sprintf("generation %d of %q is applied, %d came late", svc.Generation, svc.Source, a.Generation),
				})
			}
			// A newer generation is recorded even when it says the same.
			write = outcome != Unchanged || svc.Source != a.source() || a.Generation > svc.Generation
			a.outcomes, a.changed = append(a.outcomes, outcome), append(a.changed, write)
			continue
		}
		a.outcomes, a.changed = append(a.outcomes, outcome), append(a.changed, outcome != Unchanged)
	}
	if stale != nil {
		return &StaleError{Fields: stale}
	}
	return nil
}

func compare(exists bool, same func() bool) Outcome {
	switch {
	case !exists:
		return Created
	case same():
		return Unchanged
	default:
		return Configured
	}
}

func (a *applying) source() string {
	if a.Source == "" {
		return DefaultSource
	}
	return a.Source
}

// checkRequests refuses requested addresses that cannot be had, as far as that
// shows before anything is declared: a refusal here costs nothing. With new pools,
// namespaces or reservations it shows only afterwards.
func (a *applying) checkRequests() error {
	for i, res := range a.Resources {
		if res.GetService() == nil && res.GetL2Advertisement() == nil && a.changed[i] {
			return nil
		}
	}
	var f faults
	for i, res := range a.Resources {
		a.checkRequest(&f, i, res.GetService())
	}
	return f.err()
}

// checkRequest refuses a service whose requested addresses cannot be had. One
// that does not change may go on waiting for them.
func (a *applying) checkRequest(f *faults, i int, spec *logv1.Service) {
	if len(spec.GetAddresses()) == 0 || a.outcomes[i] == Unchanged {
		return
	}
	_, err := allocator.ChooseAddresses(a.t.s, spec, a.t.now)
	var r *allocator.Refusal
	if !errors.As(err, &r) || r.Requested == "" {
		return
	}
	for j, text := range spec.GetAddresses() {
		if addr, err := fsm.ParseAddr(text); text == r.Requested || err == nil && addr.String() == r.Requested {
			f.add(fmt.Sprintf("resources[%d].spec.addresses[%d]", i, j), "%s", r.Error())
			return
		}
	}
	f.add(fmt.Sprintf("resources[%d].spec.addresses", i), "%s", r.Error())
}

func (a *applying) declareNamespaces() {
	for i, res := range a.Resources {
		if res.GetNamespace() != nil && a.changed[i] {
			a.t.emit(namespaceDefined(res.GetNamespace()))
		}
	}
}

// checkReservations refuses those that overlap, or whose time is over.
func (a *applying) checkReservations() error {
	var at []int
	var list []*logv1.Reservation
	for i, res := range a.Resources {
		if res.GetReservation() != nil && a.changed[i] {
			at, list = append(at, i), append(list, res.GetReservation())
		}
	}
	var f faults
	for i, part := range fsm.ValidateReservations(a.t.s, list) {
		f.under(fmt.Sprintf("resources[%d]", at[i]), part)
		if until := list[i].GetUntilUnixNano(); until != 0 && until <= a.t.now {
			f.add(fmt.Sprintf("resources[%d].spec.until", at[i]), "is over: give a time to come, or delete the reservation")
		}
	}
	return f.err()
}

func (a *applying) declareReservations() {
	for i, res := range a.Resources {
		if res.GetReservation() != nil && a.changed[i] {
			a.t.emit(reservationDefined(res.GetReservation()))
		}
	}
}

func (a *applying) declarePools() {
	a.takeLeaving()
	for i, res := range a.Resources {
		if res.GetPool() != nil && a.changed[i] {
			a.t.emit(poolDefined(res.GetPool()))
		}
	}
}

func (a *applying) declareAds() {
	for i, res := range a.Resources {
		if res.GetL2Advertisement() != nil && a.changed[i] {
			a.t.emit(adDefined(res.GetL2Advertisement()))
		}
	}
}

// declareServices declares those that ask for an address first, and gives it to
// them, so that none of the others takes it.
func (a *applying) declareServices() error {
	var f faults
	for i, res := range a.Resources {
		if spec := res.GetService(); len(spec.GetAddresses()) > 0 && a.changed[i] {
			a.checkRequest(&f, i, spec)
			a.declare(spec)
			a.t.asMember(func() { a.t.fit(keyOf(spec)) })
		}
	}
	for i, res := range a.Resources {
		if spec := res.GetService(); spec != nil && len(spec.GetAddresses()) == 0 && a.changed[i] {
			a.declare(spec)
		}
	}
	return f.err()
}

func (a *applying) declare(spec *logv1.Service) {
	generation := a.Generation
	if svc := a.t.s.Services[keyOf(spec)]; svc != nil && svc.Source == a.source() {
		generation = max(generation, svc.Generation)
	}
	a.t.emit(serviceDeclared(spec, a.source(), generation))
}

func (a *applying) answer(head *fsm.State, r *Result) {
	for i, res := range a.Resources {
		out := ResourceResult{Kind: resourceKind(res), Name: resourceName(res), Outcome: a.outcomes[i]}
		if spec := res.GetService(); spec != nil {
			// A later command of the same batch may have deleted it.
			if svc := head.Services[keyOf(spec)]; svc != nil {
				out.Addresses = append([]netip.Addr(nil), svc.Addresses...)
				out.Pending, out.Refusals = svc.Pending, svc.Refusals
			}
		}
		r.Resources = append(r.Resources, out)
	}
	if a.DryRun {
		r.Effects = a.effects(head)
	}
}

// effects tells what the services notice that were there before.
func (a *applying) effects(head *fsm.State) []Effect {
	e := collectEffects(a.t, head)
	for _, gone := range a.pools.leaving {
		for _, key := range gone.services {
			if head.Leaving(gone.addr) && slices.Contains(head.Addresses[gone.addr].Services, key) {
				one := e.of(key)
				one.Leaving = append(one.Leaving, gone.addr)
			}
		}
	}
	return e.list(a.t.before, head)
}

func keyOf(spec *logv1.Service) fsm.ServiceKey { return fsm.KeyOf(spec.GetNamespace(), spec.GetName()) }

func resourceKind(r *adminv1.Resource) string {
	switch {
	case r.GetPool() != nil:
		return KindPool
	case r.GetL2Advertisement() != nil:
		return KindAd
	case r.GetService() != nil:
		return KindService
	case r.GetNamespace() != nil:
		return KindNamespace
	case r.GetReservation() != nil:
		return KindReservation
	}
	return ""
}

func resourceName(r *adminv1.Resource) string {
	switch {
	case r.GetPool() != nil:
		return r.GetPool().GetName()
	case r.GetL2Advertisement() != nil:
		return r.GetL2Advertisement().GetName()
	case r.GetService() != nil:
		return keyOf(r.GetService()).String()
	case r.GetNamespace() != nil:
		return r.GetNamespace().GetName()
	case r.GetReservation() != nil:
		return r.GetReservation().GetName()
	}
	return ""
}
