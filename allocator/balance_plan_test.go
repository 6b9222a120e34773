package allocator

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// A plan is what one gets by asking about every address again for every move.
func TestAPlanIsThatOfAskingEachTime(t *testing.T) {
	moves := 0
	for seed := range uint64(600) {
		random := rand.New(rand.NewPCG(seed, 5))
		s, silent := randomOwners(t, random)
		opt := Options{Now: s.Time + int64(random.IntN(40))*int64(time.Second)}
		if random.IntN(2) == 0 {
			opt.Preferred = func(node string) bool { return node != silent }
		}
		for _, all := range []bool{true, false} {
			plan, slow := NewChooser(s).NewBalance(opt, all), newSlowBalance(NewChooser(s), opt, all)
			for i := 0; ; i++ {
				got, more := plan.Next()
				want, ok := slow.next()
				if got != want || more != ok || plan.Damped != slow.damped && !more {
					t.Fatalf("seed %d, move %d: %v %t (damped %d), want %v %t (damped %d)", seed, i, got, more, plan.Damped, want, ok, slow.damped)
				}
				if !more {
					break
				}
				moves++
			}
		}
	}
	if moves < 1000 {
		t.Errorf("%d moves show little", moves)
	}
}

// randomOwners is a state in which some nodes own much, with all that counts for a choice;
// and a node that was not heard lately.
func randomOwners(t *testing.T, random *rand.Rand) (*fsm.State, string) {
	l := fsmtest.NewLog(t)
	maybe := func() bool { return random.IntN(4) == 0 }
	zone := func() []*logv1.LabelSelector {
		return []*logv1.LabelSelector{{MatchLabels: map[string]string{"zone": fmt.Sprint(random.IntN(3))}}}
	}
	nodes := 2 + random.IntN(6)
	if random.IntN(20) == 0 {
		nodes = 65 + random.IntN(10)
	}
	l.Apply(fsmtest.PoolDefined("p", "10.0.0.0/24"), fsmtest.PoolDefined("q", "192.0.2.0/24"))
	for i := range 1 + random.IntN(3) {
		ad := &logv1.L2Advertisement{Name: fmt.Sprint("ad", i)}
		if maybe() {
			ad.Rebalance, ad.RebalancePerMinute = logv1.Rebalance_REBALANCE_GRADUAL, uint32(1+random.IntN(60))
		}
		if maybe() {
			ad.PreferredNodeSelectors = []*logv1.PreferredNodeSelector{{Weight: uint32(1 + random.IntN(2)), Preference: zone()[0]}}
		}
		if maybe() {
			ad.ServiceSelectors = []*logv1.LabelSelector{{MatchLabels: map[string]string{"tier": "web"}}}
		}
		if maybe() {
			ad.NodeSelectors = zone()
		}
		l.Apply(fsmtest.Ad(ad))
	}
	name := func(i int) string { return fmt.Sprintf("n%02d", i) }
	for i := range nodes {
		l.Apply(fsmtest.Opened(name(i), 1, map[string]string{"zone": fmt.Sprint(random.IntN(3))}))
		if maybe() {
			l.Apply(fsmtest.Links(name(i), "eth1")) // has no subnet
		}
	}
	services, apart := 5+random.IntN(60), 4
	if maybe() { // few, with several addresses, which one node or the other cannot announce
		services, apart = 1+random.IntN(6), 1
	}
	for i := range services {
		svc := fsmtest.Service(fmt.Sprint("s", i), 80)
		if maybe() {
			svc.NodeSelectors = zone()
		}
		if random.IntN(8) == 0 {
			svc.PreferredNode = name(random.IntN(nodes))
		}
		if maybe() {
			svc.Labels = map[string]string{"tier": "web"}
		}
		if random.IntN(apart) == 0 {
			svc.AddressCount = uint32(2 + random.IntN(2))
		}
		key, pool := fsm.KeyOf("default", svc.Name), []string{"p", "q"}[random.IntN(2)]
		check := random.IntN(8) == 0
		if check {
			svc.HealthCheck = &logv1.HealthCheck{Tcp: &logv1.TcpCheck{}, IntervalNanos: 2e9, TimeoutNanos: 1e9, Rise: 2, Fall: 3}
		}
		l.Apply(fsmtest.Declared(svc))
		var a netip.Addr // the last of them
		for range max(1, svc.AddressCount) {
			a = l.S.NextFresh(pool, true)
			l.Apply(fsmtest.AllocatedFor(key, a, pool, logv1.AllocationReason_ALLOCATION_REASON_FRESH), fsmtest.OwnerAssigned(a, name(random.IntN(1+random.IntN(nodes)))))
			if maybe() {
				l.Apply(fsmtest.AnnounceFailed(a, name(random.IntN(nodes)), "no carrier"))
			}
		}
		for j := range min(nodes, 4) {
			if check && maybe() {
				l.Apply(fsmtest.HealthChanged(key, name(j), maybe(), ""))
			}
		}
		for range random.IntN(4) {
			if maybe() {
				again := fsmtest.OwnerAssigned(a, name(random.IntN(1+random.IntN(nodes))))
				again.GetOwnerAssigned().Reason = logv1.OwnerReason_OWNER_REASON_LINK_DOWN
				l.Apply(fsmtest.OwnerReleased(a, l.S.Addresses[a].Owner, l.S.Addresses[a].Epoch), again)
			}
		}
	}
	if maybe() {
		l.Apply(fsmtest.Drained(name(random.IntN(nodes)), logv1.DrainReason_DRAIN_REASON_ADMIN))
	}
	return l.S, name(random.IntN(nodes))
}

// slowBalance says what a plan has to be.
type slowBalance struct {
	*Balance
	lists  [][]*fsm.Address
	damped int64
}

func newSlowBalance(c *Chooser, opt Options, all bool) *slowBalance {
	b := &slowBalance{Balance: c.NewBalance(opt, all)}
	for _, node := range c.nodes {
		var list []*fsm.Address
		for rec := range c.s.OwnedBy(node) {
			p := c.Policy(rec.Addr)
			if p.Placement == logv1.Placement_PLACEMENT_IDEAL || !all && p.RebalancePerMinute == 0 || rec.SoftNode != "" {
				continue
			}
			if until := DampedUntil(rec); until <= b.opt.Now {
				list = append(list, rec)
			} else if b.damped == 0 || until < b.damped {
				b.damped = until
			}
		}
		slices.SortStableFunc(list, func(x, y *fsm.Address) int {
			return cmp.Or(cmp.Compare(x.FlapsAt(b.opt.Now), y.FlapsAt(b.opt.Now)), cmp.Compare(x.OwnerTime, y.OwnerTime))
		})
		b.lists = append(b.lists, list)
	}
	return b
}

func (b *slowBalance) next() (BalanceMove, bool) {
	order := make([]int, len(b.c.nodes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(b.owned[y], b.owned[x]) })
	for _, from := range order {
		for at, rec := range b.lists[from] {
			to := -1
			if b.leaves(rec, from) {
				to = b.target(rec, from)
			}
			if to >= 0 {
				b.lists[from] = slices.Delete(b.lists[from], at, at+1)
				b.owned[from]--
				b.owned[to]++
				b.moved[rec.Addr] = b.c.nodes[to]
				return BalanceMove{rec.Addr, b.c.nodes[from], b.c.nodes[to], b.c.Policy(rec.Addr).RebalancePerMinute}, true
			}
		}
	}
	return BalanceMove{}, false
}

// leaves tells whether it is worth looking for a target.
func (b *slowBalance) leaves(rec *fsm.Address, from int) bool {
	choice := b.c.choice(rec.Addr)
	if choice.reasons[from] != OK || b.opt.Preferred != nil && !b.opt.Preferred(b.c.nodes[from]) {
		return false
	}
	others, _ := b.c.beside(rec)
	return !choice.flat || len(others) > 0 || b.wanted(rec) || slices.ContainsFunc(choice.able, func(i int) bool { return b.owned[i] < b.owned[from]-1 })
}
