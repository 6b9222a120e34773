package cli

import (
	"slices"
	"strings"

	"github.com/quorumlb/quorumlb/config"
)

// kind is something that can be looked at by name.
type kind struct {
	// plural is its name in the API of Get.
	plural string
	// doc is the kind in documents.
	doc     string
	aliases []string
	// declared: apply and delete know it.
	declared bool
}

var kindTable = []kind{
	{"pools", config.KindIPAddressPool, []string{"pool", "ipaddresspool", "ipaddresspools"}, true},
	{"l2advertisements", config.KindL2Advertisement, []string{"l2advertisement", "l2ad", "l2ads"}, true},
	{"services", config.KindVirtualService, []string{"service", "svc", "virtualservice", "virtualservices", "vs"}, true},
	{"namespaces", config.KindNamespace, []string{"namespace", "ns"}, true},
	{"reservations", config.KindReservation, []string{"reservation"}, true},
	{"vips", "VIP", []string{"vip", "address", "addresses"}, false},
	{"nodes", "Node", []string{"node"}, false},
	{"members", "Member", []string{"member"}, false},
	{"quarantine", "Quarantine", []string{"quarantined", "quarantines"}, false},
}

func kindNames(declaredOnly bool) []string {
	var names []string
	for _, k := range kindTable {
		if k.declared || !declaredOnly {
			names = append(names, k.plural)
		}
	}
	return names
}

func findKind(word string, declaredOnly bool) (kind, error) {
	word = strings.ToLower(word)
	for _, k := range kindTable {
		if (k.declared || !declaredOnly) && (k.plural == word || slices.Contains(k.aliases, word)) {
			return k, nil
		}
	}
	return kind{}, usagef("unknown kind %q; allowed: %s", word, strings.Join(kindNames(declaredOnly), ", "))
}

// target is one thing named on a command line.
type target struct {
	kind      kind
	namespace string // of services
	name      string
}

// full is the name as the API has it: "namespace/name" for services.
func (t target) full() string {
	if t.kind.plural == "services" && t.name != "" {
		return t.namespace + "/" + t.name
	}
	return t.name
}

// id is how a target is printed: "virtualservice/default/web".
func (t target) id() string { return strings.ToLower(t.kind.doc) + "/" + t.full() }

// newTarget splits the namespace off a service's name.
func newTarget(k kind, name, namespace string) (target, error) {
	t := target{kind: k, name: name}
	if k.plural != "services" {
		if strings.Contains(name, "/") {
			return t, usagef("%q: a name in %s has no '/'", name, k.plural)
		}
		return t, nil
	}
	t.namespace = namespace
	if before, after, ok := strings.Cut(name, "/"); ok {
		t.namespace, t.name = before, after
	}
	if t.namespace == "" {
		t.namespace = config.DefaultNamespace
	}
	if t.name == "" || strings.Contains(t.name, "/") {
		return t, usagef("%q is not a service's name; write NAME or NAMESPACE/NAME", name)
	}
	return t, nil
}

// parseTargets reads "KIND NAME...", "KIND/NAME..." or "KIND,KIND...". "all" is
// every kind. Without names a target has an empty one.
func parseTargets(args []string, namespace string, declaredOnly bool) ([]target, error) {
	if strings.Contains(args[0], "/") {
		var targets []target
		for _, arg := range args {
			word, name, ok := strings.Cut(arg, "/")
			if !ok || name == "" {
				return nil, usagef("%q is not KIND/NAME", arg)
			}
			k, err := findKind(word, declaredOnly)
			if err != nil {
				return nil, err
			}
			t, err := newTarget(k, name, namespace)
			if err != nil {
				return nil, err
			}
			targets = append(targets, t)
		}
		return targets, nil
	}
	words := strings.Split(args[0], ",")
	if args[0] == "all" {
		words = kindNames(declaredOnly)
	}
	var targets []target
	for _, word := range words {
		k, err := findKind(word, declaredOnly)
		if err != nil {
			return nil, err
		}
		if len(args) == 1 {
			targets = append(targets, target{kind: k, namespace: namespace})
		}
		for _, name := range args[1:] {
			t, err := newTarget(k, name, namespace)
			if err != nil {
				return nil, err
			}
			targets = append(targets, t)
		}
	}
	return targets, nil
}
