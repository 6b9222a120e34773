package fsm

import (
	"fmt"
	"maps"
	"strings"

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
// other labels: then other advertisements may be for it, and its owner has to see
// this revision before it is acked again.
func (f *folding) servicesChanged(rec *Address) {
	for _, ad := range f.s.Ads { // order-free: any will do
		if len(ad.Spec.GetServiceSelectors()) == 0 {
			continue
		}
		f.editAddress(rec).PolicyAt = f.revision
		if rec.Owner != "" {
			f.taken(rec.Owner)
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
