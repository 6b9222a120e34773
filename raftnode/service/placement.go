package service

import (
	"maps"
	"slices"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

// placement says why an address is what and where it is.
func (v *view) placement(rec *fsm.Address) *adminv1.VipPlacement {
	p := &adminv1.VipPlacement{
		Allocation: rec.Reason, Placement: v.chooser.Policy(rec.Addr).Placement, Flaps: rec.FlapsAt(v.now),
	}
	if until := allocator.DampedUntil(rec); until > v.now {
		p.DampedUntilUnixNano = until
	}
	opt := allocator.Options{Preferred: v.heardLately(), Now: v.now}
	why, move := v.chooser.ShouldMove(rec.Addr, opt)
	if move {
		p.WishReason = why
		if !allocator.Voluntary(why) {
			opt.Exclude = rec.Owner
		}
		p.WishNode, _ = v.chooser.ChooseOwner(rec.Addr, opt)
	}
	return p
}

// serving says where a service can be served, and how that is known.
func (v *view) serving(svc *fsm.Service, st *adminv1.ServiceStatus) {
	if ep := svc.Endpoints; ep != nil {
		st.Endpoints = &adminv1.ServiceEndpoints{Ready: ep.Ready, Terminating: ep.Terminating, ObservedUnixNano: ep.Time}
	}
	if svc.Spec.GetHealthCheck() == nil {
		return
	}
	nodes := make(map[string]*adminv1.NodeHealth)
	of := func(node string) *adminv1.NodeHealth {
		if nodes[node] == nil {
			nodes[node] = &adminv1.NodeHealth{Node: node}
		}
		return nodes[node]
	}
	if !v.past {
		for node, said := range v.checks(svc.Key) {
			of(node).Status = said
		}
	}
	for node, h := range svc.Health {
		n := of(node)
		n.Healthy, n.Reason, n.SinceUnixNano = &h.Healthy, h.Reason, h.Time
	}
	for _, node := range slices.Sorted(maps.Keys(nodes)) {
		st.Health = append(st.Health, nodes[node])
	}
}
