package cli

import (
	"fmt"
	"time"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

// poolOf names a vip's pool and why it is this address.
func poolOf(v *adminv1.VipStatus) string {
	if v.GetPlacement().GetAllocation() == 0 {
		return v.GetPool()
	}
	return fmt.Sprintf("%s (%s)", v.GetPool(), words.AllocationReason(v.GetPlacement().GetAllocation()))
}

// addPlacement says why an address moves or stays.
func (a *app) addPlacement(f *fields, p *adminv1.VipPlacement) {
	if p == nil {
		return
	}
	f.addSome("Placement", words.Placement(p.GetPlacement()))
	until := ""
	if left := time.Duration(p.GetDampedUntilUnixNano() - a.env.Now().UnixNano()); left > 0 {
		until = fmt.Sprintf(": no voluntary move before %s (in %s)", words.Time(p.GetDampedUntilUnixNano()), words.Duration(left))
	}
	if p.GetFlaps() > 0 || until != "" {
		f.add("Flapping", fmt.Sprintf("%s lately%s", words.Count(p.GetFlaps(), "forced move"), until))
	}
	if p.GetWishReason() != 0 {
		to := "away"
		if p.GetWishNode() != "" {
			to = "to " + p.GetWishNode()
		}
		f.add("Wants to move", fmt.Sprintf("%s (%s)", to, words.OwnerReason(p.GetWishReason())))
	}
}

func (st *vipStatus) addPlacement(p *adminv1.VipPlacement) {
	if p == nil {
		return
	}
	if p.GetAllocation() != 0 {
		st.Allocation = words.AllocationReason(p.GetAllocation())
	}
	st.Placement = unset(words.Placement(p.GetPlacement()))
	st.Flaps, st.DampedUntil = p.GetFlaps(), moment(p.GetDampedUntilUnixNano())
	if p.GetWishReason() != 0 {
		st.WantsToMove = &wishStatus{To: p.GetWishNode(), Reason: words.OwnerReason(p.GetWishReason())}
	}
}
