package watch

import (
	"net/netip"

	"github.com/quorumlb/quorumlb/fsm"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// softVip makes what the former owner of an address that moves softly has to
// know; nil when no advertisement admits it.
func (h *Hub) softVip(s *fsm.State, old *nodeView, rec *fsm.Address) *speakerv1.Vip {
	t := h.terms(s, old, rec.Addr)
	if !t.admitted {
		return nil
	}
	return &speakerv1.Vip{
		Address: rec.Addr.AsSlice(), Epoch: rec.SoftEpoch, OnControlLoss: t.onControlLoss, Interfaces: t.interfaces,
	}
}

// applySoft compares the soft move of one address with what its former owner was
// told, if that is watched.
func (h *Hub) applySoft(s *fsm.State, a netip.Addr, d *deltas) {
	old := h.soft[a]
	var now *nodeView
	var vip *speakerv1.Vip
	if rec := s.Addresses[a]; rec != nil && rec.SoftNode != "" {
		if now = h.nodes[rec.SoftNode]; now != nil {
			if vip = h.softVip(s, now, rec); vip == nil {
				now = nil
			}
		}
	}
	if old != nil && old != now {
		delete(old.softs, a)
		delete(h.soft, a)
		delta := d.to(old)
		delta.GoneSoftVips = append(delta.GoneSoftVips, a.AsSlice())
	}
	if now == nil || sameVip(now.softs[a], vip) {
		return
	}
	now.softs[a] = vip
	h.soft[a] = now
	delta := d.to(now)
	delta.SoftVips = append(delta.SoftVips, vip)
}
