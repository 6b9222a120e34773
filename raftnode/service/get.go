package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// maxEligibility bounds the rows of eligibility in an answer that names no
// address; more would hide what matters.
const maxEligibility = 20000

// getters fill in one kind each. "members" is answered by asking the members.
var getters = map[string]func(*view, *adminv1.GetResponse){
	"pools":            (*view).pools,
	"l2advertisements": (*view).advertisements,
	"services":         (*view).services,
	"namespaces":       (*view).namespaces,
	"reservations":     (*view).reservations,
	"vips":             (*view).vips,
	"nodes":            (*view).nodes,
	"quarantine":       (*view).quarantine,
}

const kindMembers = "members"

// Get projects the state, and beside it what the speakers say that they do.
func (s *Services) Get(ctx context.Context, req *adminv1.GetRequest) (*adminv1.GetResponse, error) {
	for i, kind := range req.GetKinds() {
		if _, ok := getters[kind]; !ok && kind != kindMembers {
			return nil, invalidField(fmt.Sprintf("kinds[%d]", i), "%q is none of %s, %s",
				kind, strings.Join(slices.Sorted(maps.Keys(getters)), ", "), kindMembers)
		}
	}
	if err := s.fresh(ctx, req.GetStale()); err != nil {
		return nil, err
	}
	if req.GetAtRevision() != 0 || req.GetAtUnixNano() != 0 {
		return s.getPast(ctx, req)
	}
	v := s.view(req.GetName())
	resp := &adminv1.GetResponse{Revision: v.s.Revision}
	for _, kind := range req.GetKinds() {
		if kind == kindMembers {
			for _, m := range s.members(ctx) {
				if v.wants(m.GetId()) {
					resp.Members = append(resp.Members, m)
				}
			}
			continue
		}
		getters[kind](v, resp)
	}
	return resp, nil
}

// view is a state to be looked at in peace, with what is known beside it.
type view struct {
	s        *fsm.State
	name     string // only the one of this name
	chooser  *allocator.Chooser
	statuses map[netip.Addr][]nodeStatus
	hearts   Hearts
	version  func(node string) string
	checks   func(fsm.ServiceKey) map[string]*speakerv1.HealthStatus
	// now is the time to measure waits by: a quiet group's state has an old one.
	now int64
	// past is a state that is no more: nobody says anything of it.
	past bool
}

func (s *Services) view(name string) *view {
	v := &view{name: name, hearts: s.cfg.Hearts, statuses: s.attached.statuses(), version: s.attached.version, checks: s.attached.checks}
	// A clone takes milliseconds; building the answer while no batch can be
	// applied would stand in the way of a failover.
	s.cfg.Log.Read(func(st *fsm.State) { v.s = st.Clone() })
	v.chooser, v.now = allocator.NewChooser(v.s), max(v.s.Time, s.cfg.Now().UnixNano())
	return v
}

func (v *view) wants(name string) bool { return v.name == "" || v.name == name }

func (v *view) pools(resp *adminv1.GetResponse) {
	for _, name := range v.s.PoolNames() {
		if !v.wants(name) {
			continue
		}
		use := v.s.PoolUse(name)
		byNamespace := map[string]uint32{}
		for namespace, n := range v.s.PoolNamespaces(name) {
			byNamespace[namespace] = uint32(n)
		}
		var leaving []*adminv1.Holder
		for rec := range v.s.LeavingPool(name) {
			for _, key := range rec.Services {
				leaving = append(leaving, &adminv1.Holder{Address: rec.Addr.String(), Service: key.String()})
			}
		}
		kept, resting := v.s.PoolKept(name)
		resp.Pools = append(resp.Pools, &adminv1.PoolStatus{
			Leaving:    leaving,
			Namespaces: byNamespace, Kept: kept, Resting: resting, Reserved: v.s.PoolReserved(name), Foreign: use.Quarantined4 + use.Quarantined6,
			Pool:         v.s.Pools[name].Spec,
			AssignedIpv4: use.Used4, AvailableIpv4: free(use.Size4, use.Used4),
			AssignedIpv6: use.Used6, AvailableIpv6: free(use.Size6, use.Used6),
		})
	}
}

func free(size, used uint64) uint64 { return min(size-min(used, size), math.MaxInt64) }

func (v *view) advertisements(resp *adminv1.GetResponse) {
	for _, name := range slices.Sorted(maps.Keys(v.s.Ads)) {
		if v.wants(name) {
			resp.L2Advertisements = append(resp.L2Advertisements, v.s.Ads[name].Spec)
		}
	}
}

func (v *view) services(resp *adminv1.GetResponse) {
	for _, key := range slices.SortedFunc(maps.Keys(v.s.Services), fsm.ServiceKey.Compare) {
		if !v.wants(key.String()) {
			continue
		}
		svc := v.s.Services[key]
		st := &adminv1.ServiceStatus{
			Service: svc.Spec, DeclaredRevision: svc.DeclaredAt, DeclaredUnixNano: svc.DeclaredTime,
		}
		var refusals []fsm.Refusal
		st.Pending, refusals = v.pending(svc)
		for _, r := range refusals {
			st.Refusals = append(st.Refusals, r.Proto())
		}
		for _, a := range svc.Addresses {
			st.Addresses = append(st.Addresses, a.String())
		}
		v.serving(svc, st)
		resp.Services = append(resp.Services, st)
	}
}

// pending says why a service lacks an address, by what is so now: the log says
// what was so when it was tried.
func (v *view) pending(svc *fsm.Service) (why string, refusals []fsm.Refusal) {
	if svc.Pending == "" {
		return "", svc.Refusals
	}
	_, err := allocator.ChooseAddresses(v.s, svc.Spec, v.s.Time)
	if no := (*allocator.Refusal)(nil); errors.As(err, &no) {
		return no.Error(), no.Refusals()
	}
	return svc.Pending, svc.Refusals // it has its turn in a moment
}

// namespaces are those that are declared or have services.
func (v *view) namespaces(resp *adminv1.GetResponse) {
	found := map[string]*adminv1.NamespaceStatus{}
	get := func(name string) *adminv1.NamespaceStatus {
		if found[name] == nil {
			found[name] = &adminv1.NamespaceStatus{Namespace: &logv1.Namespace{Name: name}}
			if n := v.s.Namespaces[name]; n != nil {
				found[name] = &adminv1.NamespaceStatus{Namespace: n.Spec, Defined: true}
			}
		}
		return found[name]
	}
	for name := range v.s.Namespaces {
		get(name)
	}
	for key, svc := range v.s.Services {
		st := get(key.Namespace)
		st.Services++
		st.Addresses += uint32(len(svc.Addresses))
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if v.wants(name) {
			resp.Namespaces = append(resp.Namespaces, found[name])
		}
	}
}

func (v *view) reservations(resp *adminv1.GetResponse) {
	for _, name := range slices.Sorted(maps.Keys(v.s.Reservations)) {
		if !v.wants(name) {
			continue
		}
		r := v.s.Reservations[name]
		st := &adminv1.ReservationStatus{Reservation: r.Spec, Ended: !r.Holds(v.s.Time)}
		for _, span := range r.Ranges {
			for rec := range v.s.InRange(span) {
				for _, key := range rec.Services {
					st.Holders = append(st.Holders, &adminv1.Holder{Address: rec.Addr.String(), Service: key.String()})
				}
			}
		}
		resp.Reservations = append(resp.Reservations, st)
	}
}

func (v *view) vips(resp *adminv1.GetResponse) {
	few := len(v.s.Addresses)*len(v.s.Nodes) <= maxEligibility
	for _, addr := range slices.SortedFunc(maps.Keys(v.s.Addresses), netip.Addr.Compare) {
		if !v.wants(addr.String()) {
			continue
		}
		resp.Vips = append(resp.Vips, v.vip(addr, few || v.name != ""))
	}
}

func (v *view) vip(addr netip.Addr, eligibility bool) *adminv1.VipStatus {
	rec := v.s.Addresses[addr]
	st := &adminv1.VipStatus{
		Address: addr.String(), Pool: rec.Pool, Owner: rec.Owner, Epoch: rec.Epoch,
		OwnedSinceUnixNano: rec.OwnerTime, Reason: rec.OwnerWhy, Waiting: v.waiting(rec),
	}
	if policy := v.chooser.Policy(addr); policy.Announced {
		st.OnControlLoss = policy.ControlLoss
	}
	st.Placement = v.placement(rec)
	for _, k := range rec.Services {
		st.Services = append(st.Services, k.String())
	}
	if rec.Conflict != (fsm.MAC{}) {
		st.ConflictMac, st.Conflict = slices.Clone(rec.Conflict[:]), conflictText(rec)
	}
	if rec.SoftNode != "" {
		st.Predecessor, st.SoftUntilUnixNano = rec.SoftNode, v.s.Nodes[rec.SoftNode].GraceUntil
	}
	for _, a := range v.statuses[addr] {
		st.Announced = append(st.Announced, &adminv1.NodeAnnouncement{Node: a.node, Status: a.status})
	}
	if eligibility {
		for _, n := range v.chooser.Ranking(addr, allocator.Options{Preferred: v.heardLately(), Now: v.now}) {
			st.Eligibility = append(st.Eligibility, &adminv1.NodeEligibility{
				Node: n.Node, Eligible: n.Reason == allocator.OK, Reason: n.Reason.String(),
				Order: uint32(n.Order), Preference: n.Preference, Owned: uint32(n.Owned),
			})
		}
	}
	return st
}

// heardLately tells what the decider takes for a node that is alive; nil for a past
// state, of which nobody knows.
func (v *view) heardLately() func(node string) bool {
	if v.past {
		return nil
	}
	return func(node string) bool {
		unheard, heard := v.hearts.Unheard(node, v.s.Nodes[node].Session)
		return heard && unheard <= 2*v.s.Lease.Heartbeat
	}
}

// waiting says why nobody owns an address, or why its owner should not.
func (v *view) waiting(rec *fsm.Address) string {
	if rec.Owner != "" {
		if why := v.chooser.Eligible(rec.Addr, rec.Owner, v.now); why != allocator.OK {
			return fmt.Sprintf("%s: %s; no other node can take it yet", rec.Owner, why)
		}
		return ""
	}
	if !v.chooser.Policy(rec.Addr).Announced {
		return allocator.NoAdvertisement.String()
	}
	counts := make(map[allocator.Reason]int)
	for node := range v.s.Nodes {
		counts[v.chooser.Eligible(rec.Addr, node, v.now)]++
	}
	switch {
	case len(v.s.Nodes) == 0:
		return "no speaker has ever connected"
	case counts[allocator.OK] == 0:
		return "no node is eligible: " + tally(counts)
	case rec.Prior != "":
		return fmt.Sprintf("waits until %s has seen that it lost the address, or its lease has run out", rec.Prior)
	}
	return "is about to be given to a node"
}

// tally counts reasons in words: "2 x node is drained, 1 x node has no open session".
func tally(counts map[allocator.Reason]int) string {
	reasons := slices.SortedFunc(maps.Keys(counts), func(a, b allocator.Reason) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	parts := make([]string, 0, len(reasons))
	for _, r := range reasons {
		parts = append(parts, fmt.Sprintf("%d x %s", counts[r], r))
	}
	return strings.Join(parts, ", ")
}

func (v *view) nodes(resp *adminv1.GetResponse) {
	for _, name := range slices.Sorted(maps.Keys(v.s.Nodes)) {
		if v.wants(name) {
			resp.Nodes = append(resp.Nodes, v.node(v.s.Nodes[name]))
		}
	}
}

func (v *view) node(n *fsm.Node) *adminv1.NodeStatus {
	st := &adminv1.NodeStatus{
		Name: n.Name, Session: n.Session, Incarnation: n.Incarnation, Labels: n.Labels, Links: n.Links,
		Owned: uint32(n.Owned), Drained: n.Drained != 0, DrainReason: n.Drained,
		Version: n.Version, UnheardNanos: -1, Soft: uint32(v.s.SoftCount(n.Name)),
	}
	if n.GraceUntil > v.s.Time || st.Soft > 0 {
		st.GraceUntilUnixNano = n.GraceUntil
	}
	for _, mac := range n.MACs {
		st.Macs = append(st.Macs, slices.Clone(mac[:]))
	}
	if v.past {
		st.State = nodeState(n, v.s.Lease, 0, true)
		return st
	}
	st.Version, st.Seen = cmp.Or(v.version(n.Name), n.Version), v.hearts.Seen(n.Name)
	unheard, heard := v.hearts.Unheard(n.Name, n.Session)
	if heard {
		st.UnheardNanos = int64(unheard)
	}
	st.State = nodeState(n, v.s.Lease, unheard, heard)
	return st
}

// nodeState is the one word for a node.
func nodeState(n *fsm.Node, times fsm.LeaseTimes, unheard time.Duration, heard bool) string {
	switch n.SessionState {
	case fsm.SessionExpired:
		return "Expired"
	case fsm.SessionOpen:
	default:
		return "Closed"
	}
	switch {
	case !heard || unheard > 2*times.Heartbeat:
		return "Silent"
	case n.Drained != 0:
		return "Drained"
	}
	return "Ready"
}

// answering tells whether the owner says that it answers for the address.
func answering(rec *fsm.Address, statuses []nodeStatus) (st *speakerv1.VipStatus, yes bool) {
	for _, a := range statuses {
		if a.node != rec.Owner || a.status.GetEpoch() != rec.Epoch {
			continue
		}
		switch a.status.GetAnnounced() {
		case speakerv1.Announced_ANNOUNCED_UNPROVEN, speakerv1.Announced_ANNOUNCED_PROVEN, speakerv1.Announced_ANNOUNCED_UNCONFIRMED:
			return a.status, true
		}
		return a.status, false
	}
	return nil, false
}
