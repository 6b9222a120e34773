package allocator

import (
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
	return s.NextFresh(w.Pool, !w.V6).IsValid() || s.LeastRecent(w.Pool, !w.V6, now) != nil
}
