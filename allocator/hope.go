package allocator

import (
	"iter"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Admits tells whether a service may take from a pool at all.
func Admits(s *fsm.State, spec *logv1.Service, pool string) bool {
	c := chooser{s: s, spec: spec}
	return c.admits(pool) == WhyInvalid
}

// HasFree tells whether somebody who waits for this would find an address at
// the time now (nanoseconds since 1970 UTC).
func HasFree(s *fsm.State, w fsm.Wait, now int64) bool {
	if !QuotaAllows(s, w) {
		return false
	}
	return s.NextFresh(w.Pool, !w.V6).IsValid() || s.LeastRecent(w.Pool, !w.V6, now) != nil
}

// QuotaAllows tells whether the namespace, if one is named, may have one more.
func QuotaAllows(s *fsm.State, w fsm.Wait) bool {
	pool := s.Pools[w.Pool]
	if w.Namespace == "" || pool == nil {
		return true
	}
	most, bound := pool.Quota(w.Namespace)
	return !bound || s.NamespaceUse(w.Pool, w.Namespace) < int(most)
}

// HasOwn tells whether a service would find an address at the time now (nanoseconds
// since 1970 UTC) that others do not wait for: one that is promised to it, kept for
// it or its sharing key, or that it can join. It costs little for a service that has
// nothing of the kind.
func HasOwn(s *fsm.State, spec *logv1.Service, now int64) bool {
	key := fsm.KeyOf(spec.GetNamespace(), spec.GetName())
	if !anyOf(s.ReservedFor(key)) && !anyOf(s.KeptFor(key)) {
		share := spec.GetSharingKey()
		if share == "" || !anyOf(s.WithSharingKey(share)) && !anyOf(s.KeptForSharing(share)) {
			return false
		}
	}
	plan, _ := ChooseAddresses(s, spec, now)
	return len(plan.New()) > 0
}

func anyOf[T any](seq iter.Seq[T]) bool {
	for range seq {
		return true
	}
	return false
}

// EitherFamily tells whether one address of either family will do for a service.
func EitherFamily(spec *logv1.Service) bool {
	c := chooser{spec: spec}
	c.want()
	return c.either && !c.second
}
