package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func (c *checker) pool(m *Metadata, s *IPAddressPoolSpec) *adminv1.Resource {
	c.ranges("spec.addresses", s.Addresses)
	return &adminv1.Resource{Kind: &adminv1.Resource_Pool{Pool: &logv1.Pool{
		Name: m.Name, Labels: m.Labels, Addresses: s.Addresses,
		ManualOnly: !s.AutoAssign, AvoidBuggyIps: s.AvoidBuggyIPs,
	}}}
}

func (c *checker) advertisement(m *Metadata, s *L2AdvertisementSpec) *adminv1.Resource {
	c.unique("spec.ipAddressPools", s.IPAddressPools)
	c.unique("spec.interfaces", s.Interfaces)
	c.selectors("spec.ipAddressPoolSelectors", s.IPAddressPoolSelectors)
	c.selectors("spec.nodeSelectors", s.NodeSelectors)
	return &adminv1.Resource{Kind: &adminv1.Resource_L2Advertisement{L2Advertisement: &logv1.L2Advertisement{
		Name: m.Name, Labels: m.Labels,
		IpAddressPools:         s.IPAddressPools,
		IpAddressPoolSelectors: toSelectors(s.IPAddressPoolSelectors),
		NodeSelectors:          toSelectors(s.NodeSelectors),
		Interfaces:             s.Interfaces,
		OnControlLoss:          word(c, "spec.onControlLoss", s.OnControlLoss, controlLosses),
		Placement:              word(c, "spec.placement", s.Placement, placements),
	}}}
}

func (c *checker) service(m *Metadata, s *VirtualServiceSpec) *adminv1.Resource {
	c.selectors("spec.nodeSelectors", s.NodeSelectors)
	policy := word(c, "spec.ipFamilyPolicy", s.IPFamilyPolicy, familyPolicies)
	svc := &logv1.Service{
		Namespace: m.Namespace, Name: m.Name, Labels: m.Labels,
		Ports: c.ports("spec.ports", s.Ports), Addresses: s.Addresses, Pool: s.Pool,
		IpFamilyPolicy:        policy,
		IpFamilies:            c.families(s, policy),
		ExternalTrafficPolicy: word(c, "spec.externalTrafficPolicy", s.ExternalTrafficPolicy, trafficPolicies),
		SharingKey:            s.SharingKey,
		NodeSelectors:         toSelectors(s.NodeSelectors),
		Delivery:              word(c, "spec.delivery", s.Delivery, deliveries),
	}
	return &adminv1.Resource{Kind: &adminv1.Resource_Service{Service: svc}}
}

// ports have the rules of a Kubernetes Service: at least one, names when there
// are several, nothing twice.
func (c *checker) ports(path string, ports []Port) []*logv1.Port {
	if len(ports) == 0 {
		c.fail(path, "needs at least one port")
	}
	type number struct {
		protocol logv1.Protocol
		port     uint16
	}
	numbers, names := map[number]int{}, map[string]int{}
	var out []*logv1.Port
	for i, p := range ports {
		at := fmt.Sprintf("%s[%d]", path, i)
		protocol := word(c, at+".protocol", p.Protocol, protocols)
		if p.Port == 0 {
			c.fail(at+".port", "must be 1 to 65535")
		}
		switch first, dup := names[p.Name]; {
		case p.Name == "" && len(ports) > 1:
			c.fail(at+".name", "is missing; several ports need names")
		case p.Name != "" && !dnsLabel.MatchString(p.Name):
			c.fail(at+".name", "%q %s", shorten(p.Name), wantLabel)
		case dup:
			c.fail(at+".name", "%q is already the name of %s[%d]", p.Name, path, first)
		}
		if first, dup := numbers[number{protocol, p.Port}]; dup && p.Port != 0 {
			c.fail(at+".port", "%d is already %s[%d] with the same protocol", p.Port, path, first)
		}
		names[p.Name], numbers[number{protocol, p.Port}] = i, i
		out = append(out, &logv1.Port{Name: p.Name, Protocol: protocol, Port: uint32(p.Port)})
	}
	return out
}

// families checks that families, policy and addresses say the same, and fills
// in what follows from the others, as Kubernetes does. Without families and
// addresses the choice is left to the group.
func (c *checker) families(s *VirtualServiceSpec, policy logv1.IPFamilyPolicy) []logv1.IPFamily {
	const path = "spec.ipFamilies"
	c.unique(path, s.IPFamilies)
	var list []logv1.IPFamily
	for i, w := range s.IPFamilies {
		list = append(list, word(c, fmt.Sprintf("%s[%d]", path, i), w, families))
	}
	single := policy == logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK
	addrs := c.addresses("spec.addresses", s.Addresses)
	switch {
	case single && len(list) > 1:
		c.fail(path, "ipFamilyPolicy SingleStack takes one family; for both write PreferDualStack or RequireDualStack")
	case single && len(addrs) > 1:
		c.fail("spec.addresses", "ipFamilyPolicy SingleStack takes one address; for both families write PreferDualStack or RequireDualStack")
	}
	for i, a := range addrs {
		f := familyOf(a)
		switch {
		case len(s.IPFamilies) == 0 && !slices.Contains(list, f):
			list = append(list, f)
		case single && len(s.IPFamilies) > 0 && !slices.Contains(list, f):
			c.fail(fmt.Sprintf("spec.addresses[%d]", i), "%s is not of the family in ipFamilies (%s)", a, strings.Join(s.IPFamilies, ", "))
		}
	}
	if !single && len(list) == 1 {
		list = append(list, otherFamily(list[0]))
	}
	return list
}

func familyOf(a netip.Addr) logv1.IPFamily {
	if a.Is4() {
		return logv1.IPFamily_IP_FAMILY_IPV4
	}
	return logv1.IPFamily_IP_FAMILY_IPV6
}

func otherFamily(f logv1.IPFamily) logv1.IPFamily {
	if f == logv1.IPFamily_IP_FAMILY_IPV4 {
		return logv1.IPFamily_IP_FAMILY_IPV6
	}
	return logv1.IPFamily_IP_FAMILY_IPV4
}

func toSelectors(list []LabelSelector) []*logv1.LabelSelector {
	var out []*logv1.LabelSelector
	for _, s := range list {
		l := &logv1.LabelSelector{MatchLabels: s.MatchLabels}
		for _, r := range s.MatchExpressions {
			l.MatchExpressions = append(l.MatchExpressions, &logv1.LabelRequirement{Key: r.Key, Operator: r.Operator, Values: r.Values})
		}
		out = append(out, l)
	}
	return out
}
