package service

import (
	"net/netip"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// Given an address that was proven at n1, when it has moved to n2 and is proven
// there in time or not, then it is reported or not; and never again after that.
func TestUnprovenMovesAreReportedOnce(t *testing.T) {
	s := newSolo(t)
	session, epoch := s.owned()
	addr := netip.MustParseAddr("192.0.2.1")
	says := func(node string, session, epoch uint64, a speakerv1.Announced) report {
		return report{node: node, session: session, vips: map[netip.Addr]*speakerv1.VipStatus{addr: {Address: addr.AsSlice(), Epoch: epoch, Announced: a}}}
	}
	unproven, proven := speakerv1.Announced_ANNOUNCED_UNPROVEN, speakerv1.Announced_ANNOUNCED_PROVEN
	move := func(from, to string, why logv1.OwnerReason) uint64 {
		var old uint64
		s.Read(func(st *fsm.State) { old = st.Addresses[addr].Epoch })
		s.apply(&logv1.Event{Fact: &logv1.Event_OwnerReleased{OwnerReleased: &logv1.OwnerReleased{Address: addr.AsSlice(), Node: from, Epoch: old, Reason: why}}})
		return s.apply(&logv1.Event{Fact: &logv1.Event_OwnerAssigned{OwnerAssigned: &logv1.OwnerAssigned{Address: addr.AsSlice(), Node: to, Reason: why}}})
	}
	s2 := s.apply(sessionOpened("n3", 7))
	s3 := s.apply(sessionOpened("n4", 8))
	p := proofs{}
	count := func(r report, late bool) (n int) {
		s.Read(func(st *fsm.State) {
			now := st.Addresses[addr].OwnerTime
			if late {
				now += int64(unprovenAfter) + 1
			}
			p.note(st, r)
			n = len(p.unproven(st, r, now))
			p.settle(st, now)
		})
		return n
	}
	if n := count(says("n1", session, epoch, unproven), true); n != 0 {
		t.Error("nobody was seen to reach it before")
	}
	count(says("n1", session, epoch, proven), false)
	e2 := move("n1", "n3", logv1.OwnerReason_OWNER_REASON_DRAIN)
	for name, c := range map[string]struct {
		report report
		late   bool
		want   int
	}{
		"early":           {says("n3", s2, e2, unproven), false, 0},
		"late":            {says("n3", s2, e2, unproven), true, 1},
		"another session": {says("n3", s2+1, e2, unproven), true, 0},
		"another epoch":   {says("n3", s2, epoch, unproven), true, 0},
		"another node":    {says("n4", s3, e2, unproven), true, 0},
		"failed":          {says("n3", s2, e2, speakerv1.Announced_ANNOUNCED_FAILED), true, 0},
	} {
		if n := count(c.report, c.late); n != c.want {
			t.Errorf("%s: %d reports, want %d", name, n, c.want)
		}
	}
	e3 := move("n3", "n4", logv1.OwnerReason_OWNER_REASON_UNPROVEN)
	if n := count(says("n4", s3, e3, unproven), true); n != 0 {
		t.Error("it is reported a second time")
	}
}

// Given an address that was proven at n1, when it moves softly to n3, then it is not
// reported while it does, however long, and 10 s after it has, if n3 is unproven then.
func TestUnprovenCountsFromTheEndOfASoftMove(t *testing.T) {
	s := newSolo(t)
	session, epoch := s.owned()
	addr := netip.MustParseAddr("192.0.2.1")
	p := proofs{}
	says := func(node string, session, epoch uint64, a speakerv1.Announced, after time.Duration) (n int) {
		s.Read(func(st *fsm.State) {
			r := report{node: node, session: session, vips: map[netip.Addr]*speakerv1.VipStatus{addr: {Address: addr.AsSlice(), Epoch: epoch, Announced: a}}}
			now := st.Addresses[addr].OwnerTime + int64(after)
			p.note(st, r)
			n = len(p.unproven(st, r, now))
			p.settle(st, now)
		})
		return n
	}
	says("n1", session, epoch, speakerv1.Announced_ANNOUNCED_PROVEN, 0)
	s3 := s.apply(sessionOpened("n3", 7))
	why := logv1.OwnerReason_OWNER_REASON_DRAIN
	s.apply(&logv1.Event{Fact: &logv1.Event_OwnerReleased{OwnerReleased: &logv1.OwnerReleased{Address: addr.AsSlice(), Node: "n1", Epoch: epoch, Reason: why, Soft: true}}})
	e3 := s.apply(&logv1.Event{Fact: &logv1.Event_OwnerAssigned{OwnerAssigned: &logv1.OwnerAssigned{Address: addr.AsSlice(), Node: "n3", Reason: why, Predecessor: "n1"}}})
	unproven := func(after time.Duration) int {
		return says("n3", s3, e3, speakerv1.Announced_ANNOUNCED_UNPROVEN, after)
	}
	for _, after := range []time.Duration{time.Second, time.Minute, time.Hour} {
		if unproven(after) != 0 {
			t.Errorf("it is reported %v into a soft move", after)
		}
	}
	s.apply(&logv1.Event{Fact: &logv1.Event_SoftMoveEnded{SoftMoveEnded: &logv1.SoftMoveEnded{Address: addr.AsSlice(), Node: "n1", Reason: logv1.OwnerReason_OWNER_REASON_GRACE_OVER}}})
	if unproven(time.Hour+time.Second) != 0 || unproven(time.Hour+unprovenAfter) != 0 {
		t.Error("it is reported as soon as the soft move is over")
	}
	if unproven(time.Hour+unprovenAfter+1) != 1 {
		t.Error("it is not reported in the end")
	}
}
