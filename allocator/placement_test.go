package allocator_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func weighs(weight uint32, zone ...string) *logv1.PreferredNodeSelector {
	return &logv1.PreferredNodeSelector{Weight: weight, Preference: selector("zone", zone...)[0]}
}

func adWith(name string, change func(*logv1.L2Advertisement)) *logv1.Event {
	a := &logv1.L2Advertisement{Name: name}
	change(a)
	return fsmtest.Ad(a)
}

func serviceWith(name string, change func(*logv1.Service)) *logv1.Event {
	s := fsmtest.Service(name, 80)
	if name != "web" {
		s.Ports[0].Port = 81
	}
	s.SharingKey = "k"
	change(s)
	return fsmtest.Declared(s)
}

// Given three nodes that own nothing, when somebody prefers one, then it is chosen
// by the first difference in the order of preference.
func TestOrderOfPreference(t *testing.T) {
	weights := func(name string, terms ...*logv1.PreferredNodeSelector) *logv1.Event {
		return adWith(name, func(a *logv1.L2Advertisement) { a.PreferredNodeSelectors = terms })
	}
	dns := fsm.KeyOf("default", "dns")
	for _, c := range []struct {
		name   string
		events []*logv1.Event
		heard  []string
		want   string
	}{
		{"one weight", []*logv1.Event{weights("all", weighs(1, "n3"))}, nil, "n3"},
		{"the larger weight", []*logv1.Event{weights("all", weighs(10, "n1"), weighs(11, "n3"))}, nil, "n3"},
		{"weights are summed", []*logv1.Event{weights("all", weighs(60, "n1"), weighs(40, "n3"), weighs(30, "n3", "n2"))}, nil, "n3"},
		{"over all advertisements", []*logv1.Event{weights("all", weighs(60, "n1"), weighs(40, "n3")), weights("more", weighs(30, "n3"))}, nil, "n3"},
		{"of this pool", []*logv1.Event{weights("all", weighs(1, "n2")), adWith("other", func(a *logv1.L2Advertisement) {
			a.IpAddressPools, a.PreferredNodeSelectors = []string{"b"}, []*logv1.PreferredNodeSelector{weighs(99, "n3")}
		})}, nil, "n2"},
		{"of this service", []*logv1.Event{weights("all", weighs(1, "n2")), adWith("other", func(a *logv1.L2Advertisement) {
			a.ServiceSelectors, a.PreferredNodeSelectors = selector("tier", "a"), []*logv1.PreferredNodeSelector{weighs(99, "n3")}
		})}, nil, "n2"},
		{"weight before load", []*logv1.Event{weights("all", weighs(1, "n3")), fsmtest.Declared(fsmtest.Service("x", 1)),
			fsmtest.Allocated(fsm.KeyOf("default", "x"), "192.0.2.9", "a"), fsmtest.OwnerAssigned(netip.MustParseAddr("192.0.2.9"), "n3")}, nil, "n3"},
		{"not the one that may not", []*logv1.Event{weights("all", weighs(9, "n3"), weighs(1, "n2")),
			fsmtest.Drained("n3", logv1.DrainReason_DRAIN_REASON_ADMIN)}, nil, "n2"},
		{"heard before weight", []*logv1.Event{weights("all", weighs(9, "n3"))}, []string{"n1"}, "n1"},
		{"the service's node before weight", []*logv1.Event{weights("all", weighs(100, "n3"), weighs(100, "n3", "n1")),
			serviceWith("web", func(s *logv1.Service) { s.PreferredNode = "n2" })}, nil, "n2"},
		{"the node of more services", []*logv1.Event{serviceWith("web", func(s *logv1.Service) { s.PreferredNode = "n1" }),
			serviceWith("dns", func(s *logv1.Service) { s.PreferredNode = "n3" }), fsmtest.AllocatedFor(dns, ip1, "a", fresh),
			weights("all", weighs(1, "n3"))}, nil, "n3"},
		{"an unknown node", []*logv1.Event{serviceWith("web", func(s *logv1.Service) { s.PreferredNode = "n9" }), weights("all", weighs(1, "n3"))}, nil, "n3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, placement := range []logv1.Placement{logv1.Placement_PLACEMENT_STICKY, logv1.Placement_PLACEMENT_IDEAL} {
				l := cluster(t)
				l.Apply(c.events...)
				l.Apply(adWith("ideal", func(a *logv1.L2Advertisement) { a.Placement = placement }))
				opt := allocator.Options{}
				if c.heard != nil {
					opt.Preferred = func(node string) bool { return node == c.heard[0] }
				}
				got, _ := allocator.ChooseOwner(l.S, ip1, opt)
				if got != c.want {
					t.Errorf("%v: %s, want %s", placement, got, c.want)
				}
				for _, n := range allocator.NewChooser(l.S).Ranking(ip1, opt) {
					if (n.Order == 1) != (n.Node == got) {
						t.Errorf("the ranking has %s at %d, chosen is %s", n.Node, n.Order, got)
					}
				}
			}
		})
	}
}

// Sticky stays with whoever has it, Ideal goes to the preferred node.
func TestPreferenceMovesOnlyIdeal(t *testing.T) {
	for placement, want := range map[logv1.Placement]bool{logv1.Placement_PLACEMENT_STICKY: false, logv1.Placement_PLACEMENT_IDEAL: true} {
		l := cluster(t)
		l.Apply(fsmtest.OwnerAssigned(ip1, "n1"), adWith("all", func(a *logv1.L2Advertisement) {
			a.Placement, a.PreferredNodeSelectors = placement, []*logv1.PreferredNodeSelector{weighs(1, "n2")}
		}))
		why, move := allocator.ShouldMove(l.S, ip1)
		if move != want || move && why != logv1.OwnerReason_OWNER_REASON_IDEAL {
			t.Errorf("%v: %t %v", placement, move, why)
		}
	}
}

// An advertisement is for an address when it selects every service that has it.
func TestServiceSelectors(t *testing.T) {
	dns := fsm.KeyOf("default", "dns")
	tier := func(name, tier string) *logv1.Event {
		return serviceWith(name, func(s *logv1.Service) { s.Labels = map[string]string{"tier": tier} })
	}
	picky := adWith("all", func(a *logv1.L2Advertisement) {
		a.ServiceSelectors, a.Placement = append(selector("tier", "a"), selector("tier", "b")...), logv1.Placement_PLACEMENT_IDEAL
	})
	join := fsmtest.AllocatedFor(dns, ip1, "a", fresh)
	for _, c := range []struct {
		name   string
		events []*logv1.Event
		want   allocator.Reason
	}{
		{"selected", []*logv1.Event{picky, tier("web", "a")}, allocator.OK},
		{"by the other selector", []*logv1.Event{picky, tier("web", "b")}, allocator.OK},
		{"not selected", []*logv1.Event{picky, tier("web", "c")}, allocator.ServiceUnselected},
		{"both selected", []*logv1.Event{picky, tier("web", "a"), tier("dns", "b"), join}, allocator.OK},
		{"one of two selected", []*logv1.Event{picky, tier("web", "a"), tier("dns", "c"), join}, allocator.ServiceUnselected},
		{"each by another advertisement", []*logv1.Event{picky, tier("web", "a"), tier("dns", "c"), join,
			adWith("more", func(a *logv1.L2Advertisement) { a.ServiceSelectors = selector("tier", "c") })}, allocator.ServiceUnselected},
		{"by another advertisement", []*logv1.Event{picky, tier("web", "c"), adWith("more", func(*logv1.L2Advertisement) {})}, allocator.OK},
	} {
		l := cluster(t)
		l.Apply(c.events...)
		ch := allocator.NewChooser(l.S)
		if got := ch.Eligible(ip1, "n1", l.S.Time); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if _, ok := ch.ChooseOwner(ip1, allocator.Options{}); ok != (c.want == allocator.OK) {
			t.Errorf("%s: a node was chosen: %t", c.name, ok)
		}
		// The chooser lives on through changes of services.
		l.Apply(tier("web", "c"))
		if got, want := ch.Eligible(ip1, "n1", l.S.Time), allocator.Eligible(l.S, ip1, "n1"); got != want {
			t.Errorf("%s: after the change %s, want %s", c.name, got, want)
		}
	}
}

func TestDamping(t *testing.T) {
	for flaps, want := range map[uint32]time.Duration{
		0: 0, 1: 0, 2: 30 * time.Second, 3: time.Minute, 7: 16 * time.Minute, 8: 30 * time.Minute, 1 << 31: 30 * time.Minute,
	} {
		if got := allocator.Damping(flaps); got != want {
			t.Errorf("%d flaps: %s, want %s", flaps, got, want)
		}
	}
	rec := &fsm.Address{Flaps: 3, FlapTime: 1000}
	if got, want := allocator.DampedUntil(rec), 1000+int64(time.Minute); got != want {
		t.Errorf("damped until %d, want %d", got, want)
	}
}

// The subnet of an address draws it to the nodes that have it, and is no rule.
func TestSubnets(t *testing.T) {
	links := func(node string, links ...*logv1.Link) *logv1.Event {
		return &logv1.Event{Fact: &logv1.Event_NodeLinksChanged{NodeLinksChanged: &logv1.NodeLinksChanged{Node: node, Links: links}}}
	}
	link := func(name string, up bool, prefixes ...string) *logv1.Link {
		return &logv1.Link{Name: name, Mac: []byte{2, 0, 0, 0, 0, 1}, Up: up, Prefixes: prefixes}
	}
	weight := adWith("all", func(a *logv1.L2Advertisement) {
		a.PreferredNodeSelectors = []*logv1.PreferredNodeSelector{weighs(9, "n1")}
	})
	elsewhere := func(nodes ...string) (all []*logv1.Event) {
		for _, n := range nodes {
			all = append(all, links(n, link("eth0", true, "198.51.100.0/24", "192.0.2.1/32")))
		}
		return all
	}
	for _, c := range []struct {
		name   string
		events []*logv1.Event
		want   string // owner chosen; "" for any
		moves  bool   // it leaves n1
	}{
		{"all have it", nil, "", false},
		{"only one has it", elsewhere("n1", "n2"), "n3", true},
		{"before weight", append(elsewhere("n1", "n2"), weight), "n3", true},
		{"nobody has it", append(elsewhere("n1", "n2", "n3"), weight), "n1", false},
		{"on a link that is down", append(elsewhere("n1", "n2"), links("n3", link("eth0", false, "192.0.2.0/24"), link("eth1", true)), weight), "n1", false},
		{"on a link that is not announced on", append(elsewhere("n1", "n2"), links("n3", link("eth0", true), link("eth1", true, "192.0.2.0/24")), weight,
			adWith("all", func(a *logv1.L2Advertisement) { a.Interfaces = []string{"eth0"} })), "", false},
		{"on a second link", append(elsewhere("n1", "n2"), links("n3", link("eth0", true), link("eth1", true, "192.0.0.0/16"))), "n3", true},
		{"where it may not go", append(elsewhere("n1", "n2"), fsmtest.Drained("n3", logv1.DrainReason_DRAIN_REASON_ADMIN), weight), "n1", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := cluster(t)
			l.Apply(fsmtest.OwnerAssigned(ip1, "n1"))
			if c.events != nil {
				l.Apply(c.events...)
			}
			if got, _ := allocator.ChooseOwner(l.S, ip1, allocator.Options{}); c.want != "" && got != c.want {
				t.Errorf("chosen is %s, want %s", got, c.want)
			}
			why, moves := allocator.ShouldMove(l.S, ip1)
			if moves != c.moves || moves && why != logv1.OwnerReason_OWNER_REASON_OFF_SUBNET {
				t.Errorf("moves %t (%v), want %t", moves, why, c.moves)
			}
		})
	}
}

// Given a Local service or one with a health check, who can serve it is known.
func TestServing(t *testing.T) {
	local := serviceWith("web", func(s *logv1.Service) {
		s.ExternalTrafficPolicy = logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_LOCAL
	})
	check := serviceWith("web", func(s *logv1.Service) {
		s.HealthCheck = &logv1.HealthCheck{Tcp: &logv1.TcpCheck{}, IntervalNanos: 1e9, TimeoutNanos: 1e9, Rise: 1, Fall: 1}
	})
	drained := fsmtest.Drained("n3", logv1.DrainReason_DRAIN_REASON_ADMIN)
	ok, none, out, ill := allocator.OK, allocator.NoEndpoint, allocator.OnlyTerminating, allocator.Unhealthy
	for _, c := range []struct {
		name   string
		events []*logv1.Event
		want   [3]allocator.Reason
		chosen string
	}{
		{"nothing known", []*logv1.Event{local}, [3]allocator.Reason{ok, ok, ok}, ""},
		{"one ready", []*logv1.Event{local, fsmtest.Endpoints(web, []string{"n2"})}, [3]allocator.Reason{none, ok, none}, "n2"},
		{"no endpoints", []*logv1.Event{local, fsmtest.Endpoints(web, nil)}, [3]allocator.Reason{none, none, none}, "-"},
		{"ready and terminating", []*logv1.Event{local, fsmtest.Endpoints(web, []string{"n2"}, "n1")}, [3]allocator.Reason{out, ok, none}, "n2"},
		{"only terminating", []*logv1.Event{local, fsmtest.Endpoints(web, nil, "n1")}, [3]allocator.Reason{ok, none, none}, "n1"},
		{"ready on a drained node", []*logv1.Event{local, fsmtest.Endpoints(web, []string{"n3"}, "n1"), drained}, [3]allocator.Reason{ok, none, allocator.Drained}, "n1"},
		{"ready on an unknown node", []*logv1.Event{local, fsmtest.Endpoints(web, []string{"n9"}, "n1")}, [3]allocator.Reason{ok, none, none}, "n1"},
		{"ready where the service may not go", []*logv1.Event{serviceWith("web", func(s *logv1.Service) {
			s.ExternalTrafficPolicy = logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_LOCAL
			s.NodeSelectors = selector("zone", "n1")
		}), fsmtest.Endpoints(web, []string{"n2"}, "n1")}, [3]allocator.Reason{ok, allocator.ServiceNodeSelector, allocator.ServiceNodeSelector}, "n1"},
		{"ready where announcing fails", []*logv1.Event{local, fsmtest.Endpoints(web, []string{"n2"}, "n1"), fsmtest.AnnounceFailed(ip1, "n2", "")},
			[3]allocator.Reason{ok, allocator.AnnounceFailed, none}, "n1"},
		{"ready where the check fails", []*logv1.Event{serviceWith("web", func(s *logv1.Service) {
			s.ExternalTrafficPolicy = logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_LOCAL
			s.HealthCheck = &logv1.HealthCheck{Tcp: &logv1.TcpCheck{}, IntervalNanos: 1e9, TimeoutNanos: 1e9, Rise: 1, Fall: 1}
		}), fsmtest.Endpoints(web, []string{"n2"}, "n1"), fsmtest.HealthChanged(web, "n2", false, "")}, [3]allocator.Reason{ok, ill, none}, "n1"},
		{"not Local", []*logv1.Event{fsmtest.Endpoints(web, []string{"n2"})}, [3]allocator.Reason{ok, ok, ok}, ""},
		{"unchecked", []*logv1.Event{check}, [3]allocator.Reason{ok, ok, ok}, ""},
		{"failing", []*logv1.Event{check, fsmtest.HealthChanged(web, "n1", false, ""), fsmtest.HealthChanged(web, "n2", true, "")},
			[3]allocator.Reason{ill, ok, ok}, "n2"},
		{"all failing", []*logv1.Event{check, fsmtest.HealthChanged(web, "n1", false, ""), fsmtest.HealthChanged(web, "n2", false, ""),
			fsmtest.HealthChanged(web, "n3", false, "")}, [3]allocator.Reason{ill, ill, ill}, "-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := cluster(t)
			l.Apply(c.events...)
			ch := allocator.NewChooser(l.S)
			for i, node := range []string{"n1", "n2", "n3"} {
				if got := ch.Eligible(ip1, node, l.S.Time); got != c.want[i] {
					t.Errorf("%s: %s, want %s", node, got, c.want[i])
				}
			}
			got, found := ch.ChooseOwner(ip1, allocator.Options{})
			if c.chosen == "-" && found || c.chosen != "" && c.chosen != "-" && got != c.chosen {
				t.Errorf("chosen is %q, want %q", got, c.chosen)
			}
		})
	}
}

// A ranking has the nodes that can serve, or all of them where none can.
func TestRankingOfWhatCannotServe(t *testing.T) {
	check := serviceWith("web", func(s *logv1.Service) {
		s.HealthCheck = &logv1.HealthCheck{Tcp: &logv1.TcpCheck{}, IntervalNanos: 1e9, TimeoutNanos: 1e9, Rise: 1, Fall: 1}
	})
	l := cluster(t)
	l.Apply(check, fsmtest.OwnerAssigned(ip1, "n1"))
	orders := func() (orders []int) {
		for _, n := range allocator.NewChooser(l.S).Ranking(ip1, allocator.Options{}) {
			orders = append(orders, n.Order)
		}
		return orders
	}
	l.Apply(fsmtest.HealthChanged(web, "n1", false, ""), fsmtest.HealthChanged(web, "n2", false, ""))
	if got := orders(); !slices.Equal(got, []int{0, 0, 1}) {
		t.Errorf("n3 can serve: %v", got)
	}
	l.Apply(fsmtest.HealthChanged(web, "n3", false, ""))
	if got := orders(); slices.Contains(got, 0) {
		t.Errorf("nobody can serve: %v", got)
	}
}
