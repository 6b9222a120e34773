package decider

import (
	"fmt"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func labelled(k, v string) func(*logv1.Service) {
	return func(s *logv1.Service) { s.Labels = map[string]string{k: v} }
}

// prefersNode gives the node that is named a weight.
func prefersNode(weight uint32, node string) func(*logv1.L2Advertisement) {
	return func(a *logv1.L2Advertisement) {
		a.PreferredNodeSelectors = append(a.PreferredNodeSelectors, &logv1.PreferredNodeSelector{
			Weight: weight, Preference: &logv1.LabelSelector{MatchLabels: map[string]string{"name": node}},
		})
	}
}

func ideal(a *logv1.L2Advertisement) { a.Placement = logv1.Placement_PLACEMENT_IDEAL }

func TestAServiceThatIsNoLongerSelectedIsLeft(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a", func(a *logv1.L2Advertisement) {
			a.ServiceSelectors = []*logv1.LabelSelector{{MatchLabels: map[string]string{"tier": "web"}}}
		})))
		h.open("n1")
		h.then(h.when(func() { h.must(apply(service("web"))) }), "ServiceDeclared web", "AddressAllocated 10.0.0.1 web FRESH")
		h.then(h.when(func() { h.must(apply(service("web", labelled("tier", "web")))) }),
			"ServiceDeclared web", "OwnerAssigned 10.0.0.1 n1 NODE_AVAILABLE")
		h.then(h.when(func() { h.must(apply(service("web", labelled("tier", "db")))) }),
			"ServiceDeclared web", "OwnerReleased 10.0.0.1 n1 NOT_ELIGIBLE")
	})
}

func TestStickyKeepsAndIdealGoesToThePreferredNode(t *testing.T) {
	for name, c := range map[string]struct {
		placement func(*logv1.L2Advertisement)
		want      []string
	}{
		"sticky": {func(*logv1.L2Advertisement) {}, []string{"AdvertisementDefined a"}},
		"ideal":  {ideal, []string{"AdvertisementDefined a", "OwnerReleased 10.0.0.1 n1 IDEAL", "--", "OwnerAssigned 10.0.0.1 n2 IDEAL"}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
				oneVip(h)
				h.then(h.when(func() { h.must(apply(ad("a", c.placement, prefersNode(5, "n2")))) }), c.want...)
			})
		})
	}
}

func TestAServicesPreferredNodeIsReturnedTo(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a", ideal, prefersNode(100, "n2")),
			service("web", func(s *logv1.Service) { s.PreferredNode = "n3" })))
		h.open("n1", "n2", "n3")
		h.settle()
		h.then(h.when(func() { h.must(h.expire("n3")) }), "SessionExpired n3", "OwnerAssigned 10.0.0.1 n2 OWNER_EXPIRED")
		h.then(h.when(func() { h.must(openSession("n3", 2)) }), "SessionOpened n3 2",
			"OwnerReleased 10.0.0.1 n2 IDEAL", "--", "OwnerAssigned 10.0.0.1 n3 IDEAL")
	})
}

// A preferred node that comes and goes gets its address back ever later; when it
// dies the address leaves at once, each time.
func TestFlappingDelaysTheReturn(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a", ideal, prefersNode(1, "n1")), service("web")))
		h.open("n1", "n2")
		h.settle()
		for i, delay := range []time.Duration{0, 30 * time.Second, time.Minute, 2 * time.Minute} {
			h.then(h.when(func() { h.must(h.expire("n1")) }), "SessionExpired n1", "OwnerAssigned 10.0.0.1 n2 OWNER_EXPIRED")
			back := []string{"OwnerReleased 10.0.0.1 n2 IDEAL", "--", "OwnerAssigned 10.0.0.1 n1 IDEAL"}
			got := h.when(func() { h.must(openSession("n1", byte(i+2))) })
			if delay == 0 {
				h.then(got, append([]string{"SessionOpened n1 2"}, back...)...)
				continue
			}
			h.then(got, fmt.Sprintf("SessionOpened n1 %d", i+2))
			h.then(h.when(func() { time.Sleep(delay - time.Second) }))
			h.then(h.when(func() { time.Sleep(2 * time.Second) }), back...)
		}
		// An administrator is not held back.
		h.must(h.expire("n1"))
		h.must(openSession("n1", 9))
		h.then(h.when(func() { h.must(&Move{Address: vipAddr, To: "n1", Actor: "admin:test"}) }),
			"OwnerReleased 10.0.0.1 n2 MOVE", "--", "OwnerAssigned 10.0.0.1 n1 MOVE")
	})
}

func linksOn(prefix string) []*logv1.Link {
	l := links("eth0", true)
	l[0].Prefixes = []string{prefix}
	return l
}

// An address goes to the node that has its subnet; where none has, it stays, until a
// node gets it.
func TestAnAddressGoesToItsSubnet(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
		oneVip(h)
		away := func(node, prefix string) func() {
			return func() {
				h.must(&LinksChanged{Node: node, Session: h.session(node), Links: linksOn(prefix)})
			}
		}
		h.then(h.when(away("n1", "192.0.2.0/24")), "NodeLinksChanged n1",
			"OwnerReleased 10.0.0.1 n1 OFF_SUBNET", "--", "OwnerAssigned 10.0.0.1 n2 OFF_SUBNET")
		h.then(h.when(away("n2", "192.0.2.0/24")), "NodeLinksChanged n2")
		h.then(h.when(away("n1", "10.0.0.0/16")), "NodeLinksChanged n1",
			"OwnerReleased 10.0.0.1 n2 OFF_SUBNET", "--", "OwnerAssigned 10.0.0.1 n1 OFF_SUBNET")
	})
}

// So it does when the node that has its subnet may own it again, whatever kept it away.
func TestAnAddressReturnsToItsSubnet(t *testing.T) {
	relabel := func(h *harness, process byte, labels map[string]string) {
		cmd := openSession("n1", process)
		cmd.Labels = labels
		h.must(cmd)
	}
	for name, c := range map[string]struct{ away, back func(h *harness) }{
		"restart": {func(h *harness) { h.must(h.expire("n1")) }, func(h *harness) { h.must(openSession("n1", 2)) }},
		"drain": {
			func(h *harness) { h.must(&Drain{Node: "n1", Actor: "admin:test"}) },
			func(h *harness) { h.must(&Undrain{Node: "n1", Actor: "admin:test"}) },
		},
		"label": {
			func(h *harness) { relabel(h, 2, map[string]string{allocator.LabelExclude: ""}) },
			func(h *harness) { relabel(h, 3, nil) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
				oneVip(h)
				h.must(&LinksChanged{Node: "n2", Session: h.session("n2"), Links: linksOn("192.0.2.0/24")})
				h.settle()
				c.away(h)
				h.settle()
				if got := h.owner(vip); got != "n2" {
					t.Fatalf("owner is %q, want n2", got)
				}
				got := h.when(func() { c.back(h) })
				h.then(got[1:], "OwnerReleased 10.0.0.1 n2 OFF_SUBNET", "--", "OwnerAssigned 10.0.0.1 n1 OFF_SUBNET")
			})
		})
	}
}

func TestAnUnprovenMoveIsMadeGoodOnce(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
		oneVip(h)
		h.must(h.expire("n1"))
		unproven := func(node string) *MoveUnproven {
			return &MoveUnproven{Node: node, Address: vipAddr, Epoch: h.epoch(vip)}
		}
		h.then(h.when(func() { h.must(unproven("n2")) })) // nobody else may have it
		h.open("n3")
		h.then(h.when(func() { h.must(unproven("n3")) })) // not the owner
		h.then(h.when(func() { h.must(unproven("n2")) }),
			"OwnerReleased 10.0.0.1 n2 UNPROVEN", "--", "OwnerAssigned 10.0.0.1 n3 UNPROVEN")
		h.then(h.when(func() { h.must(unproven("n3")) })) // once
	})
}

// An unproven move goes to another node, also where the one that it leaves would be
// chosen before all others.
func TestAnUnprovenMoveLeavesThePreferredNode(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a", prefersNode(5, "n2")), service("web")))
		h.open("n2", "n1")
		h.then(h.when(func() { h.must(&MoveUnproven{Node: "n2", Address: vipAddr, Epoch: h.epoch(vip)}) }),
			"OwnerReleased 10.0.0.1 n2 UNPROVEN", "--", "OwnerAssigned 10.0.0.1 n1 UNPROVEN")
	})
}

// An owner that will only do until another can serve is no exception.
func TestAnUnprovenMakeshiftOwnerIsLeftOnce(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a"), service("web", func(s *logv1.Service) {
			s.ExternalTrafficPolicy = logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_LOCAL
		})))
		h.open("n1", "n2")
		h.must(&EndpointsObserved{Service: fsm.KeyOf("default", "web"), Terminating: []string{"n1", "n2"}})
		h.settle()
		from := h.owner(vip)
		to := map[string]string{"n1": "n2", "n2": "n1"}[from]
		h.then(h.when(func() { h.must(&MoveUnproven{Node: from, Address: vipAddr, Epoch: h.epoch(vip)}) }),
			"OwnerReleased 10.0.0.1 "+from+" UNPROVEN", "--", "OwnerAssigned 10.0.0.1 "+to+" UNPROVEN")
		h.then(h.when(func() { h.must(&MoveUnproven{Node: to, Address: vipAddr, Epoch: h.epoch(vip)}) }))
	})
}

// twoLinks are those of a node whose first one has the subnet of the addresses; without
// carrier its configuration may be gone, too.
func twoLinks(lan, configured bool) []*logv1.Link {
	first, second := links("eth0", lan), links("eth1", true)
	first[0].Prefixes = nil
	if configured {
		first[0].Prefixes = []string{"10.0.0.0/24"}
	}
	second[0].Prefixes = []string{"172.16.0.0/24"}
	return append(first, second...)
}

// Given nodes with two links, when the one that has the subnet loses its carrier, then the
// address leaves at once: neither flapping nor a soft move holds it back.
func TestAnAddressLeavesWithTheLinkOfItsSubnet(t *testing.T) {
	for name, configured := range map[string]bool{"which keeps its configuration": true, "with its configuration": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
				oneVip(h)
				h.open("n3")
				say := func(node string, lan, configured bool) {
					h.must(&LinksChanged{Node: node, Session: h.session(node), Links: twoLinks(lan, configured)})
				}
				for _, n := range []string{"n1", "n2", "n3"} {
					say(n, true, true)
				}
				for _, n := range []string{"n1", "n2"} { // forced twice: it makes no voluntary move for a while
					h.must(h.expire(n))
					h.settle()
				}
				own, process := h.owner(vip), byte(2)
				for _, n := range []string{"n1", "n2"} {
					h.must(openSession(n, process))
					say(n, true, true)
				}
				h.must(&Drain{Node: own, Grace: time.Hour, Actor: "admin:test"})
				h.settle()
				own = h.owner(vip)
				got := h.when(func() { say(own, false, configured) })
				if want := "OwnerReleased 10.0.0.1 " + own + " LINK_DOWN"; len(got) < 2 || got[1] != want {
					t.Fatalf("got %q, want %s", got, want)
				}
				if to := h.owner(vip); to == "" || to == own {
					t.Errorf("owner is %q after %s", to, own)
				}
				h.then(h.when(func() { say(own, true, true) }), "NodeLinksChanged "+own)
			})
		})
	}
}
