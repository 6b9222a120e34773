package decider

import (
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

const softGrace = 5 * time.Minute

// softly gives an address that moves from n1 to n2 in a soft drain; n3 is idle.
func softly(h *harness, change ...func(*logv1.L2Advertisement)) {
	h.t.Helper()
	oneVip(h, change...)
	h.then(h.when(func() { h.must(&Drain{Node: "n1", Grace: softGrace, Actor: "admin:test"}) }),
		"NodeDrained n1", "OwnerReleased 10.0.0.1 n1 DRAIN softly")
	h.then(h.when(func() { h.d.Wake() }))
	h.then(h.when(func() {
		h.leases.set(func(l *fakeLeases) { l.over["n1"] = true })
		h.d.Wake()
	}), "OwnerAssigned 10.0.0.1 n2 DRAIN beside n1")
	h.open("n3")
}

func (h *harness) softOn(node string) (n int) {
	h.log.Read(func(s *fsm.State) { n = s.SoftCount(node) })
	return n
}

func TestSoftDrainEnds(t *testing.T) {
	for name, c := range map[string]struct {
		when func(h *harness)
		then []string
	}{
		"when the grace time is over": {
			when: func(h *harness) { time.Sleep(softGrace) },
			then: []string{"SoftMoveEnded 10.0.0.1 n1 GRACE_OVER"},
		},
		"when the grace time is over and the clock was set back": {
			when: func(h *harness) {
				h.wall.jump(-24 * time.Hour)
				time.Sleep(softGrace*catchUp/(catchUp-1) + time.Second)
			},
			then: []string{"SoftMoveEnded 10.0.0.1 n1 GRACE_OVER"},
		},
		"when no connection is left": {
			when: func(h *harness) { h.must(&SoftIdle{Node: "n1", Address: vipAddr, Epoch: 4}) },
			then: []string{"SoftMoveEnded 10.0.0.1 n1 NO_CONNECTIONS"},
		},
		"when the old owner falls silent": {
			when: func(h *harness) { h.must(h.expire("n1")) },
			then: []string{"SessionExpired n1", "SoftMoveEnded 10.0.0.1 n1 OWNER_EXPIRED"},
		},
		"when the old owner's speaker shuts down": {
			when: func(h *harness) { h.must(&Leave{Node: "n1", Session: h.session("n1")}) },
			then: []string{"NodeDrained n1", "SoftMoveEnded 10.0.0.1 n1 GRACE_OVER"},
		},
		"with a plain drain": {
			when: func(h *harness) { h.must(&Drain{Node: "n1", Actor: "admin:test"}) },
			then: []string{"NodeDrained n1", "SoftMoveEnded 10.0.0.1 n1 GRACE_OVER"},
		},
		"when a rule forbids the old owner": {
			when: func(h *harness) {
				h.must(apply(ad("a", func(a *logv1.L2Advertisement) {
					a.NodeSelectors = []*logv1.LabelSelector{{MatchLabels: map[string]string{"name": "n2"}}}
				})))
			},
			then: []string{"AdvertisementDefined a", "SoftMoveEnded 10.0.0.1 n1 NOT_ELIGIBLE"},
		},
		"with the death of the new owner": {
			when: func(h *harness) { h.must(h.expire("n2")) },
			then: []string{"SessionExpired n2", "OwnerAssigned 10.0.0.1 n3 OWNER_EXPIRED"},
		},
		"with the next move": {
			when: func(h *harness) { h.must(&Move{Address: vipAddr, To: "n3", Actor: "admin:test"}) },
			then: []string{"OwnerReleased 10.0.0.1 n2 MOVE"},
		},
		"with the service": {
			when: func(h *harness) { h.must(remove(KindService, "web")) },
			then: []string{"OwnerReleased 10.0.0.1 n2 ADDRESS_DELETED", "AddressReleased 10.0.0.1 web", "ServiceDeleted web"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				softly(h)
				h.then(h.when(func() { c.when(h) }), c.then...)
				if n := h.softOn("n1"); n != 0 {
					t.Errorf("%d addresses still move softly", n)
				}
			})
		})
	}
}

func TestSoftDrainGoesOn(t *testing.T) {
	for name, when := range map[string]func(h *harness){
		"before the grace time is over":     func(h *harness) { time.Sleep(softGrace - time.Minute) },
		"over a restart of the old speaker": func(h *harness) { h.must(openSession("n1", 2)) },
		"over a restart of the new speaker": func(h *harness) { h.must(openSession("n2", 2)) },
		"over a change of leader":           func(h *harness) { h.log.lose(0); h.settle(); h.log.lead() },
		"when the old owner counts in vain": func(h *harness) { h.must(&SoftIdle{Node: "n1", Address: vipAddr, Epoch: 99}) },
		"when another counts":               func(h *harness) { h.must(&SoftIdle{Node: "n2", Address: vipAddr, Epoch: 4}) },
		"when the new owner is unproven":    func(h *harness) { h.must(&MoveUnproven{Node: "n2", Address: vipAddr, Epoch: h.epoch(vip)}) },
		"when the old owner is let back":    func(h *harness) { h.must(&Undrain{Node: "n1", Actor: "a"}) },
		"when the old owner loses its link": func(h *harness) {
			h.must(&LinksChanged{Node: "n1", Session: h.session("n1"), Links: links("eth0", false)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				softly(h)
				when(h)
				h.settle()
				if n := h.softOn("n1"); n != 1 || h.owner(vip) != "n2" {
					t.Fatalf("%d addresses move softly, owner %s", n, h.owner(vip))
				}
				h.then(h.when(func() { time.Sleep(softGrace) }), "SoftMoveEnded 10.0.0.1 n1 GRACE_OVER")
			})
		})
	}
}

// A longer grace time counts for what moves already, from when it is given.
func TestGraceTimeIsMadeLonger(t *testing.T) {
	inBubble(t, func(h *harness) {
		softly(h)
		time.Sleep(softGrace - time.Minute)
		h.must(&Drain{Node: "n1", Grace: softGrace, Actor: "admin:test"})
		h.then(h.when(func() { time.Sleep(softGrace - time.Minute) }))
		h.then(h.when(func() { time.Sleep(time.Minute) }), "SoftMoveEnded 10.0.0.1 n1 GRACE_OVER")
	})
}

// Without a claim nobody silences an old owner that has not heard of its loss: the
// wait that ends by time alone makes a plain move.
func TestSoftMoveNeedsAnOldOwnerThatHasSeenIt(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		h.must(&Drain{Node: "n1", Grace: softGrace, Actor: "admin:test"})
		h.then(h.when(func() {
			h.leases.set(func(l *fakeLeases) { l.over["n1"], l.unseen["n1"] = true, true })
			h.d.Wake()
		}), "OwnerAssigned 10.0.0.1 n2 DRAIN")
		if n := h.softOn("n1"); n != 0 {
			t.Errorf("%d addresses move softly", n)
		}
	})
}

// A process says nothing of the one before it, which may still run.
func TestInheritedAddressMovesPlainly(t *testing.T) {
	for name, c := range map[string]struct {
		given, meanwhile func(h *harness)
		released         string
	}{
		"inherited before":  {func(h *harness) { h.must(openSession("n1", 2)) }, func(*harness) {}, "OwnerReleased 10.0.0.1 n1 DRAIN"},
		"and in the middle": {func(*harness) {}, func(h *harness) { h.must(openSession("n1", 2)) }, "OwnerReleased 10.0.0.1 n1 DRAIN softly"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				oneVip(h)
				c.given(h)
				h.then(h.when(func() { h.must(&Drain{Node: "n1", Grace: softGrace, Actor: "admin:test"}) }), "NodeDrained n1", c.released)
				c.meanwhile(h)
				h.then(h.when(func() {
					h.leases.set(func(l *fakeLeases) { l.over["n1"] = true })
					h.d.Wake()
				}), "OwnerAssigned 10.0.0.1 n2 DRAIN")
				if n := h.softOn("n1"); n != 0 {
					t.Errorf("%d addresses move softly", n)
				}
			})
		})
	}
}

func TestOldOwnerDiesInTheMiddleOfASoftMove(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		h.must(&Drain{Node: "n1", Grace: softGrace, Actor: "admin:test"})
		h.then(h.when(func() { h.must(h.expire("n1")) }), "SessionExpired n1", "SoftMoveEnded 10.0.0.1 n1 OWNER_EXPIRED")
		h.then(h.when(func() {
			h.leases.set(func(l *fakeLeases) { l.over["n1"] = true })
			h.d.Wake()
		}), "OwnerAssigned 10.0.0.1 n2 DRAIN")
	})
}

// A session is closed only when the node answers for nothing.
func TestNoSessionClosesInASoftMove(t *testing.T) {
	inBubble(t, func(h *harness) {
		softly(h)
		h.refused(&Leave{Node: "n1", Session: h.session("n1"), Done: true}, new(*PreconditionError))
		h.refused(&Drain{Node: "n1", Grace: -1}, new(*InvalidError))
		h.refused(&Drain{Node: "n1", Grace: MaxGrace + 1}, new(*InvalidError))
	})
}

// Other reasons to move are not softened by a grace time.
func TestOnlyTheDrainIsSoft(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a")))
		h.open("n1")
		h.must(apply(service("web")))
		h.must(&Drain{Node: "n1", Grace: softGrace, Actor: "admin:test"})
		h.must(&Undrain{Node: "n1", Actor: "a"})
		h.open("n2")
		h.then(h.when(func() {
			h.must(&LinksChanged{Node: "n1", Session: h.session("n1"), Links: links("eth0", false)})
		}), "NodeLinksChanged n1", "OwnerReleased 10.0.0.1 n1 LINK_DOWN")
	})
}

// No voluntary move cuts off those whom the old owner still serves; when it serves
// nobody any more, the move is made.
func TestVoluntaryMovesWaitForTheEndOfASoftMove(t *testing.T) {
	for name, c := range map[string]struct {
		ad   func(*logv1.L2Advertisement)
		when func(h *harness)
		why  string
	}{
		"the ideal node": {
			func(a *logv1.L2Advertisement) { ideal(a); prefersNode(9, "n1")(a); prefersNode(5, "n3")(a) },
			func(*harness) {}, "IDEAL",
		},
		"the subnet": {
			func(*logv1.L2Advertisement) {},
			func(h *harness) {
				h.must(&LinksChanged{Node: "n2", Session: h.session("n2"), Links: linksOn("192.0.2.0/24")})
			}, "OFF_SUBNET",
		},
		"the balance": {
			gradually(60),
			func(h *harness) {
				h.must(apply(service("pinned", func(s *logv1.Service) {
					s.NodeSelectors = []*logv1.LabelSelector{{MatchLabels: map[string]string{"name": "n2"}}}
				})))
				time.Sleep(balanceQuiet)
			}, "REBALANCE",
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				softly(h, c.ad)
				h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
				c.when(h)
				time.Sleep(time.Minute)
				h.settle()
				if n := h.softOn("n1"); n != 1 || h.owner(vip) != "n2" {
					t.Fatalf("%d addresses move softly, owner %s", n, h.owner(vip))
				}
				h.then(h.when(func() { h.must(&SoftIdle{Node: "n1", Address: vipAddr, Epoch: 4}); time.Sleep(2 * time.Second) }),
					"SoftMoveEnded 10.0.0.1 n1 NO_CONNECTIONS", "OwnerReleased 10.0.0.1 n2 "+c.why, "--", "OwnerAssigned 10.0.0.1 n3 "+c.why)
			})
		})
	}
}
