package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
)

// What an operator does to pools and to who may have of them, and what speakers say of
// addresses besides: the rules of allocation, all at once and in any order.

// poolOrders is how many kinds of them there are, by weight.
const poolOrders = 14

// poolNames are the pools that there may be; halves are what each has in each family,
// and gives another of now and then.
var (
	poolNames = []string{"hold", "release", "more"}
	halves    = map[string][2][2]string{
		"hold":    {{"10.0.0.0-10.0.0.3", "10.0.0.4-10.0.0.7"}, {"2001:db8::/126", "2001:db8::4-2001:db8::7"}},
		"release": {{"10.0.1.0-10.0.1.3", "10.0.1.4-10.0.1.7"}, {"2001:db8:1::/126", "2001:db8:1::4-2001:db8:1::7"}},
		"more":    {{"10.0.2.254-10.0.2.255", "10.0.3.0-10.0.3.1"}, {"2001:db8:2::/127", "2001:db8:2::2-2001:db8:2::3"}},
	}
)

// poolOrder is one of them, drawn when the schedule is made.
func (o *operator) poolOrder(rng *rand.Rand) (name string, do func(ctx context.Context)) {
	at, node, addr := rng.IntN(maxMembers), nodeName(rng.IntN(o.w.nodes)), anyAddress(rng)
	send := func(name string, cmd decider.Command) (string, func(context.Context)) {
		return name, func(ctx context.Context) { _, _ = o.submit(ctx, at, cmd) }
	}
	apply := func(name string, force bool, resources ...*adminv1.Resource) (string, func(context.Context)) {
		return send(name, &decider.Apply{Actor: "admin:sim", Force: force, DryRun: rng.IntN(5) == 0, Resources: resources})
	}
	switch rng.IntN(poolOrders) {
	case 0, 1:
		p := randomPool(rng, poolNames[rng.IntN(len(poolNames))])
		return apply("pool "+p.GetName(), rng.IntN(3) == 0, poolResource(p), ad("more", "more", holdLoss, sticky))
	case 2:
		from, to := poolNames[rng.IntN(len(poolNames))], poolNames[rng.IntN(len(poolNames))]
		if from == to {
			return apply("pool "+from, false, poolResource(randomPool(rng, from)))
		}
		a, b := randomPool(rng, from), randomPool(rng, to)
		given := halves[from]
		a.Addresses = []string{given[0][0], given[1][0]}
		b.Addresses = []string{halves[to][0][0], halves[to][1][0], given[0][1], given[1][1]}
		return apply(fmt.Sprintf("%s gives %s half of what it has", from, to), rng.IntN(3) == 0, poolResource(b), poolResource(a))
	case 3, 4:
		return apply("reserve", false, reservation(rng, o.w.began), reservation(rng, o.w.began))
	case 5:
		return send("unreserve", &decider.Delete{Actor: "admin:sim", Names: []*adminv1.ResourceName{{Kind: decider.KindReservation, Name: reservationName(rng)}}})
	case 6:
		team := []string{"a", "b"}[rng.IntN(2)]
		return apply("a namespace is of team "+team, false, &adminv1.Resource{Kind: &adminv1.Resource_Namespace{Namespace: &logv1.Namespace{
			Name: []string{"sim", "other"}[rng.IntN(2)], Labels: map[string]string{"team": team},
		}}})
	case 7:
		return "a foreign station", func(ctx context.Context) {
			if rec := o.record(addr); rec != nil {
				_, _ = o.submit(ctx, at, &decider.ConflictObserved{
					Node: rec.Owner, Address: addr, MAC: fsm.MAC{2, 0, 0, 0, 9, 9}, Kind: logv1.ConflictKind_CONFLICT_KIND_FOREIGN,
				})
			}
		}
	case 8:
		return send(fmt.Sprintf("end the quarantine of %v", addr), &decider.EndQuarantine{Address: addr, Actor: "admin:sim"})
	case 9:
		return fmt.Sprintf("%v is unproven", addr), func(ctx context.Context) {
			if rec := o.record(addr); rec != nil {
				_, _ = o.submit(ctx, at, &decider.MoveUnproven{Node: rec.Owner, Address: addr, Epoch: rec.Epoch})
			}
		}
	case 10:
		return fmt.Sprintf("no connection to %v is left", addr), func(ctx context.Context) {
			if rec := o.record(addr); rec != nil && rec.SoftNode != "" {
				_, _ = o.submit(ctx, at, &decider.SoftIdle{Node: rec.SoftNode, Address: addr, Epoch: rec.SoftEpoch})
			}
		}
	case 11:
		healthy := rng.IntN(2) == 0
		return fmt.Sprintf("checks on %s: %v", node, healthy), func(ctx context.Context) { o.checks(ctx, at, node, healthy) }
	case 12:
		return apply("an advertisement", false, randomAd(rng))
	default:
		svc := anyService(rng)
		return "declare " + svc.GetName(), func(ctx context.Context) { _ = o.declare(ctx, rng, svc) }
	}
}

// anyService asks for whatever a service may ask for.
func anyService(rng *rand.Rand) *logv1.Service {
	svc := service(rng.IntN(services))
	if rng.IntN(2) == 0 {
		svc.Namespace = "other"
	}
	if rng.IntN(2) == 0 {
		svc.Pool = ""
	}
	svc.IpFamilyPolicy = []logv1.IPFamilyPolicy{
		logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK, logv1.IPFamilyPolicy_IP_FAMILY_POLICY_PREFER_DUAL_STACK,
		logv1.IPFamilyPolicy_IP_FAMILY_POLICY_REQUIRE_DUAL_STACK,
	}[rng.IntN(3)]
	switch rng.IntN(5) {
	case 0:
		svc.SharingKey = "key"
	case 1:
		svc.Addresses = []string{anyAddress(rng).String()}
	case 2:
		svc.IpFamilies = []logv1.IPFamily{logv1.IPFamily_IP_FAMILY_IPV6, logv1.IPFamily_IP_FAMILY_IPV4}
		if svc.IpFamilyPolicy == logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK {
			at := rng.IntN(2)
			svc.IpFamilies = svc.IpFamilies[at : at+1]
		}
	case 3:
		svc.HealthCheck = &logv1.HealthCheck{Tcp: &logv1.TcpCheck{}, IntervalNanos: int64(time.Second), TimeoutNanos: int64(time.Second), Rise: 1, Fall: 1}
	}
	return svc
}

func anyAddress(rng *rand.Rand) netip.Addr {
	if rng.IntN(2) == 0 {
		return address(rng)
	}
	a := netip.MustParseAddr([]string{"2001:db8::", "2001:db8:1::", "2001:db8:2::"}[rng.IntN(3)]).As16()
	a[15] = byte(rng.IntN(4))
	return netip.AddrFrom16(a)
}

func poolResource(p *logv1.Pool) *adminv1.Resource {
	return &adminv1.Resource{Kind: &adminv1.Resource_Pool{Pool: p}}
}

// randomPool has all of its halves, or some, under whatever rules.
func randomPool(rng *rand.Rand, name string) *logv1.Pool {
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
	switch rng.IntN(6) {
	case 0:
		p.ServiceAllocation = &logv1.ServiceAllocation{Priority: uint32(rng.IntN(3)), Namespaces: []string{"sim"}}
	case 1:
		p.ServiceAllocation = &logv1.ServiceAllocation{NamespaceSelectors: []*logv1.LabelSelector{{MatchLabels: map[string]string{"team": "a"}}}}
	}
	return p
}

func randomAd(rng *rand.Rand) *adminv1.Resource {
	name := poolNames[rng.IntN(len(poolNames))]
	r := ad(name, name, []logv1.ControlLoss{holdLoss, releaseLoss}[rng.IntN(2)], sticky)
	l2 := r.GetL2Advertisement()
	if rng.IntN(2) == 0 {
		l2.Rebalance, l2.RebalancePerMinute = logv1.Rebalance_REBALANCE_GRADUAL, fsm.MaxRebalancePerMinute
	}
	if rng.IntN(2) == 0 {
		l2.PreferredNodeSelectors = []*logv1.PreferredNodeSelector{{Weight: 10, Preference: &logv1.LabelSelector{
			MatchExpressions: []*logv1.LabelRequirement{{Key: "zone", Operator: "DoesNotExist"}},
		}}}
	}
	return r
}

func reservationName(rng *rand.Rand) string { return fmt.Sprintf("r%d", rng.IntN(3)) }

// reservation promises a few addresses to a service, or holds them back; for ever, or
// until some time of the schedule.
func reservation(rng *rand.Rand, began time.Time) *adminv1.Resource {
	first := anyAddress(rng)
	last := first.AsSlice()
	last[len(last)-1] += byte(rng.IntN(3))
	to, _ := netip.AddrFromSlice(last)
	r := &logv1.Reservation{Name: reservationName(rng), Addresses: []string{fmt.Sprintf("%v-%v", first, to)}}
	if rng.IntN(3) > 0 {
		svc := anyService(rng)
		r.ServiceNamespace, r.ServiceName = svc.GetNamespace(), svc.GetName()
	}
	if rng.IntN(2) == 0 {
		r.UntilUnixNano = began.Add(time.Duration(2+rng.IntN(20)) * time.Second).UnixNano()
	}
	return &adminv1.Resource{Kind: &adminv1.Resource_Reservation{Reservation: r}}
}

// leading is the newest leader's brain; nil for none.
func (o *operator) leading() *brain {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	if l := o.w.leader(); l != nil {
		return l.m.brain
	}
	return nil
}

// record is what the newest leader knows of an owned address; nil when it is not owned.
func (o *operator) record(addr netip.Addr) (rec *fsm.Address) {
	b := o.leading()
	if b == nil {
		return nil
	}
	b.Read(func(s *fsm.State) {
		if r := s.Addresses[addr]; r != nil && r.Owner != "" {
			rec = r
		}
	})
	return rec
}

// checks reports what a node's checks of all services have come to.
func (o *operator) checks(ctx context.Context, at int, node string, healthy bool) {
	b := o.leading()
	if b == nil {
		return
	}
	cmd := &decider.HealthObserved{Node: node}
	b.Read(func(s *fsm.State) {
		if n := s.Nodes[node]; n != nil {
			cmd.Session = n.Session
		}
		for key := range s.Services {
			cmd.Results = append(cmd.Results, decider.HealthResult{Service: key, Healthy: healthy, Reason: "sim"})
		}
	})
	_, _ = o.submit(ctx, at, cmd)
}
