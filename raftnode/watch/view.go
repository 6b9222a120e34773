package watch

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// nodeView is what the readers of one node have been told.
type nodeView struct {
	name string
	made uint64 // revision of the state that the view was made of
	// session is the node's newest, and process who opened it.
	session uint64
	process [16]byte
	vips    map[netip.Addr]*speakerv1.Vip
	softs   map[netip.Addr]*speakerv1.Vip
	hosts   map[netip.Addr]struct{}
	checks  map[fsm.ServiceKey]*speakerv1.HealthTask
	labels  map[string]string
	drained bool
	// terms of the policies on this node, until labels or policies change.
	terms map[*allocator.Policy]terms
	subs  map[*Subscription]struct{}
}

// terms are the conditions under which a node announces the addresses of a policy.
type terms struct {
	admitted      bool
	onControlLoss logv1.ControlLoss
	interfaces    []string // empty: all
}

// terms of an address on a watched node.
func (h *Hub) terms(s *fsm.State, v *nodeView, a netip.Addr) terms {
	policy := h.policies.Of(s, a)
	t, ok := v.terms[policy]
	if ok {
		return t
	}
	t.onControlLoss = policy.ControlLoss
	t.interfaces, t.admitted = policy.On(v.labels)
	v.terms[policy] = t
	return t
}

// viewOf gives the view of a watched node, and makes it for the first reader.
func (h *Hub) viewOf(s *fsm.State, name string) *nodeView {
	if v := h.nodes[name]; v != nil {
		return v
	}
	if len(h.nodes) == 0 {
		h.revision, h.lease = s.Revision, s.Lease
		h.macs = allMacs(s)
		h.hosts = make(map[netip.Addr][]*logv1.Service)
		h.hostPolicies = make(map[netip.Addr]*allocator.Policy)
		for a := range s.Addresses {
			if asking := hostServices(s, a); len(asking) > 0 {
				h.hosts[a] = asking
			}
		}
		h.findChecks(s)
	}
	n := s.Nodes[name]
	v := &nodeView{
		name: name, made: s.Revision, session: n.Session, process: n.Process, labels: n.Labels, drained: n.Drained != 0,
		vips:  make(map[netip.Addr]*speakerv1.Vip),
		hosts: make(map[netip.Addr]struct{}), checks: make(map[fsm.ServiceKey]*speakerv1.HealthTask),
		terms: make(map[*allocator.Policy]terms),
		softs: make(map[netip.Addr]*speakerv1.Vip),
		subs:  make(map[*Subscription]struct{}),
	}
	for rec := range s.OwnedBy(name) {
		if h.holder[rec.Addr] != nil {
			// The state is ahead of the views by a batch that takes the address from
			// another watched node, which is not told yet. Apply moves it.
			continue
		}
		if vip := h.vip(s, v, rec.Addr); vip != nil {
			v.vips[rec.Addr] = vip
			h.holder[rec.Addr] = v
		}
	}
	for rec := range s.SoftAt(name) {
		if h.soft[rec.Addr] != nil {
			continue // as above
		}
		if vip := h.softVip(s, v, rec); vip != nil {
			v.softs[rec.Addr] = vip
			h.soft[rec.Addr] = v
		}
	}
	for a := range h.hosts {
		if h.delivers(s, v, a) {
			v.hosts[a] = struct{}{}
		}
	}
	for key := range h.checks {
		if task := h.task(s, v, s.Services[key]); task != nil {
			v.checks[key] = task
		}
	}
	h.nodes[name] = v
	return v
}

// whole makes the message of the whole view.
func (h *Hub) whole(s *fsm.State, v *nodeView) *speakerv1.View {
	view := &speakerv1.View{
		ClusterId:  s.ClusterID[:],
		LeaseTimes: leaseMessage(h.lease),
		Drained:    v.drained,
		Nodes:      h.otherMacs(v.name),
	}
	view.ClusterId = slices.Clone(view.ClusterId)
	for _, a := range sortedAddrs(v.vips) {
		view.Vips = append(view.Vips, v.vips[a])
	}
	view.HealthTasks = v.tasks()
	for _, a := range sortedAddrs(v.softs) {
		view.SoftVips = append(view.SoftVips, v.softs[a])
	}
	for _, a := range sortedAddrs(v.hosts) {
		view.HostAddresses = append(view.HostAddresses, a.AsSlice())
	}
	return view
}

// vip makes what the owner of a has to know; nil when no advertisement admits
// it. (Without an advertisement there are no interfaces, which would read as
// "all of them".)
func (h *Hub) vip(s *fsm.State, owner *nodeView, a netip.Addr) *speakerv1.Vip {
	t := h.terms(s, owner, a)
	if !t.admitted {
		return nil
	}
	rec := s.Addresses[a]
	return &speakerv1.Vip{
		Address: a.AsSlice(), Epoch: rec.Epoch, Reason: rec.OwnerWhy,
		OnControlLoss: t.onControlLoss, Interfaces: t.interfaces, Predecessor: rec.SoftNode, FirstUse: rec.FirstUse,
		FirstUseConflict: rec.FirstUse && rec.ConflictKind != logv1.ConflictKind_CONFLICT_KIND_UNSPECIFIED,
	}
}

// delivers tells whether a node accepts packets for an address locally, as far
// as selectors and labels go. It does not depend on sessions, drains and links:
// a node that lost an address must go on forwarding what still reaches it.
func (h *Hub) delivers(s *fsm.State, v *nodeView, a netip.Addr) bool {
	if _, excluded := v.labels[allocator.LabelExclude]; excluded || !h.terms(s, v, a).admitted {
		return false
	}
	return slices.ContainsFunc(h.hosts[a], func(spec *logv1.Service) bool {
		return fsm.MatchAny(spec.GetNodeSelectors(), v.labels)
	})
}

// applyAddress compares one address with what the watched nodes were told.
func (h *Hub) applyAddress(s *fsm.State, a netip.Addr, d *deltas) {
	h.applyHost(s, a, d)
	h.applySoft(s, a, d)
	old := h.holder[a]
	var now *nodeView
	if rec := s.Addresses[a]; rec != nil && rec.Owner != "" {
		now = h.nodes[rec.Owner]
	}
	var vip *speakerv1.Vip
	if now != nil {
		if vip = h.vip(s, now, a); vip == nil {
			now = nil
		}
	}
	if old != nil && old != now {
		delete(old.vips, a)
		delete(h.holder, a)
		delta := d.to(old)
		delta.GoneVips = append(delta.GoneVips, a.AsSlice())
	}
	if now == nil || sameVip(now.vips[a], vip) {
		return
	}
	now.vips[a] = vip
	h.holder[a] = now
	delta := d.to(now)
	delta.Vips = append(delta.Vips, vip)
}

// applyHost brings the local delivery of one address up to date.
func (h *Hub) applyHost(s *fsm.State, a netip.Addr, d *deltas) {
	asking := hostServices(s, a)
	var policy *allocator.Policy
	if len(asking) > 0 {
		policy = h.policies.Of(s, a) // others that share the address have a say in it
	}
	if slices.Equal(asking, h.hosts[a]) && policy == h.hostPolicies[a] {
		return // specs are replaced, never written to
	}
	if len(asking) == 0 {
		delete(h.hosts, a)
		delete(h.hostPolicies, a)
	} else {
		h.hosts[a], h.hostPolicies[a] = asking, policy
	}
	for _, v := range h.nodes {
		h.deliver(s, a, v, d)
	}
}

func (h *Hub) deliver(s *fsm.State, a netip.Addr, v *nodeView, d *deltas) {
	_, has := v.hosts[a]
	wants := h.delivers(s, v, a)
	switch {
	case wants && !has:
		v.hosts[a] = struct{}{}
		delta := d.to(v)
		delta.HostAddresses = append(delta.HostAddresses, a.AsSlice())
	case has && !wants:
		delete(v.hosts, a)
		delta := d.to(v)
		delta.GoneHostAddresses = append(delta.GoneHostAddresses, a.AsSlice())
	}
}

// applyServices follows a declaration that changes how addresses are delivered
// but none of the addresses' own records.
func (h *Hub) applyServices(s *fsm.State, keys []fsm.ServiceKey, d *deltas) {
	for _, k := range keys {
		if svc := s.Services[k]; svc != nil {
			for _, a := range svc.Addresses {
				h.applyAddress(s, a, d)
			}
		}
	}
}

// applyAll compares everything after a change of pools, advertisements or
// settings.
func (h *Hub) applyAll(s *fsm.State, d *deltas) {
	if s.Lease != h.lease {
		h.lease = s.Lease
		for _, v := range h.nodes {
			d.to(v).LeaseTimes = leaseMessage(s.Lease)
		}
	}
	todo := make(map[netip.Addr]struct{}, len(h.holder))
	for a := range h.holder {
		todo[a] = struct{}{}
	}
	for a := range h.soft {
		todo[a] = struct{}{}
	}
	for name := range h.nodes {
		for rec := range s.OwnedBy(name) {
			todo[rec.Addr] = struct{}{}
		}
		for rec := range s.SoftAt(name) {
			todo[rec.Addr] = struct{}{}
		}
	}
	for _, a := range sortedAddrs(todo) {
		h.applyAddress(s, a, d)
	}
	hosts := make(map[netip.Addr]struct{}, len(h.hosts))
	for a := range h.hosts {
		hosts[a] = struct{}{}
	}
	for a := range s.Addresses {
		if len(hostServices(s, a)) > 0 {
			hosts[a] = struct{}{}
		}
	}
	for _, a := range sortedAddrs(hosts) {
		h.applyHost(s, a, d)
		for _, v := range h.nodes {
			h.deliver(s, a, v, d) // the pool's advertisements may select other nodes
		}
	}
}

// applyNodes follows changes of the nodes' own records: drains, labels, and the
// link-layer addresses that every other node knows.
func (h *Hub) applyNodes(s *fsm.State, ch fsm.Changes, d *deltas) {
	for _, name := range ch.Nodes {
		n := s.Nodes[name]
		h.applyMacs(name, n, d)
		v := h.nodes[name]
		if v == nil {
			continue
		}
		if n == nil {
			h.endView(v, ErrNoSession) // forgotten
			continue
		}
		v.follow(n)
		if drained := n.Drained != 0; drained != v.drained {
			v.drained = drained
			d.to(v).Drained = &drained
		}
		if !maps.Equal(n.Labels, v.labels) {
			v.labels = n.Labels
			clear(v.terms)
			h.applyLabels(s, v, d)
			h.applyChecks(s, d, v)
		}
	}
}

// follow ends the subscriptions of a process that another has replaced. Nothing that the
// node is given from now on is for it, and it may be in no state to hear of that elsewhere.
func (v *nodeView) follow(n *fsm.Node) {
	if n.Session == v.session {
		return
	}
	if n.Process != v.process {
		for sub := range v.subs {
			if sub.session < n.Session {
				sub.end(ErrReplaced)
				delete(v.subs, sub)
			}
		}
	}
	v.session, v.process = n.Session, n.Process
}

// applyMacs tells the other nodes when a node's link-layer addresses changed. Only
// the change is told: with the whole list in every message, the start of many nodes
// would cost the cube of their number.
func (h *Hub) applyMacs(name string, n *fsm.Node, d *deltas) {
	if !h.setMacs(name, n) {
		return
	}
	for _, v := range h.nodes {
		if v.name == name {
			continue
		}
		delta := d.to(v)
		if n == nil {
			delta.GoneNodes = append(delta.GoneNodes, name)
			continue
		}
		i, _ := slices.BinarySearchFunc(h.macs, name, compareMacs)
		delta.ChangedNodes = append(delta.ChangedNodes, h.macs[i])
	}
}

// applyLabels compares all that a node has after its labels have changed.
func (h *Hub) applyLabels(s *fsm.State, v *nodeView, d *deltas) {
	todo := maps.Clone(h.hosts)
	for a := range v.vips {
		todo[a] = nil
	}
	for rec := range s.OwnedBy(v.name) {
		todo[rec.Addr] = nil
	}
	for a := range v.softs {
		todo[a] = nil
	}
	for rec := range s.SoftAt(v.name) {
		todo[rec.Addr] = nil
	}
	for _, a := range sortedAddrs(todo) {
		h.applyAddress(s, a, d)
		h.deliver(s, a, v, d)
	}
}

// hostServices are the specs of an address's services that ask for local delivery.
func hostServices(s *fsm.State, a netip.Addr) []*logv1.Service {
	rec := s.Addresses[a]
	if rec == nil {
		return nil
	}
	var asking []*logv1.Service
	for _, k := range rec.Services {
		if svc := s.Services[k]; svc != nil && svc.Spec.GetDelivery() == logv1.Delivery_DELIVERY_HOST {
			asking = append(asking, svc.Spec)
		}
	}
	return asking
}

func sameVip(a, b *speakerv1.Vip) bool {
	return a != nil && b != nil && a.Epoch == b.Epoch && a.OnControlLoss == b.OnControlLoss &&
		a.Reason == b.Reason && slices.Equal(a.Interfaces, b.Interfaces) && a.Predecessor == b.Predecessor &&
		a.FirstUse == b.FirstUse && a.FirstUseConflict == b.FirstUseConflict
}

func leaseMessage(t fsm.LeaseTimes) *logv1.LeaseTimes {
	return &logv1.LeaseTimes{
		DetectionNanos: int64(t.Detection), HeartbeatNanos: int64(t.Heartbeat), SettleNanos: int64(t.Settle),
	}
}
