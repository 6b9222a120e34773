package fsm

import (
	"fmt"
	"maps"
	"strings"
	"time"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// MaxWeight is the largest weight of one preference for nodes.
const MaxWeight = 100

// SelectsService tells whether the advertisement is for addresses of a service
// with these labels.
func (ad *Advertisement) SelectsService(labels map[string]string) bool {
	return MatchAny(ad.Spec.GetServiceSelectors(), labels)
}

// servicesChanged notes that the address has other services, or that theirs have
// other labels: then other advertisements may be for it, and its owner, and a former one that
// still answers some, have to see this revision before they are acked again.
func (f *folding) servicesChanged(rec *Address) {
	for _, ad := range f.s.Ads { // order-free: any will do
		if len(ad.Spec.GetServiceSelectors()) == 0 {
			continue
		}
		f.editAddress(rec).PolicyAt = f.revision
		if rec.Owner != "" {
			f.taken(rec.Owner)
		}
		if rec.SoftNode != "" {
			f.taken(rec.SoftNode)
		}
		return
	}
}

// labelsChanged is servicesChanged for all that a service has, if its labels changed.
func (f *folding) labelsChanged(old, svc *Service) {
	if old == nil || maps.Equal(old.Spec.GetLabels(), svc.Spec.GetLabels()) {
		return
	}
	for _, a := range svc.Addresses {
		f.servicesChanged(f.s.Addresses[a])
	}
}

// preferred checks preferences for nodes.
func (f *faults) preferred(path string, list []*logv1.PreferredNodeSelector) {
	var preferences []*logv1.LabelSelector
	for i, p := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		if p.GetWeight() < 1 || p.GetWeight() > MaxWeight {
			f.add(at+".weight", "%d is not between 1 and %d", p.GetWeight(), MaxWeight)
		}
		if p.GetPreference() == nil {
			f.add(at+".preference", "is required")
		}
		preferences = append(preferences, p.GetPreference())
	}
	var own faults
	own.selectors(path, preferences)
	for _, e := range own { // selectors names the list's elements, the labels are one level deeper
		index, rest, _ := strings.Cut(strings.TrimPrefix(e.Path, path), "]")
		f.add(path+index+"].preference"+rest, "%s", e.Message)
	}
}

// nodeName demands what a speaker may be named.
func (f *faults) nodeName(path, v string) {
	bad := strings.ContainsFunc(v, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-._", c))
	})
	switch {
	case len(v) > 253:
		f.add(path, "is longer than 253 characters")
	case bad:
		f.add(path, "%q holds other characters than letters, digits, '-', '.' and '_'", v)
	}
}

// One flap is forgotten for each FlapForget without another. What counts is part of
// the log's meaning, as everything in this package: it must not change.
const (
	FlapForget = 10 * time.Minute
	maxFlaps   = 64
)

// FlapsAt counts the forced moves that are not forgotten at a time.
func (a *Address) FlapsAt(now int64) uint32 {
	forgotten := max(now-a.FlapTime, 0) / int64(FlapForget)
	return a.Flaps - uint32(min(forgotten, int64(a.Flaps)))
}

// countFlap counts the assignment of rec, a fresh copy, to a node if something that
// goes wrong forces it; what an administrator or the placement wants does not count.
func (f *folding) countFlap(rec *Address, to string, why logv1.OwnerReason) {
	from := rec.Owner
	if from == "" {
		from = rec.Prior
	}
	if from == "" || from == to {
		return
	}
	switch why {
	case logv1.OwnerReason_OWNER_REASON_OWNER_EXPIRED, logv1.OwnerReason_OWNER_REASON_LEAVE,
		logv1.OwnerReason_OWNER_REASON_LINK_DOWN, logv1.OwnerReason_OWNER_REASON_ANNOUNCE_FAILED,
		logv1.OwnerReason_OWNER_REASON_NOT_SERVING:
		rec.Flaps, rec.FlapTime = min(rec.FlapsAt(f.s.Time)+1, maxFlaps), f.s.Time
	}
}

// MaxRebalancePerMinute bounds the pace of a rebalance.
const MaxRebalancePerMinute = 600

func (f *folding) rebalanceStarted(e *logv1.RebalanceStarted) error {
	if e.GetPerMinute() < 1 || e.GetPerMinute() > MaxRebalancePerMinute {
		return corruptf("rebalance of %d moves per minute", e.GetPerMinute())
	}
	f.s.RebalancePerMinute = e.GetPerMinute()
	return nil
}

func (f *folding) rebalanceEnded(*logv1.RebalanceEnded) error {
	if f.s.RebalancePerMinute == 0 {
		return corruptf("RebalanceEnded while there is none")
	}
	f.s.RebalancePerMinute = 0
	return nil
}

func (f *faults) rebalance(a *logv1.L2Advertisement) {
	known(f, "spec.rebalance", a.GetRebalance(), logv1.Rebalance_name)
	n := a.GetRebalancePerMinute()
	switch gradual := a.GetRebalance() == logv1.Rebalance_REBALANCE_GRADUAL; {
	case gradual && (n < 1 || n > MaxRebalancePerMinute):
		f.add("spec.rebalancePerMinute", "%d is not between 1 and %d", n, MaxRebalancePerMinute)
	case !gradual && n != 0:
		f.add("spec.rebalancePerMinute", "is only for rebalance: Gradual")
	}
}
