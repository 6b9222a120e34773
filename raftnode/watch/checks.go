package watch

import (
	"maps"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// task makes the health check of a service for a node; nil when the node has none to
// run. Like local delivery it goes by selectors and labels alone: what the check says is to
// be known before the node is needed, and while it is drained.
func (h *Hub) task(s *fsm.State, v *nodeView, svc *fsm.Service) *speakerv1.HealthTask {
	if svc == nil || svc.Spec.GetHealthCheck() == nil || !fsm.MatchAny(svc.Spec.GetNodeSelectors(), v.labels) {
		return nil
	}
	if _, excluded := v.labels[allocator.LabelExclude]; excluded {
		return nil
	}
	task := &speakerv1.HealthTask{Service: serviceName(svc.Key), Check: svc.Spec.GetHealthCheck()}
	admitted := false
	for _, a := range svc.Addresses {
		if !h.terms(s, v, a).admitted {
			continue
		}
		admitted = true
		if svc.Spec.GetDelivery() == logv1.Delivery_DELIVERY_HOST {
			task.Addresses = append(task.Addresses, a.AsSlice())
		}
	}
	if !admitted {
		return nil
	}
	for _, p := range svc.Spec.GetPorts() {
		if p.GetProtocol() == logv1.Protocol_PROTOCOL_TCP || p.GetProtocol() == logv1.Protocol_PROTOCOL_UNSPECIFIED {
			task.Port = p.GetPort()
			break
		}
	}
	return task
}

func serviceName(key fsm.ServiceKey) *speakerv1.ServiceName {
	return &speakerv1.ServiceName{Namespace: key.Namespace, Name: key.Name}
}

// findChecks lists the services with a health check, for the first watched node.
func (h *Hub) findChecks(s *fsm.State) {
	h.checks = make(map[fsm.ServiceKey]checked)
	for key, svc := range s.Services {
		if svc.Spec.GetHealthCheck() != nil {
			h.checks[key] = h.checked(s, svc)
		}
	}
}

// checked is all of a service that makes a difference to its task on a node.
type checked struct {
	spec      *logv1.Service
	addresses []netip.Addr
	policies  []*allocator.Policy
}

func (h *Hub) checked(s *fsm.State, svc *fsm.Service) checked {
	c := checked{spec: svc.Spec, addresses: svc.Addresses}
	for _, a := range svc.Addresses {
		c.policies = append(c.policies, h.policies.Of(s, a))
	}
	return c
}

// same compares specs and policies as pointers: they are replaced, never written to.
func (c checked) same(o checked) bool {
	return c.spec == o.spec && slices.Equal(c.addresses, o.addresses) && slices.Equal(c.policies, o.policies)
}

// applyCheck compares the health check of a service with what the nodes were told.
func (h *Hub) applyCheck(s *fsm.State, key fsm.ServiceKey, d *deltas) {
	svc := s.Services[key]
	old, had := h.checks[key]
	switch has := svc != nil && svc.Spec.GetHealthCheck() != nil; {
	case has:
		now := h.checked(s, svc)
		if had && now.same(old) {
			return // it was the result of the check that changed
		}
		h.checks[key] = now
	case had:
		delete(h.checks, key)
	default:
		return
	}
	for _, v := range h.nodes {
		h.applyCheckOn(s, v, key, d)
	}
}

func (h *Hub) applyCheckOn(s *fsm.State, v *nodeView, key fsm.ServiceKey, d *deltas) {
	old, task := v.checks[key], h.task(s, v, s.Services[key])
	switch {
	case task == nil && old != nil:
		delete(v.checks, key)
		delta := d.to(v)
		delta.GoneHealthTasks = append(delta.GoneHealthTasks, serviceName(key))
	case task != nil && !proto.Equal(old, task):
		v.checks[key] = task
		delta := d.to(v)
		delta.HealthTasks = append(delta.HealthTasks, task)
	}
}

// applyChecks compares all health checks on some nodes.
func (h *Hub) applyChecks(s *fsm.State, d *deltas, nodes ...*nodeView) {
	for _, key := range slices.SortedFunc(maps.Keys(h.checks), fsm.ServiceKey.Compare) {
		for _, v := range nodes {
			h.applyCheckOn(s, v, key, d)
		}
	}
}

// tasks are those of a whole view.
func (v *nodeView) tasks() (list []*speakerv1.HealthTask) {
	for _, key := range slices.SortedFunc(maps.Keys(v.checks), fsm.ServiceKey.Compare) {
		list = append(list, v.checks[key])
	}
	return list
}
