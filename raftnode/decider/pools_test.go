package decider

import (
	"testing"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func poolWith(name, cidr string, change func(*logv1.Pool)) *adminv1.Resource {
	p := pool(name, cidr)
	change(p.GetPool())
	return p
}

func namespace(name string, labels map[string]string) *adminv1.Resource {
	return &adminv1.Resource{Kind: &adminv1.Resource_Namespace{Namespace: &logv1.Namespace{Name: name, Labels: labels}}}
}

func forGold(p *logv1.Pool) {
	p.ServiceAllocation = &logv1.ServiceAllocation{NamespaceSelectors: []*logv1.LabelSelector{{MatchLabels: map[string]string{"tier": "gold"}}}}
}

// A service that waits for a pool of its namespace has an address when the
// namespace gets the label, and keeps it when it loses it.
func TestNamespaceGetsALabel(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(poolWith("gold", "10.0.0.1-10.0.0.1", forGold), service("a")))
		h.refused(apply(service("b", at("10.0.0.1"))), new(*InvalidError))
		gold := namespace("default", map[string]string{"tier": "gold"})
		var r Result
		h.then(h.when(func() { r = h.must(apply(gold)) }),
			"NamespaceDefined default", "AddressAllocated 10.0.0.1 a FRESH", `AllocationRefused a ""`)
		if r.Resources[0].Kind != KindNamespace || r.Resources[0].Name != "default" || r.Resources[0].Outcome != Created {
			t.Errorf("%+v", r.Resources)
		}
		if again := h.must(apply(gold)); again.Changed || again.Resources[0].Outcome != Unchanged {
			t.Errorf("the second time: %+v", again)
		}
		h.then(h.when(func() { h.must(remove(KindNamespace, "default")) }), "NamespaceDeleted default")
		h.refused(apply(namespace("Default", nil)), new(*InvalidError))
		h.checkHead()
	})
}

// A label declared together with the service that needs it counts for it.
func TestNamespaceAndServiceTogether(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(poolWith("gold", "10.0.0.1-10.0.0.9", forGold)))
		r := h.must(apply(service("a", at("10.0.0.5")), service("b"), namespace("default", map[string]string{"tier": "gold"})))
		if len(r.Resources[0].Addresses) != 1 || len(r.Resources[1].Addresses) != 1 {
			t.Errorf("%+v", r.Resources)
		}
	})
}
