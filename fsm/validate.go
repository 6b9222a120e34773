package fsm

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// FieldError is a mistake in a declared resource.
type FieldError struct {
	// Path of the field in the resource's YAML, such as "spec.ports[1].port".
	Path string
	// Message says what is wrong with it.
	Message string
}

// Error gives "path: message".
func (e FieldError) Error() string { return e.Path + ": " + e.Message }

// faults collects what is wrong with a resource.
type faults []FieldError

func (f *faults) add(path, format string, args ...any) {
	*f = append(*f, FieldError{path, fmt.Sprintf(format, args...)})
}

// ValidatePool tells what is wrong with a pool by itself.
func ValidatePool(p *logv1.Pool) []FieldError {
	var f faults
	f.name("metadata.name", p.GetName())
	f.labels("metadata.labels", p.GetLabels())
	if len(p.GetAddresses()) == 0 {
		f.add("spec.addresses", "at least one CIDR or range is required")
	}
	var ranges []Range
	for i, text := range p.GetAddresses() {
		path := fmt.Sprintf("spec.addresses[%d]", i)
		r, err := ParseRange(text)
		if err != nil {
			f.add(path, "%v", err)
			continue
		}
		for j, o := range ranges {
			if o.Overlaps(r) {
				f.add(path, "%q overlaps %q", text, p.GetAddresses()[j])
			}
		}
		ranges = append(ranges, r)
	}
	if a := p.GetServiceAllocation(); a != nil {
		f.serviceAllocation("spec.serviceAllocation", a)
	}
	f.quota("spec.quota", p.GetQuota())
	f.quarantine("spec.quarantine", time.Duration(p.GetQuarantineNanos()))
	return f
}

// ValidatePools tells what is wrong with pools that are to be defined together,
// each by itself and beside the others and the state's. The answer has one
// element for each pool. Addresses that cannot be read overlap nothing.
func ValidatePools(s *State, pools []*logv1.Pool) [][]FieldError {
	out := make([][]FieldError, len(pools))
	names := map[string]bool{}
	for at, p := range pools {
		if names[p.GetName()] {
			out[at] = append(out[at], FieldError{"metadata.name", fmt.Sprintf("pool %q comes twice", p.GetName())})
		}
		names[p.GetName()] = true
	}
	type entry struct {
		pool, text string
		at         int // index into pools, -1 for one of the state
		Range
	}
	var all []entry
	for _, name := range s.PoolNames() {
		if names[name] {
			continue
		}
		def := s.Pools[name]
		for i, r := range def.Ranges {
			all = append(all, entry{name, def.Spec.GetAddresses()[i], -1, r})
		}
	}
	for at, p := range pools {
		out[at] = append(out[at], ValidatePool(p)...)
		for i, text := range p.GetAddresses() {
			r, err := ParseRange(text)
			if err != nil {
				continue
			}
			for _, o := range all {
				if o.at != at && o.Overlaps(r) {
					out[at] = append(out[at], FieldError{fmt.Sprintf("spec.addresses[%d]", i),
						fmt.Sprintf("%q overlaps %q of pool %q", text, o.text, o.pool)})
				}
			}
			all = append(all, entry{p.GetName(), text, at, r})
		}
	}
	return out
}

// ValidateAdvertisement tells what is wrong with an advertisement.
func ValidateAdvertisement(a *logv1.L2Advertisement) []FieldError {
	var f faults
	f.name("metadata.name", a.GetName())
	f.labels("metadata.labels", a.GetLabels())
	f.distinct("spec.ipAddressPools", a.GetIpAddressPools(), 253)
	f.selectors("spec.ipAddressPoolSelectors", a.GetIpAddressPoolSelectors())
	f.selectors("spec.nodeSelectors", a.GetNodeSelectors())
	f.distinct("spec.interfaces", a.GetInterfaces(), 15) // IFNAMSIZ-1
	known(&f, "spec.onControlLoss", a.GetOnControlLoss(), logv1.ControlLoss_name)
	known(&f, "spec.placement", a.GetPlacement(), logv1.Placement_name)
	f.selectors("spec.serviceSelectors", a.GetServiceSelectors())
	f.preferred("spec.preferredNodeSelectors", a.GetPreferredNodeSelectors())
	f.rebalance(a)
	return f
}

// ValidateService tells what is wrong with a service by itself. Whether it can
// have what it asks for is the allocator's business.
func ValidateService(s *logv1.Service) []FieldError {
	var f faults
	f.label("metadata.namespace", s.GetNamespace())
	f.name("metadata.name", s.GetName())
	f.labels("metadata.labels", s.GetLabels())
	f.ports(s)
	f.addresses(s)
	if s.GetPool() != "" {
		f.name("spec.pool", s.GetPool())
	}
	known(&f, "spec.externalTrafficPolicy", s.GetExternalTrafficPolicy(), logv1.ExternalTrafficPolicy_name)
	known(&f, "spec.delivery", s.GetDelivery(), logv1.Delivery_name)
	f.text("spec.sharingKey", s.GetSharingKey(), 253)
	f.selectors("spec.nodeSelectors", s.GetNodeSelectors())
	f.nodeName("spec.preferredNode", s.GetPreferredNode())
	f.healthCheck("spec.healthCheck", s)
	f.labels("spec.selector", s.GetSelector())
	return f
}

func (f *faults) ports(s *logv1.Service) {
	if len(s.GetPorts()) == 0 && s.GetSharingKey() != "" {
		f.add("spec.ports", "at least one is required with a sharing key")
	}
	names, numbers := map[string]int{}, map[string]int{}
	for i, p := range s.GetPorts() {
		path := fmt.Sprintf("spec.ports[%d]", i)
		if p.GetPort() < 1 || p.GetPort() > 65535 {
			f.add(path+".port", "%d is not between 1 and 65535", p.GetPort())
		}
		known(f, path+".protocol", p.GetProtocol(), logv1.Protocol_name)
		f.text(path+".name", p.GetName(), 63)
		if first, twice := names[p.GetName()]; twice && p.GetName() != "" {
			f.add(path+".name", "%q is the name of spec.ports[%d] too", p.GetName(), first)
		} else {
			names[p.GetName()] = i
		}
		protocol := p.GetProtocol()
		if protocol == logv1.Protocol_PROTOCOL_UNSPECIFIED {
			protocol = logv1.Protocol_PROTOCOL_TCP
		}
		number := fmt.Sprintf("%d/%s", p.GetPort(), strings.TrimPrefix(protocol.String(), "PROTOCOL_"))
		if first, twice := numbers[number]; twice {
			f.add(path+".port", "%s is spec.ports[%d] too", number, first)
		} else {
			numbers[number] = i
		}
	}
}

func (f *faults) addresses(s *logv1.Service) {
	known(f, "spec.ipFamilyPolicy", s.GetIpFamilyPolicy(), logv1.IPFamilyPolicy_name)
	families := s.GetIpFamilies()
	for i, v := range families {
		path := fmt.Sprintf("spec.ipFamilies[%d]", i)
		known(f, path, v, logv1.IPFamily_name)
		if v == logv1.IPFamily_IP_FAMILY_UNSPECIFIED {
			f.add(path, "IPv4 or IPv6 is required")
		} else if slices.Index(families, v) < i {
			f.add(path, "comes twice")
		}
	}
	single := s.GetIpFamilyPolicy() == logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK
	if single && len(families) > 1 {
		f.add("spec.ipFamilies", "%d families with ipFamilyPolicy SingleStack", len(families))
	}
	count := AddressCount(s)
	if count > MaxAddressCount {
		f.add("spec.addressCount", "%d is not between 1 and %d", count, MaxAddressCount)
	}
	var seen [2][]netip.Addr
	for i, text := range s.GetAddresses() {
		path := fmt.Sprintf("spec.addresses[%d]", i)
		a, err := ParseAddr(text)
		if err != nil {
			f.add(path, "%v", err)
			continue
		}
		if slices.Contains(seen[fam(a)], a) {
			f.add(path, "%s comes twice", text)
			continue
		}
		if seen[fam(a)] = append(seen[fam(a)], a); len(seen[fam(a)]) > count && count <= MaxAddressCount {
			f.add(path, "%s is address %d of its family; spec.addressCount allows %d", text, len(seen[fam(a)]), count)
		}
		family := []logv1.IPFamily{logv1.IPFamily_IP_FAMILY_IPV4, logv1.IPFamily_IP_FAMILY_IPV6}[fam(a)]
		oneFamily := single || s.GetIpFamilyPolicy() == logv1.IPFamilyPolicy_IP_FAMILY_POLICY_UNSPECIFIED
		if oneFamily && len(families) == 1 && families[0] != family {
			f.add(path, "%s is not of the family in spec.ipFamilies", text)
		}
	}
	if single && len(seen[0]) > 0 && len(seen[1]) > 0 {
		f.add("spec.addresses", "two families with ipFamilyPolicy SingleStack")
	}
}

// Bounds of the lease times.
const (
	MinDetection = 100 * time.Millisecond
	MaxDetection = time.Minute
	MinHeartbeat = 10 * time.Millisecond
	MaxSettle    = 10 * time.Minute
	// MaxRetention is ten years.
	MaxRetention = 10 * 365 * 24 * time.Hour
)

// ValidateLeaseTimes tells what is wrong with lease times.
func ValidateLeaseTimes(t LeaseTimes) []FieldError {
	var f faults
	if t.Detection < MinDetection || t.Detection > MaxDetection {
		f.add("detection", "%s is not between %s and %s", t.Detection, MinDetection, MaxDetection)
	}
	if t.Heartbeat < MinHeartbeat || t.Heartbeat > t.Detection/3 {
		f.add("heartbeat", "%s is not between %s and a third of the detection time %s", t.Heartbeat, MinHeartbeat, t.Detection)
	}
	if t.Settle < 0 || t.Settle > MaxSettle {
		f.add("settle", "%s is not between 0s and %s", t.Settle, MaxSettle)
	}
	return f
}

// ValidateRetention tells what is wrong with a retention time.
func ValidateRetention(d time.Duration) []FieldError {
	var f faults
	if d < 0 || d > MaxRetention {
		f.add("retention", "%s is not between 0s and %s", d, MaxRetention)
	}
	return f
}
