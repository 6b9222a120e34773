package decider

import (
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

var foreignMAC = fsm.MAC{0x52, 1, 2, 3, 4, 5}

func found(kind logv1.ConflictKind) *ConflictObserved {
	c := &ConflictObserved{Node: "n1", Address: vipAddr, MAC: foreignMAC, Kind: kind}
	if kind == logv1.ConflictKind_CONFLICT_KIND_KERNEL {
		c.Holder = "n2"
	}
	return c
}

const (
	plain   = logv1.ConflictKind_CONFLICT_KIND_UNSPECIFIED
	foreign = logv1.ConflictKind_CONFLICT_KIND_FOREIGN
	proxy   = logv1.ConflictKind_CONFLICT_KIND_PROXY
	kernel  = logv1.ConflictKind_CONFLICT_KIND_KERNEL
)

func TestFoundBeforeTheFirstUse(t *testing.T) {
	another := func(name string) []string {
		return []string{"OwnerReleased 10.0.0.1 n1 CONFLICT", "AddressReleased 10.0.0.1 " + name,
			"AddressQuarantined 10.0.0.1 n1", "AddressAllocated 10.0.0.2 " + name + " FRESH"}
	}
	for name, c := range map[string]struct {
		given func(h *harness)
		spec  []func(*logv1.Service)
		when  *ConflictObserved
		then  []string
	}{
		"a foreign station":          {when: found(foreign), then: append(another("web"), "OwnerAssigned 10.0.0.2 n1 NEW_ADDRESS")},
		"one that was asked for":     {spec: []func(*logv1.Service){at(vip)}, when: found(foreign), then: []string{"AddressConflictObserved 10.0.0.1 FOREIGN"}},
		"a router with proxy ARP":    {when: found(proxy), then: []string{"AddressConflictObserved 10.0.0.1 PROXY"}},
		"the kernel of a node":       {when: found(kernel), then: []string{"AddressConflictObserved 10.0.0.1 KERNEL"}},
		"a claim while it is in use": {when: found(plain), then: []string{"AddressConflictObserved 10.0.0.1 UNSPECIFIED"}},
		"a foreign one after a first one": {
			given: func(h *harness) { h.must(found(kernel)) },
			when:  found(foreign), then: []string{"AddressConflictObserved 10.0.0.1 FOREIGN"},
		},
		"a foreign one after a move": {
			given: func(h *harness) {
				h.leases.set(func(l *fakeLeases) { l.auto = time.Millisecond })
				h.open("n2")
				h.must(&Move{Address: vipAddr, To: "n2", Actor: "a"})
				h.settle()
				h.must(&Move{Address: vipAddr, To: "n1", Actor: "a"})
				h.settle()
			},
			when: found(foreign), then: []string{"AddressConflictObserved 10.0.0.1 FOREIGN"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a")))
				h.open("n1")
				h.must(apply(service("web", c.spec...)))
				if c.given != nil {
					c.given(h)
				}
				h.then(h.when(func() { h.must(c.when) }), c.then...)
				h.then(h.when(func() { h.must(c.when) })) // said again it is no news
			})
		})
	}
}

// Only who is the first owner since the allocation asks the wire.
func TestFirstUse(t *testing.T) {
	inBubble(t, func(h *harness) {
		first := func() (yes bool) {
			h.log.Read(func(s *fsm.State) { yes = s.Addresses[vipAddr].FirstUse })
			return yes
		}
		oneVip(h)
		if !first() {
			t.Error("a new address is not asked for")
		}
		h.must(h.expire("n1"))
		h.settle()
		if first() {
			t.Error("a failover asks")
		}
		// Again after a deletion; but not while the last owner may still answer.
		again := func() {
			h.must(remove(KindService, "web"))
			h.must(apply(service("web")))
			h.leases.set(func(l *fakeLeases) { l.over["n2"] = true })
			h.d.Wake()
			h.settle()
		}
		h.must(openSession("n1", 2))
		again()
		if h.owner(vip) == "" || !first() {
			t.Error("an address that is allocated again is not asked for")
		}
		h.must(&Move{Address: vipAddr, To: "n2", Actor: "a"})
		h.leases.set(func(l *fakeLeases) { l.over["n1"] = true })
		h.d.Wake()
		h.settle()
		h.leases.set(func(l *fakeLeases) { l.unseen["n2"] = true })
		again()
		if h.owner(vip) == "" || first() {
			t.Error("it is asked for although its last owner may answer")
		}
	})
}

func TestQuarantineOfASharedAddress(t *testing.T) {
	share := func(port uint32) func(*logv1.Service) {
		return func(s *logv1.Service) { s.SharingKey, s.Ports[0].Port = "k", port }
	}
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a")))
		h.open("n1")
		h.must(apply(service("web", share(80)), service("dns", share(53))))
		h.then(h.when(func() { h.must(found(foreign)) }),
			"OwnerReleased 10.0.0.1 n1 CONFLICT", "AddressReleased 10.0.0.1 dns", "AddressReleased 10.0.0.1 web",
			"AddressQuarantined 10.0.0.1 n1",
			"AddressAllocated 10.0.0.2 dns FRESH", "AddressAllocated 10.0.0.2 web SHARED",
			"OwnerAssigned 10.0.0.2 n1 NEW_ADDRESS")
	})
}

func TestQuarantineLeavesAServicePending(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.1-10.0.0.1"), ad("a")))
		h.open("n1")
		h.must(apply(service("web")))
		h.leases.set(func(l *fakeLeases) { l.over["n1"] = true })
		h.then(h.when(func() { h.must(found(foreign)) }),
			"OwnerReleased 10.0.0.1 n1 CONFLICT", "AddressReleased 10.0.0.1 web", "AddressQuarantined 10.0.0.1 n1",
			`AllocationRefused web "no IPv4 address: pool p: full but for addresses in quarantine, which foreign stations have"`)
		// Whoever asks for it by name gets it.
		h.then(h.when(func() { h.must(apply(service("legacy", at(vip)))) }),
			"ServiceDeclared legacy", "AddressAllocated 10.0.0.1 legacy REQUESTED", "OwnerAssigned 10.0.0.1 n1 NEW_ADDRESS")
		h.log.Read(func(s *fsm.State) {
			if rec := s.Addresses[vipAddr]; rec.Conflict != foreignMAC || rec.ConflictKind != foreign {
				t.Errorf("no warning: %+v", rec)
			}
		})
	})
}

func TestQuarantineEnds(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.1-10.0.0.1"), ad("a")))
		h.open("n1")
		h.must(apply(service("web")))
		h.leases.set(func(l *fakeLeases) { l.over["n1"] = true })
		h.must(found(foreign))
		until := func() (u int64) {
			h.log.Read(func(s *fsm.State) { u = s.Free[vipAddr].QuarantineUntil - s.Time })
			return u
		}
		if until() != int64(FirstQuarantine) {
			t.Errorf("until %s", time.Duration(until()))
		}
		seen := &QuarantineSeen{Address: vipAddr, Node: "n1"}
		h.then(h.when(func() { h.must(seen) })) // before its time
		time.Sleep(FirstQuarantine)
		h.then(h.when(func() { h.must(seen) }), "AddressQuarantined 10.0.0.1 n1")
		time.Sleep(FirstQuarantine + time.Second)
		h.must(seen)
		if d := time.Duration(until()); d < 2*FirstQuarantine || d > 2*FirstQuarantine+time.Minute {
			t.Errorf("the third time lasts %s", d)
		}
		h.then(h.when(func() { h.must(&EndQuarantine{Address: vipAddr, Actor: "admin:test"}) }),
			"QuarantineEnded 10.0.0.1", "AddressAllocated 10.0.0.1 web REUSED", `AllocationRefused web ""`,
			"OwnerAssigned 10.0.0.1 n1 NEW_ADDRESS")
		h.refused(&EndQuarantine{Address: vipAddr, Actor: "admin:test"}, new(*NotFoundError))
	})
}
