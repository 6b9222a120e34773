package decider

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

// Delete removes resources: all of them or none. Deleting what does not exist
// succeeds. Errors: *InvalidError, *InUseError for a pool that services use.
type Delete struct {
	Names []*adminv1.ResourceName
	// Force deletes a pool although services use it; they get other addresses.
	Force bool
	// DryRun: decide and answer, change nothing. It needs no force, and says whether
	// it would.
	DryRun bool
	Actor  string
}

func (c *Delete) kind() string  { return "Delete" }
func (c *Delete) actor() string { return c.Actor }

func (c *Delete) decide(t *tx) (answer, error) {
	existed, err := c.find(t)
	if err != nil {
		return nil, err
	}
	doomed := map[fsm.ServiceKey]bool{}
	for i, n := range c.Names {
		if n.GetKind() == KindService && existed[i] {
			doomed[fsm.KeyOf(n.GetNamespace(), n.GetName())] = true
		}
	}
	var inUse []FieldError
	for i, n := range c.Names {
		if n.GetKind() == KindPool && existed[i] && !c.Force {
			if users := poolUsers(t.s, n.GetName(), doomed); len(users) > 0 {
				inUse = append(inUse, FieldError{
					Path:    fmt.Sprintf("names[%d]", i),
					Message: fmt.Sprintf("pool %q is used by %s", n.GetName(), shorten(users, leavingShown)),
				})
			}
		}
	}
	if inUse != nil && !c.DryRun {
		return nil, &InUseError{Fields: inUse}
	}
	c.emit(t, existed)
	return func(head *fsm.State, r *Result) {
		r.Deleted = existed
		if c.DryRun {
			r.Effects, r.NeedsForce = collectEffects(t, head).list(t.before, head), inUse
		}
	}, nil
}

// find tells which of the names exist. One named twice exists once.
func (c *Delete) find(t *tx) ([]bool, error) {
	var f faults
	existed := make([]bool, len(c.Names))
	seen := map[string]bool{}
	for i, n := range c.Names {
		path := fmt.Sprintf("names[%d]", i)
		if n.GetName() == "" {
			f.add(path+".name", "must not be empty")
			continue
		}
		switch n.GetKind() {
		case KindPool:
			existed[i] = t.s.Pools[n.GetName()] != nil
		case KindAd:
			existed[i] = t.s.Ads[n.GetName()] != nil
		case KindService:
			if n.GetNamespace() == "" {
				f.add(path+".namespace", "must not be empty")
			}
			existed[i] = t.s.Services[fsm.KeyOf(n.GetNamespace(), n.GetName())] != nil
		case KindNamespace:
			existed[i] = t.s.Namespaces[n.GetName()] != nil
		case KindReservation:
			existed[i] = t.s.Reservations[n.GetName()] != nil
		default:
			f.add(path+".kind", "%q is none of %s, %s, %s, %s, %s", n.GetKind(), KindPool, KindAd, KindService, KindNamespace, KindReservation)
		}
		id := n.GetKind() + " " + n.GetNamespace() + "/" + n.GetName()
		existed[i] = existed[i] && !seen[id]
		seen[id] = true
	}
	return existed, f.err()
}

// poolUsers names the services, but for the doomed ones, that have an address of
// the pool.
func poolUsers(s *fsm.State, pool string, doomed map[fsm.ServiceKey]bool) []string {
	var users []string
	for rec := range s.InPool(pool) {
		for _, key := range rec.Services {
			if !doomed[key] {
				users = append(users, fmt.Sprintf("%s (%s)", key, rec.Addr))
			}
		}
	}
	return users
}

// emit deletes services first, so that their pools are no longer used.
func (c *Delete) emit(t *tx, existed []bool) {
	for i, n := range c.Names {
		if n.GetKind() == KindService && existed[i] {
			t.deleteService(fsm.KeyOf(n.GetNamespace(), n.GetName()))
		}
	}
	for i, n := range c.Names {
		switch {
		case !existed[i]:
		case n.GetKind() == KindAd:
			t.emit(adDeleted(n.GetName()))
		case n.GetKind() == KindReservation:
			t.emit(reservationDeleted(n.GetName()))
		case n.GetKind() == KindNamespace:
			t.emit(namespaceDeleted(n.GetName()))
		case n.GetKind() == KindPool:
			t.emptyPool(n.GetName())
			t.emit(poolDeleted(n.GetName()))
		}
	}
}

// deleteService takes all addresses from a service, keeps them for its name, and
// deletes it.
func (t *tx) deleteService(key fsm.ServiceKey) {
	keptUntil := t.now + int64(t.s.Retention)
	for _, a := range slices.Clone(t.s.Services[key].Addresses) {
		t.release(a, key, keptUntil)
	}
	t.emit(serviceDeleted(key))
}

// emptyPool takes the pool's addresses from all services.
func (t *tx) emptyPool(pool string) {
	var used []netip.Addr
	for rec := range t.s.InPool(pool) {
		used = append(used, rec.Addr)
	}
	for _, a := range used {
		for _, key := range slices.Clone(t.s.Addresses[a].Services) {
			t.release(a, key, 0)
		}
	}
}
