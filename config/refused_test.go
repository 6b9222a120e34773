package config

import (
	"strings"
	"testing"
)

// refused are documents with one mistake each, and what is said about it.
var refused = []struct{ name, doc, want string }{
	{"unknown kind", head + "Foo\nmetadata: {name: x}", `kind: unknown kind "Foo"; allowed: IPAddressPool, L2Advertisement, VirtualService, Namespace, Reservation`},
	{"misspelt kind", head + "IpAddressPool\nmetadata: {name: x}", `kind: unknown kind "IpAddressPool"; did you mean IPAddressPool? allowed:`},
	{"kind not yet", head + "BGPPeer\nmetadata: {name: x}", "BGPPeer/x: kind: BGPPeer is a kind of MetalLB that QuorumLB does not support yet; allowed:"},
	{"no kind", "apiVersion: quorumlb.io/v1\nmetadata: {name: x}", "kind: is missing; allowed:"},
	{"no apiVersion", "kind: IPAddressPool\nmetadata: {name: x}", "apiVersion: is missing; write apiVersion: quorumlb.io/v1"},
	{"another API", "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: x}", `apiVersion: must be quorumlb.io/v1, is "metallb.io/v1beta1"`},
	{"Kubernetes Service", "apiVersion: v1\nkind: Service\nmetadata: {name: x}", "Service/x: kind: a Kubernetes Service cannot be applied here"},
	{"not a mapping", "- a", "must be a mapping (apiVersion, kind, metadata, spec, status), is a list"},
	{"unknown top field", pool("  addresses: [192.0.2.0/24]\nspecs: {}"), "IPAddressPool/p: specs: unknown field; did you mean spec?"},
	{"no name", head + "IPAddressPool\nspec: {addresses: [192.0.2.0/24]}", "IPAddressPool: metadata.name: is required"},
	{"bad name", strings.Replace(pool("  addresses: [192.0.2.0/24]"), "name: p", "name: P_1", 1), `metadata.name: "P_1" is not a name of lower case letters`},
	{"number as name", strings.Replace(pool("  addresses: [192.0.2.0/24]"), "name: p", "name: 7", 1), "metadata.name: must be a string, is the number 7; quote it"},
	{"namespace of a pool", strings.Replace(pool("  addresses: [192.0.2.0/24]"), "name: p", "name: p, namespace: x", 1), "metadata.namespace: this kind belongs to no namespace; remove the field"},
	{"bad namespace", strings.Replace(svc("  ports: [{port: 1}]"), "name: s", "name: s, namespace: a.b", 1), `metadata.namespace: "a.b" is not a name of at most 63`},
	{"annotations", strings.Replace(svc("  ports: [{port: 1}]"), "name: s", "name: s, annotations: {a: b}", 1), "metadata.annotations: is not kept; what MetalLB reads"},
	{"bad label key", strings.Replace(pool("  addresses: [192.0.2.0/24]"), "name: p", "name: p, labels: {A.b/c/d: x}", 1), `metadata.labels: "A.b/c/d" is not a label key`},
	{"label is a number", strings.Replace(pool("  addresses: [192.0.2.0/24]"), "name: p", "name: p, labels: {a: 1}", 1), "metadata.labels.a: must be a string, is the number 1; quote it"},

	{"no addresses", pool("  autoAssign: true"), "spec.addresses: at least one CIDR or range is required"},
	{"no spec", head + "IPAddressPool\nmetadata: {name: p}", "spec.addresses: at least one CIDR"},
	{"reversed range", pool("  addresses: [192.0.2.9-192.0.2.1]"), "spec.addresses[0]: "},
	{"mixed range", pool("  addresses: ['192.0.2.9-2001:db8::1']"), "spec.addresses[0]: "},
	{"no range", pool("  addresses: [192.0.2.0/24, 192.0.2.300/32]"), "spec.addresses[1]: "},
	{"overlap", pool("  addresses: [192.0.2.0/24, 192.0.2.17-192.0.2.18]"), `spec.addresses[1]: "192.0.2.17-192.0.2.18" overlaps "192.0.2.0/24"`},
	{"address is a string", pool("  addresses: 192.0.2.0/24"), `spec.addresses: must be a list, is the string "192.0.2.0/24"`},
	{"autoAssign is a string", pool("  addresses: [192.0.2.0/24]\n  autoAssign: 'no'"), `spec.autoAssign: must be true or false, is the string "no"`},
	{"unknown part of serviceAllocation", pool("  addresses: [192.0.2.0/24]\n  serviceAllocation: {namespace: a}"), "spec.serviceAllocation.namespace: unknown field; did you mean namespaces? allowed: priority, namespaces"},
	{"priority below 0", pool("  addresses: [192.0.2.0/24]\n  serviceAllocation: {priority: -1}"), "spec.serviceAllocation.priority: must be a whole number from 0"},
	{"namespace twice", pool("  addresses: [192.0.2.0/24]\n  serviceAllocation: {namespaces: [a, a]}"), `spec.serviceAllocation.namespaces[1]: "a" comes twice`},
	{"bad namespace in a pool", pool("  addresses: [192.0.2.0/24]\n  serviceAllocation: {namespaces: [A]}"), `spec.serviceAllocation.namespaces[0]: "A" is not a name`},
	{"service selector twice", pool("  addresses: [192.0.2.0/24]\n  serviceAllocation: {serviceSelectors: [{}, {}]}"), "spec.serviceAllocation.serviceSelectors[1]: is the same as"},
	{"quarantine without unit", pool("  addresses: [192.0.2.0/24]\n  quarantine: '5'"), `spec.quarantine: "5": must be a duration with a unit`},
	{"negative quarantine", pool("  addresses: [192.0.2.0/24]\n  quarantine: -5s"), "spec.quarantine: -5s is not between 0s and"},
	{"bad namespace in a quota", pool("  addresses: [192.0.2.0/24]\n  quota: {namespaces: {A: 1}}"), `spec.quota.namespaces["A"]: "A" is not a name`},
	{"quota of many", pool("  addresses: [192.0.2.0/24]\n  quota: {perNamespace: many}"), "spec.quota.perNamespace: must be a whole number"},
	{"reservation of nothing", head + "Reservation\nmetadata: {name: a}", "spec.addresses: at least one address, CIDR or range is required"},
	{"reservation of one twice", head + "Reservation\nmetadata: {name: a}\nspec: {addresses: [192.0.2.1, 192.0.2.0/24]}", `spec.addresses[1]: "192.0.2.0/24" overlaps "192.0.2.1"`},
	{"reservation until whenever", head + "Reservation\nmetadata: {name: a}\nspec: {addresses: [192.0.2.1], until: soon}", `spec.until: "soon": `},
	{"reservation for no name", head + "Reservation\nmetadata: {name: a}\nspec: {addresses: [192.0.2.1], service: {namespace: x}}", "spec.service.name: is required"},
	{"spec of a Namespace", head + "Namespace\nmetadata: {name: a}\nspec: {x: 1}", "spec.x: a Namespace has metadata only"},
	{"false name of a Namespace", head + "Namespace\nmetadata: {name: a, labels: {kubernetes.io/metadata.name: b}}", `metadata.labels: kubernetes.io/metadata.name is always the namespace's own name, "a"`},
	{"misspelt field", pool("  addresses: [192.0.2.0/24]\n  autoassign: true"), "spec.autoassign: unknown field; did you mean autoAssign? allowed:"},
	{"key twice", pool("  addresses: [192.0.2.0/24]\n  addresses: [198.51.100.0/24]"), "spec.addresses: is given twice, first in line 5"},

	{"pool twice", ad("  ipAddressPools: [a, b, a]"), `spec.ipAddressPools[2]: "a" comes twice`},
	{"empty interface", ad("  interfaces: ['']"), "spec.interfaces[0]: is empty"},
	{"selector twice", ad("  nodeSelectors: [{matchLabels: {a: b}}, {matchLabels: {a: b}}]"), "spec.nodeSelectors[1]: is the same as spec.nodeSelectors[0]"},
	{"bad operator", ad("  nodeSelectors: [{matchExpressions: [{key: a, operator: Is}]}]"), `spec.nodeSelectors[0].matchExpressions[0].operator: "Is" is none of In, NotIn, Exists, DoesNotExist`},
	{"In without values", ad("  ipAddressPoolSelectors: [{matchExpressions: [{key: a, operator: In}]}]"), "spec.ipAddressPoolSelectors[0].matchExpressions[0].values: at least one is required with In"},
	{"Exists with values", ad("  nodeSelectors: [{matchExpressions: [{key: a, operator: Exists, values: [b]}]}]"), "values: must be empty with Exists"},
	{"selector without key", ad("  nodeSelectors: [{matchExpressions: [{operator: Exists}]}]"), `matchExpressions[0].key: "" is not a label key`},
	{"control loss", ad("  onControlLoss: hold"), `spec.onControlLoss: must be Hold or Release, is "hold"`},
	{"placement", ad("  placement: Best"), `spec.placement: must be Sticky or Ideal, is "Best"`},
	{"weight", ad("  preferredNodeSelectors:\n  - {weight: 101, preference: {}}"), "spec.preferredNodeSelectors[0].weight: 101 is not between 1 and 100"},
	{"no weight", ad("  preferredNodeSelectors:\n  - {preference: {}}"), "spec.preferredNodeSelectors[0].weight: 0 is not between 1 and 100"},
	{"no preference", ad("  preferredNodeSelectors:\n  - {weight: 1}"), "spec.preferredNodeSelectors[0].preference: is required"},
	{"label of a preference", ad("  preferredNodeSelectors:\n  - {weight: 1, preference: {matchExpressions: [{key: a, operator: Near}]}}"), "spec.preferredNodeSelectors[0].preference.matchExpressions[0].operator: \"Near\" is none of"},
	{"one preference twice", ad("  preferredNodeSelectors:\n  - {weight: 1, preference: {}}\n  - {weight: 2, preference: {}}"), "spec.preferredNodeSelectors[1].preference: is the same as"},
	{"service selector twice", ad("  serviceSelectors: [{}, {}]"), "spec.serviceSelectors[1]: is the same as spec.serviceSelectors[0]"},
	{"rebalance", ad("  rebalance: Often"), "spec.rebalance: must be Never or Gradual, is \"Often\""},
	{"pace", ad("  rebalance: Gradual\n  rebalancePerMinute: 601"), "spec.rebalancePerMinute: 601 is not between 1 and 600"},
	{"pace without rebalance", ad("  rebalancePerMinute: 6"), "spec.rebalancePerMinute: is only for rebalance: Gradual"},
	{"no check", svc("  ports: [{port: 1}]\n  healthCheck: {}"), "spec.healthCheck: exactly one of http, tcp and exec is required"},
	{"two checks", svc("  ports: [{port: 1}]\n  healthCheck: {tcp: {}, http: {}}"), "spec.healthCheck: exactly one of http, tcp and exec is required"},
	{"path of a check", svc("  ports: [{port: 1}]\n  healthCheck: {http: {path: healthz}}"), "spec.healthCheck.http.path: \"healthz\" is not a path"},
	{"port of a check", svc("  ports: [{port: 1, protocol: UDP}]\n  healthCheck: {tcp: {}}"), "spec.healthCheck.tcp.port: is required: the service has no TCP port"},
	{"script with a path", svc("  ports: [{port: 1}]\n  healthCheck: {exec: {script: ../sh}}"), "spec.healthCheck.exec.script: \"../sh\" is not the name of a script"},
	{"script with arguments", svc("  ports: [{port: 1}]\n  healthCheck: {exec: {script: sh -c true}}"), "spec.healthCheck.exec.script: \"sh -c true\" is not the name of a script"},
	{"no script", svc("  ports: [{port: 1}]\n  healthCheck: {exec: {}}"), "spec.healthCheck.exec.script: \"\" is not the name of a script"},
	{"interval of nothing", svc("  ports: [{port: 1}]\n  healthCheck: {tcp: {}, interval: 0s}"), "spec.healthCheck.interval: 0s is not between 100ms and 1h0m0s"},
	{"timeout of nothing", svc("  ports: [{port: 1}]\n  healthCheck: {tcp: {}, timeout: 0s}"), "spec.healthCheck.timeout: 0s is not between 10ms and the interval 2s"},
	{"rise of nothing", svc("  ports: [{port: 1}]\n  healthCheck: {tcp: {}, rise: 0}"), "spec.healthCheck.rise: 0 is not between"},
	{"fall of nothing", svc("  ports: [{port: 1}]\n  healthCheck: {tcp: {}, fall: 0}"), "spec.healthCheck.fall: 0 is not between"},
	{"no pace", ad("  rebalance: Gradual\n  rebalancePerMinute: 0"), "spec.rebalancePerMinute: 0 is not between 1 and 600"},
	{"interval without unit", svc("  ports: [{port: 1}]\n  healthCheck: {tcp: {}, interval: 5}"), "spec.healthCheck.interval: "},
	{"interval", svc("  ports: [{port: 1}]\n  healthCheck: {tcp: {}, interval: 10ms}"), "spec.healthCheck.interval: 10ms is not between 100ms and 1h0m0s"},
	{"timeout", svc("  ports: [{port: 1}]\n  healthCheck: {tcp: {}, timeout: 3s}"), "spec.healthCheck.timeout: 3s is not between 10ms and the interval 2s"},
	{"no unit", svc("  ports: [{port: 1}]\n  healthCheck: {tcp: {}, timeout: '3'}"), "spec.healthCheck.timeout: \"3\": must be a duration with a unit"},
	{"fall", svc("  ports: [{port: 1}]\n  healthCheck: {tcp: {}, fall: 101}"), "spec.healthCheck.fall: 101 is not between 1 and 100"},
	{"no address at all", svc("  ports: [{port: 1}]\n  addressCount: 0"), "spec.addressCount: 0 is not between 1 and 16"},
	{"too many addresses", svc("  addressCount: 17"), "spec.addressCount: 17 is not between 1 and 16"},
	{"preferred node", svc("  preferredNode: a/b"), "spec.preferredNode: \"a/b\" holds other characters"},

	{"shared without ports", svc("  sharingKey: a"), "spec.ports: at least one is required with a sharing key"},
	{"port 0", svc("  ports: [{name: a}]"), "spec.ports[0].port: 0 is not between 1 and 65535"},
	{"port too large", svc("  ports: [{port: 65536}]"), "spec.ports[0].port: must be a whole number from 0 to 65535, is the number 65536"},
	{"port is a string", svc("  ports: [{port: http}]"), `spec.ports[0].port: must be a whole number`},
	{"port twice", svc("  ports: [{name: a, port: 1}, {name: b, port: 1}]"), "spec.ports[1].port: 1/TCP is spec.ports[0] too"},
	{"port name twice", svc("  ports: [{name: a, port: 1}, {name: a, port: 2}]"), `spec.ports[1].name: "a" is the name of spec.ports[0] too`},
	{"protocol", svc("  ports: [{port: 1, protocol: tcp}]"), `spec.ports[0].protocol: must be TCP or UDP or SCTP, is "tcp"`},
	{"targetPort", svc("  ports: [{port: 1, targetPort: 2}]"), "spec.ports[0].targetPort: unknown field; allowed: name, protocol, port"},
	{"address", svc("  ports: [{port: 1}]\n  addresses: [192.0.2.0/24]"), `spec.addresses[0]: "192.0.2.0/24" is not an IP address`},
	{"two of one family", svc("  ports: [{port: 1}]\n  addresses: [192.0.2.1, 192.0.2.2]\n  ipFamilyPolicy: PreferDualStack"), "spec.addresses[1]: 192.0.2.2 is address 2 of its family; spec.addressCount allows 1"},
	{"two addresses, one stack", svc("  ports: [{port: 1}]\n  addresses: [192.0.2.1, '2001:db8::1']"), "f:6:14: VirtualService/default/s: spec.addresses: two families with ipFamilyPolicy SingleStack"},
	{"two families, one stack", svc("  ports: [{port: 1}]\n  ipFamilies: [IPv4, IPv6]"), "spec.ipFamilies: 2 families with ipFamilyPolicy SingleStack"},
	{"wrong family", svc("  ports: [{port: 1}]\n  ipFamilies: [IPv6]\n  addresses: [192.0.2.1]"), "spec.addresses[0]: 192.0.2.1 is not of the family in spec.ipFamilies"},
	{"family", svc("  ports: [{port: 1}]\n  ipFamilies: [ipv6]"), `spec.ipFamilies[0]: must be IPv4 or IPv6, is "ipv6"`},
	{"policy", svc("  ports: [{port: 1}]\n  ipFamilyPolicy: DualStack"), "spec.ipFamilyPolicy: must be SingleStack or PreferDualStack or RequireDualStack"},
	{"traffic policy", svc("  ports: [{port: 1}]\n  externalTrafficPolicy: local"), "spec.externalTrafficPolicy: must be Cluster or Local"},
	{"delivery", svc("  ports: [{port: 1}]\n  delivery: host"), `spec.delivery: must be None or Host, is "host"`},
	{"loadBalancerIP", svc("  ports: [{port: 1}]\n  loadBalancerIP: 192.0.2.1"), "spec.loadBalancerIP: is named addresses here"},

	{"syntax", "apiVersion: [", "not valid YAML: "},
	{"tab", "apiVersion:\n\tkind: x", "not valid YAML: "},
	{"unknown item", "apiVersion: quorumlb.io/v1\nkind: List\nitems: [{kind: Foo}]", `Foo: kind: unknown kind "Foo"`},
	{"list with spec", "apiVersion: quorumlb.io/v1\nkind: List\nspec: {}", "List: spec: unknown field; allowed: apiVersion, kind, metadata, items"},
	{"list in list", "apiVersion: quorumlb.io/v1\nkind: List\nitems: [{kind: List}]", "List: kind: unknown kind"},
	{"binary tag", strings.Replace(pool("  addresses: [192.0.2.0/24]"), "name: p", "name: !!binary cA==", 1), "metadata.name: must be a string"},
	{"merge", pool("  <<: {addresses: [192.0.2.0/24]}"), "spec: merge keys (<<) are not supported"},
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range refused {
		t.Run(tt.name, func(t *testing.T) {
			docs, err := Parse("f", strings.NewReader(tt.doc))
			if err == nil || !strings.Contains(err.Error(), tt.want) || len(docs) > 0 {
				t.Errorf("have %v\nwant %s", err, tt.want)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "f:") {
				t.Errorf("no line in %v", err)
			}
		})
	}
}
