package service

import (
	"net/netip"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// subjects are what an event is about. Zero values: nothing of that kind.
type subjects struct {
	addr    netip.Addr
	service fsm.ServiceKey
	node    string
}

// subjectsOf tells what an event is about. Events about the cluster, a pool or an
// advertisement are about no address, service or node.
func subjectsOf(ev *logv1.Event) subjects {
	switch f := ev.GetFact().(type) {
	case *logv1.Event_ServiceDeclared:
		s := f.ServiceDeclared.GetService()
		return subjects{service: fsm.ServiceKey{Namespace: s.GetNamespace(), Name: s.GetName()}}
	case *logv1.Event_ServiceDeleted:
		return subjects{service: fsm.ServiceKey{Namespace: f.ServiceDeleted.GetNamespace(), Name: f.ServiceDeleted.GetName()}}
	case *logv1.Event_AddressAllocated:
		return aboutAddress(f.AddressAllocated.GetAddress(), "").of(f.AddressAllocated.GetNamespace(), f.AddressAllocated.GetName())
	case *logv1.Event_AddressReleased:
		return aboutAddress(f.AddressReleased.GetAddress(), "").of(f.AddressReleased.GetNamespace(), f.AddressReleased.GetName())
	case *logv1.Event_AllocationRefused:
		return subjects{}.of(f.AllocationRefused.GetNamespace(), f.AllocationRefused.GetName())
	case *logv1.Event_SessionOpened:
		return subjects{node: f.SessionOpened.GetNode()}
	case *logv1.Event_SessionClosed:
		return subjects{node: f.SessionClosed.GetNode()}
	case *logv1.Event_SessionExpired:
		return subjects{node: f.SessionExpired.GetNode()}
	case *logv1.Event_NodeLinksChanged:
		return subjects{node: f.NodeLinksChanged.GetNode()}
	case *logv1.Event_NodeDrained:
		return subjects{node: f.NodeDrained.GetNode()}
	case *logv1.Event_NodeUndrained:
		return subjects{node: f.NodeUndrained.GetNode()}
	case *logv1.Event_NodeForgotten:
		return subjects{node: f.NodeForgotten.GetNode()}
	case *logv1.Event_OwnerReleased:
		return aboutAddress(f.OwnerReleased.GetAddress(), f.OwnerReleased.GetNode())
	case *logv1.Event_OwnerAssigned:
		return aboutAddress(f.OwnerAssigned.GetAddress(), f.OwnerAssigned.GetNode())
	case *logv1.Event_AnnounceFailed:
		return aboutAddress(f.AnnounceFailed.GetAddress(), f.AnnounceFailed.GetNode())
	case *logv1.Event_AnnounceRecovered:
		return aboutAddress(f.AnnounceRecovered.GetAddress(), f.AnnounceRecovered.GetNode())
	case *logv1.Event_AddressConflictObserved:
		return aboutAddress(f.AddressConflictObserved.GetAddress(), f.AddressConflictObserved.GetNode())
	case *logv1.Event_AddressQuarantined:
		return aboutAddress(f.AddressQuarantined.GetAddress(), f.AddressQuarantined.GetNode())
	case *logv1.Event_QuarantineEnded:
		return aboutAddress(f.QuarantineEnded.GetAddress(), "")
	case *logv1.Event_SoftMoveEnded:
		return aboutAddress(f.SoftMoveEnded.GetAddress(), f.SoftMoveEnded.GetNode())
	case *logv1.Event_AddressConflictCleared:
		return aboutAddress(f.AddressConflictCleared.GetAddress(), "")
	}
	return subjects{}
}

func aboutAddress(raw []byte, node string) subjects {
	a, _ := netip.AddrFromSlice(raw)
	return subjects{addr: a, node: node}
}

func (s subjects) of(namespace, name string) subjects {
	s.service = fsm.ServiceKey{Namespace: namespace, Name: name}
	return s
}

// filter picks the events that a reader asked for. It follows which addresses
// the service has, so that a service's history tells who owned them; for that
// every event since the service was declared has to pass through it.
type filter struct {
	addr    netip.Addr
	service fsm.ServiceKey
	node    string
	has     map[netip.Addr]bool // addresses of service
	lost    []netip.Addr        // that it gave up in this batch
}

func (f *filter) matches(ev *logv1.Event) bool {
	about := subjectsOf(ev)
	f.follow(ev, about)
	if f.addr.IsValid() && about.addr != f.addr {
		return false
	}
	if f.node != "" && about.node != f.node {
		return false
	}
	if f.service != (fsm.ServiceKey{}) && about.service != f.service && !f.has[about.addr] {
		return false
	}
	return true
}

func (f *filter) follow(ev *logv1.Event, about subjects) {
	if f.service == (fsm.ServiceKey{}) || about.service != f.service {
		return
	}
	switch ev.GetFact().(type) {
	case *logv1.Event_AddressAllocated:
		if f.has == nil {
			f.has = make(map[netip.Addr]bool)
		}
		f.has[about.addr] = true
	case *logv1.Event_AddressReleased:
		f.lost = append(f.lost, about.addr)
	}
}

// endBatch forgets the addresses that the service gave up in the batch: what
// happens to them later is not about it.
func (f *filter) endBatch() {
	for _, a := range f.lost {
		delete(f.has, a)
	}
	f.lost = f.lost[:0]
}
