package allocator

import (
	"net/netip"
	"slices"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// serves tells whether a node can serve a service, as far as that is known: OK, or
// what stands against it.
func (c *Chooser) serves(q *question, svc *fsm.Service, node string) Reason {
	if unhealthy(svc, node) {
		return Unhealthy
	}
	ep := svc.Endpoints
	if ep == nil || !isLocal(svc) {
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
		if other != node && c.canGo(q, other) {
			return OnlyTerminating
		}
	}
	return OK
}

// unhealthy tells whether the service's health check fails on the node.
func unhealthy(svc *fsm.Service, node string) bool {
	if svc.Spec.GetHealthCheck() == nil {
		return false
	}
	h, said := svc.Health[node]
	return said && !h.Healthy
}

// canGo tells whether nothing keeps the address from a node, be its endpoints ready or
// terminating.
func (c *Chooser) canGo(q *question, node string) bool {
	at, known := slices.BinarySearch(c.nodes, node)
	if !known || q.reasons[at] != OK || !admits(c.selectors(q.rec), c.s.Nodes[node]) || failing(q.rec, node, q.now) {
		return false
	}
	for _, key := range q.rec.Services {
		svc := c.s.Services[key]
		if unhealthy(svc, node) {
			return false
		}
		if ep := svc.Endpoints; ep != nil && isLocal(svc) {
			_, ready := slices.BinarySearch(ep.Ready, node)
			_, terminating := slices.BinarySearch(ep.Terminating, node)
			if !ready && !terminating {
				return false
			}
		}
	}
	return true
}

func isLocal(svc *fsm.Service) bool {
	return svc.Spec.GetExternalTrafficPolicy() == logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_LOCAL
}

// Makeshift tells whether a node that owns the address would have to leave it as soon as
// another can serve it: it cannot itself, or it has only terminating endpoints.
func (c *Chooser) Makeshift(addr netip.Addr, node string, now int64) bool {
	rec := c.s.Addresses[addr]
	q := question{policyChoice: c.choice(addr), rec: rec, now: now}
	for _, key := range rec.Services {
		svc := c.s.Services[key]
		if c.serves(&q, svc, node) != OK {
			return true
		}
		if svc.Endpoints == nil || !isLocal(svc) {
			continue
		}
		if _, terminating := slices.BinarySearch(svc.Endpoints.Terminating, node); terminating {
			return true
		}
	}
	return false
}
