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

// HasOwn tells whether there is an address that others do not wait for, which a service
// might have: one that is promised to it, kept for it or its sharing key, or that
// services with its sharing key have. It costs little.
func HasOwn(s *fsm.State, spec *logv1.Service) bool {
	key := fsm.KeyOf(spec.GetNamespace(), spec.GetName())
	if anyOf(s.ReservedFor(key)) || anyOf(s.KeptFor(key)) {
		return true
	}
	share := spec.GetSharingKey()
	return share != "" && (anyOf(s.WithSharingKey(share)) || anyOf(s.KeptForSharing(share)))
}

func anyOf[T any](seq iter.Seq[T]) bool { _, ok := first(seq); return ok }

// EitherFamily tells whether one address of either family will do for a service.
func EitherFamily(spec *logv1.Service) bool {
	c := chooser{spec: spec}
	c.want()
	return c.either && !c.second
}
