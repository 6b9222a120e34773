package config

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// checker turns decoded documents into resources. It reports the words that it
// cannot translate; the rules of the result are package fsm's, so that a file and
// the group never disagree about them.
type checker struct {
	d    *decoder
	doc  *Document
	meta Metadata
}

func (c *checker) fail(path, format string, args ...any) {
	c.d.fail(lookup(c.doc.root, path), path, format, args...)
}

// given tells whether the document has a value at the path of a scalar.
func (c *checker) given(path string) bool {
	n := lookup(c.doc.root, path)
	return n.Kind == yaml.ScalarNode && !isNull(n)
}

// orDefault is the default for what the document does not give. A zero that it does give
// stays one, for the group's rules to judge.
func orDefault[T comparable](c *checker, path string, v, def T) T {
	var zero T
	if v == zero && !c.given(path) {
		return def
	}
	return v
}

// namespace gives a service its default, and refuses one elsewhere.
func (c *checker) namespace(namespaced bool) {
	switch {
	case namespaced && c.meta.Namespace == "":
		c.meta.Namespace = DefaultNamespace
	case !namespaced && c.meta.Namespace != "":
		c.fail("metadata.namespace", "this kind belongs to no namespace; remove the field")
	}
}

// finish applies the group's rules. About a field in which something is wrong
// already, and so has no value, they have nothing to say.
func (c *checker) finish(r *adminv1.Resource) {
	c.doc.Resource, c.doc.Namespace, c.doc.Name = r, c.meta.Namespace, c.meta.Name
	known := c.d.errs
	var faults []fsm.FieldError
	switch k := r.GetKind().(type) {
	case *adminv1.Resource_Pool:
		faults = fsm.ValidatePool(k.Pool)
	case *adminv1.Resource_L2Advertisement:
		faults = fsm.ValidateAdvertisement(k.L2Advertisement)
	case *adminv1.Resource_Service:
		faults = fsm.ValidateService(k.Service)
	case *adminv1.Resource_Namespace:
		faults = fsm.ValidateNamespace(k.Namespace)
	case *adminv1.Resource_Reservation:
		faults = fsm.ValidateReservation(k.Reservation)
	}
	for _, f := range faults {
		if slices.ContainsFunc(known, func(e *Error) bool { return within(f.Path, e.Path) }) {
			continue
		}
		c.fail(f.Path, "%s", f.Message)
	}
}

// within tells whether a path is another one or lies under it.
func within(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

func (c *checker) pool(s *IPAddressPoolSpec) *adminv1.Resource {
	return &adminv1.Resource{Kind: &adminv1.Resource_Pool{Pool: &logv1.Pool{
		Name: c.meta.Name, Labels: c.meta.Labels, Addresses: s.Addresses,
		ManualOnly: !s.AutoAssign, AvoidBuggyIps: s.AvoidBuggyIPs,
		ServiceAllocation: toAllocation(s.ServiceAllocation),
		Quota:             toQuota(s.Quota), QuarantineNanos: int64(s.Quarantine), Reallocate: s.Reallocate,
	}}}
}

func toQuota(q *Quota) *logv1.Quota {
	if q == nil {
		return nil
	}
	return &logv1.Quota{PerNamespace: q.PerNamespace, Namespaces: q.Namespaces}
}

func (c *checker) reservation(s *ReservationSpec) *adminv1.Resource {
	r := &logv1.Reservation{Name: c.meta.Name, Labels: c.meta.Labels, Addresses: s.Addresses}
	if s.Service != nil {
		r.ServiceNamespace, r.ServiceName = s.Service.Namespace, s.Service.Name
		if r.ServiceNamespace == "" {
			r.ServiceNamespace = DefaultNamespace
		}
	}
	if s.Until != nil {
		if s.Until.Year() > 2200 {
			c.fail("spec.until", "is after the year 2200; leave it out for a reservation for ever")
		}
		r.UntilUnixNano = s.Until.UnixNano()
	}
	return &adminv1.Resource{Kind: &adminv1.Resource_Reservation{Reservation: r}}
}

func toAllocation(a *ServiceAllocation) *logv1.ServiceAllocation {
	if a == nil {
		return nil
	}
	return &logv1.ServiceAllocation{
		Priority: a.Priority, Namespaces: a.Namespaces,
		NamespaceSelectors: toSelectors(a.NamespaceSelectors), ServiceSelectors: toSelectors(a.ServiceSelectors),
	}
}

func (c *checker) declaredNamespace() *adminv1.Resource {
	return &adminv1.Resource{Kind: &adminv1.Resource_Namespace{Namespace: &logv1.Namespace{Name: c.meta.Name, Labels: c.meta.Labels}}}
}

// defaultRebalance is the pace of rebalance: Gradual, in moves per minute.
const defaultRebalance = 6

func (c *checker) advertisement(s *L2AdvertisementSpec) *adminv1.Resource {
	rebalance := word(c, "spec.rebalance", s.Rebalance, rebalances)
	pace := s.RebalancePerMinute
	if pace == 0 && !c.given("spec.rebalancePerMinute") && rebalance == logv1.Rebalance_REBALANCE_GRADUAL {
		pace = defaultRebalance
	}
	return &adminv1.Resource{Kind: &adminv1.Resource_L2Advertisement{L2Advertisement: &logv1.L2Advertisement{
		Name: c.meta.Name, Labels: c.meta.Labels,
		IpAddressPools:         s.IPAddressPools,
		IpAddressPoolSelectors: toSelectors(s.IPAddressPoolSelectors),
		NodeSelectors:          toSelectors(s.NodeSelectors),
		Interfaces:             s.Interfaces,
		OnControlLoss:          word(c, "spec.onControlLoss", s.OnControlLoss, controlLosses),
		Placement:              word(c, "spec.placement", s.Placement, placements),
		ServiceSelectors:       toSelectors(s.ServiceSelectors),
		PreferredNodeSelectors: toPreferred(s.PreferredNodeSelectors),
		Rebalance:              rebalance,
		RebalancePerMinute:     pace,
	}}}
}

func (c *checker) service(s *VirtualServiceSpec) *adminv1.Resource {
	policy := word(c, "spec.ipFamilyPolicy", s.IPFamilyPolicy, familyPolicies)
	svc := &logv1.Service{
		Namespace: c.meta.Namespace, Name: c.meta.Name, Labels: c.meta.Labels,
		Addresses: s.Addresses, Pool: s.Pool,
		IpFamilyPolicy:        policy,
		IpFamilies:            c.families(s, policy),
		ExternalTrafficPolicy: word(c, "spec.externalTrafficPolicy", s.ExternalTrafficPolicy, trafficPolicies),
		SharingKey:            s.SharingKey,
		Selector:              s.Selector,
		NodeSelectors:         toSelectors(s.NodeSelectors),
		Delivery:              word(c, "spec.delivery", s.Delivery, deliveries),
		PreferredNode:         s.PreferredNode,
		AddressCount:          s.AddressCount,
		HealthCheck:           c.healthCheck(s.HealthCheck),
	}
	if s.AddressCount == 0 && c.given("spec.addressCount") {
		c.fail("spec.addressCount", "0 is not between 1 and %d", fsm.MaxAddressCount)
	}
	for i, p := range s.Ports {
		protocol := word(c, indexed("spec.ports", i)+".protocol", p.Protocol, protocols)
		svc.Ports = append(svc.Ports, &logv1.Port{Name: p.Name, Protocol: protocol, Port: uint32(p.Port)})
	}
	return &adminv1.Resource{Kind: &adminv1.Resource_Service{Service: svc}}
}

// families fills in what follows from the other fields, as Kubernetes does: the
// families of the addresses asked for, and the second one of a dual stack. Without
// families and addresses the choice is the group's.
func (c *checker) families(s *VirtualServiceSpec, policy logv1.IPFamilyPolicy) []logv1.IPFamily {
	var list []logv1.IPFamily
	for i, w := range s.IPFamilies {
		list = append(list, word(c, indexed("spec.ipFamilies", i), w, families))
	}
	single := policy == logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK
	if len(s.IPFamilies) == 0 {
		for _, text := range s.Addresses {
			if f := familyOf(text); f != 0 && !slices.Contains(list, f) {
				list = append(list, f)
			}
		}
		if single && len(list) > 1 {
			return nil // it is the addresses that are wrong
		}
	}
	if !single && len(list) == 1 {
		list = append(list, otherFamily(list[0]))
	}
	return list
}

// familyOf is 0 for what is no address; that is refused elsewhere.
func familyOf(text string) logv1.IPFamily {
	switch a, err := fsm.ParseAddr(text); {
	case err != nil:
		return 0
	case a.Is4():
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

// word looks a field's word up; an empty one is the default.
func word[T ~int32](c *checker, path, s string, e enum[T]) T {
	if s == "" {
		return e.values[0]
	}
	v, ok := e.value(s)
	if !ok {
		c.fail(path, "must be %s, is %q", strings.Join(e.words, " or "), shorten(s))
	}
	return v
}

// Defaults of health checks.
const (
	defaultInterval = 2 * time.Second
	defaultTimeout  = time.Second
	defaultRise     = 2
	defaultFall     = 3
)

func (c *checker) healthCheck(h *HealthCheck) *logv1.HealthCheck {
	if h == nil {
		return nil
	}
	interval := orDefault(c, "spec.healthCheck.interval", time.Duration(h.Interval), defaultInterval)
	timeout := orDefault(c, "spec.healthCheck.timeout", time.Duration(h.Timeout), min(defaultTimeout, cmp.Or(interval, defaultTimeout)))
	out := &logv1.HealthCheck{
		IntervalNanos: int64(interval), TimeoutNanos: int64(timeout),
		Rise: orDefault(c, "spec.healthCheck.rise", h.Rise, defaultRise), Fall: orDefault(c, "spec.healthCheck.fall", h.Fall, defaultFall),
	}
	if c := h.HTTP; c != nil {
		out.Http = &logv1.HttpCheck{Port: uint32(c.Port), Path: cmp.Or(c.Path, "/"), Host: c.Host}
	}
	if c := h.TCP; c != nil {
		out.Tcp = &logv1.TcpCheck{Port: uint32(c.Port)}
	}
	if c := h.Exec; c != nil {
		out.Exec = &logv1.ExecCheck{Script: c.Script}
	}
	return out
}

func toPreferred(list []PreferredNodeSelector) []*logv1.PreferredNodeSelector {
	var out []*logv1.PreferredNodeSelector
	for _, p := range list {
		term := &logv1.PreferredNodeSelector{Weight: p.Weight}
		if p.Preference != nil {
			term.Preference = toSelectors([]LabelSelector{*p.Preference})[0]
		}
		out = append(out, term)
	}
	return out
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
