package decider

import (
	"testing"
	"time"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func count(n uint32) func(*logv1.Service) { return func(s *logv1.Service) { s.AddressCount = n } }

// A service with several addresses is given owners on distinct nodes. It is served in part
// while there are too few, gets the rest when one falls free, and gives up the last given
// when it asks for fewer.
func TestAServiceWithSeveralAddresses(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
		h.must(&SetRetention{})
		h.must(apply(pool("p", "10.0.0.1-10.0.0.3"), ad("a"), service("other")))
		h.open("n1", "n2", "n3")
		h.settle()
		h.refused(apply(service("web", count(17))), new(*InvalidError))
		h.then(h.when(func() { h.must(apply(service("web", count(3)))) }),
			"ServiceDeclared web", "AddressAllocated 10.0.0.2 web FRESH", "AddressAllocated 10.0.0.3 web FRESH", `AllocationRefused web "has 2 of 3 IPv4 addresses: pool p: full"`, "OwnerAssigned 10.0.0.2 n2 NEW_ADDRESS", "OwnerAssigned 10.0.0.3 n3 NEW_ADDRESS")
		h.then(h.when(func() { h.must(remove(KindService, "other")) }),
			"OwnerReleased 10.0.0.1 n1 ADDRESS_DELETED", "AddressReleased 10.0.0.1 other", "ServiceDeleted other", "AddressAllocated 10.0.0.1 web REUSED", `AllocationRefused web ""`, "--", "OwnerAssigned 10.0.0.1 n1 NEW_ADDRESS")
		old := h.older()
		h.then(h.when(func() { h.must(apply(service("web", count(2)))) }),
			"ServiceDeclared web", "OwnerReleased 10.0.0.1 n1 ADDRESS_DELETED", "AddressReleased 10.0.0.1 web")
		h.then(h.when(func() { h.must(h.expire("n1")) }),
			"SessionExpired n1")
		h.then(h.when(func() { h.must(&RestoreTo{Older: old}) }),
			"RestoreBegun", "ServiceDeclared web", "AddressAllocated 10.0.0.1 web REUSED", "--", "OwnerAssigned 10.0.0.1 n2 NEW_ADDRESS")
		h.then(h.when(func() { h.must(remove(KindService, "web")) }),
			"OwnerReleased 10.0.0.2 n2 ADDRESS_DELETED", "AddressReleased 10.0.0.2 web", "OwnerReleased 10.0.0.3 n3 ADDRESS_DELETED", "AddressReleased 10.0.0.3 web", "OwnerReleased 10.0.0.1 n2 ADDRESS_DELETED", "AddressReleased 10.0.0.1 web", "ServiceDeleted web")
	})
}

// With Ideal placement the other addresses of a service are looked at when one of them goes.
func TestIdealAddressesFollowTheirSiblings(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a", ideal, prefersNode(9, "n1"), prefersNode(5, "n2")), service("web", count(2))))
		h.open("n1", "n2", "n3")
		h.settle()
		h.then(h.when(func() { h.must(apply(service("web", at("10.0.0.2")))) }),
			"ServiceDeclared web", "OwnerReleased 10.0.0.1 n1 ADDRESS_DELETED", "AddressReleased 10.0.0.1 web", "OwnerReleased 10.0.0.2 n2 IDEAL", "--", "OwnerAssigned 10.0.0.2 n1 IDEAL")
	})
}

// So it is when a foreign station has one, which no declaration goes before.
func TestIdealAddressesFollowASiblingInQuarantine(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a", ideal, prefersNode(9, "n1"), prefersNode(5, "n2")), service("web", count(2))))
		h.open("n1", "n2", "n3")
		h.settle()
		h.then(h.when(func() { h.must(found(foreign)) }),
			"OwnerReleased 10.0.0.1 n1 CONFLICT", "AddressReleased 10.0.0.1 web", "AddressQuarantined 10.0.0.1 n1", "AddressAllocated 10.0.0.3 web FRESH", "OwnerReleased 10.0.0.2 n2 IDEAL", "OwnerAssigned 10.0.0.3 n2 NEW_ADDRESS", "--", "OwnerAssigned 10.0.0.2 n1 IDEAL")
	})
}
