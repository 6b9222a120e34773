package allocator

import (
	"net/netip"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Eligible asks a Chooser of its own, as the next two do, at the state's time.
func Eligible(s *fsm.State, addr netip.Addr, node string) Reason {
	return NewChooser(s).Eligible(addr, node, s.Time)
}

// ChooseOwner asks a Chooser of its own.
func ChooseOwner(s *fsm.State, addr netip.Addr, opt Options) (node string, ok bool) {
	return NewChooser(s).ChooseOwner(addr, opt)
}

// ShouldMove asks a Chooser of its own.
func ShouldMove(s *fsm.State, addr netip.Addr) (why logv1.OwnerReason, move bool) {
	return NewChooser(s).ShouldMove(addr, Options{})
}

// PolicyOf asks Policies of its own.
func PolicyOf(s *fsm.State, addr netip.Addr) Policy { return *new(Policies).Of(s, addr) }
