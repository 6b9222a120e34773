package decider

import (
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/fsm"
)

// older clones the committed state.
func (h *harness) older() (s *fsm.State) {
	h.settle()
	h.log.Read(func(now *fsm.State) { s = now.Clone() })
	return s
}

// sameIntent tells whether two states declare and allocate the same.
func sameIntent(t *testing.T, got, want *fsm.State) {
	t.Helper()
	if !maps.EqualFunc(got.Pools, want.Pools, func(a, b *fsm.Pool) bool { return proto.Equal(a.Spec, b.Spec) }) {
		t.Error("pools differ")
	}
	if !maps.EqualFunc(got.Ads, want.Ads, func(a, b *fsm.Advertisement) bool { return proto.Equal(a.Spec, b.Spec) }) {
		t.Error("advertisements differ")
	}
	if !maps.EqualFunc(got.Services, want.Services, func(a, b *fsm.Service) bool {
		return proto.Equal(a.Spec, b.Spec) && slices.Equal(a.Addresses, b.Addresses) && a.Pending == b.Pending
	}) {
		t.Errorf("services differ: %v and %v", slices.Collect(maps.Keys(got.Services)), slices.Collect(maps.Keys(want.Services)))
	}
	if !maps.EqualFunc(got.Namespaces, want.Namespaces, func(a, b *fsm.Namespace) bool { return proto.Equal(a.Spec, b.Spec) }) {
		t.Error("namespaces differ")
	}
	if !maps.EqualFunc(got.Reservations, want.Reservations, func(a, b *fsm.Reservation) bool { return proto.Equal(a.Spec, b.Spec) }) {
		t.Error("reservations differ")
	}
	if got.Retention != want.Retention || got.Lease != want.Lease {
		t.Error("settings differ")
	}
}

func TestRestore(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.auto = 10 * time.Millisecond
		oneVip(h)
		h.must(apply(service("gone"), service("pinned", at("10.0.0.9")), pool("q", "10.1.0.0/24"), ad("only", release),
			namespace("shop", map[string]string{"tier": "gold"}), namespace("gone", nil),
			reservation("r", "web", 0, "10.1.0.7"), reservation("old", "", 0, "10.1.0.8")))
		old := h.older()
		// Everything is turned over.
		h.must(remove(KindService, "web", "gone"))
		h.must(apply(service("thief", at("10.0.0.1")), service("pinned", at("10.0.0.8"))))
		h.must(remove(KindPool, "q"))
		h.must(remove(KindAd, "only"))
		h.must(remove(KindNamespace, "gone"))
		h.must(apply(reservation("r", "", 0, "10.1.0.8"), reservation("old", "", 0, "10.1.0.7"), reservation("newer", "", 0, "10.1.0.9")))
		h.must(apply(namespace("shop", nil), namespace("new", nil)))
		h.must(apply(pool("r", "10.2.0.0/24"), ad("a", release)))
		h.must(&SetRetention{Retention: time.Hour})
		h.must(&SetLeaseTimes{Times: fsm.LeaseTimes{Detection: time.Second, Heartbeat: 100 * time.Millisecond}})
		h.must(openSession("n3", 1))
		h.settle()
		owner := h.owner("10.0.0.1")

		dry := h.must(&RestoreTo{Older: old, DryRun: true})
		before := h.log.revision()
		got := h.when(func() {
			r := h.must(&RestoreTo{Older: old, Actor: "admin:test"})
			if *r.Restored != *dry.Restored || r.Restored.ServicesChanged != 4 || r.Restored.AddressesChanged != 4 {
				t.Errorf("answer %+v, dry run %+v", r.Restored, dry.Restored)
			}
		})
		if slices.Contains(got, "OwnerAssigned 10.0.0.1 "+owner+" NEW_ADDRESS") && slices.Index(got, "--") < 0 {
			t.Error("an address that changed hands did not wait for its old owner")
		}
		now := h.older()
		sameIntent(t, now, old)
		for _, node := range []string{"n1", "n2", "n3"} {
			if now.Nodes[node].SessionState != fsm.SessionOpen {
				t.Errorf("session of %s is not open any more", node)
			}
		}
		if len(h.log.batches) < int(before) {
			t.Error("nothing in the log")
		}
		h.checkHead()
		// What differs in nothing is no event.
		if r := h.must(&RestoreTo{Older: old}); r.Changed {
			t.Error("restored twice")
		}
	})
}

func TestRestoreKeepsOwnersOfWhatStays(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		old := h.older()
		h.must(apply(service("other")))
		epoch := h.epoch(vip)
		h.must(&RestoreTo{Older: old})
		h.settle()
		if h.owner(vip) != "n1" || h.epoch(vip) != epoch {
			t.Errorf("owner %q in epoch %d, was n1 in %d", h.owner(vip), h.epoch(vip), epoch)
		}
	})
}

func TestRestoreOfANewerVersionIsRefused(t *testing.T) {
	inBubble(t, func(h *harness) {
		newer := fsm.New()
		newer.ClusterVersion = 99
		h.refused(&RestoreTo{Older: newer}, new(*PreconditionError))
	})
}

func TestRestoreToAnEmptyState(t *testing.T) {
	inBubble(t, func(h *harness) {
		old := h.older()
		oneVip(h)
		h.must(&RestoreTo{Older: old})
		sameIntent(t, h.older(), old)
		h.checkHead()
	})
}
