package fsm_test

import (
	"net/netip"
	"testing"

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
