package fsm

import (
	"net/netip"

	"google.golang.org/protobuf/reflect/protoreflect"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// folding is one batch on its way into the state. Every handler checks before
// it changes, so that an event that is refused leaves nothing behind.
type folding struct {
	s        *State
	revision uint64
	events   int
	changes  Changes
	// moved are touched addresses in ranges that a pool won or lost.
	moved []netip.Addr
	// poolsGone: a pool was deleted.
	poolsGone bool
	// reserved: a reservation was defined.
	reserved bool
	// nodes are the records that this batch made and that nobody else has seen,
	// so that one that changes thousands of times is copied once. Nil in a draft,
	// whose state is read between the events.
	nodes map[string]*Node
}

func (s *State) begin(time int64) folding {
	s.Time = time
	s.idx.releaseKept(s)
	s.idx.endReservations(s)
	return folding{s: s, revision: s.Revision + 1}
}

// handler folds one type of event.
type handler struct {
	name string
	fold func(*folding, *logv1.Event) error
}

// on makes a handler of the event's getter and the function for its fact.
func on[F any](name string, get func(*logv1.Event) *F, fold func(*folding, *F) error) handler {
	return handler{name, func(f *folding, ev *logv1.Event) error { return fold(f, get(ev)) }}
}

// handlers is the table of event types by their number in Event.fact.
// Numbers are only ever added.
var handlers = [...]handler{
	10: on("ClusterFounded", (*logv1.Event).GetClusterFounded, (*folding).clusterFounded),
	11: on("ClusterVersionRaised", (*logv1.Event).GetClusterVersionRaised, (*folding).clusterVersionRaised),
	12: on("LeaseTimesSet", (*logv1.Event).GetLeaseTimesSet, (*folding).leaseTimesSet),
	13: on("RetentionSet", (*logv1.Event).GetRetentionSet, (*folding).retentionSet),
	20: on("PoolDefined", (*logv1.Event).GetPoolDefined, (*folding).poolDefined),
	21: on("PoolDeleted", (*logv1.Event).GetPoolDeleted, (*folding).poolDeleted),
	22: on("AdvertisementDefined", (*logv1.Event).GetAdvertisementDefined, (*folding).advertisementDefined),
	23: on("AdvertisementDeleted", (*logv1.Event).GetAdvertisementDeleted, (*folding).advertisementDeleted),
	24: on("ServiceDeclared", (*logv1.Event).GetServiceDeclared, (*folding).serviceDeclared),
	25: on("ServiceDeleted", (*logv1.Event).GetServiceDeleted, (*folding).serviceDeleted),
	26: on("NamespaceDefined", (*logv1.Event).GetNamespaceDefined, (*folding).namespaceDefined),
	27: on("NamespaceDeleted", (*logv1.Event).GetNamespaceDeleted, (*folding).namespaceDeleted),
	28: on("ReservationDefined", (*logv1.Event).GetReservationDefined, (*folding).reservationDefined),
	29: on("ReservationDeleted", (*logv1.Event).GetReservationDeleted, (*folding).reservationDeleted),
	30: on("AddressAllocated", (*logv1.Event).GetAddressAllocated, (*folding).addressAllocated),
	31: on("AddressReleased", (*logv1.Event).GetAddressReleased, (*folding).addressReleased),
	32: on("AllocationRefused", (*logv1.Event).GetAllocationRefused, (*folding).allocationRefused),
	33: on("AddressQuarantined", (*logv1.Event).GetAddressQuarantined, (*folding).addressQuarantined),
	36: on("QuarantineEnded", (*logv1.Event).GetQuarantineEnded, (*folding).quarantineEnded),
	40: on("SessionOpened", (*logv1.Event).GetSessionOpened, (*folding).sessionOpened),
	41: on("SessionClosed", (*logv1.Event).GetSessionClosed, (*folding).sessionClosed),
	42: on("SessionExpired", (*logv1.Event).GetSessionExpired, (*folding).sessionExpired),
	43: on("NodeLinksChanged", (*logv1.Event).GetNodeLinksChanged, (*folding).nodeLinksChanged),
	44: on("NodeDrained", (*logv1.Event).GetNodeDrained, (*folding).nodeDrained),
	45: on("NodeUndrained", (*logv1.Event).GetNodeUndrained, (*folding).nodeUndrained),
	46: on("NodeForgotten", (*logv1.Event).GetNodeForgotten, (*folding).nodeForgotten),
	47: on("EndpointsObserved", (*logv1.Event).GetEndpointsObserved, (*folding).endpointsObserved),
	48: on("HealthChanged", (*logv1.Event).GetHealthChanged, (*folding).healthChanged),
	50: on("OwnerReleased", (*logv1.Event).GetOwnerReleased, (*folding).ownerReleased),
	51: on("OwnerAssigned", (*logv1.Event).GetOwnerAssigned, (*folding).ownerAssigned),
	52: on("AnnounceFailed", (*logv1.Event).GetAnnounceFailed, (*folding).announceFailed),
	53: on("AnnounceRecovered", (*logv1.Event).GetAnnounceRecovered, (*folding).announceRecovered),
	54: on("AddressConflictObserved", (*logv1.Event).GetAddressConflictObserved, (*folding).conflictObserved),
	55: on("AddressConflictCleared", (*logv1.Event).GetAddressConflictCleared, (*folding).conflictCleared),
	56: on("RebalanceStarted", (*logv1.Event).GetRebalanceStarted, (*folding).rebalanceStarted),
	57: on("RebalanceEnded", (*logv1.Event).GetRebalanceEnded, (*folding).rebalanceEnded),
	59: on("SoftMoveEnded", (*logv1.Event).GetSoftMoveEnded, (*folding).softMoveEnded),
	60: on("RestoreBegun", (*logv1.Event).GetRestoreBegun, (*folding).restoreBegun),
}

var factOneof = new(logv1.Event).ProtoReflect().Descriptor().Oneofs().ByName("fact")

// EventName is the type of an event's fact, such as "PoolDefined"; empty when
// it holds none.
func EventName(ev *logv1.Event) string {
	n := eventNumber(ev)
	if n <= 0 || int(n) >= len(handlers) {
		return ""
	}
	return handlers[n].name
}

func eventNumber(ev *logv1.Event) protoreflect.FieldNumber {
	if fd := ev.ProtoReflect().WhichOneof(factOneof); fd != nil {
		return fd.Number()
	}
	return 0
}

func (f *folding) fold(ev *logv1.Event) error {
	n := eventNumber(ev)
	if n == 0 {
		return corruptf("event holds no fact")
	}
	if int(n) >= len(handlers) || handlers[n].fold == nil {
		return unknownf("event type %d", n)
	}
	if f.revision == 1 && f.events == 0 && ev.GetClusterFounded() == nil {
		return corruptf("%s before ClusterFounded", handlers[n].name)
	}
	if err := handlers[n].fold(f, ev); err != nil {
		return err
	}
	f.events++
	return nil
}

// finish checks what must hold when the batch is folded as a whole.
func (f *folding) finish() error {
	if err := f.settlePools(); err != nil {
		return err
	}
	if f.reserved {
		if err := f.s.checkReservations(); err != nil {
			return err
		}
		f.s.idx.crossing = false
	}
	f.s.idx.refit(f.s)
	f.changes.settle()
	return nil
}

func (f *folding) touchAddress(a netip.Addr)   { f.changes.Addresses = append(f.changes.Addresses, a) }
func (f *folding) touchNode(name string)       { f.changes.Nodes = append(f.changes.Nodes, name) }
func (f *folding) touchService(key ServiceKey) { f.changes.Services = append(f.changes.Services, key) }
