package decider

import (
	"bytes"
	"net/netip"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// The facts that more than one place states.

func ownerReleased(rec *fsm.Address, why logv1.OwnerReason) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_OwnerReleased{OwnerReleased: &logv1.OwnerReleased{
		Address: fsm.FromAddr(rec.Addr), Node: rec.Owner, Epoch: rec.Epoch, Reason: why,
	}}}
}

// softMoveEnded says that the old owner of a soft move must stop altogether.
func softMoveEnded(rec *fsm.Address, why logv1.OwnerReason) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_SoftMoveEnded{SoftMoveEnded: &logv1.SoftMoveEnded{
		Address: fsm.FromAddr(rec.Addr), Node: rec.SoftNode, Reason: why,
	}}}
}

func addressQuarantined(addr netip.Addr, node string, mac fsm.MAC, until int64) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AddressQuarantined{AddressQuarantined: &logv1.AddressQuarantined{
		Address: fsm.FromAddr(addr), Node: node, Mac: bytes.Clone(mac[:]), UntilUnixNano: until,
	}}}
}

func addressAllocated(addr netip.Addr, key fsm.ServiceKey, pool string, why logv1.AllocationReason) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AddressAllocated{AddressAllocated: &logv1.AddressAllocated{
		Address: fsm.FromAddr(addr), Namespace: key.Namespace, Name: key.Name, Pool: pool, Reason: why,
	}}}
}

func addressReleased(addr netip.Addr, key fsm.ServiceKey, keptUntil, quarantinedUntil int64) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AddressReleased{AddressReleased: &logv1.AddressReleased{
		Address: fsm.FromAddr(addr), Namespace: key.Namespace, Name: key.Name, KeptUntilUnixNano: keptUntil,
		QuarantinedUntilUnixNano: quarantinedUntil,
	}}}
}

func allocationRefused(key fsm.ServiceKey, reason string, refusals []fsm.Refusal) *logv1.Event {
	e := &logv1.AllocationRefused{Namespace: key.Namespace, Name: key.Name, Reason: reason}
	for _, r := range refusals {
		e.Refusals = append(e.Refusals, r.Proto())
	}
	return &logv1.Event{Fact: &logv1.Event_AllocationRefused{AllocationRefused: e}}
}

func serviceDeclared(spec *logv1.Service, source string, generation uint64) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_ServiceDeclared{ServiceDeclared: &logv1.ServiceDeclared{
		Service: spec, Source: source, Generation: generation,
	}}}
}

func serviceDeleted(key fsm.ServiceKey) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_ServiceDeleted{ServiceDeleted: &logv1.ServiceDeleted{
		Namespace: key.Namespace, Name: key.Name,
	}}}
}

func poolDefined(spec *logv1.Pool) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_PoolDefined{PoolDefined: &logv1.PoolDefined{Pool: spec}}}
}

func poolDeleted(name string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_PoolDeleted{PoolDeleted: &logv1.PoolDeleted{Name: name}}}
}

func namespaceDefined(spec *logv1.Namespace) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_NamespaceDefined{NamespaceDefined: &logv1.NamespaceDefined{Namespace: spec}}}
}

func namespaceDeleted(name string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_NamespaceDeleted{NamespaceDeleted: &logv1.NamespaceDeleted{Name: name}}}
}

func reservationDefined(spec *logv1.Reservation) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_ReservationDefined{ReservationDefined: &logv1.ReservationDefined{Reservation: spec}}}
}

func reservationDeleted(name string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_ReservationDeleted{ReservationDeleted: &logv1.ReservationDeleted{Name: name}}}
}

func adDefined(spec *logv1.L2Advertisement) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AdvertisementDefined{
		AdvertisementDefined: &logv1.AdvertisementDefined{Advertisement: spec},
	}}
}

func adDeleted(name string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AdvertisementDeleted{
		AdvertisementDeleted: &logv1.AdvertisementDeleted{Name: name},
	}}
}

func leaseTimesSet(t fsm.LeaseTimes) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_LeaseTimesSet{LeaseTimesSet: &logv1.LeaseTimesSet{
		Times: &logv1.LeaseTimes{
			DetectionNanos: int64(t.Detection), HeartbeatNanos: int64(t.Heartbeat), SettleNanos: int64(t.Settle),
		},
	}}}
}
