package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// What may be declared, at random: pools of a few addresses, so that they are often full,
// and everything that a service may ask for of them.

// PoolNames are the pools that there may be; halves are what each has in each family.
var (
	PoolNames = []string{"hold", "release", "more"}
	halves    = map[string][2][2]string{
		"hold":    {{"10.0.0.0-10.0.0.3", "10.0.0.4-10.0.0.7"}, {"2001:db8::/126", "2001:db8::4-2001:db8::7"}},
		"release": {{"10.0.1.0-10.0.1.3", "10.0.1.4-10.0.1.7"}, {"2001:db8:1::/126", "2001:db8:1::4-2001:db8:1::7"}},
		"more":    {{"10.0.2.254-10.0.2.255", "10.0.3.0-10.0.3.1"}, {"2001:db8:2::/127", "2001:db8:2::2-2001:db8:2::3"}},
	}
)

// Pool has all of its halves, or some, under whatever rules.
func Pool(rng *rand.Rand, name string) *logv1.Pool {
	p := &logv1.Pool{Name: name, AvoidBuggyIps: rng.IntN(3) == 0, ManualOnly: rng.IntN(6) == 0, Reallocate: rng.IntN(2) == 0}
	for _, family := range halves[name] {
		n := len(p.Addresses)
		for _, half := range family {
			if rng.IntN(4) > 0 {
				p.Addresses = append(p.Addresses, half)
			}
		}
		if n == len(p.Addresses) && n == 0 {
			p.Addresses = append(p.Addresses, family[0])
		}
	}
	if rng.IntN(3) == 0 {
		p.Quota = &logv1.Quota{PerNamespace: uint32(1 + rng.IntN(3))}
	}
	if rng.IntN(3) == 0 {
		p.QuarantineNanos = int64(1+rng.IntN(3)) * int64(time.Second)
	}
	if rng.IntN(2) == 0 {
		p.ServiceAllocation = allocation(rng)
	}
	return p
}

// allocation is for some of the services, by whatever tells them apart, or for all.
func allocation(rng *rand.Rand) *logv1.ServiceAllocation {
	team := &logv1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}
	a := &logv1.ServiceAllocation{Priority: uint32(rng.IntN(3))}
	switch rng.IntN(6) {
	case 0:
		a.Namespaces = []string{"sim"}
	case 1:
		a.NamespaceSelectors = []*logv1.LabelSelector{team}
	case 2:
		a.Namespaces, a.NamespaceSelectors = []string{"other"}, []*logv1.LabelSelector{team}
	case 3:
		a.NamespaceSelectors = []*logv1.LabelSelector{{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "sim"}}}
	}
	switch rng.IntN(4) {
	case 0:
		a.ServiceSelectors = []*logv1.LabelSelector{{MatchLabels: map[string]string{"app": "web"}}}
	case 1:
		a.ServiceSelectors = []*logv1.LabelSelector{{MatchExpressions: []*logv1.LabelRequirement{{Key: "app", Operator: "NotIn", Values: []string{"db"}}}}}
	}
	return a
}

// Exchange is two pools of which one gives the other half of what it has.
func Exchange(rng *rand.Rand) (from, to *logv1.Pool) {
	at := rng.IntN(len(PoolNames))
	from, to = Pool(rng, PoolNames[at]), Pool(rng, PoolNames[(at+1)%len(PoolNames)])
	given, has := halves[from.GetName()], halves[to.GetName()]
	from.Addresses = []string{given[0][0], given[1][0]}
	to.Addresses = []string{has[0][0], has[1][0], given[0][1], given[1][1]}
	return from, to
}

// Service is the i-th service, asking for whatever a service may ask for.
func Service(rng *rand.Rand, i int) *logv1.Service {
	svc := &logv1.Service{
		Namespace: "sim", Name: fmt.Sprintf("s%d", i), Pool: PoolNames[i%len(PoolNames)],
		Ports: ports(rng), Selector: map[string]string{"app": []string{"web", "db"}[rng.IntN(2)]},
	}
	if rng.IntN(2) == 0 {
		svc.Namespace = "other"
	}
	if rng.IntN(2) == 0 {
		svc.Pool = ""
	}
	if rng.IntN(3) > 0 {
		svc.Labels = map[string]string{"app": []string{"web", "db"}[rng.IntN(2)]}
	}
	if rng.IntN(3) == 0 {
		svc.ExternalTrafficPolicy = logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_LOCAL
	}
	if rng.IntN(3) == 0 {
		svc.SharingKey = []string{"key", "other"}[rng.IntN(2)]
	}
	svc.IpFamilyPolicy = []logv1.IPFamilyPolicy{
		logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK, logv1.IPFamilyPolicy_IP_FAMILY_POLICY_PREFER_DUAL_STACK,
		logv1.IPFamilyPolicy_IP_FAMILY_POLICY_REQUIRE_DUAL_STACK, logv1.IPFamilyPolicy_IP_FAMILY_POLICY_UNSPECIFIED,
	}[rng.IntN(4)]
	if rng.IntN(3) == 0 {
		svc.AddressCount = uint32(1 + rng.IntN(3))
	}
	switch rng.IntN(5) {
	case 0:
		svc.Addresses = []string{Address(rng).String()}
		if more := Address(rng).String(); svc.AddressCount > 1 && more != svc.Addresses[0] && svc.IpFamilyPolicy != logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK {
			svc.Addresses = append(svc.Addresses, more)
		}
	case 1, 2:
		svc.IpFamilies = []logv1.IPFamily{logv1.IPFamily_IP_FAMILY_IPV6, logv1.IPFamily_IP_FAMILY_IPV4}
		if svc.IpFamilyPolicy == logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK || rng.IntN(3) == 0 {
			at := rng.IntN(2)
			svc.IpFamilies = svc.IpFamilies[at : at+1]
		}
	case 3:
		svc.HealthCheck = &logv1.HealthCheck{Tcp: &logv1.TcpCheck{Port: 80}, IntervalNanos: int64(time.Second), TimeoutNanos: int64(time.Second), Rise: 1, Fall: 1}
	}
	return svc
}

// Twin is the i-th service, asking for the same as another but for certain addresses.
func Twin(svc *logv1.Service, i int) *logv1.Service {
	twin := proto.CloneOf(svc)
	twin.Name, twin.Addresses, twin.SharingKey = fmt.Sprintf("s%d", i), nil, ""
	return twin
}

// ports are one or two of so few that services which may share an address often cannot.
func ports(rng *rand.Rand) (list []*logv1.Port) {
	number := 80 + rng.IntN(3)
	for range 1 + rng.IntN(4)/3 {
		list = append(list, &logv1.Port{Port: uint32(number), Protocol: []logv1.Protocol{
			logv1.Protocol_PROTOCOL_UNSPECIFIED, logv1.Protocol_PROTOCOL_TCP, logv1.Protocol_PROTOCOL_UDP,
		}[rng.IntN(3)]})
		number = 80 + (number-79)%3
	}
	return list
}

// Address is one that a pool may have.
func Address(rng *rand.Rand) netip.Addr {
	if rng.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{10, 0, byte(rng.IntN(2)), byte(rng.IntN(4))})
	}
	a := netip.MustParseAddr([]string{"2001:db8::", "2001:db8:1::", "2001:db8:2::"}[rng.IntN(3)]).As16()
	a[15] = byte(rng.IntN(4))
	return netip.AddrFrom16(a)
}

// ReservationName is that of one that there may be.
func ReservationName(rng *rand.Rand) string { return fmt.Sprintf("r%d", rng.IntN(3)) }

// Reservation promises a few addresses to a service, or holds them back; for ever, or
// until some time of the schedule.
func Reservation(rng *rand.Rand, began time.Time) *logv1.Reservation {
	first := Address(rng)
	last := first.AsSlice()
	last[len(last)-1] += byte(rng.IntN(3))
	to, _ := netip.AddrFromSlice(last)
	r := &logv1.Reservation{Name: ReservationName(rng), Addresses: []string{fmt.Sprintf("%v-%v", first, to)}}
	if rng.IntN(3) > 0 {
		svc := Service(rng, rng.IntN(8))
		r.ServiceNamespace, r.ServiceName = svc.GetNamespace(), svc.GetName()
	}
	if rng.IntN(2) == 0 {
		r.UntilUnixNano = began.Add(time.Duration(2+rng.IntN(20)) * time.Second).UnixNano()
	}
	return r
}
