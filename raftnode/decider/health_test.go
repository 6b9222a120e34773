package decider

import (
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

var web = fsm.KeyOf("default", "web")

func local(s *logv1.Service) {
	s.ExternalTrafficPolicy = logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_LOCAL
}

func checked(s *logv1.Service) {
	s.HealthCheck = &logv1.HealthCheck{Tcp: &logv1.TcpCheck{}, IntervalNanos: 1e9, TimeoutNanos: 1e9, Rise: 1, Fall: 1}
}

func endpoints(ready []string, terminating ...string) *EndpointsObserved {
	return &EndpointsObserved{Service: web, Ready: ready, Terminating: terminating}
}

// says reports the check of a node.
func (h *harness) says(node string, healthy bool) *HealthObserved {
	return &HealthObserved{Node: node, Session: h.session(node), Results: []HealthResult{{Service: web, Healthy: healthy, Reason: "test"}}}
}

// Given an address of n1, whose service is Local, when the endpoints move, then so
// does the address: by plan, and not before another node can serve it.
func TestLocalFollowsEndpoints(t *testing.T) {
	for name, c := range map[string]struct {
		steps []*EndpointsObserved
		then  []string
	}{
		"it has one":          {[]*EndpointsObserved{endpoints([]string{"n1"})}, []string{"EndpointsObserved web [n1] []"}},
		"said twice":          {[]*EndpointsObserved{endpoints([]string{"n1"}), endpoints([]string{"n1", "n1"})}, []string{"EndpointsObserved web [n1] []"}},
		"ready and not":       {[]*EndpointsObserved{endpoints([]string{"n1"}, "n1")}, []string{"EndpointsObserved web [n1] []"}},
		"nobody has one":      {[]*EndpointsObserved{endpoints(nil)}, []string{"EndpointsObserved web [] []"}},
		"only terminating":    {[]*EndpointsObserved{endpoints(nil, "n1")}, []string{"EndpointsObserved web [] [n1]"}},
		"another terminating": {[]*EndpointsObserved{endpoints(nil, "n2")}, []string{"EndpointsObserved web [] [n2]", "OwnerReleased 10.0.0.1 n1 NOT_SERVING"}},
		"another has one":     {[]*EndpointsObserved{endpoints([]string{"n2"})}, []string{"EndpointsObserved web [n2] []", "OwnerReleased 10.0.0.1 n1 NOT_SERVING"}},
		"ready elsewhere": {[]*EndpointsObserved{endpoints([]string{"n2"}, "n1")},
			[]string{"EndpointsObserved web [n2] [n1]", "OwnerReleased 10.0.0.1 n1 NOT_SERVING"}},
		"ready where it cannot go": {[]*EndpointsObserved{endpoints([]string{"n9"}, "n1")}, []string{"EndpointsObserved web [n9] [n1]"}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				oneVip(h)
				h.must(apply(service("web", local)))
				h.then(h.when(func() {
					for _, s := range c.steps {
						h.must(s)
					}
				}), c.then...)
			})
		})
	}
}

func TestClusterIgnoresEndpoints(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		h.then(h.when(func() { h.must(endpoints([]string{"n2"})) }), "EndpointsObserved web [n2] []")
		h.refused(&EndpointsObserved{Service: fsm.KeyOf("default", "none")}, new(*NotFoundError))
		h.refused(&EndpointsObserved{Service: web, Ready: []string{""}}, new(*InvalidError))
	})
}

// A new address waits for a node with an endpoint; a terminating one will do when the
// ready one is out of reach.
func TestLocalWaitsForAnEndpoint(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
		oneVip(h)
		h.must(apply(service("web", local)))
		h.must(endpoints([]string{"n2"}, "n1"))
		h.settle()
		if o := h.owner(vip); o != "n2" {
			t.Fatalf("owner is %q", o)
		}
		h.then(h.when(func() { h.must(h.expire("n2")) }), "SessionExpired n2", "OwnerAssigned 10.0.0.1 n1 OWNER_EXPIRED")
		h.then(h.when(func() { h.must(openSession("n2", 2)) }), "SessionOpened n2 2",
			"OwnerReleased 10.0.0.1 n1 NOT_SERVING", "--", "OwnerAssigned 10.0.0.1 n2 NOT_SERVING")
	})
}

// A node whose check fails is left, one that has said nothing is chosen last, and
// when all fail the address stays.
func TestHealthChecks(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
		oneVip(h)
		h.open("n3")
		h.must(apply(service("web", checked)))
		h.then(h.when(func() { h.must(h.says("n3", true)) }), "HealthChanged web n3 true")
		h.then(h.when(func() { h.must(h.says("n3", true)) }))
		h.then(h.when(func() { h.must(h.says("n1", false)) }), "HealthChanged web n1 false",
			"OwnerReleased 10.0.0.1 n1 NOT_SERVING", "--", "OwnerAssigned 10.0.0.1 n3 NOT_SERVING")
		h.then(h.when(func() { h.must(h.says("n2", false)) }), "HealthChanged web n2 false")
		h.then(h.when(func() { h.must(h.says("n3", false)) }), "HealthChanged web n3 false")
		h.then(h.when(func() { h.must(h.says("n1", true)) }), "HealthChanged web n1 true",
			"OwnerReleased 10.0.0.1 n3 NOT_SERVING", "--", "OwnerAssigned 10.0.0.1 n1 NOT_SERVING")
		// Without the check, nobody is held to it.
		h.must(h.says("n1", false))
		h.then(h.when(func() { h.must(apply(service("web"))) }), "ServiceDeclared web")
		h.then(h.when(func() { h.must(h.says("n1", false)) }))
		old := h.says("n1", true)
		h.must(openSession("n1", 9))
		h.refused(old, ErrNoSession)
	})
}

// Given an address that is served nowhere, when its owner gives it up, dies or is drained,
// or before the next one has it, then it is not left without an owner: of the other nodes one
// that can serve the most of its services has it, until another can serve more.
func TestAnAddressThatIsServedNowhere(t *testing.T) {
	ill := func(h *harness, nodes ...string) {
		for _, n := range nodes {
			h.must(h.says(n, false))
		}
	}
	for name, c := range map[string]struct {
		given func(h *harness)
		when  func(h *harness)
		then  []string
	}{
		"all fail at once": {nil, func(h *harness) { ill(h, "n1", "n2", "n3") },
			[]string{"HealthChanged web n1 false", "OwnerReleased 10.0.0.1 n1 NOT_SERVING", "--", "HealthChanged web n2 false", "--", "HealthChanged web n3 false", "--", "OwnerAssigned 10.0.0.1 n2 NOT_SERVING"}},
		"its owner dies": {func(h *harness) { ill(h, "n2", "n3", "n1") }, func(h *harness) { h.must(h.expire("n1")) },
			[]string{"SessionExpired n1", "OwnerAssigned 10.0.0.1 n2 OWNER_EXPIRED"}},
		"its owner is drained": {func(h *harness) { ill(h, "n2", "n3", "n1") }, func(h *harness) { h.must(&Drain{Node: "n1", Actor: "a"}) },
			[]string{"NodeDrained n1", "OwnerReleased 10.0.0.1 n1 DRAIN", "--", "OwnerAssigned 10.0.0.1 n2 DRAIN"}},
		"the only one that can serve is drained": {func(h *harness) { ill(h, "n2", "n3") }, func(h *harness) { h.must(&Drain{Node: "n1", Actor: "a"}) },
			[]string{"NodeDrained n1"}},
		"the only one that can serve leaves": {func(h *harness) { ill(h, "n2", "n3") }, func(h *harness) { h.must(&Leave{Node: "n1", Session: h.session("n1")}) },
			[]string{"NodeDrained n1", "OwnerReleased 10.0.0.1 n1 LEAVE", "--", "OwnerAssigned 10.0.0.1 n2 LEAVE"}},
		"the only one that can serve loses its link": {func(h *harness) { ill(h, "n2", "n3") }, func(h *harness) {
			h.must(&LinksChanged{Node: "n1", Session: h.session("n1"), Links: links("eth0", false)})
		}, []string{"NodeLinksChanged n1", "OwnerReleased 10.0.0.1 n1 LINK_DOWN", "--", "OwnerAssigned 10.0.0.1 n2 LINK_DOWN"}},
		"another can serve again": {func(h *harness) { ill(h, "n1", "n2", "n3") }, func(h *harness) { h.must(h.says("n3", true)) },
			[]string{"HealthChanged web n3 true", "OwnerReleased 10.0.0.1 n2 NOT_SERVING", "--", "OwnerAssigned 10.0.0.1 n3 NOT_SERVING"}},
		"a new node is there": {func(h *harness) { ill(h, "n1", "n2", "n3") }, func(h *harness) { h.open("n4") },
			[]string{"SessionOpened n4 1", "OwnerReleased 10.0.0.1 n2 NOT_SERVING", "--", "OwnerAssigned 10.0.0.1 n4 NOT_SERVING"}},
		"it moves to no node of those": {func(h *harness) { ill(h, "n2", "n3") }, func(h *harness) {
			h.refused(&Move{Address: vipAddr, Actor: "a"}, new(*PreconditionError))
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
				oneVip(h)
				h.open("n3")
				h.must(apply(service("web", checked)))
				h.must(h.says("n1", true))
				h.settle()
				if c.given != nil {
					c.given(h)
					h.settle()
				}
				h.then(h.when(func() { c.when(h) }), c.then...)
			})
		})
	}
}

// Given an address that two services share, when the check of one fails everywhere, then
// the other loses nothing, and has the node that can serve it.
func TestASharedAddressGoesByMoreThanItsWorstService(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a"), service("web", shares(80), checked), service("smtp", shares(25), checked)))
		h.open("n1", "n2", "n3")
		h.settle()
		says := func(node, name string, healthy bool) {
			h.must(&HealthObserved{Node: node, Session: h.session(node), Results: []HealthResult{{Service: fsm.KeyOf("default", name), Healthy: healthy}}})
		}
		for _, n := range []string{"n3", "n2", "n1"} {
			says(n, "smtp", false)
			says(n, "web", n != "n2")
		}
		h.settle()
		own := h.owner(vip)
		if own != "n1" && own != "n3" {
			t.Fatalf("owner is %q, want one where web is healthy", own)
		}
		other := map[string]string{"n1": "n3", "n3": "n1"}[own]
		h.then(h.when(func() { h.must(h.expire(own)) }), "SessionExpired "+own, "OwnerAssigned 10.0.0.1 "+other+" OWNER_EXPIRED")
		h.then(h.when(func() { says(other, "web", false) }), "HealthChanged web "+other+" false")
		h.then(h.when(func() { says("n2", "web", true) }), "HealthChanged web n2 true",
			"OwnerReleased 10.0.0.1 "+other+" NOT_SERVING", "--", "OwnerAssigned 10.0.0.1 n2 NOT_SERVING")
	})
}

// A ready endpoint keeps nobody from an address that cannot go there.
func TestAReadyEndpointWhereAnnouncingFails(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
		oneVip(h)
		h.must(apply(service("web", local)))
		h.must(endpoints([]string{"n1"}, "n2"))
		h.settle()
		h.then(h.when(func() {
			h.must(&AnnounceFailed{Node: "n1", Address: vipAddr, Epoch: h.epoch(vip), Reason: "test"})
		}), "AnnounceFailed 10.0.0.1 n1", "OwnerReleased 10.0.0.1 n1 ANNOUNCE_FAILED", "--", "OwnerAssigned 10.0.0.1 n2 ANNOUNCE_FAILED")
		h.then(h.when(func() { time.Sleep(time.Minute) }), "OwnerReleased 10.0.0.1 n2 NOT_SERVING", "--", "OwnerAssigned 10.0.0.1 n1 NOT_SERVING")
	})
}
