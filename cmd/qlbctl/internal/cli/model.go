package cli

import (
	"encoding/hex"
	"strings"
	"time"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	"github.com/quorumlb/quorumlb/config"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// object is a document that can be applied again; its status is ignored then.
type object struct{ *config.Object }

func (o object) id() string {
	name := o.Metadata.Name
	if o.Metadata.Namespace != "" {
		name = o.Metadata.Namespace + "/" + name
	}
	return strings.ToLower(o.Kind) + "/" + name
}

// report is something that is found and not declared. It has the shape of a
// document, but cannot be applied.
type report struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Metadata   config.Metadata `json:"metadata"`
	Status     any             `json:"status"`
}

func (r report) id() string { return strings.ToLower(r.Kind) + "/" + r.Metadata.Name }

func newReport(kind, name string, labels map[string]string, status any) report {
	return report{config.APIVersion, kind, config.Metadata{Name: name, Labels: labels}, status}
}

type poolStatus struct {
	AssignedIPv4  uint64 `json:"assignedIPv4"`
	AssignedIPv6  uint64 `json:"assignedIPv6"`
	AvailableIPv4 uint64 `json:"availableIPv4"`
	AvailableIPv6 uint64 `json:"availableIPv6"`
	Kept          uint64 `json:"kept"`
	Resting       uint64 `json:"resting"`
	Reserved      uint64 `json:"reserved"`
	Foreign       uint64 `json:"foreign"`
	// Leaving are in use, but no longer in the pool.
	Leaving []holderStatus `json:"leaving,omitempty"`
	// Namespaces counts the addresses in use by namespace.
	Namespaces map[string]uint32 `json:"namespaces,omitempty"`
}

func poolObject(p *adminv1.PoolStatus) object {
	o := config.FromPool(p.GetPool())
	o.Status = poolStatus{p.GetAssignedIpv4(), p.GetAssignedIpv6(), p.GetAvailableIpv4(), p.GetAvailableIpv6(), p.GetKept(), p.GetResting(), p.GetReserved(), p.GetForeign(), holdersOf(p.GetLeaving()), p.GetNamespaces()}
	return object{o}
}

type reservationStatus struct {
	Ended   bool           `json:"ended"`
	Holders []holderStatus `json:"holders,omitempty"`
}

type holderStatus struct {
	Address string `json:"address"`
	Service string `json:"service"`
}

func reservationObject(r *adminv1.ReservationStatus) object {
	o := config.FromReservation(r.GetReservation())
	st := reservationStatus{Ended: r.GetEnded()}
	st.Holders = holdersOf(r.GetHolders())
	o.Status = st
	return object{o}
}

func holdersOf(list []*adminv1.Holder) (out []holderStatus) {
	for _, h := range list {
		out = append(out, holderStatus{h.GetAddress(), h.GetService()})
	}
	return out
}

type namespaceStatus struct {
	Declared  bool   `json:"declared"`
	Services  uint32 `json:"services"`
	Addresses uint32 `json:"addresses"`
}

func namespaceObject(n *adminv1.NamespaceStatus) object {
	o := config.FromNamespace(n.GetNamespace())
	o.Status = namespaceStatus{n.GetDefined(), n.GetServices(), n.GetAddresses()}
	return object{o}
}

// serviceStatus has Kubernetes' form.
type serviceStatus struct {
	LoadBalancer struct {
		Ingress []ingress `json:"ingress,omitempty"`
	} `json:"loadBalancer"`
	Pending string `json:"pending,omitempty"`
	// Refusals say why it waits, pool by pool.
	Refusals         []refusalStatus  `json:"refusals,omitempty"`
	DeclaredAt       string           `json:"declaredAt,omitempty"`
	DeclaredRevision uint64           `json:"declaredRevision,omitempty"`
	Endpoints        *endpointsStatus `json:"endpoints,omitempty"`
	Health           []healthStatus   `json:"health,omitempty"`
}

// refusalStatus has the reason's name of the API without its prefix: "FULL".
type refusalStatus struct {
	Pool    string `json:"pool,omitempty"`
	Address string `json:"address,omitempty"`
	Family  string `json:"family,omitempty"`
	Reason  string `json:"reason"`
	// Until is when the first of the addresses has rested, with RESTING.
	Until string `json:"until,omitempty"`
}

func refusalsOf(list []*logv1.Refusal) (out []refusalStatus) {
	for _, r := range list {
		st := refusalStatus{Pool: r.GetPool(), Family: unset(words.Family(r.GetFamily())), Reason: strings.TrimPrefix(r.GetReason().String(), "REFUSAL_REASON_"),
			Until: moment(r.GetUntilUnixNano())}
		if len(r.GetAddress()) > 0 {
			st.Address = words.Addr(r.GetAddress())
		}
		out = append(out, st)
	}
	return out
}

type endpointsStatus struct {
	Ready       []string `json:"ready"`
	Terminating []string `json:"terminating,omitempty"`
	ObservedAt  string   `json:"observedAt,omitempty"`
}

type healthStatus struct {
	Node string `json:"node"`
	// Runs: its speaker runs the check now, and found Found.
	Runs    bool   `json:"runs"`
	Healthy *bool  `json:"healthy,omitempty"`
	Since   string `json:"since,omitempty"`
	Found   string `json:"found,omitempty"`
}

type ingress struct {
	IP string `json:"ip"`
}

func serviceObject(s *adminv1.ServiceStatus) (object, error) {
	o, err := config.FromService(s.GetService())
	if err != nil {
		return object{}, err
	}
	st := serviceStatus{Pending: s.GetPending(), DeclaredAt: moment(s.GetDeclaredUnixNano()), DeclaredRevision: s.GetDeclaredRevision()}
	st.Refusals = refusalsOf(s.GetRefusals())
	for _, a := range s.GetAddresses() {
		st.LoadBalancer.Ingress = append(st.LoadBalancer.Ingress, ingress{a})
	}
	if ep := s.GetEndpoints(); ep != nil {
		st.Endpoints = &endpointsStatus{list(ep.GetReady()), ep.GetTerminating(), moment(ep.GetObservedUnixNano())}
	}
	for _, h := range s.GetHealth() {
		out := healthStatus{Node: h.GetNode(), Runs: h.GetStatus() != nil, Healthy: h.Healthy, Since: moment(h.GetSinceUnixNano()), Found: h.GetReason()}
		if out.Runs {
			out.Found = h.GetStatus().GetReason()
		}
		st.Health = append(st.Health, out)
	}
	o.Status = st
	return object{o}, nil
}

type vipStatus struct {
	Pool          string              `json:"pool"`
	Services      []string            `json:"services"`
	Owner         string              `json:"owner"`
	Epoch         uint64              `json:"epoch,omitempty"`
	OwnedSince    string              `json:"ownedSince,omitempty"`
	Reason        string              `json:"reason,omitempty"`
	OnControlLoss string              `json:"onControlLoss,omitempty"`
	Waiting       string              `json:"waiting,omitempty"`
	ConflictMAC   string              `json:"conflictMAC,omitempty"`
	Conflict      string              `json:"conflict,omitempty"`
	Predecessor   string              `json:"predecessor,omitempty"`
	SoftUntil     string              `json:"softUntil,omitempty"`
	Announced     []announcedStatus   `json:"announced"`
	Eligibility   []eligibilityStatus `json:"eligibility,omitempty"`
	Problems      []string            `json:"problems"`
	// Allocation says how the address was found.
	Allocation  string      `json:"allocation,omitempty"`
	Placement   string      `json:"placement,omitempty"`
	Flaps       uint32      `json:"flaps,omitempty"`
	DampedUntil string      `json:"dampedUntil,omitempty"`
	WantsToMove *wishStatus `json:"wantsToMove,omitempty"`
}

type wishStatus struct {
	To     string `json:"to,omitempty"`
	Reason string `json:"reason"`
}

type announcedStatus struct {
	Node       string   `json:"node"`
	State      string   `json:"state"`
	Epoch      uint64   `json:"epoch"`
	Reason     string   `json:"reason,omitempty"`
	Interfaces []string `json:"interfaces,omitempty"`
	ProvenBy   []string `json:"provenBy,omitempty"`
	ForeignMAC string   `json:"foreignMAC,omitempty"`
	// Connections of clients that a node in state Soft still has, if its kernel tells.
	Connections *uint32 `json:"connections,omitempty"`
}

type eligibilityStatus struct {
	Node     string `json:"node"`
	Eligible bool   `json:"eligible"`
	Reason   string `json:"reason,omitempty"`
	// Order among the eligible, from 1: that of the choice made now.
	Order      uint32 `json:"order,omitempty"`
	Preference string `json:"preference,omitempty"`
}

func vipReport(v *adminv1.VipStatus) report {
	st := vipStatus{
		Pool: v.GetPool(), Services: list(v.GetServices()), Owner: v.GetOwner(), Epoch: v.GetEpoch(),
		OwnedSince: moment(v.GetOwnedSinceUnixNano()), OnControlLoss: unset(words.ControlLoss(v.GetOnControlLoss())),
		Reason: unset(words.OwnerReason(v.GetReason())), Waiting: v.GetWaiting(), ConflictMAC: unset(words.MAC(v.GetConflictMac())),
		Announced: []announcedStatus{}, Problems: list(vipProblems(v)),
		Conflict: v.GetConflict(), Predecessor: v.GetPredecessor(), SoftUntil: moment(v.GetSoftUntilUnixNano()),
	}
	for _, a := range v.GetAnnounced() {
		s := a.GetStatus()
		out := announcedStatus{
			Node: a.GetNode(), State: words.Announced(s.GetAnnounced()), Epoch: s.GetEpoch(), Reason: s.GetReason(),
			Interfaces: s.GetInterfaces(), ForeignMAC: unset(words.MAC(s.GetForeignMac())),
			Connections: s.Connections,
		}
		for _, by := range s.GetProvenBy() {
			out.ProvenBy = append(out.ProvenBy, words.Addr(by))
		}
		st.Announced = append(st.Announced, out)
	}
	for _, e := range v.GetEligibility() {
		st.Eligibility = append(st.Eligibility, eligibilityStatus{e.GetNode(), e.GetEligible(), e.GetReason(), e.GetOrder(), e.GetPreference()})
	}
	st.addPlacement(v.GetPlacement())
	return newReport("VIP", v.GetAddress(), nil, st)
}

type nodeStatus struct {
	State       string       `json:"state"`
	Session     uint64       `json:"session,omitempty"`
	Incarnation uint64       `json:"incarnation,omitempty"`
	MACs        []string     `json:"macs,omitempty"`
	Links       []linkStatus `json:"links,omitempty"`
	Owned       uint32       `json:"owned"`
	Drained     bool         `json:"drained"`
	DrainReason string       `json:"drainReason,omitempty"`
	Version     string       `json:"version,omitempty"`
	Unheard     string       `json:"unheard,omitempty"`
	Seen        uint64       `json:"seen,omitempty"`
	Soft        uint32       `json:"soft,omitempty"`
	GraceUntil  string       `json:"graceUntil,omitempty"`
}

type linkStatus struct {
	Name     string   `json:"name"`
	MAC      string   `json:"mac"`
	Up       bool     `json:"up"`
	Prefixes []string `json:"prefixes,omitempty"`
}

func nodeReport(n *adminv1.NodeStatus) report {
	st := nodeStatus{
		State: n.GetState(), Session: n.GetSession(), Incarnation: n.GetIncarnation(), Owned: n.GetOwned(), Drained: n.GetDrained(),
		DrainReason: unset(words.DrainReason(n.GetDrainReason())), Version: n.GetVersion(), Seen: n.GetSeen(),
		Soft: n.GetSoft(), GraceUntil: moment(n.GetGraceUntilUnixNano()),
	}
	if n.GetUnheardNanos() >= 0 {
		st.Unheard = time.Duration(n.GetUnheardNanos()).String()
	}
	for _, m := range n.GetMacs() {
		st.MACs = append(st.MACs, words.MAC(m))
	}
	for _, l := range n.GetLinks() {
		st.Links = append(st.Links, linkStatus{l.GetName(), words.MAC(l.GetMac()), l.GetUp(), l.GetPrefixes()})
	}
	return newReport("Node", n.GetName(), n.GetLabels(), st)
}

type memberStatus struct {
	Address  string `json:"address"`
	Voter    bool   `json:"voter"`
	Leader   bool   `json:"leader"`
	Healthy  bool   `json:"healthy"`
	Revision uint64 `json:"revision"`
	Version  string `json:"version,omitempty"`
	Digest   string `json:"digest,omitempty"`
	Up       string `json:"up,omitempty"`
	Problem  string `json:"problem,omitempty"`
}

func memberReport(m *adminv1.MemberStatus) report {
	st := memberStatus{
		Address: m.GetAddress(), Voter: m.GetVoter(), Leader: m.GetLeader(), Healthy: m.GetHealthy(), Revision: m.GetRevision(),
		Version: m.GetVersion(), Digest: hex.EncodeToString(m.GetDigest()), Problem: m.GetProblem(),
	}
	if m.GetUpNanos() > 0 {
		st.Up = time.Duration(m.GetUpNanos()).String()
	}
	return newReport("Member", m.GetId(), nil, st)
}

type leaseTimes struct {
	Detection string `json:"detection"`
	Heartbeat string `json:"heartbeat"`
	Fence     string `json:"fence"`
	Settle    string `json:"settle"`
}

func leaseTimesOf(t *logv1.LeaseTimes) leaseTimes {
	d := time.Duration(t.GetDetectionNanos())
	return leaseTimes{
		Detection: words.Setting(d),
		Heartbeat: words.Setting(time.Duration(t.GetHeartbeatNanos())),
		Fence:     words.Setting(fence(d)),
		Settle:    words.Setting(time.Duration(t.GetSettleNanos())),
	}
}

// moment gives a time for programs; empty for 0.
func moment(unixNano int64) string {
	if unixNano == 0 {
		return ""
	}
	return time.Unix(0, unixNano).UTC().Format(time.RFC3339Nano)
}

// unset turns the "-" of a table into nothing.
func unset(s string) string {
	if s == words.None {
		return ""
	}
	return s
}

// list is never null in JSON.
func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
