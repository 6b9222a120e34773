package allocator

import (
	"net/netip"
	"slices"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// serves tells whether a node can serve a service, as far as that is known: OK, or
// what stands against it.
func (c *Chooser) serves(choice *policyChoice, svc *fsm.Service, node string) Reason {
	if svc.Spec.GetHealthCheck() != nil {
		if h, said := svc.Health[node]; said && !h.Healthy {
			return Unhealthy
		}
	}
	ep := svc.Endpoints
	if ep == nil || svc.Spec.GetExternalTrafficPolicy() != logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_LOCAL {
		return OK
	}
	if _, ready := slices.BinarySearch(ep.Ready, node); ready {
		return OK
	}
	if _, terminating := slices.BinarySearch(ep.Terminating, node); !terminating {
		return NoEndpoint
	}
	// A ready endpoint counts only where the address can go.
	for _, other := range ep.Ready {
		if at, known := slices.BinarySearch(c.nodes, other); known && choice.reasons[at] == OK &&
			fsm.MatchAny(svc.Spec.GetNodeSelectors(), c.s.Nodes[other].Labels) {
			return OnlyTerminating
		}
	}
	return OK
}

// Makeshift tells whether a node that may own the address would have to leave it as
// soon as another can serve it: it has only terminating endpoints.
func (c *Chooser) Makeshift(addr netip.Addr, node string) bool {
	for _, key := range c.s.Addresses[addr].Services {
		svc := c.s.Services[key]
		if svc.Endpoints == nil || svc.Spec.GetExternalTrafficPolicy() != logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_LOCAL {
			continue
		}
		if _, terminating := slices.BinarySearch(svc.Endpoints.Terminating, node); terminating {
			return true
		}
	}
	return false
}
