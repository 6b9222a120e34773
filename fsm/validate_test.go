package fsm_test

import (
	"strings"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// expect compares "path: part of the message" with the errors, in order.
func expect(t *testing.T, what any, got []fsm.FieldError, want ...string) {
	t.Helper()
	ok := len(got) == len(want)
	for i := 0; ok && i < len(got); i++ {
		path, part, _ := strings.Cut(want[i], ": ")
		ok = got[i].Path == path && strings.Contains(got[i].Message, part)
	}
	if !ok {
		t.Errorf("%v:\n got %q\nwant %q", what, got, want)
	}
}

func TestValidatePool(t *testing.T) {
	pool := func(name string, addresses ...string) *logv1.Pool {
		return &logv1.Pool{Name: name, Addresses: addresses}
	}
	for _, c := range []struct {
		pool *logv1.Pool
		want []string
	}{
		{pool("a", "192.0.2.0/24", "2001:db8::/64", "198.51.100.1-198.51.100.9"), nil},
		{pool(""), []string{"metadata.name: required", "spec.addresses: at least one"}},
		{pool("A_b", "192.0.2.0/24"), []string{"metadata.name: lower case"}},
		{pool(strings.Repeat("a", 254), "192.0.2.0/24"), []string{"metadata.name: longer than 253"}},
		{pool("a", "192.0.2.0/24", "192.0.2.20-192.0.2.10"), []string{"spec.addresses[1]: reversed"}},
		{pool("a", "192.0.2.1-2001:db8::1"), []string{"spec.addresses[0]: mixes"}},
		{pool("a", "192.0.2.0/24", "nonsense", "192.0.2.255-192.0.3.4"),
			[]string{"spec.addresses[1]: neither", `spec.addresses[2]: "192.0.2.255-192.0.3.4" overlaps`}},
		{pool("a", "fe80::1%eth0-fe80::2"), []string{"spec.addresses[0]: zone"}},
		{pool("a", "::ffff:192.0.2.0/120"), []string{"spec.addresses[0]: IPv4-mapped"}},
		{&logv1.Pool{Name: "a", Addresses: []string{"192.0.2.0/24"}, Labels: map[string]string{"bad key": "v", "ok.io/k": "v", "x": "a\nb"}},
			[]string{"metadata.labels: bad key", "metadata.labels[x]: cannot be printed"}},
	} {
		expect(t, c.pool, fsm.ValidatePool(c.pool), c.want...)
	}
}

func TestValidatePoolsTogether(t *testing.T) {
	l := fsmtest.NewLog(t)
	l.Apply(fsmtest.PoolDefined("old", "192.0.2.0/24"), fsmtest.PoolDefined("gone", "198.51.100.0/24"))
	pool := func(name string, addresses ...string) *logv1.Pool {
		return &logv1.Pool{Name: name, Addresses: addresses}
	}
	got := fsm.ValidatePools(l.S, []*logv1.Pool{
		pool("gone", "203.0.113.0/24"),
		pool("new", "198.51.100.0/24", "192.0.2.128-192.0.2.129"), // "gone" has moved away, "old" has not
		pool("newer", "198.51.100.9-198.51.100.9"),
		pool("newer", "203.0.112.0/24"),
	})
	expect(t, "gone", got[0])
	expect(t, "new", got[1], `spec.addresses[1]: "192.0.2.128-192.0.2.129" overlaps "192.0.2.0/24" of pool "old"`)
	expect(t, "newer", got[2], `spec.addresses[0]: overlaps "198.51.100.0/24" of pool "new"`)
	expect(t, "newer", got[3], `metadata.name: twice`)
}

func TestValidateAdvertisement(t *testing.T) {
	sel := func(op string, values ...string) *logv1.LabelSelector {
		return &logv1.LabelSelector{MatchExpressions: []*logv1.LabelRequirement{{Key: "k", Operator: op, Values: values}}}
	}
	for _, c := range []struct {
		ad   *logv1.L2Advertisement
		want []string
	}{
		{&logv1.L2Advertisement{Name: "a", IpAddressPools: []string{"x", "y"}, Interfaces: []string{"eth0"},
			NodeSelectors: []*logv1.LabelSelector{sel("In", "v"), sel("Exists")}}, nil},
		{&logv1.L2Advertisement{}, []string{"metadata.name: required"}},
		{&logv1.L2Advertisement{Name: "a", IpAddressPools: []string{"x", "", "x"}},
			[]string{"spec.ipAddressPools[1]: empty", `spec.ipAddressPools[2]: "x" comes twice`}},
		{&logv1.L2Advertisement{Name: "a", Interfaces: []string{"an-interface-of-a-long-name"}}, []string{"spec.interfaces[0]: longer than 15"}},
		{&logv1.L2Advertisement{Name: "a", NodeSelectors: []*logv1.LabelSelector{sel("Like", "v"), sel("In"), sel("Exists", "v"), sel("In")}}, []string{
			"spec.nodeSelectors[0].matchExpressions[0].operator: none of",
			"spec.nodeSelectors[1].matchExpressions[0].values: at least one",
			"spec.nodeSelectors[2].matchExpressions[0].values: must be empty",
			"spec.nodeSelectors[3]: the same as spec.nodeSelectors[1]",
			"spec.nodeSelectors[3].matchExpressions[0].values: at least one"}},
		{&logv1.L2Advertisement{Name: "a", IpAddressPoolSelectors: []*logv1.LabelSelector{{MatchLabels: map[string]string{"": "x"}}}},
			[]string{"spec.ipAddressPoolSelectors[0].matchLabels: not a label key"}},
		{&logv1.L2Advertisement{Name: "a", OnControlLoss: 9, Placement: 9}, []string{"spec.onControlLoss: unknown", "spec.placement: unknown"}},
	} {
		expect(t, c.ad, fsm.ValidateAdvertisement(c.ad), c.want...)
	}
}

func TestValidateService(t *testing.T) {
	const v4, v6 = logv1.IPFamily_IP_FAMILY_IPV4, logv1.IPFamily_IP_FAMILY_IPV6
	const single, prefer = logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK, logv1.IPFamilyPolicy_IP_FAMILY_POLICY_PREFER_DUAL_STACK
	with := func(change func(*logv1.Service)) *logv1.Service {
		s := fsmtest.Service("web", 80)
		change(s)
		return s
	}
	port := func(name string, number uint32, p logv1.Protocol) *logv1.Port {
		return &logv1.Port{Name: name, Port: number, Protocol: p}
	}
	for i, c := range []struct {
		change func(*logv1.Service)
		want   []string
	}{
		{func(*logv1.Service) {}, nil},
		{func(s *logv1.Service) { s.Namespace, s.Name = "", "" }, []string{"metadata.namespace: required", "metadata.name: required"}},
		{func(s *logv1.Service) { s.Namespace = "a.b" }, []string{"metadata.namespace: at most 63"}},
		{func(s *logv1.Service) { s.Ports = nil }, nil},
		{func(s *logv1.Service) { s.Ports, s.SharingKey = nil, "k" }, []string{"spec.ports: required with a sharing key"}},
		{func(s *logv1.Service) { s.Ports = []*logv1.Port{port("a", 0, 1), port("b", 65536, 2)} },
			[]string{"spec.ports[0].port: 0 is not between", "spec.ports[1].port: 65536 is not between"}},
		{func(s *logv1.Service) {
			s.Ports = []*logv1.Port{port("a", 80, 1), port("a", 81, 1), port("b", 80, 0), port("c", 80, 2), port("", 1, 1), port("", 2, 1)}
		}, []string{"spec.ports[1].name: spec.ports[0] too", "spec.ports[2].port: 80/TCP is spec.ports[0] too"}},
		{func(s *logv1.Service) { s.Ports[0].Protocol = 9 }, []string{"spec.ports[0].protocol: unknown"}},
		{func(s *logv1.Service) { s.Addresses = []string{"192.0.2.1", "2001:db8::1"} }, nil},
		{func(s *logv1.Service) { s.Addresses = []string{"192.0.2.1", "192.0.2.2"} }, []string{"spec.addresses[1]: allows 1"}},
		{func(s *logv1.Service) { s.Addresses, s.AddressCount = []string{"192.0.2.1", "192.0.2.2"}, 2 }, nil},
		{func(s *logv1.Service) { s.Addresses, s.AddressCount = []string{"192.0.2.1", "192.0.2.1"}, 2 }, []string{"spec.addresses[1]: comes twice"}},
		{func(s *logv1.Service) { s.AddressCount = 16 }, nil},
		{func(s *logv1.Service) { s.AddressCount = 17 }, []string{"spec.addressCount: 17 is not between 1 and 16"}},
		{func(s *logv1.Service) { s.Addresses = []string{"192.0.2.0/24"} }, []string{"spec.addresses[0]: not an IP address"}},
		{func(s *logv1.Service) { s.Addresses = []string{"::ffff:192.0.2.1"} }, []string{"spec.addresses[0]: IPv4-mapped"}},
		{func(s *logv1.Service) { s.Addresses = []string{"fe80::1%eth0"} }, []string{"spec.addresses[0]: zone"}},
		{func(s *logv1.Service) { s.Addresses, s.IpFamilyPolicy = []string{"192.0.2.1", "2001:db8::1"}, single },
			[]string{"spec.addresses: two families"}},
		{func(s *logv1.Service) { s.Addresses, s.IpFamilies = []string{"192.0.2.1"}, []logv1.IPFamily{v6} },
			[]string{"spec.addresses[0]: not of the family"}},
		{func(s *logv1.Service) {
			s.Addresses, s.IpFamilies, s.IpFamilyPolicy = []string{"192.0.2.1"}, []logv1.IPFamily{v6}, prefer
		}, nil},
		{func(s *logv1.Service) { s.IpFamilies, s.IpFamilyPolicy = []logv1.IPFamily{v6, v4}, single }, []string{"spec.ipFamilies: 2 families"}},
		{func(s *logv1.Service) { s.IpFamilies = []logv1.IPFamily{v6, v6} }, []string{"spec.ipFamilies[1]: twice"}},
		{func(s *logv1.Service) { s.IpFamilies = []logv1.IPFamily{0, 7} }, []string{"spec.ipFamilies[0]: required", "spec.ipFamilies[1]: unknown"}},
		{func(s *logv1.Service) { s.IpFamilyPolicy, s.ExternalTrafficPolicy, s.Delivery = 9, 9, 9 },
			[]string{"spec.ipFamilyPolicy: unknown", "spec.externalTrafficPolicy: unknown", "spec.delivery: unknown"}},
		{func(s *logv1.Service) { s.Pool = "A" }, []string{"spec.pool: lower case"}},
		{func(s *logv1.Service) { s.SharingKey = "a\x00b" }, []string{"spec.sharingKey: cannot be printed"}},
		{func(s *logv1.Service) {
			s.NodeSelectors = []*logv1.LabelSelector{{MatchExpressions: []*logv1.LabelRequirement{{Key: "/", Operator: "Exists"}}}}
		}, []string{"spec.nodeSelectors[0].matchExpressions[0].key: not a label key"}},
	} {
		expect(t, i, fsm.ValidateService(with(c.change)), c.want...)
	}
}

func TestValidateSettings(t *testing.T) {
	expect(t, "default", fsm.ValidateLeaseTimes(fsm.DefaultLeaseTimes))
	expect(t, "short", fsm.ValidateLeaseTimes(fsm.LeaseTimes{Detection: time.Millisecond, Heartbeat: time.Microsecond, Settle: -1}),
		"detection: not between", "heartbeat: not between", "settle: not between")
	expect(t, "h > D/3", fsm.ValidateLeaseTimes(fsm.LeaseTimes{Detection: 300 * time.Millisecond, Heartbeat: 101 * time.Millisecond}),
		"heartbeat: a third")
	expect(t, "retention", fsm.ValidateRetention(time.Hour))
	expect(t, "retention", fsm.ValidateRetention(-1), "retention: not between")
}

func TestMatchSelector(t *testing.T) {
	labels := map[string]string{"zone": "a", "tier": "gold"}
	req := func(key, op string, values ...string) *logv1.LabelSelector {
		return &logv1.LabelSelector{MatchExpressions: []*logv1.LabelRequirement{{Key: key, Operator: op, Values: values}}}
	}
	for _, c := range []struct {
		sel  *logv1.LabelSelector
		want bool
	}{
		{nil, true},
		{&logv1.LabelSelector{}, true},
		{&logv1.LabelSelector{MatchLabels: map[string]string{"zone": "a", "tier": "gold"}}, true},
		{&logv1.LabelSelector{MatchLabels: map[string]string{"zone": "a", "tier": "iron"}}, false},
		{&logv1.LabelSelector{MatchLabels: map[string]string{"none": ""}}, false},
		{req("zone", "In", "b", "a"), true},
		{req("zone", "In", "b"), false},
		{req("none", "In", "b", ""), false},
		{req("zone", "NotIn", "b"), true},
		{req("zone", "NotIn", "a"), false},
		{req("none", "NotIn", "a"), true},
		{req("zone", "Exists"), true},
		{req("none", "Exists"), false},
		{req("zone", "DoesNotExist"), false},
		{req("none", "DoesNotExist"), true},
		{req("zone", "Gt", "a"), false},
	} {
		if got := fsm.MatchSelector(c.sel, labels); got != c.want {
			t.Errorf("%v: %t", c.sel, got)
		}
	}
	if !fsm.MatchAny(nil, labels) || fsm.MatchAny([]*logv1.LabelSelector{req("none", "Exists")}, labels) ||
		!fsm.MatchAny([]*logv1.LabelSelector{req("none", "Exists"), req("zone", "Exists")}, labels) {
		t.Error("any of none matches, else one must")
	}
}
