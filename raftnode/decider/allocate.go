package decider

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// allocate gives addresses to the services that lack them: to those that wait,
// when something may help them, the longest waiting first; then to those that
// the command declared. But of those, the ones that share an address come before
// all others: who no longer goes with the others is to leave, and not one of them
// that happens to be tried before it. It runs after each command, so that the next one sees
// what this one took. A fault with a service that the command declared is the
// command's; a fault with any other concerns that service only.
func (r *reign) allocate(t *tx, command bool) (err error) {
	w := r.work
	if len(w.services) == 0 && !w.hope.any() {
		return nil
	}
	t.asMember(func() {
		for (len(w.services) > 0 || w.hope.any()) && t.size < r.allocateLimit() && err == nil {
			shared, others := t.partSharing(w.services)
			w.services = nil
			if err = r.fitAll(t, shared, command); err == nil && w.hope.any() {
				err = r.allocateWaiting(t)
			}
			for _, key := range others {
				// What those before gave up is first for who waits.
				for err == nil && w.hope.any() && t.s.AnyWaiting() && t.size < r.allocateLimit() {
					err = r.allocateWaiting(t)
				}
				if err == nil {
					err = r.fitAll(t, []fsm.ServiceKey{key}, command)
				}
			}
		}
	})
	w.settleKeptEnd(t)
	return err
}

// fitAll fits the services that a command declared, or that wait for no command.
func (r *reign) fitAll(t *tx, keys []fsm.ServiceKey, command bool) (err error) {
	for _, key := range keys {
		if command {
			t.fit(key)
		} else if err = r.tryFit(t, key); err != nil {
			return err
		}
	}
	return t.err
}

// partSharing parts the services that have an address together with others, and may have
// to leave it, from those that have not. Who only wants more has no right to be first.
func (t *tx) partSharing(keys []fsm.ServiceKey) (shared, others []fsm.ServiceKey) {
	for _, key := range keys {
		svc := t.s.Services[key]
		if svc != nil && slices.ContainsFunc(svc.Addresses, func(a netip.Addr) bool { return len(t.s.Addresses[a].Services) > 1 }) && t.leaves(svc) {
			shared = append(shared, key)
		} else {
			others = append(others, key)
		}
	}
	return shared, others
}

// leaves tells whether a service is to give up an address as things are. What goes wrong
// here goes wrong again when it is served.
func (t *tx) leaves(svc *fsm.Service) (yes bool) {
	_ = guard(func() error {
		yes = len(t.choose(svc).plan.Releases) > 0
		return nil
	})
	return yes
}

// queueUnserved queues, for a new head, the services that the leader before had
// declared and not yet looked at: they do not wait, for nobody has refused them
// anything. And those whose pool lets an address go.
func (w *work) queueUnserved(head *fsm.State) {
	var unserved []*fsm.Service
	for _, svc := range head.Services {
		if len(svc.Addresses) == 0 && svc.Pending == "" {
			unserved = append(unserved, svc)
		}
	}
	slices.SortFunc(unserved, fsm.CompareAge)
	for _, svc := range unserved {
		w.services = append(w.services, svc.Key)
	}
	for _, pool := range head.PoolNames() {
		w.noteUsers(head, pool)
	}
}

// settleKeptEnd notes when time alone may help somebody who waits: what is kept or
// in quarantine falls free, a reservation ends.
func (w *work) settleKeptEnd(t *tx) {
	w.keptEnd, w.keptTime = 0, 0
	if !t.s.AnyWaiting() {
		return
	}
	until, ok := t.s.NextKept()
	if end, ends := t.s.NextReservationEnd(); ends && (!ok || end < until) {
		until, ok = end, true
	}
	if ok {
		w.keptEnd = w.d.cfg.Clock.Now() + max(time.Duration(until-t.now), time.Second)
		w.keptTime = until
	}
}

// endKept has those tried whom the time helps that settleKeptEnd noted.
func (w *work) endKept() {
	w.keptEnd, w.keptTime, w.hope.anyPool, w.hope.held = 0, 0, true, true
}

// wants is what allocate has to look at, and uses up.
type wants struct {
	services []fsm.ServiceKey
	hope     hope
	keptEnd  time.Duration
	keptTime int64
}

// wants gives a copy, for a command that may be taken back.
func (w *work) wants() wants {
	return wants{slices.Clone(w.services), w.hope.clone(), w.keptEnd, w.keptTime}
}

func (w *work) wantAgain(old wants) {
	w.services, w.hope, w.keptEnd, w.keptTime = old.services, old.hope, old.keptEnd, old.keptTime
}

// tryFit is fit for a service that the command at hand has nothing to do with.
func (r *reign) tryFit(t *tx, key fsm.ServiceKey) (spoilt error) {
	return r.try(t, key, func() { t.fit(key) })
}

// try does something for a service that the command at hand has nothing to do with.
// After a fault the service is left alone until it is declared again. An error
// means that head is spoilt.
func (r *reign) try(t *tx, key fsm.ServiceKey, f func()) (spoilt error) {
	m := t.mark()
	err := guard(func() error { f(); return t.err })
	if err == nil {
		return nil
	}
	r.d.logFault("addresses for a service could not be decided", err, "service", key)
	r.d.stats.Internal.Add(1)
	r.work.faulty[key] = struct{}{}
	return r.rollback(t, m, true)
}

// allocateBytes is how many times the usual size a batch may grow to before the
// other services have to wait for the next one.
const allocateBytes = 4

// fit gives a service what the allocator says it should have, and takes what it
// must not keep.
func (t *tx) fit(key fsm.ServiceKey) {
	if svc := t.s.Services[key]; svc != nil {
		t.give(svc, t.choose(svc))
	}
}

// fitting is what a service should have, and what is to be said of what it lacks.
type fitting struct {
	plan     allocator.Plan
	why      string
	refusals []fsm.Refusal
}

func (t *tx) choose(svc *fsm.Service) fitting {
	plan, refusal := allocator.ChooseAddresses(t.s, svc.Spec, t.now)
	f := fitting{plan: plan, refusals: plan.Wish.Refusals()}
	var no *allocator.Refusal
	if errors.As(refusal, &no) {
		f.why, f.refusals = no.Error(), no.Refusals()
	}
	return f
}

// keepStray leaves a service an address that came to another pool than the one that it
// asks for: it is its own until it is declared again, or gets all that it lacks.
func (f *fitting) keepStray(svc *fsm.Service) {
	if svc.Pending != "" && f.why == "" || !slices.ContainsFunc(f.plan.Releases, func(r allocator.Release) bool { return r.Why == allocator.InOtherPool }) {
		return
	}
	f.plan = allocator.Plan{}
	if svc.Pending == "" {
		f.why, f.refusals = "", svc.Refusals
	}
}

// news tells whether the service would have something else, or something else would be
// said of it.
func (f *fitting) news(svc *fsm.Service) bool {
	return len(f.plan.New())+len(f.plan.Releases) > 0 || f.changed(svc)
}

// changed tells whether something else is to be said of what the service lacks.
func (f *fitting) changed(svc *fsm.Service) bool {
	return f.why != svc.Pending || !slices.Equal(f.refusals, svc.Refusals)
}

func (t *tx) give(svc *fsm.Service, f fitting) {
	changed := f.changed(svc)
	for _, rel := range f.plan.Releases {
		t.release(rel.Addr, svc.Key, 0)
	}
	for _, c := range f.plan.New() {
		t.emit(addressAllocated(c.Addr, svc.Key, c.Pool, c.Reason))
	}
	if changed {
		t.emit(allocationRefused(svc.Key, f.why, f.refusals))
	}
	if len(f.plan.New()) > 0 && slices.ContainsFunc(f.plan.Choices, func(c allocator.Choice) bool { return c.Kept && t.s.Leaving(c.Addr) }) {
		t.work.services = append(t.work.services, svc.Key) // the pool of what is new may have another for that, too
	}
}

// release takes an address from a service. When it was the last one its owner
// must stop answering first, and the address is kept for the service's name
// until keptUntil (nanoseconds since 1970 UTC).
func (t *tx) release(addr netip.Addr, key fsm.ServiceKey, keptUntil int64) {
	rec := t.s.Addresses[addr]
	if len(rec.Services) == 1 && rec.Owner != "" {
		t.emit(ownerReleased(rec, logv1.OwnerReason_OWNER_REASON_ADDRESS_DELETED))
	}
	var quarantinedUntil int64
	if pool := t.s.Pools[t.s.PoolOf(addr)]; pool != nil && pool.Spec.GetQuarantineNanos() > 0 && len(rec.Services) == 1 {
		quarantinedUntil = t.now + pool.Spec.GetQuarantineNanos()
	}
	t.letGo(addr, key, max(keptUntil, quarantinedUntil), quarantinedUntil)
}

// letGo takes an address that needs no owner any more from a service.
func (t *tx) letGo(addr netip.Addr, key fsm.ServiceKey, keptUntil, quarantinedUntil int64) {
	if t.s.Leaving(addr) {
		t.work.hope.noteLeft(t.s.PoolOf(addr)) // nobody will know then which it was
	}
	t.emit(addressReleased(addr, key, keptUntil, quarantinedUntil))
}
