package fsm_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// With an advertisement that selects services, the labels of an address's services
// decide how its owner may announce it: the owner has to see a change of them.
func TestServiceSelectorsMakeLabelsCount(t *testing.T) {
	a, web, dns := netip.MustParseAddr("192.0.2.1"), fsm.KeyOf("default", "web"), fsm.KeyOf("default", "dns")
	labelled := func(name, tier string) *logv1.Event {
		s := fsmtest.Service(name, 80)
		s.SharingKey = "k"
		if tier != "" {
			s.Labels = map[string]string{"tier": tier}
		}
		return fsmtest.Declared(s)
	}
	fresh := logv1.AllocationReason_ALLOCATION_REASON_FRESH
	for _, c := range []struct {
		name    string
		picky   bool
		given   []*logv1.Event
		when    []*logv1.Event
		changes bool
	}{
		{"other labels", true, nil, []*logv1.Event{labelled("web", "a")}, true},
		{"the same labels", true, nil, []*logv1.Event{labelled("web", "")}, false},
		{"other labels, which nobody selects", false, nil, []*logv1.Event{labelled("web", "a")}, false},
		{"a second service", true, nil, []*logv1.Event{labelled("dns", "a"), fsmtest.AllocatedFor(dns, a, "p", fresh)}, true},
		{"a second service less", true, []*logv1.Event{labelled("dns", "a"), fsmtest.AllocatedFor(dns, a, "p", fresh)},
			[]*logv1.Event{fsmtest.Released(dns, a, 0)}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := fsmtest.NewLog(t)
			ad := &logv1.L2Advertisement{Name: "ad"}
			if c.picky {
				ad.ServiceSelectors = []*logv1.LabelSelector{{MatchLabels: map[string]string{"tier": "a"}}}
			}
			l.Apply(fsmtest.PoolDefined("p", "192.0.2.0/24"), fsmtest.Ad(ad), labelled("web", ""), fsmtest.AllocatedFor(web, a, "p", fresh))
			l.Apply(fsmtest.Opened("n1", 1, nil))
			l.Apply(fsmtest.OwnerAssigned(a, "n1"))
			if c.given != nil {
				l.Apply(c.given...)
			}
			policy := l.S.Addresses[a].PolicyAt
			l.Apply(c.when...)
			want := policy
			if c.changes {
				want = l.S.Revision
			}
			if got := l.S.Addresses[a].PolicyAt; got != want {
				t.Errorf("policy of revision %d, want %d", got, want)
			}
			if seen := l.S.Nodes["n1"].TakenAt == l.S.Revision; seen != c.changes {
				t.Errorf("the owner must see it: %t", seen)
			}
		})
	}
}

// In a soft move both who answer have to see it.
func TestTheSoftOwnerSeesOtherServicesToo(t *testing.T) {
	a, web := netip.MustParseAddr("192.0.2.1"), fsm.KeyOf("default", "web")
	labels := func(tier string) *logv1.Event {
		svc := fsmtest.Service("web", 80)
		svc.Labels = map[string]string{"tier": tier}
		return fsmtest.Declared(svc)
	}
	l := fsmtest.NewLog(t)
	l.Apply(fsmtest.PoolDefined("p", "192.0.2.0/24"),
		fsmtest.Ad(&logv1.L2Advertisement{Name: "ad", ServiceSelectors: []*logv1.LabelSelector{{MatchLabels: map[string]string{"tier": "a"}}}}),
		labels("a"), fsmtest.AllocatedFor(web, a, "p", logv1.AllocationReason_ALLOCATION_REASON_FRESH))
	l.Apply(fsmtest.Opened("n1", 1, nil), fsmtest.Opened("n2", 1, nil), fsmtest.Opened("n3", 1, nil))
	l.Apply(fsmtest.OwnerAssigned(a, "n1"))
	l.Apply(fsmtest.OwnerReleasedSoftly(a, "n1", l.S.Revision), fsmtest.OwnerAssignedSoftly(a, "n2", "n1"))
	l.Apply(labels("b"))
	for node, sees := range map[string]bool{"n1": true, "n2": true, "n3": false} {
		if got := l.S.Nodes[node].TakenAt == l.S.Revision; got != sees {
			t.Errorf("%s must see it: %t, want %t", node, got, sees)
		}
	}
}

// Who gets an address that somebody owned under other rules waits for that owner.
func TestAnAddressThatWasOwnedHasOtherRules(t *testing.T) {
	a, web := netip.MustParseAddr("192.0.2.1"), fsm.KeyOf("default", "web")
	fresh := logv1.AllocationReason_ALLOCATION_REASON_FRESH
	l := fsmtest.NewLog(t)
	l.Apply(fsmtest.PoolDefined("p", "192.0.2.0/24"),
		fsmtest.Ad(&logv1.L2Advertisement{Name: "ad", ServiceSelectors: []*logv1.LabelSelector{{MatchLabels: map[string]string{"tier": "a"}}}}),
		fsmtest.Declared(fsmtest.Service("web", 80)), fsmtest.AllocatedFor(web, a, "p", fresh))
	if got := l.S.Addresses[a].PolicyAt; got != 0 {
		t.Errorf("nobody owned it before: %d", got)
	}
	l.Apply(fsmtest.Opened("n1", 1, nil))
	l.Apply(fsmtest.OwnerAssigned(a, "n1"))
	l.Apply(fsmtest.OwnerReleased(a, "n1", l.S.Revision), fsmtest.Released(web, a, 0))
	l.Apply(fsmtest.AllocatedFor(web, a, "p", fresh))
	if got := l.S.Addresses[a].PolicyAt; got != l.S.Revision {
		t.Errorf("policy of revision %d, want %d", got, l.S.Revision)
	}
}

// Given an address of n1, when it gets another owner for a reason, then the move
// counts if something that goes wrong has forced it; and it is forgotten in time.
func TestFlaps(t *testing.T) {
	a, web := netip.MustParseAddr("192.0.2.1"), fsm.KeyOf("default", "web")
	start := func() *fsmtest.Log {
		l := fsmtest.NewLog(t)
		l.Apply(fsmtest.PoolDefined("p", "192.0.2.0/24"), fsmtest.Declared(fsmtest.Service("web", 80)),
			fsmtest.AllocatedFor(web, a, "p", logv1.AllocationReason_ALLOCATION_REASON_FRESH), fsmtest.Opened("n1", 1, nil), fsmtest.Opened("n2", 1, nil))
		l.Apply(fsmtest.OwnerAssigned(a, "n1"))
		return l
	}
	to := func(l *fsmtest.Log, node string, why logv1.OwnerReason) {
		rec := l.S.Addresses[a]
		l.Apply(fsmtest.OwnerReleased(a, rec.Owner, rec.Epoch))
		ev := fsmtest.OwnerAssigned(a, node)
		ev.GetOwnerAssigned().Reason = why
		l.Apply(ev)
	}
	counts := map[logv1.OwnerReason]bool{
		logv1.OwnerReason_OWNER_REASON_OWNER_EXPIRED: true, logv1.OwnerReason_OWNER_REASON_LEAVE: true,
		logv1.OwnerReason_OWNER_REASON_LINK_DOWN: true, logv1.OwnerReason_OWNER_REASON_ANNOUNCE_FAILED: true,
		logv1.OwnerReason_OWNER_REASON_NOT_SERVING: true,
	}
	for n := range logv1.OwnerReason_name {
		why := logv1.OwnerReason(n)
		l := start()
		if got := l.S.Addresses[a].Flaps; got != 0 {
			t.Fatalf("the first owner counts as a move: %d", got)
		}
		to(l, "n1", why)
		if got := l.S.Addresses[a].Flaps; got != 0 {
			t.Errorf("%s: back to the same node counts: %d", why, got)
		}
		to(l, "n2", why)
		if got := l.S.Addresses[a].Flaps == 1; got != counts[why] {
			t.Errorf("%s: counts: %t", why, got)
		}
	}
	l := start()
	for i := range 100 {
		to(l, []string{"n2", "n1"}[i%2], logv1.OwnerReason_OWNER_REASON_LINK_DOWN)
	}
	rec := l.S.Addresses[a]
	if rec.Flaps != 64 {
		t.Errorf("%d flaps, want 64 at most", rec.Flaps)
	}
	for after, want := range map[time.Duration]uint32{
		-time.Hour: 64, 0: 64, fsm.FlapForget - 1: 64, fsm.FlapForget: 63, 10 * fsm.FlapForget: 54, 64 * fsm.FlapForget: 0, 1000 * time.Hour: 0,
	} {
		if got := rec.FlapsAt(rec.FlapTime + int64(after)); got != want {
			t.Errorf("%s later: %d flaps, want %d", after, got, want)
		}
	}
	l.Now += 62 * int64(fsm.FlapForget)
	to(l, "n2", logv1.OwnerReason_OWNER_REASON_LINK_DOWN)
	if got := l.S.Addresses[a].Flaps; got != 3 {
		t.Errorf("%d flaps after a long time, want 2 that are left and 1", got)
	}
}
