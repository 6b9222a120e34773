package fsmtest

import (
	"net/netip"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// ClusterID is that of every log made here.
var ClusterID = [16]byte{'t', 'e', 's', 't', 12: 1, 13: 2, 14: 3, 15: 4}

// Founded is the first event of a log.
func Founded() *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_ClusterFounded{ClusterFounded: &logv1.ClusterFounded{
		ClusterId: ClusterID[:], ClusterVersion: 1}}}
}

// PoolDefined declares a pool of these ranges.
func PoolDefined(name string, addresses ...string) *logv1.Event {
	return Pool(&logv1.Pool{Name: name, Addresses: addresses})
}

// Pool declares a pool.
func Pool(p *logv1.Pool) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_PoolDefined{PoolDefined: &logv1.PoolDefined{Pool: p}}}
}

// PoolDeleted deletes a pool.
func PoolDeleted(name string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_PoolDeleted{PoolDeleted: &logv1.PoolDeleted{Name: name}}}
}

// Ad declares an advertisement.
func Ad(a *logv1.L2Advertisement) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AdvertisementDefined{AdvertisementDefined: &logv1.AdvertisementDefined{Advertisement: a}}}
}

// AdDeleted deletes an advertisement.
func AdDeleted(name string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AdvertisementDeleted{AdvertisementDeleted: &logv1.AdvertisementDeleted{Name: name}}}
}

// Declared declares a service.
func Declared(s *logv1.Service) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_ServiceDeclared{ServiceDeclared: &logv1.ServiceDeclared{Service: s, Source: "apply"}}}
}

// Service is a service of namespace "default" with these TCP ports.
func Service(name string, ports ...uint32) *logv1.Service {
	s := &logv1.Service{Namespace: "default", Name: name}
	for _, p := range ports {
		s.Ports = append(s.Ports, &logv1.Port{Protocol: logv1.Protocol_PROTOCOL_TCP, Port: p})
	}
	return s
}

// Deleted deletes a service.
func Deleted(key fsm.ServiceKey) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_ServiceDeleted{ServiceDeleted: &logv1.ServiceDeleted{Namespace: key.Namespace, Name: key.Name}}}
}

// Allocated gives an address of a pool to a service.
func Allocated(key fsm.ServiceKey, addr, pool string) *logv1.Event {
	return AllocatedFor(key, netip.MustParseAddr(addr), pool, logv1.AllocationReason_ALLOCATION_REASON_FRESH)
}

// AllocatedFor gives an address of a pool to a service for a reason.
func AllocatedFor(key fsm.ServiceKey, addr netip.Addr, pool string, why logv1.AllocationReason) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AddressAllocated{AddressAllocated: &logv1.AddressAllocated{
		Address: fsm.FromAddr(addr), Namespace: key.Namespace, Name: key.Name, Pool: pool, Reason: why}}}
}

// Released takes an address from a service and keeps it until a time.
func Released(key fsm.ServiceKey, addr netip.Addr, keptUntil int64) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AddressReleased{AddressReleased: &logv1.AddressReleased{
		Address: fsm.FromAddr(addr), Namespace: key.Namespace, Name: key.Name, KeptUntilUnixNano: keptUntil}}}
}

// Refused says why a service has no address.
func Refused(key fsm.ServiceKey, reason string, refusals ...*logv1.Refusal) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AllocationRefused{AllocationRefused: &logv1.AllocationRefused{
		Namespace: key.Namespace, Name: key.Name, Reason: reason, Refusals: refusals}}}
}

// Opened opens a session with one link, "eth0", that is up.
func Opened(node string, incarnation uint64, labels map[string]string) *logv1.Event {
	mac := []byte{2, 0, 0, 0, 0, byte(len(node))}
	return Session(&logv1.SessionOpened{
		Node: node, Process: make([]byte, 16), Incarnation: incarnation, Macs: [][]byte{mac}, Labels: labels, Version: "test",
		Links: []*logv1.Link{{Name: "eth0", Mac: mac, Up: true, Prefixes: []string{"192.0.2.0/24"}}},
	})
}

// Session opens a session.
func Session(e *logv1.SessionOpened) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_SessionOpened{SessionOpened: e}}
}

// Closed ends a session that said good-bye.
func Closed(node string, session uint64) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_SessionClosed{SessionClosed: &logv1.SessionClosed{Node: node, Session: session}}}
}

// Expired ends a session that fell silent.
func Expired(node string, session uint64) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_SessionExpired{SessionExpired: &logv1.SessionExpired{Node: node, Session: session}}}
}

// Links changes the links of a node: those named are up, those with a "!" in
// front are down.
func Links(node string, names ...string) *logv1.Event {
	e := &logv1.NodeLinksChanged{Node: node}
	for _, n := range names {
		up := n[0] != '!'
		if !up {
			n = n[1:]
		}
		e.Links = append(e.Links, &logv1.Link{Name: n, Mac: []byte{2, 0, 0, 0, 0, 9}, Up: up})
	}
	return &logv1.Event{Fact: &logv1.Event_NodeLinksChanged{NodeLinksChanged: e}}
}

// Drained drains a node.
func Drained(node string, why logv1.DrainReason) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_NodeDrained{NodeDrained: &logv1.NodeDrained{Node: node, Reason: why}}}
}

// Undrained ends a drain.
func Undrained(node string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_NodeUndrained{NodeUndrained: &logv1.NodeUndrained{Node: node}}}
}

// Forgotten removes a node.
func Forgotten(node string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_NodeForgotten{NodeForgotten: &logv1.NodeForgotten{Node: node}}}
}

// OwnerReleased takes an address from its owner.
func OwnerReleased(addr netip.Addr, node string, epoch uint64) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_OwnerReleased{OwnerReleased: &logv1.OwnerReleased{
		Address: fsm.FromAddr(addr), Node: node, Epoch: epoch, Reason: logv1.OwnerReason_OWNER_REASON_MOVE}}}
}

// OwnerAssigned gives an address to a node.
func OwnerAssigned(addr netip.Addr, node string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_OwnerAssigned{OwnerAssigned: &logv1.OwnerAssigned{
		Address: fsm.FromAddr(addr), Node: node, Reason: logv1.OwnerReason_OWNER_REASON_NEW_ADDRESS}}}
}

// OwnerReleasedSoftly takes an address from its owner, which goes on answering
// those who ask it alone.
func OwnerReleasedSoftly(addr netip.Addr, node string, epoch uint64) *logv1.Event {
	ev := OwnerReleased(addr, node, epoch)
	ev.GetOwnerReleased().Soft = true
	return ev
}

// OwnerAssignedSoftly gives an address to a node while its predecessor goes on
// answering those who ask it alone.
func OwnerAssignedSoftly(addr netip.Addr, node, predecessor string) *logv1.Event {
	ev := OwnerAssigned(addr, node)
	ev.GetOwnerAssigned().Predecessor = predecessor
	return ev
}

// SoftMoveEnded ends a soft move.
func SoftMoveEnded(addr netip.Addr, node string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_SoftMoveEnded{SoftMoveEnded: &logv1.SoftMoveEnded{
		Address: fsm.FromAddr(addr), Node: node, Reason: logv1.OwnerReason_OWNER_REASON_GRACE_OVER}}}
}

// Quarantined says that a foreign station has a free address.
func Quarantined(addr netip.Addr, node string, mac fsm.MAC, until int64) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AddressQuarantined{AddressQuarantined: &logv1.AddressQuarantined{
		Address: fsm.FromAddr(addr), Node: node, Mac: mac[:], UntilUnixNano: until}}}
}

// QuarantineEnded says that it has it no more.
func QuarantineEnded(addr netip.Addr) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_QuarantineEnded{QuarantineEnded: &logv1.QuarantineEnded{Address: fsm.FromAddr(addr)}}}
}

// AnnounceFailed says that a node could not announce an address.
func AnnounceFailed(addr netip.Addr, node, reason string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AnnounceFailed{AnnounceFailed: &logv1.AnnounceFailed{
		Address: fsm.FromAddr(addr), Node: node, Reason: reason}}}
}

// AnnounceRecovered says that a node can announce an address again.
func AnnounceRecovered(addr netip.Addr, node string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AnnounceRecovered{AnnounceRecovered: &logv1.AnnounceRecovered{
		Address: fsm.FromAddr(addr), Node: node}}}
}

// Conflict says that another station claims an address.
func Conflict(addr netip.Addr, node string, mac fsm.MAC) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AddressConflictObserved{AddressConflictObserved: &logv1.AddressConflictObserved{
		Address: fsm.FromAddr(addr), Node: node, Mac: mac[:]}}}
}

// ConflictCleared says that none does any more.
func ConflictCleared(addr netip.Addr) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AddressConflictCleared{AddressConflictCleared: &logv1.AddressConflictCleared{
		Address: fsm.FromAddr(addr)}}}
}

// NamespaceDefined declares a namespace.
func NamespaceDefined(name string, labels map[string]string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_NamespaceDefined{NamespaceDefined: &logv1.NamespaceDefined{
		Namespace: &logv1.Namespace{Name: name, Labels: labels}}}}
}

// NamespaceDeleted deletes a namespace.
func NamespaceDeleted(name string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_NamespaceDeleted{NamespaceDeleted: &logv1.NamespaceDeleted{Name: name}}}
}

// Reservation declares a reservation.
func Reservation(r *logv1.Reservation) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_ReservationDefined{ReservationDefined: &logv1.ReservationDefined{Reservation: r}}}
}

// ReservationDeleted deletes a reservation.
func ReservationDeleted(name string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_ReservationDeleted{ReservationDeleted: &logv1.ReservationDeleted{Name: name}}}
}

// RebalanceStarted starts a rebalance.
func RebalanceStarted(perMinute uint32) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_RebalanceStarted{RebalanceStarted: &logv1.RebalanceStarted{PerMinute: perMinute}}}
}

// RebalanceEnded ends it.
func RebalanceEnded() *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_RebalanceEnded{RebalanceEnded: &logv1.RebalanceEnded{}}}
}

// Endpoints says on which nodes a service has ready, and only terminating, endpoints.
func Endpoints(key fsm.ServiceKey, ready []string, terminating ...string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_EndpointsObserved{EndpointsObserved: &logv1.EndpointsObserved{
		Namespace: key.Namespace, Name: key.Name, Ready: ready, Terminating: terminating}}}
}

// HealthChanged says what a node's check of a service has come to.
func HealthChanged(key fsm.ServiceKey, node string, healthy bool, reason string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_HealthChanged{HealthChanged: &logv1.HealthChanged{
		Namespace: key.Namespace, Name: key.Name, Node: node, Healthy: healthy, Reason: reason}}}
}
