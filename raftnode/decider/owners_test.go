package decider

import (
	"net/netip"
	"testing"
	"time"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

const vip = "10.0.0.1"

var vipAddr = netip.MustParseAddr(vip)

// oneVip gives a pool, an advertisement, node n1 and a service whose address n1
// owns; then node n2, which owns nothing.
func oneVip(h *harness, change ...func(*logv1.L2Advertisement)) {
	h.t.Helper()
	h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a", change...)))
	h.open("n1")
	h.must(apply(service("web")))
	h.open("n2")
	if got := h.owner(vip); got != "n1" {
		h.t.Fatalf("owner is %q, want n1", got)
	}
}

func TestNewAddressIsAssignedAtOnce(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a")))
		h.open("n1", "n2")
		got := h.when(func() { h.must(apply(service("web"))) })
		if o := h.owner(vip); o == "" {
			t.Fatal("nobody owns it")
		}
		h.then(got, "ServiceDeclared web", "AddressAllocated 10.0.0.1 web FRESH",
			"OwnerAssigned 10.0.0.1 "+h.owner(vip)+" NEW_ADDRESS")
	})
}

func TestUnownedAddressGetsTheNextNode(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a"), service("web")))
		if o := h.owner(vip); o != "" {
			t.Fatalf("owned by %q before there are nodes", o)
		}
		got := h.when(func() { h.open("n1") })
		h.then(got, "SessionOpened n1 1", "OwnerAssigned 10.0.0.1 n1 NODE_AVAILABLE")
	})
}

func TestPlannedMoves(t *testing.T) {
	for name, c := range map[string]struct {
		when func(h *harness)
		// first is the batch that the cause makes, reason that of both transitions.
		first  []string
		reason string
	}{
		"drain": {
			when:   func(h *harness) { h.must(&Drain{Node: "n1", Actor: "admin:test"}) },
			first:  []string{"NodeDrained n1"},
			reason: "DRAIN",
		},
		"leave": {
			when:   func(h *harness) { h.must(&Leave{Node: "n1", Session: h.session("n1")}) },
			first:  []string{"NodeDrained n1"},
			reason: "LEAVE",
		},
		"link down": {
			when: func(h *harness) {
				h.must(&LinksChanged{Node: "n1", Session: h.session("n1"), Links: links("eth0", false)})
			},
			first:  []string{"NodeLinksChanged n1"},
			reason: "LINK_DOWN",
		},
		"policy": {
			when: func(h *harness) {
				h.must(apply(ad("a", func(a *logv1.L2Advertisement) {
					a.NodeSelectors = []*logv1.LabelSelector{{MatchLabels: map[string]string{"name": "n2"}}}
				})))
			},
			first:  []string{"AdvertisementDefined a"},
			reason: "NOT_ELIGIBLE",
		},
		"announce failed": {
			when: func(h *harness) {
				h.must(&AnnounceFailed{Node: "n1", Address: vipAddr, Epoch: h.epoch(vip), Reason: "no socket"})
			},
			first:  []string{"AnnounceFailed 10.0.0.1 n1"},
			reason: "ANNOUNCE_FAILED",
		},
		"move": {
			when:   func(h *harness) { h.must(&Move{Address: vipAddr, To: "n2", Actor: "admin:test"}) },
			reason: "MOVE",
		},
		"move to anywhere": {
			when:   func(h *harness) { h.must(&Move{Address: vipAddr, Actor: "admin:test"}) },
			reason: "MOVE",
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				oneVip(h)
				got := h.when(func() { c.when(h) })
				h.then(got, append(c.first, "OwnerReleased 10.0.0.1 n1 "+c.reason)...)
				// The old owner has not seen it: nothing may happen.
				h.then(h.when(func() { h.d.Wake() }))
				got = h.when(func() {
					h.leases.set(func(l *fakeLeases) { l.over["n1"] = true })
					h.d.Wake()
				})
				h.then(got, "OwnerAssigned 10.0.0.1 n2 "+c.reason)
			})
		})
	}
}

func TestPlannedMoveNeedsASuccessor(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a")))
		h.open("n1")
		h.must(apply(service("web")))
		h.then(h.when(func() { h.must(&Drain{Node: "n1", Actor: "admin:test"}) }), "NodeDrained n1")
		// With a successor it goes.
		h.then(h.when(func() { h.open("n2") }),
			"SessionOpened n2 1", "OwnerReleased 10.0.0.1 n1 DRAIN")
	})
}

func TestExpiryOfHold(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		h.then(h.when(func() { h.must(h.expire("n1")) }),
			"SessionExpired n1", "OwnerAssigned 10.0.0.1 n2 OWNER_EXPIRED")
	})
}

func TestExpiryOfRelease(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h, release)
		h.then(h.when(func() { h.must(h.expire("n1")) }), "SessionExpired n1")
		h.then(h.when(func() {
			h.leases.set(func(l *fakeLeases) { l.fence["n1"] = true })
			h.d.Wake()
		}), "OwnerAssigned 10.0.0.1 n2 OWNER_EXPIRED")
	})
}

func TestChangeToHoldWaitsForAnOwnerThatHasNotSeenIt(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h, release)
		h.must(apply(ad("a"))) // Hold from now on; n1 is cut off and does not learn of it
		h.then(h.when(func() { h.must(h.expire("n1")) }), "SessionExpired n1")
		h.then(h.when(func() {
			h.leases.set(func(l *fakeLeases) { l.over["n1"] = true }) // as if it had seen the change
			h.d.Wake()
		}), "OwnerAssigned 10.0.0.1 n2 OWNER_EXPIRED")
	})
}

func TestReleaseStaysWhenTheNodeReturnsBeforeItsFence(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h, release)
		h.must(h.expire("n1"))
		h.then(h.when(func() { h.must(openSession("n1", 1)) }), "SessionOpened n1 1")
		h.then(h.when(func() {
			h.leases.set(func(l *fakeLeases) { l.fence["n1"] = true })
			h.d.Wake()
		}))
		if o := h.owner(vip); o != "n1" {
			t.Errorf("owner is %q", o)
		}
	})
}

func TestExpiryWithoutSuccessorDoesNotUnassign(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a")))
		h.open("n1")
		h.must(apply(service("web")))
		h.then(h.when(func() { h.must(h.expire("n1")) }), "SessionExpired n1")
		if o := h.owner(vip); o != "n1" {
			t.Errorf("owner is %q", o)
		}
		h.then(h.when(func() { h.open("n2") }),
			"SessionOpened n2 1", "OwnerAssigned 10.0.0.1 n2 OWNER_EXPIRED")
	})
}

func TestExpiryOfSeveralNodesChoosesNoneOfThem(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		h.open("n3")
		h.then(h.when(func() { h.must(h.expire("n1", "n2")) }),
			"SessionExpired n1", "SessionExpired n2", "OwnerAssigned 10.0.0.1 n3 OWNER_EXPIRED")
	})
}

func TestExpiryOfAnOldSessionIsPassedOver(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		old := h.expire("n1")
		h.must(openSession("n1", 2))
		h.then(h.when(func() {
			if r := h.must(old); r.Changed {
				t.Error("it says that it changed something")
			}
		}))
	})
}

// A recovery may hold the command up, and the node may be heard again meanwhile.
func TestExpiryOfANodeThatIsBackIsPassedOver(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		h.leases.set(func(l *fakeLeases) { l.back["n1"] = true })
		h.then(h.when(func() { h.must(h.expire("n1", "n2")) }), "SessionExpired n2")
	})
}

func TestSilentNodesComeLast(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		h.open("n3")
		h.leases.set(func(l *fakeLeases) { l.silent["n2"] = true })
		h.then(h.when(func() { h.must(h.expire("n1")) }),
			"SessionExpired n1", "OwnerAssigned 10.0.0.1 n3 OWNER_EXPIRED")
	})
}

func TestReturnOfANodeMovesNothing(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		h.must(h.expire("n1"))
		h.then(h.when(func() { h.must(openSession("n1", 2)) }), "SessionOpened n1 2")
		h.then(h.when(func() { h.must(&Drain{Node: "n1", Actor: "a"}) }), "NodeDrained n1")
		h.then(h.when(func() { h.must(&Undrain{Node: "n1", Actor: "a"}) }), "NodeUndrained n1")
	})
}

func TestNoSessionClosesWithAddresses(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		h.refused(&Leave{Node: "n1", Session: h.session("n1"), Done: true}, new(*PreconditionError))
	})
}

func TestDeletion(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		h.then(h.when(func() { h.must(remove(KindService, "web")) }),
			"OwnerReleased 10.0.0.1 n1 ADDRESS_DELETED", "AddressReleased 10.0.0.1 web", "ServiceDeleted web")
		// It is kept for the name; the new one waits for the old owner.
		h.then(h.when(func() { h.must(apply(service("web"))) }),
			"ServiceDeclared web", "AddressAllocated 10.0.0.1 web RETAINED")
		got := h.when(func() {
			h.leases.set(func(l *fakeLeases) { l.over["n1"] = true })
			h.d.Wake()
		})
		h.then(got, "OwnerAssigned 10.0.0.1 "+h.owner(vip)+" NEW_ADDRESS")
	})
}

func TestDeletedAdvertisementStopsAnnouncing(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		h.then(h.when(func() { h.must(remove(KindAd, "a")) }),
			"AdvertisementDeleted a", "OwnerReleased 10.0.0.1 n1 NOT_ELIGIBLE")
	})
}

func TestIdealReturns(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a", func(a *logv1.L2Advertisement) {
			a.Placement = logv1.Placement_PLACEMENT_IDEAL
		}), service("web")))
		h.open("n1", "n2", "n3")
		h.settle()
		ideal := h.owner(vip)
		h.must(h.expire(ideal))
		h.settle()
		if o := h.owner(vip); o == ideal {
			t.Fatalf("still owned by %s", o)
		}
		second := h.owner(vip)
		// It is back, but not heard: no reason to move.
		h.leases.set(func(l *fakeLeases) { l.silent[ideal] = true })
		h.then(h.when(func() { h.must(openSession(ideal, 1)) }), "SessionOpened "+ideal+" 1")
		h.leases.set(func(l *fakeLeases) { l.silent[ideal] = false })
		got := h.when(func() { time.Sleep(time.Second) })
		h.then(got, "OwnerReleased 10.0.0.1 "+second+" IDEAL", "--", "OwnerAssigned 10.0.0.1 "+ideal+" IDEAL")
	})
}

func TestAnnounceFailureEverywhere(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
		oneVip(h)
		fail := func(node string) {
			h.must(&AnnounceFailed{Node: node, Address: vipAddr, Epoch: h.epoch(vip), Reason: "test"})
		}
		fail("n1")
		h.settle()
		if o := h.owner(vip); o != "n2" {
			t.Fatalf("owner is %q", o)
		}
		// Every node fails: it stays.
		h.then(h.when(func() { fail("n2") }), "AnnounceFailed 10.0.0.1 n2")
		// Repeating it is not news.
		h.then(h.when(func() { fail("n2") }))
		// n1's back-off is over before n2's: it is tried again.
		got := h.when(func() { time.Sleep(20 * time.Second) })
		h.then(got, "OwnerReleased 10.0.0.1 n2 ANNOUNCE_FAILED", "--", "OwnerAssigned 10.0.0.1 n1 ANNOUNCE_FAILED")
	})
}

func TestMoveIsCompletedAfterAChangeOfLeader(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		h.must(&Move{Address: vipAddr, To: "n2", Actor: "admin:test"})
		h.log.lose(0)
		h.settle()
		h.log.lead()
		h.settle()
		h.then(h.when(func() {
			h.leases.set(func(l *fakeLeases) { l.over["n1"] = true })
			h.d.Wake()
		}), "OwnerAssigned 10.0.0.1 n2 MOVE")
	})
}
