package fsm_test

import (
	"slices"
	"testing"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func TestTryOrder(t *testing.T) {
	l := fsmtest.NewLog(t)
	pinned := func(name, cidr string, priority uint32) *logv1.Event {
		return fsmtest.Pool(&logv1.Pool{Name: name, Addresses: []string{cidr}, ServiceAllocation: &logv1.ServiceAllocation{Priority: priority}})
	}
	l.Apply(fsmtest.PoolDefined("b", "192.0.2.0/28"), fsmtest.PoolDefined("a", "192.0.2.16/28"),
		pinned("z", "192.0.2.32/28", 1), pinned("y", "192.0.2.48/28", 0), pinned("x", "192.0.2.64/28", 10), pinned("w", "192.0.2.80/28", 10))
	want := []string{"z", "w", "x", "y", "a", "b"}
	if got := l.S.TryOrder(); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	// The ranges stay, the order does not.
	before := l.S.Clone()
	l.Apply(fsmtest.PoolDefined("z", "192.0.2.32/28"), fsmtest.PoolDeleted("a"))
	if got := l.S.TryOrder(); !slices.Equal(got, []string{"w", "x", "y", "b", "z"}) {
		t.Errorf("after a change: %v", got)
	}
	if !slices.Equal(before.TryOrder(), want) {
		t.Errorf("the clone changed: %v", before.TryOrder())
	}
}

func TestNamespaces(t *testing.T) {
	l := fsmtest.NewLog(t)
	l.Apply(fsmtest.NamespaceDefined("shop", map[string]string{"tier": "gold"}))
	if got := l.S.NamespaceLabels("shop"); got["tier"] != "gold" || got[fsm.LabelNamespaceName] != "shop" {
		t.Errorf("shop: %v", got)
	}
	if got := l.S.NamespaceLabels("other"); len(got) != 1 || got[fsm.LabelNamespaceName] != "other" {
		t.Errorf("one that nobody declared: %v", got)
	}
	if l.Refuse(fsmtest.NamespaceDeleted("other")) == nil || l.Refuse(fsmtest.NamespaceDefined("", nil)) == nil {
		t.Error("accepted")
	}
	l.Apply(fsmtest.NamespaceDeleted("shop"))
	if got := l.S.NamespaceLabels("shop"); len(got) != 1 {
		t.Errorf("deleted: %v", got)
	}
}

func TestPoolSelects(t *testing.T) {
	gold := []*logv1.LabelSelector{{MatchLabels: map[string]string{"tier": "gold"}}}
	web := []*logv1.LabelSelector{{MatchLabels: map[string]string{"app": "web"}}, {MatchLabels: map[string]string{"app": "api"}}}
	l := fsmtest.NewLog(t)
	l.Apply(fsmtest.NamespaceDefined("shop", map[string]string{"tier": "gold"}))
	spec := func(namespace, app string) *logv1.Service {
		return &logv1.Service{Namespace: namespace, Name: "s", Labels: map[string]string{"app": app}}
	}
	for name, c := range map[string]struct {
		alloc *logv1.ServiceAllocation
		spec  *logv1.Service
		want  bool
	}{
		"none":                        {nil, spec("any", "x"), true},
		"priority alone":              {&logv1.ServiceAllocation{Priority: 5}, spec("any", "x"), true},
		"namespace":                   {&logv1.ServiceAllocation{Namespaces: []string{"a", "shop"}}, spec("shop", "x"), true},
		"other namespace":             {&logv1.ServiceAllocation{Namespaces: []string{"a", "shop"}}, spec("b", "x"), false},
		"namespace label":             {&logv1.ServiceAllocation{NamespaceSelectors: gold}, spec("shop", "x"), true},
		"no such label":               {&logv1.ServiceAllocation{NamespaceSelectors: gold}, spec("b", "x"), false},
		"name or label":               {&logv1.ServiceAllocation{Namespaces: []string{"b"}, NamespaceSelectors: gold}, spec("b", "x"), true},
		"implicit label":              {&logv1.ServiceAllocation{NamespaceSelectors: []*logv1.LabelSelector{{MatchLabels: map[string]string{fsm.LabelNamespaceName: "b"}}}}, spec("b", "x"), true},
		"service label":               {&logv1.ServiceAllocation{ServiceSelectors: web}, spec("b", "api"), true},
		"other service label":         {&logv1.ServiceAllocation{ServiceSelectors: web}, spec("b", "x"), false},
		"namespace and service":       {&logv1.ServiceAllocation{Namespaces: []string{"b"}, ServiceSelectors: web}, spec("b", "web"), true},
		"namespace and not service":   {&logv1.ServiceAllocation{Namespaces: []string{"b"}, ServiceSelectors: web}, spec("b", "x"), false},
		"service and not namespace":   {&logv1.ServiceAllocation{Namespaces: []string{"b"}, ServiceSelectors: web}, spec("c", "web"), false},
		"label that no one has (yet)": {&logv1.ServiceAllocation{NamespaceSelectors: gold, ServiceSelectors: web}, spec("c", "web"), false},
	} {
		if got := l.S.PoolSelects(&logv1.Pool{ServiceAllocation: c.alloc}, c.spec); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
