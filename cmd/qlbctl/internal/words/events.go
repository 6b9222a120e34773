package words

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// SortedKeys gives a map's keys in order.
func SortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Event gives one fact as a subject ("192.0.2.10", "node n1", "service
// default/web") and a sentence about it.
func Event(ev *logv1.Event) (subject, sentence string) {
	for _, f := range []func(*logv1.Event) (string, string){
		ownerEvent, nodeEvent, addressEvent, intentEvent, settingEvent,
	} {
		if subject, sentence = f(ev); sentence != "" {
			return subject, sentence
		}
	}
	return "?", "a fact that this version of qlbctl does not know; a newer one shows it"
}

func ownerEvent(ev *logv1.Event) (string, string) {
	switch f := ev.GetFact().(type) {
	case *logv1.Event_OwnerReleased:
		e := f.OwnerReleased
		stop := "stop answering"
		if e.GetSoft() {
			stop = "stop answering all but those who ask it alone"
		}
		return Addr(e.GetAddress()), fmt.Sprintf("%s must %s (%s)", e.GetNode(), stop, OwnerReason(e.GetReason()))
	case *logv1.Event_OwnerAssigned:
		e := f.OwnerAssigned
		beside := ""
		if e.GetPredecessor() != "" {
			beside = ", and claims nothing while " + e.GetPredecessor() + " answers its old clients"
		}
		return Addr(e.GetAddress()), fmt.Sprintf("%s owns it now (%s)%s", e.GetNode(), OwnerReason(e.GetReason()), beside)
	case *logv1.Event_SoftMoveEnded:
		e := f.SoftMoveEnded
		return Addr(e.GetAddress()), fmt.Sprintf("%s must stop answering its old clients (%s)", e.GetNode(), OwnerReason(e.GetReason()))
	case *logv1.Event_AnnounceFailed:
		e := f.AnnounceFailed
		return Addr(e.GetAddress()), fmt.Sprintf("%s cannot announce it: %s", e.GetNode(), OrNone(e.GetReason()))
	case *logv1.Event_AnnounceRecovered:
		e := f.AnnounceRecovered
		return Addr(e.GetAddress()), fmt.Sprintf("%s announces it again", e.GetNode())
	case *logv1.Event_AddressConflictObserved:
		e := f.AddressConflictObserved
		return Addr(e.GetAddress()), conflict(e) + ", seen by " + OrNone(e.GetNode())
	case *logv1.Event_AddressQuarantined:
		e := f.AddressQuarantined
		return Addr(e.GetAddress()), fmt.Sprintf("in quarantine until %s at least: foreign station %s has it, seen by %s",
			Time(e.GetUntilUnixNano()), MAC(e.GetMac()), e.GetNode())
	case *logv1.Event_QuarantineEnded:
		return Addr(f.QuarantineEnded.GetAddress()), "no longer in quarantine"
	case *logv1.Event_AddressConflictCleared:
		return Addr(f.AddressConflictCleared.GetAddress()), "nobody else claims it any more"
	}
	return "", ""
}

func conflict(e *logv1.AddressConflictObserved) string {
	switch e.GetKind() {
	case logv1.ConflictKind_CONFLICT_KIND_FOREIGN:
		return fmt.Sprintf("foreign station %s answers for it", MAC(e.GetMac()))
	case logv1.ConflictKind_CONFLICT_KIND_PROXY:
		return fmt.Sprintf("router %s answers for it as for any address (proxy ARP)", MAC(e.GetMac()))
	case logv1.ConflictKind_CONFLICT_KIND_KERNEL:
		return fmt.Sprintf("KernelAnswers{%s}: the kernel of that node answers for it (%s)", e.GetHolder(), MAC(e.GetMac()))
	}
	return fmt.Sprintf("foreign station %s claims it", MAC(e.GetMac()))
}

func nodeEvent(ev *logv1.Event) (string, string) {
	switch f := ev.GetFact().(type) {
	case *logv1.Event_SessionOpened:
		e := f.SessionOpened
		return "node " + e.GetNode(), fmt.Sprintf("speaker %s admitted (incarnation %d, links %s)", OrNone(e.GetVersion()), e.GetIncarnation(), links(e.GetLinks()))
	case *logv1.Event_SessionClosed:
		e := f.SessionClosed
		return "node " + e.GetNode(), fmt.Sprintf("session %d closed: the speaker left in order", e.GetSession())
	case *logv1.Event_SessionExpired:
		e := f.SessionExpired
		return "node " + e.GetNode(), fmt.Sprintf("session %d expired: no member heard it for the detection time", e.GetSession())
	case *logv1.Event_NodeLinksChanged:
		e := f.NodeLinksChanged
		return "node " + e.GetNode(), "links are now " + links(e.GetLinks())
	case *logv1.Event_NodeDrained:
		e := f.NodeDrained
		grace := ""
		if d := time.Duration(e.GetGraceNanos()); d > 0 {
			grace = ", answering its old clients for " + Setting(d)
		}
		return "node " + e.GetNode(), fmt.Sprintf("drained (%s)%s", DrainReason(e.GetReason()), grace)
	case *logv1.Event_NodeUndrained:
		return "node " + f.NodeUndrained.GetNode(), "may own addresses again"
	case *logv1.Event_NodeForgotten:
		return "node " + f.NodeForgotten.GetNode(), "forgotten"
	}
	return "", ""
}

func addressEvent(ev *logv1.Event) (string, string) {
	switch f := ev.GetFact().(type) {
	case *logv1.Event_AddressAllocated:
		e := f.AddressAllocated
		return Addr(e.GetAddress()), fmt.Sprintf("given to service %s/%s from pool %s (%s)", e.GetNamespace(), e.GetName(), e.GetPool(), AllocationReason(e.GetReason()))
	case *logv1.Event_AddressReleased:
		e := f.AddressReleased
		kept := ""
		switch {
		case e.GetQuarantinedUntilUnixNano() != 0:
			kept = ", for no other until " + Time(e.GetQuarantinedUntilUnixNano())
		case e.GetKeptUntilUnixNano() != 0:
			kept = ", kept for it until " + Time(e.GetKeptUntilUnixNano())
		}
		return Addr(e.GetAddress()), fmt.Sprintf("taken from service %s/%s%s", e.GetNamespace(), e.GetName(), kept)
	case *logv1.Event_EndpointsObserved:
		e := f.EndpointsObserved
		sentence := "has no endpoints"
		if len(e.GetReady())+len(e.GetTerminating()) > 0 {
			sentence = "endpoints ready on " + Some(e.GetReady(), 8)
		}
		if len(e.GetTerminating()) > 0 {
			sentence += ", terminating on " + Some(e.GetTerminating(), 8)
		}
		return service(e.GetNamespace(), e.GetName()), sentence
	case *logv1.Event_HealthChanged:
		e := f.HealthChanged
		state := "fails"
		if e.GetHealthy() {
			state = "succeeds"
		}
		return service(e.GetNamespace(), e.GetName()), fmt.Sprintf("health check %s on %s: %s", state, e.GetNode(), OrNone(e.GetReason()))
	case *logv1.Event_AllocationRefused:
		e := f.AllocationRefused
		switch {
		case e.GetReason() == "" && len(e.GetRefusals()) > 0:
			return service(e.GetNamespace(), e.GetName()), "has what it needs and would take one more address: " + Refusal(e.GetRefusals()[0])
		case e.GetReason() == "":
			return service(e.GetNamespace(), e.GetName()), "has all addresses that it asks for"
		}
		return service(e.GetNamespace(), e.GetName()), "waits for an address: " + e.GetReason()
	}
	return "", ""
}

func intentEvent(ev *logv1.Event) (string, string) {
	switch f := ev.GetFact().(type) {
	case *logv1.Event_PoolDefined:
		p := f.PoolDefined.GetPool()
		return "pool " + p.GetName(), "defined: " + Some(p.GetAddresses(), 4)
	case *logv1.Event_PoolDeleted:
		return "pool " + f.PoolDeleted.GetName(), "deleted"
	case *logv1.Event_AdvertisementDefined:
		a := f.AdvertisementDefined.GetAdvertisement()
		return "l2advertisement " + a.GetName(), fmt.Sprintf("defined: onControlLoss %s, placement %s", ControlLoss(a.GetOnControlLoss()), Placement(a.GetPlacement()))
	case *logv1.Event_AdvertisementDeleted:
		return "l2advertisement " + f.AdvertisementDeleted.GetName(), "deleted"
	case *logv1.Event_ServiceDeclared:
		s := f.ServiceDeclared.GetService()
		return service(s.GetNamespace(), s.GetName()), fmt.Sprintf("declared by %s: ports %s", OrNone(f.ServiceDeclared.GetSource()), Ports(s.GetPorts()))
	case *logv1.Event_ServiceDeleted:
		return service(f.ServiceDeleted.GetNamespace(), f.ServiceDeleted.GetName()), "deleted"
	case *logv1.Event_NamespaceDefined:
		n := f.NamespaceDefined.GetNamespace()
		return "namespace " + n.GetName(), "declared: labels " + Labels(n.GetLabels())
	case *logv1.Event_NamespaceDeleted:
		return "namespace " + f.NamespaceDeleted.GetName(), "its labels deleted"
	case *logv1.Event_ReservationDefined:
		r := f.ReservationDefined.GetReservation()
		whom := "held back"
		if r.GetServiceName() != "" {
			whom = "promised to " + service(r.GetServiceNamespace(), r.GetServiceName())
		}
		if r.GetUntilUnixNano() != 0 {
			whom += " until " + Time(r.GetUntilUnixNano())
		}
		return "reservation " + r.GetName(), Some(r.GetAddresses(), 4) + " " + whom
	case *logv1.Event_ReservationDeleted:
		return "reservation " + f.ReservationDeleted.GetName(), "deleted"
	case *logv1.Event_RestoreBegun:
		e := f.RestoreBegun
		return "group", fmt.Sprintf("reverts to revision %d of group %s", e.GetFromRevision(), Hex(e.GetFromClusterId(), 4))
	}
	return "", ""
}

func settingEvent(ev *logv1.Event) (string, string) {
	switch f := ev.GetFact().(type) {
	case *logv1.Event_ClusterFounded:
		return "group", fmt.Sprintf("founded with id %s", Hex(f.ClusterFounded.GetClusterId(), 16))
	case *logv1.Event_ClusterVersionRaised:
		return "group", fmt.Sprintf("cluster version raised to %d", f.ClusterVersionRaised.GetClusterVersion())
	case *logv1.Event_LeaseTimesSet:
		t := f.LeaseTimesSet.GetTimes()
		return "group", fmt.Sprintf("lease times set: detection %s, heartbeat %s, settle %s",
			Setting(time.Duration(t.GetDetectionNanos())), Setting(time.Duration(t.GetHeartbeatNanos())), Setting(time.Duration(t.GetSettleNanos())))
	case *logv1.Event_RebalanceStarted:
		return "group", fmt.Sprintf("rebalance started, at most %s per minute", Count(f.RebalanceStarted.GetPerMinute(), "move"))
	case *logv1.Event_RebalanceEnded:
		return "group", "rebalance ended"
	case *logv1.Event_RetentionSet:
		return "group", "retention of addresses set to " + Setting(time.Duration(f.RetentionSet.GetRetentionNanos()))
	}
	return "", ""
}

func service(namespace, name string) string { return "service " + namespace + "/" + name }

func links(list []*logv1.Link) string {
	var out []string
	for _, l := range list {
		state := "down"
		if l.GetUp() {
			state = "up"
		}
		out = append(out, l.GetName()+" "+state)
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}
