package service

import (
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
