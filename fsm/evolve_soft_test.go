package fsm_test

import (
	"slices"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func TestSoftMove(t *testing.T) {
	l := small(t)
	rec := func() *fsm.Address { return l.S.Addresses[ip1] }
	taken := func(node string) uint64 { return l.S.Nodes[node].TakenAt }
	l.Apply(fsmtest.OwnerReleasedSoftly(ip1, "n1", 5))
	if r := rec(); r.SoftNode != "n1" || r.SoftEpoch != 5 || r.Owner != "" || r.Prior != "n1" || r.PriorAt != 6 {
		t.Fatalf("released softly: %+v", r)
	}
	if l.S.SoftCount("n1") != 1 || taken("n1") != 6 {
		t.Fatalf("%d soft, taken at %d", l.S.SoftCount("n1"), taken("n1"))
	}
	l.Apply(fsmtest.OwnerAssignedSoftly(ip1, "n2", "n1"))
	if r := rec(); r.SoftNode != "n1" || r.Owner != "n2" || taken("n1") != 6 {
		t.Fatalf("assigned softly: %+v", r)
	}
	ch := l.Apply(fsmtest.SoftMoveEnded(ip1, "n1"))
	if r := rec(); r.SoftNode != "" || r.SoftEpoch != 0 || r.Owner != "n2" || r.Epoch != 7 || taken("n1") != 8 || l.S.SoftCount("n1") != 0 {
		t.Fatalf("ended: %+v", r)
	}
	if !slices.Equal(ch.Nodes, []string{"n1"}) {
		t.Errorf("changes: %+v", ch)
	}
}

// Whatever happens to the address next, the old owner has to see that it is over.
func TestSoftMoveEndsWith(t *testing.T) {
	for name, events := range map[string][]*logv1.Event{
		"a plain assignment":  {fsmtest.Expired("n2", 4), fsmtest.OwnerAssigned(ip1, "n3")},
		"the next release":    {fsmtest.OwnerReleased(ip1, "n2", 7)},
		"the next soft one":   {fsmtest.OwnerReleasedSoftly(ip1, "n2", 7)},
		"the deletion":        {fsmtest.OwnerReleased(ip1, "n2", 7), fsmtest.Released(web, ip1, 0)},
		"a return to the old": {fsmtest.OwnerReleased(ip1, "n2", 7), fsmtest.OwnerAssigned(ip1, "n1")},
	} {
		l := small(t)
		l.Apply(fsmtest.OwnerReleasedSoftly(ip1, "n1", 5))
		l.Apply(fsmtest.OwnerAssignedSoftly(ip1, "n2", "n1"), fsmtest.Opened("n3", 1, nil))
		l.Apply(events...)
		if l.S.SoftCount("n1") != 0 || l.S.Nodes["n1"].TakenAt != 8 {
			t.Errorf("%s: %d addresses, taken at %d", name, l.S.SoftCount("n1"), l.S.Nodes["n1"].TakenAt)
		}
		if err := l.S.CheckIndexes(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An address that is freed in the middle of a soft move waits for its old owner
// from then on: it still answers some.
func TestFreedInTheMiddleOfASoftMove(t *testing.T) {
	l := small(t)
	l.Apply(fsmtest.OwnerReleasedSoftly(ip1, "n1", 5))
	l.Apply(fsmtest.Released(web, ip1, 0))
	if f := l.S.Free[ip1]; f.Prior != "n1" || f.PriorAt != 7 || l.S.Nodes["n1"].TakenAt != 7 || l.S.SoftCount("n1") != 0 {
		t.Errorf("%+v, taken at %d", f, l.S.Nodes["n1"].TakenAt)
	}
}

func TestPolicyChangeIsSeenByTheOldOwnerOfASoftMove(t *testing.T) {
	l := small(t)
	l.Apply(fsmtest.OwnerReleasedSoftly(ip1, "n1", 5))
	l.Apply(fsmtest.Ad(&logv1.L2Advertisement{Name: "x"}))
	if l.S.Nodes["n1"].TakenAt != 7 {
		t.Errorf("taken at %d", l.S.Nodes["n1"].TakenAt)
	}
}

// An address may leave its pool in the middle of a soft move: its old owner still
// hears of what changes in that pool.
func TestSoftMoveOfALeavingAddress(t *testing.T) {
	l := small(t)
	l.Apply(fsmtest.OwnerReleasedSoftly(ip1, "n1", 5))
	for _, step := range []*logv1.Event{
		fsmtest.OwnerAssignedSoftly(ip1, "n2", "n1"),
		fsmtest.PoolDefined("a", "198.51.100.0/24"), // leaves
		fsmtest.PoolDefined("a", "203.0.113.0/24"),  // has left
		fsmtest.Ad(&logv1.L2Advertisement{Name: "x"}),
		fsmtest.PoolDefined("a", "192.0.2.0/24"), // is back
		fsmtest.PoolDefined("a", "198.51.100.0/24"),
		fsmtest.SoftMoveEnded(ip1, "n1"),
	} {
		l.Apply(step)
		if err := l.S.CheckIndexes(); err != nil {
			t.Fatalf("after %v: %v", step, err)
		}
		if step.GetAdvertisementDefined() != nil && l.S.Nodes["n1"].TakenAt != l.S.Revision {
			t.Errorf("n1 taken at %d, not %d", l.S.Nodes["n1"].TakenAt, l.S.Revision)
		}
	}
}

func TestGraceTime(t *testing.T) {
	l := small(t)
	grace := func(why logv1.DrainReason, d time.Duration) int64 {
		ev := fsmtest.Drained("n1", why)
		ev.GetNodeDrained().GraceNanos = int64(d)
		l.Apply(ev)
		return l.S.Nodes["n1"].GraceUntil
	}
	const admin, leave = logv1.DrainReason_DRAIN_REASON_ADMIN, logv1.DrainReason_DRAIN_REASON_LEAVE
	if got := grace(admin, time.Minute); got != l.S.Time+int64(time.Minute) {
		t.Errorf("until %d", got)
	}
	if got := grace(admin, 0); got != 0 {
		t.Error("a plain drain does not end it")
	}
	grace(admin, time.Minute)
	if got := grace(leave, 0); got != 0 || l.S.Nodes["n1"].Drained != admin {
		t.Error("a leave does not end it")
	}
}

func TestQuarantine(t *testing.T) {
	l := small(t)
	mac := fsm.MAC{2, 9, 9, 9, 9, 9}
	l.Apply(fsmtest.OwnerReleased(ip1, "n1", 5), fsmtest.Released(web, ip1, l.Now+int64(time.Hour)))
	ch := l.Apply(fsmtest.Quarantined(ip1, "n1", mac, l.Now+100))
	f := l.S.Free[ip1]
	if !f.Quarantined() || f.Conflict != mac || f.ConflictNode != "n1" || f.QuarantineSince != l.S.Time || f.KeptUntil != 0 || !slices.Contains(ch.Addresses, ip1) {
		t.Fatalf("%+v", f)
	}
	if use := l.S.PoolUse("a"); use.Quarantined4 != 1 || use.Used4 != 0 {
		t.Errorf("%+v", use)
	}
	for range l.S.KeptFor(web) {
		t.Error("kept for its last service")
	}
	if got := l.S.LeastRecent("a", true, l.Now+int64(2*time.Hour)); got != nil {
		t.Errorf("%s is given away", got.Addr)
	}
	// Once more: the time is longer, the beginning is not.
	since := f.QuarantineSince
	l.Apply(fsmtest.Quarantined(ip1, "n2", mac, l.Now+500))
	if f := l.S.Free[ip1]; f.QuarantineSince != since || f.ConflictNode != "n2" || l.S.PoolUse("a").Quarantined4 != 1 {
		t.Errorf("once more: %+v", f)
	}
	before := l.S.Clone()
	l.Apply(fsmtest.QuarantineEnded(ip1))
	if got := l.S.LeastRecent("a", true, l.Now); got == nil || got.Addr != ip1 || l.S.PoolUse("a").Quarantined4 != 0 {
		t.Errorf("ended: %+v", got)
	}
	if n := len(slices.Collect(before.Quarantined())); n != 1 {
		t.Errorf("a clone has %d in quarantine", n)
	}
	// Whoever asks for it gets it, and sees who has it.
	l.Apply(fsmtest.Quarantined(ip1, "n1", mac, l.Now+100))
	l.Apply(fsmtest.AllocatedFor(web, ip1, "a", logv1.AllocationReason_ALLOCATION_REASON_REQUESTED))
	if rec := l.S.Addresses[ip1]; rec.Conflict != mac || rec.ConflictKind != logv1.ConflictKind_CONFLICT_KIND_FOREIGN || l.S.PoolUse("a").Quarantined4 != 0 {
		t.Errorf("asked for: %+v", rec)
	}
	if err := l.S.CheckIndexes(); err != nil {
		t.Error(err)
	}
}
