package decider

import (
	"fmt"
	"slices"
	"strings"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// EndpointsObserved reports where a service has endpoints. It replaces what was
// known. Errors: *NotFoundError, *InvalidError.
type EndpointsObserved struct {
	Service fsm.ServiceKey
	// Ready are the nodes with a ready endpoint, Terminating those whose endpoints are
	// all terminating and still serve; a node in both counts as ready.
	Ready, Terminating []string
	Actor              string
}

func (c *EndpointsObserved) kind() string  { return "EndpointsObserved" }
func (c *EndpointsObserved) actor() string { return c.Actor }
func (c *EndpointsObserved) observed()     {}

func (c *EndpointsObserved) decide(t *tx) (answer, error) {
	var f faults
	for i, node := range c.Ready {
		checkNodeName(&f, fmt.Sprintf("ready[%d]", i), node)
	}
	for i, node := range c.Terminating {
		checkNodeName(&f, fmt.Sprintf("terminating[%d]", i), node)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	svc := t.s.Services[c.Service]
	if svc == nil {
		return nil, &NotFoundError{Kind: KindService, Name: c.Service.String()}
	}
	ready := sortedNames(c.Ready)
	terminating := slices.DeleteFunc(sortedNames(c.Terminating), func(n string) bool {
		_, both := slices.BinarySearch(ready, n)
		return both
	})
	if old := svc.Endpoints; old != nil && slices.Equal(old.Ready, ready) && slices.Equal(old.Terminating, terminating) {
		return nil, nil
	}
	t.emit(&logv1.Event{Fact: &logv1.Event_EndpointsObserved{EndpointsObserved: &logv1.EndpointsObserved{
		Namespace: c.Service.Namespace, Name: c.Service.Name, Ready: ready, Terminating: terminating,
	}}})
	return nil, nil
}

func sortedNames(names []string) []string {
	out := slices.Clone(names)
	slices.Sort(out)
	return slices.Compact(out)
}

// HealthResult is what a node's check of one service has come to.
type HealthResult struct {
	Service fsm.ServiceKey
	Healthy bool
	Reason  string
}

// HealthObserved reports the checks of a node. What is about a service that is gone, or
// has no check any more, is passed over. Errors: ErrNoSession.
type HealthObserved struct {
	Node    string
	Session uint64
	Results []HealthResult
}

func (c *HealthObserved) kind() string  { return "HealthObserved" }
func (c *HealthObserved) actor() string { return "speaker:" + c.Node }
func (c *HealthObserved) observed()     {}
func (c *HealthObserved) urgent()       {}

func (c *HealthObserved) decide(t *tx) (answer, error) {
	node := t.s.Nodes[c.Node]
	if node == nil || node.Session != c.Session || node.SessionState != fsm.SessionOpen {
		return nil, fmt.Errorf("%w: %d", ErrNoSession, c.Session)
	}
	for _, r := range c.Results {
		if !HealthDiffers(t.s, c.Node, r) {
			continue
		}
		t.emit(&logv1.Event{Fact: &logv1.Event_HealthChanged{HealthChanged: &logv1.HealthChanged{
			Namespace: r.Service.Namespace, Name: r.Service.Name, Node: c.Node, Healthy: r.Healthy,
			Reason: strings.ToValidUTF8(r.Reason, "?"),
		}}})
	}
	return nil, nil
}

// HealthDiffers tells whether a node's result says something else than the state.
func HealthDiffers(s *fsm.State, node string, r HealthResult) bool {
	svc := s.Services[r.Service]
	if svc == nil || svc.Spec.GetHealthCheck() == nil {
		return false
	}
	known, said := svc.Health[node]
	return !said || known.Healthy != r.Healthy
}
