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
	"github.com/quorumlb/quorumlb/test/rules"
)

// What an operator does to pools and to who may have of them, and what speakers say of
// addresses besides: the rules of allocation, all at once and in any order.

// poolOrders is how many kinds of them there are, by weight.
const poolOrders = 14

// poolOrder is one of them, drawn when the schedule is made.
func (o *operator) poolOrder(rng *rand.Rand) (name string, do func(ctx context.Context)) {
	at, node, addr := rng.IntN(maxMembers), nodeName(rng.IntN(o.w.nodes)), rules.Address(rng)
	send := func(name string, cmd decider.Command) (string, func(context.Context)) {
		return name, func(ctx context.Context) { _, _ = o.submit(ctx, at, cmd) }
	}
	apply := func(name string, force bool, resources ...*adminv1.Resource) (string, func(context.Context)) {
		return send(name, &decider.Apply{Actor: "admin:sim", Force: force, DryRun: rng.IntN(5) == 0, Resources: resources})
	}
	switch rng.IntN(poolOrders) {
	case 0, 1:
		p := rules.Pool(rng, rules.PoolNames[rng.IntN(len(rules.PoolNames))])
		return apply("pool "+p.GetName(), rng.IntN(3) == 0, poolResource(p), ad("more", "more", holdLoss, sticky))
	case 2:
		from, to := rules.Exchange(rng)
		return apply(fmt.Sprintf("%s gives %s half of what it has", from.GetName(), to.GetName()), rng.IntN(3) == 0, poolResource(to), poolResource(from))
	case 3, 4:
		return apply("reserve", false, reserve(rng, o.w.began), reserve(rng, o.w.began))
	case 5:
		return send("unreserve", &decider.Delete{Actor: "admin:sim", Names: []*adminv1.ResourceName{{Kind: decider.KindReservation, Name: rules.ReservationName(rng)}}})
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
		svc := rules.Service(rng, rng.IntN(services))
		return "declare " + svc.GetName(), func(ctx context.Context) { _ = o.declare(ctx, rng, svc) }
	}
}

func poolResource(p *logv1.Pool) *adminv1.Resource {
	return &adminv1.Resource{Kind: &adminv1.Resource_Pool{Pool: p}}
}

func reserve(rng *rand.Rand, began time.Time) *adminv1.Resource {
	return &adminv1.Resource{Kind: &adminv1.Resource_Reservation{Reservation: rules.Reservation(rng, began)}}
}

func randomAd(rng *rand.Rand) *adminv1.Resource {
	name := rules.PoolNames[rng.IntN(len(rules.PoolNames))]
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
