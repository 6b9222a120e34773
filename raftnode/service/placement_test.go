package service

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Given a pool with an address in use, when the pool no longer has it, then the pool
// shows it as leaving with whoever has it, until the service gives it up or a pool
// has it again.
func TestLeavingAddressesAreShown(t *testing.T) {
	leaving := func(s *solo) string {
		t.Helper()
		resp, err := s.admin.Get(t.Context(), &adminv1.GetRequest{Kinds: []string{"pools"}})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, p := range resp.GetPools() {
			for _, h := range p.GetLeaving() {
				got += fmt.Sprintf("%s: %s of %s;", p.GetPool().GetName(), h.GetAddress(), h.GetService())
			}
		}
		return got
	}
	addr, web := netip.MustParseAddr("192.0.2.1"), fsm.KeyOf("ns", "web")
	for name, c := range map[string]struct {
		when []*logv1.Event
		gone bool // the service is deleted then
		want string
	}{
		"the pool has it":      {nil, false, ""},
		"the pool shrinks":     {[]*logv1.Event{poolDefined("p", "192.0.2.128/25")}, false, "p: 192.0.2.1 of ns/web;"},
		"and grows again":      {[]*logv1.Event{poolDefined("p", "192.0.2.128/25"), poolDefined("p", "192.0.2.0/25")}, false, ""},
		"another pool has it":  {[]*logv1.Event{poolDefined("p", "192.0.2.128/25"), poolDefined("q", "192.0.2.0/25")}, false, ""},
		"the service gives it": {[]*logv1.Event{poolDefined("p", "192.0.2.128/25")}, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSolo(t)
			_, epoch := s.owned()
			for _, ev := range c.when {
				s.apply(ev)
			}
			if c.gone {
				s.apply(fsmtest.OwnerReleased(addr, "n1", epoch), fsmtest.Released(web, addr, 0), fsmtest.Deleted(web))
			}
			if got := leaving(s); got != c.want {
				t.Errorf("leaving %q, want %q", got, c.want)
			}
		})
	}
}

// Given an address of n1, when it would rather be or has to be elsewhere, then its
// placement says so, and why it may not go yet.
func TestPlacementIsShown(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.1")
	prefers := func(p logv1.Placement) *logv1.Event {
		return fsmtest.Ad(&logv1.L2Advertisement{Name: "ad", Placement: p})
	}
	preferred := fsmtest.Declared(&logv1.Service{Namespace: "ns", Name: "web", PreferredNode: "n2"})
	// back and forth is a move that something going wrong has forced, and the return.
	flap := func(s *solo) {
		for _, to := range []string{"n2", "n1"} {
			var from string
			var epoch uint64
			s.Read(func(st *fsm.State) { from, epoch = st.Addresses[addr].Owner, st.Addresses[addr].Epoch })
			s.apply(&logv1.Event{Fact: &logv1.Event_OwnerReleased{OwnerReleased: &logv1.OwnerReleased{
				Address: addr.AsSlice(), Node: from, Epoch: epoch, Reason: logv1.OwnerReason_OWNER_REASON_LINK_DOWN}}})
			s.apply(&logv1.Event{Fact: &logv1.Event_OwnerAssigned{OwnerAssigned: &logv1.OwnerAssigned{
				Address: addr.AsSlice(), Node: to, Reason: logv1.OwnerReason_OWNER_REASON_LINK_DOWN}}})
		}
	}
	for name, c := range map[string]struct {
		when  func(s *solo)
		want  string // placement, why it would move, and where to
		flaps uint32
	}{
		"it is fine": {func(*solo) {}, "STICKY UNSPECIFIED ", 0},
		"sticky stays where another is preferred": {func(s *solo) { s.apply(preferred) }, "STICKY UNSPECIFIED ", 0},
		"ideal goes to the preferred node":        {func(s *solo) { s.apply(preferred); s.apply(prefers(logv1.Placement_PLACEMENT_IDEAL)) }, "IDEAL IDEAL n2", 0},
		"its node is drained": {func(s *solo) {
			s.apply(fsmtest.Drained("n1", logv1.DrainReason_DRAIN_REASON_ADMIN))
		}, "STICKY DRAIN n2", 0},
		"there is nowhere to go": {func(s *solo) {
			s.apply(fsmtest.Drained("n1", logv1.DrainReason_DRAIN_REASON_ADMIN), fsmtest.Drained("n2", logv1.DrainReason_DRAIN_REASON_ADMIN))
		}, "STICKY UNSPECIFIED ", 0},
		"it flaps": {func(s *solo) {
			s.apply(preferred)
			s.apply(prefers(logv1.Placement_PLACEMENT_IDEAL))
			flap(s)
		}, "IDEAL IDEAL n2", 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSolo(t)
			s.owned()
			c.when(s)
			resp, err := s.admin.Get(t.Context(), &adminv1.GetRequest{Kinds: []string{"vips"}})
			if err != nil {
				t.Fatal(err)
			}
			p := resp.GetVips()[0].GetPlacement()
			got := fmt.Sprintf("%s %s %s", strings.TrimPrefix(p.GetPlacement().String(), "PLACEMENT_"),
				strings.TrimPrefix(p.GetWishReason().String(), "OWNER_REASON_"), p.GetWishNode())
			if got != c.want {
				t.Errorf("placement %q, want %q", got, c.want)
			}
			if p.GetFlaps() != c.flaps || (p.GetDampedUntilUnixNano() != 0) != (c.flaps >= 2) {
				t.Errorf("%d flaps, want %d; damped until %d", p.GetFlaps(), c.flaps, p.GetDampedUntilUnixNano())
			}
		})
	}
}
