package decider

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// allocate gives addresses to the services that lack them: to those that wait,
// when something may help them, the longest waiting first; then to those that
// the command declared. It runs after each command, so that the next one sees
// what this one took. A fault with a service that the command declared is the
// command's; a fault with any other concerns that service only.
func (r *reign) allocate(t *tx, command bool) (err error) {
	w := r.work
	if len(w.services) == 0 && !w.retry {
		return nil
	}
	t.asMember(func() {
		for (len(w.services) > 0 || w.retry) && t.size < allocateBytes*r.d.cfg.MaxBatchBytes && err == nil {
			keys := w.services
			w.services = nil
			if w.retry {
				w.retry = false
				err = r.allocatePending(t)
			}
			for _, key := range keys {
				if command {
					t.fit(key)
				} else if err == nil {
					_, err = r.tryFit(t, key)
				}
			}
			if err == nil {
				err = t.err
			}
		}
	})
	w.keptEnd = 0
	for range t.s.PendingServices() {
		if until, ok := t.s.NextKept(); ok {
			w.keptEnd = r.d.cfg.Clock.Now() + max(time.Duration(until-t.now), time.Second)
		}
		break
	}
	return err
}

// tryFit is fit for a service that the command at hand has nothing to do with.
// After a fault the service is left alone until it is declared again. An error
// means that head is spoilt.
func (r *reign) tryFit(t *tx, key fsm.ServiceKey) (ok bool, spoilt error) {
	m := t.mark()
	err := guard(func() error { ok = t.fit(key); return t.err })
	if err == nil {
		return ok, nil
	}
	r.d.logFault("addresses for a service could not be decided", err, "service", key)
	r.d.stats.Internal.Add(1)
	r.work.faulty[key] = struct{}{}
	return false, r.rollback(t, m, true)
}

// allocateBytes is how many times the usual size a batch may grow to before the
// other services have to wait for the next one.
const allocateBytes = 4

// shape is what makes two services fare alike when no address is free for them.
type shape struct {
	pool   string
	policy logv1.IPFamilyPolicy
	first  logv1.IPFamily
	// namespace and labels decide which pools are for it.
	namespace, labels string
}

// shapeOf gives the service's shape; false when it is one of its kind.
func shapeOf(s *fsm.State, svc *fsm.Service) (shape, bool) {
	spec := svc.Spec
	if len(spec.GetAddresses()) > 0 || spec.GetSharingKey() != "" || len(svc.Addresses) > 0 {
		return shape{}, false
	}
	for range s.KeptFor(svc.Key) {
		return shape{}, false
	}
	sh := shape{pool: spec.GetPool(), policy: spec.GetIpFamilyPolicy(), namespace: svc.Key.Namespace, labels: labelText(spec.GetLabels())}
	if f := spec.GetIpFamilies(); len(f) > 0 {
		sh.first = f[0]
	}
	return sh, true
}

// labelText is the same for the same labels, and only then.
func labelText(labels map[string]string) string {
	if len(labels) == 0 {
		return ""
	}
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(&b, "%q=%q,", k, labels[k])
	}
	return b.String()
}

// allocatePending tries the pending services, the longest waiting first. Of
// services that fare alike only the first is tried once one got nothing.
func (r *reign) allocatePending(t *tx) error {
	var keys []fsm.ServiceKey
	for svc := range t.s.PendingServices() {
		if _, skip := r.work.faulty[svc.Key]; !skip {
			keys = append(keys, svc.Key)
		}
	}
	refused := map[shape]string{}
	for _, key := range keys {
		if t.size >= allocateBytes*r.d.cfg.MaxBatchBytes {
			r.work.retry = true // the others come with the next batch
			return nil
		}
		svc := t.s.Services[key]
		sh, alike := shapeOf(t.s, svc)
		if why, no := refused[sh]; alike && no {
			t.pending(svc, why)
			continue
		}
		ok, err := r.tryFit(t, key)
		if err != nil {
			return err
		}
		if _, faulty := r.work.faulty[key]; !ok && alike && !faulty {
			refused[sh] = t.s.Services[key].Pending
		}
	}
	return nil
}

// fit gives a service what the allocator says it should have, and takes what it
// must not keep. It tells whether the service has all it asks for.
func (t *tx) fit(key fsm.ServiceKey) bool {
	svc := t.s.Services[key]
	if svc == nil {
		return true
	}
	plan, refusal := allocator.ChooseAddresses(t.s, svc.Spec, t.now)
	for _, rel := range plan.Releases {
		t.release(rel.Addr, key, 0)
	}
	for _, c := range plan.New() {
		t.emit(addressAllocated(c.Addr, key, c.Pool, c.Reason))
	}
	why := ""
	if refusal != nil {
		why = refusal.Error()
	}
	t.pending(svc, why)
	return refusal == nil
}

// pending records why the service has fewer addresses than it asks for.
func (t *tx) pending(svc *fsm.Service, why string) {
	if why != svc.Pending {
		t.emit(allocationRefused(svc.Key, why))
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
	t.emit(addressReleased(addr, key, keptUntil))
}
