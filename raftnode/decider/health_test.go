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
