package fsm

import (
	"slices"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Operators of a label requirement.
const (
	OpIn           = "In"
	OpNotIn        = "NotIn"
	OpExists       = "Exists"
	OpDoesNotExist = "DoesNotExist"
)

// MatchSelector tells whether labels match, as in Kubernetes: every part must,
// and an empty selector matches all. NotIn matches a missing label. An unknown
// operator matches nothing.
func MatchSelector(sel *logv1.LabelSelector, labels map[string]string) bool {
	for k, want := range sel.GetMatchLabels() { // order-free: all must match
		if have, ok := labels[k]; !ok || have != want {
			return false
		}
	}
	for _, req := range sel.GetMatchExpressions() {
		have, ok := labels[req.GetKey()]
		switch req.GetOperator() {
		case OpIn:
			ok = ok && slices.Contains(req.GetValues(), have)
		case OpNotIn:
			ok = !ok || !slices.Contains(req.GetValues(), have)
		case OpExists:
		case OpDoesNotExist:
			ok = !ok
		default:
			ok = false
		}
		if !ok {
			return false
		}
	}
	return true
}

// MatchAny tells whether one of the selectors matches; true when there are none.
func MatchAny(sels []*logv1.LabelSelector, labels map[string]string) bool {
	return len(sels) == 0 || slices.ContainsFunc(sels, func(s *logv1.LabelSelector) bool {
		return MatchSelector(s, labels)
	})
}

// Selects tells whether the advertisement is for the pool: by name, by label,
// or because it names neither.
func (ad *Advertisement) Selects(pool *Pool) bool {
	names, sels := ad.Spec.GetIpAddressPools(), ad.Spec.GetIpAddressPoolSelectors()
	if len(names) == 0 && len(sels) == 0 {
		return true
	}
	return slices.Contains(names, pool.Spec.GetName()) ||
		len(sels) > 0 && MatchAny(sels, pool.Spec.GetLabels())
}
