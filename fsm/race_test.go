package fsm_test

import (
	"sync"
	"testing"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Readers, clones and digests of one state may run together, and a clone may be
// changed meanwhile. The race detector is the judge.
func TestReadersAndClonesTogether(t *testing.T) {
	l := strange(t)
	want := l.S.Digest()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 10 {
				c := l.S.Clone()
				raw := fsm.EncodeBatch(c.NextBatch(l.Now, []string{"x"}, []*logv1.Event{fsmtest.PoolDefined("new", "203.0.113.0/24")}))
				if _, _, err := c.Apply(raw); err != nil {
					t.Errorf("clone %d: %v", i, err)
				}
			}
		})
		wg.Go(func() {
			for range 10 {
				for rec := range l.S.Unowned() {
					_ = l.S.PoolOf(rec.Addr)
				}
				for _, p := range l.S.PoolNames() {
					for range l.S.InPool(p) {
					}
					_, _ = l.S.NextFresh(p, true), l.S.LeastRecent(p, true, l.Now)
				}
				if l.S.Digest() != want {
					t.Error("the state changed")
				}
			}
		})
	}
	wg.Wait()
}
