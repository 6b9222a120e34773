package cli

import (
	"maps"
	"slices"
	"strings"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// labelled are the kinds that have labels.
var labelled = []string{"pools", "l2advertisements", "services", "namespaces", "reservations", "nodes"}

// parseLabels reads what -l takes: "a=b", "a!=b", "a" and "!a", with commas between
// them; nil for nothing.
func parseLabels(text string) (*logv1.LabelSelector, error) {
	if text == "" {
		return nil, nil
	}
	sel := &logv1.LabelSelector{}
	add := func(operator, key string, values ...string) {
		sel.MatchExpressions = append(sel.MatchExpressions, &logv1.LabelRequirement{Key: strings.TrimSpace(key), Operator: operator, Values: values})
	}
	for _, part := range strings.Split(text, ",") {
		part = strings.TrimSpace(part)
		key, value, equal := strings.Cut(part, "=")
		value = strings.TrimSpace(strings.TrimPrefix(value, "=")) // a==b is a=b
		switch {
		case equal && strings.HasSuffix(key, "!"):
			add("NotIn", strings.TrimSuffix(key, "!"), value)
		case equal:
			add("In", key, value)
		case strings.HasPrefix(part, "!"):
			add("DoesNotExist", part[1:])
		default:
			add("Exists", part)
		}
		if last := sel.MatchExpressions[len(sel.MatchExpressions)-1]; last.GetKey() == "" || strings.ContainsAny(last.GetKey(), "! ") {
			return nil, usagef("--selector %q: %q is none of KEY=VALUE, KEY!=VALUE, KEY and !KEY", text, part)
		}
	}
	return sel, nil
}

// checkLabelled refuses a selector for what has no labels, or is named.
func checkLabelled(targets []target) error {
	for _, t := range targets {
		switch {
		case t.name != "":
			return usagef("give either a NAME or --selector, not both")
		case !slices.Contains(labelled, t.kind.plural):
			return usagef("%s have no labels; --selector is for %s", t.kind.plural, strings.Join(labelled, ", "))
		}
	}
	return nil
}

// keepLabelled leaves in an answer what the selector matches.
func keepLabelled(got *adminv1.GetResponse, sel *logv1.LabelSelector) {
	if sel == nil {
		return
	}
	not := func(labels map[string]string) bool { return !fsm.MatchSelector(sel, labels) }
	got.Pools = slices.DeleteFunc(got.Pools, func(p *adminv1.PoolStatus) bool { return not(p.GetPool().GetLabels()) })
	got.L2Advertisements = slices.DeleteFunc(got.L2Advertisements, func(a *logv1.L2Advertisement) bool { return not(a.GetLabels()) })
	got.Services = slices.DeleteFunc(got.Services, func(s *adminv1.ServiceStatus) bool { return not(s.GetService().GetLabels()) })
	got.Namespaces = slices.DeleteFunc(got.Namespaces, func(n *adminv1.NamespaceStatus) bool { return not(namespaceLabels(n.GetNamespace())) })
	got.Reservations = slices.DeleteFunc(got.Reservations, func(r *adminv1.ReservationStatus) bool { return not(r.GetReservation().GetLabels()) })
	got.Nodes = slices.DeleteFunc(got.Nodes, func(n *adminv1.NodeStatus) bool { return not(n.GetLabels()) })
}

// namespaceLabels are what selectors see of a namespace.
func namespaceLabels(n *logv1.Namespace) map[string]string {
	labels := map[string]string{}
	maps.Copy(labels, n.GetLabels())
	labels[fsm.LabelNamespaceName] = n.GetName() // every namespace has it
	return labels
}
