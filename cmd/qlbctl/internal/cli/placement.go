package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/words"
	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// poolOf names a vip's pool and why it is this address.
func poolOf(v *adminv1.VipStatus) string {
	if v.GetPlacement().GetAllocation() == 0 {
		return v.GetPool()
	}
	return fmt.Sprintf("%s (%s)", v.GetPool(), words.AllocationReason(v.GetPlacement().GetAllocation()))
}

// addPlacement says why an address moves or stays.
func (a *app) addPlacement(f *fields, v *adminv1.VipStatus) {
	p := v.GetPlacement()
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
		wait := ""
		if v.GetPredecessor() != "" && allocator.Voluntary(p.GetWishReason()) {
			wait = ", not before the soft move is over"
		}
		f.add("Wants to move", fmt.Sprintf("%s (%s)%s", to, words.OwnerReason(p.GetWishReason()), wait))
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

// addServing says where a service can be served, as far as that is known.
func (a *app) addServing(f *fields, sv *adminv1.ServiceStatus) {
	if ep := sv.GetEndpoints(); ep != nil {
		text := "ready on " + words.OrNone(strings.Join(ep.GetReady(), ", "))
		if len(ep.GetTerminating()) > 0 {
			text += "; only terminating on " + strings.Join(ep.GetTerminating(), ", ")
		}
		f.add("Endpoints", fmt.Sprintf("%s (%s ago)", text, words.Age(a.env.Now(), ep.GetObservedUnixNano())))
	}
	if check := sv.GetService().GetHealthCheck(); check != nil {
		f.add("Health check", fsm.CheckText(check))
	}
}

// healthTable says which node runs the health check and what it has come to: what the
// speaker says now, or else what the group goes by.
func (a *app) healthTable(w io.Writer, sv *adminv1.ServiceStatus) error {
	if sv.GetService().GetHealthCheck() == nil {
		return nil
	}
	fmt.Fprintln(w, "\nHealth check, as each speaker says:")
	if len(sv.GetHealth()) == 0 {
		fmt.Fprintln(w, "  no node runs it")
		return nil
	}
	t := newTable("NODE", "RUNS", "STATE", "SINCE", "FOUND")
	for _, h := range sv.GetHealth() {
		state, since, found := "Unknown", h.GetSinceUnixNano(), h.GetReason()
		if h.Healthy != nil {
			state = healthWord(h.GetHealthy())
		}
		if st := h.GetStatus(); st != nil {
			since, found = st.GetSinceUnixNano(), st.GetReason()
			switch st.GetState() {
			case speakerv1.HealthState_HEALTH_STATE_HEALTHY:
				state = healthWord(true)
			case speakerv1.HealthState_HEALTH_STATE_UNHEALTHY:
				state = healthWord(false)
			}
		}
		t.row(h.GetNode(), yesNo(h.GetStatus() != nil), state, words.Age(a.env.Now(), since), found)
	}
	return t.write(w, "  ")
}

func healthWord(healthy bool) string {
	if healthy {
		return "Healthy"
	}
	return "Unhealthy"
}

// mostWhy bounds the nodes that are named for one address.
const mostWhy = 12

// whyTable says of each address why it is this one, which nodes may own it, best
// first, and why the others may not.
func (a *app) whyTable(w io.Writer, vips []*adminv1.VipStatus) error {
	fmt.Fprintln(w, "\nWhy:")
	t := newTable("ADDRESS", "POOL", "MAY-OWN-IT", "MAY-NOT")
	for _, v := range vips {
		able, not := mayOwn(v)
		t.row(v.GetAddress(), poolOf(v), words.Some(able, mostWhy), words.Some(not, mostWhy))
	}
	return t.write(w, "  ")
}

// mayOwn lists the nodes that may own an address, best first, and those that may not,
// each with the reason.
func mayOwn(v *adminv1.VipStatus) (able, not []string) {
	best := slices.SortedStableFunc(slices.Values(v.GetEligibility()), func(x, y *adminv1.NodeEligibility) int {
		return cmp.Compare(x.GetOrder(), y.GetOrder())
	})
	for _, e := range best {
		switch {
		case !e.GetEligible():
			not = append(not, fmt.Sprintf("%s (%s)", e.GetNode(), e.GetReason()))
		case e.GetPreference() != "":
			able = append(able, fmt.Sprintf("%s (%s)", e.GetNode(), e.GetPreference()))
		default:
			able = append(able, e.GetNode())
		}
	}
	return able, not
}
