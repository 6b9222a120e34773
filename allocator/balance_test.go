package allocator_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// fleet is a cluster of which the test decides every transition, as the decider
// would, and counts the moves of each address.
type fleet struct {
	*fsmtest.Log
	moves map[netip.Addr]int
}

func newFleet(t testing.TB, nodes, addresses int, ad *logv1.L2Advertisement) *fleet {
	f := &fleet{fsmtest.NewLog(t), map[netip.Addr]int{}}
	f.Apply(fsmtest.PoolDefined("p", "10.0.0.0/16"), fsmtest.Ad(ad))
	for i := range nodes {
		f.open(i + 1)
	}
	for i := range addresses {
		key := fsm.KeyOf("default", fmt.Sprintf("s%d", i))
		a := f.S.NextFresh("p", true)
		f.Apply(fsmtest.Declared(fsmtest.Service(key.Name, 80)), fsmtest.AllocatedFor(key, a, "p", fresh))
		f.give(a, logv1.OwnerReason_OWNER_REASON_NEW_ADDRESS)
	}
	clear(f.moves)
	return f
}

// Apply takes no time: nothing is forgotten.
func (f *fleet) Apply(events ...*logv1.Event) {
	f.Log.Apply(events...)
	f.Now = f.S.Time
}

func (f *fleet) open(n int) {
	name := fmt.Sprintf("n%d", n)
	inc := uint64(1)
	if old := f.S.Nodes[name]; old != nil {
		inc = old.Incarnation + 1
	}
	f.Apply(fsmtest.Opened(name, inc, map[string]string{"name": name, "zone": fmt.Sprint("z", n%2)}))
}

func (f *fleet) give(a netip.Addr, why logv1.OwnerReason) {
	to, ok := allocator.ChooseOwner(f.S, a, allocator.Options{})
	if !ok {
		return
	}
	f.assign(a, to, why)
}

func (f *fleet) assign(a netip.Addr, to string, why logv1.OwnerReason) {
	ev := fsmtest.OwnerAssigned(a, to)
	ev.GetOwnerAssigned().Reason = why
	f.Apply(ev)
	f.moves[a]++
}

// leave moves everything off a node that shuts down.
func (f *fleet) leave(n int) {
	name := fmt.Sprintf("n%d", n)
	f.Apply(fsmtest.Drained(name, logv1.DrainReason_DRAIN_REASON_LEAVE))
	var all []*fsm.Address
	for rec := range f.S.OwnedBy(name) {
		all = append(all, rec)
	}
	for _, rec := range all {
		f.Apply(fsmtest.OwnerReleased(rec.Addr, name, rec.Epoch))
		f.give(rec.Addr, logv1.OwnerReason_OWNER_REASON_LEAVE)
	}
	f.Apply(fsmtest.Closed(name, f.S.Nodes[name].Session))
}

// balance makes all moves of one plan.
func (f *fleet) balance(all bool) (moves int) {
	b := allocator.NewChooser(f.S).NewBalance(allocator.Options{}, all)
	for {
		m, ok := b.Next()
		if !ok {
			return moves
		}
		moves++
		f.Apply(fsmtest.OwnerReleased(m.Addr, m.From, f.S.Addresses[m.Addr].Epoch))
		f.assign(m.Addr, m.To, logv1.OwnerReason_OWNER_REASON_REBALANCE)
	}
}

func (f *fleet) owned() (owned []int) {
	for i := range len(f.S.Nodes) {
		owned = append(owned, f.S.Nodes[fmt.Sprintf("n%d", i+1)].Owned)
	}
	return owned
}

func (f *fleet) spread() int { return slices.Max(f.owned()) - slices.Min(f.owned()) }

func (f *fleet) most() (most int) {
	for _, n := range f.moves {
		most = max(most, n)
	}
	return most
}

// Sticky and balanced together: every node's speaker is restarted, one after the
// other, and then the addresses are spread again.
func TestRollingRestartThenBalance(t *testing.T) {
	for _, c := range []struct{ nodes, addresses int }{{5, 200}, {5, 203}, {5, 204}, {5, 205}, {5, 206}, {5, 7}, {3, 10}, {3, 11}, {4, 99}, {7, 1001}, {2, 7}, {10, 1000}} {
		f := newFleet(t, c.nodes, c.addresses, &logv1.L2Advertisement{Name: "ad"})
		for n := range c.nodes {
			f.leave(n + 1)
			f.open(n + 1)
		}
		before := f.owned()
		moves := f.balance(true)
		t.Logf("%d addresses, %d nodes: %v after the restarts, %v after %d moves, at most %d for one address",
			c.addresses, c.nodes, before, f.owned(), moves, f.most())
		if f.spread() > 1 || f.most() > 2 {
			t.Errorf("spread %d, moves of one address %d", f.spread(), f.most())
		}
		if again := f.balance(true); again != 0 {
			t.Errorf("%d moves more when nothing has changed", again)
		}
	}
}

func TestBalance(t *testing.T) {
	gradual := func(perMinute uint32) func(*logv1.L2Advertisement) {
		return func(a *logv1.L2Advertisement) {
			a.Rebalance, a.RebalancePerMinute = logv1.Rebalance_REBALANCE_GRADUAL, perMinute
		}
	}
	for _, c := range []struct {
		name  string
		ad    func(*logv1.L2Advertisement)
		given func(f *fleet)
		all   bool
		want  []int
	}{
		{"nobody asks for it", func(*logv1.L2Advertisement) {}, nil, false, []int{6, 6, 0}},
		{"an administrator asks", func(*logv1.L2Advertisement) {}, nil, true, []int{4, 4, 4}},
		{"the advertisement asks", gradual(6), nil, false, []int{4, 4, 4}},
		{"another advertisement asks too", func(*logv1.L2Advertisement) {}, func(f *fleet) {
			f.Apply(adWith("more", gradual(60)))
		}, false, []int{4, 4, 4}},
		{"ideal goes by the hash", func(a *logv1.L2Advertisement) { a.Placement = logv1.Placement_PLACEMENT_IDEAL }, nil, true, []int{6, 6, 0}},
		{"not to a node that may not", func(*logv1.L2Advertisement) {}, func(f *fleet) {
			f.Apply(fsmtest.Drained("n3", logv1.DrainReason_DRAIN_REASON_ADMIN))
		}, true, []int{6, 6, 0}},
		{"preference before balance", func(a *logv1.L2Advertisement) {
			a.PreferredNodeSelectors = []*logv1.PreferredNodeSelector{{Weight: 1, Preference: &logv1.LabelSelector{MatchLabels: map[string]string{"name": "n1"}}}}
		}, nil, true, []int{12, 0, 0}},
		{"flapping holds back", func(*logv1.L2Advertisement) {}, func(f *fleet) {
			f.flap(12)
		}, true, []int{0, 12, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ad := &logv1.L2Advertisement{Name: "ad"}
			f := newFleet(t, 2, 12, ad)
			f.open(3)
			// Sticky until now.
			for i, a := 0, netip.MustParseAddr("10.0.0.0"); i < 12; i, a = i+1, a.Next() {
				if f.S.Addresses[a].Owner == "n3" {
					t.Fatal("n3 owns something")
				}
			}
			changed := &logv1.L2Advertisement{Name: "ad"}
			c.ad(changed)
			f.Apply(fsmtest.Ad(changed))
			if c.given != nil {
				c.given(f)
			}
			f.balance(c.all)
			if got := f.owned(); !slices.Equal(got, c.want) {
				t.Errorf("owned %v, want %v", got, c.want)
			}
		})
	}
}

// flap forces the first addresses to move to n1 and n2, where they end, and back again.
func (f *fleet) flap(addresses int) {
	for range 2 {
		for _, node := range []string{"n1", "n2"} {
			for i, a := 0, netip.MustParseAddr("10.0.0.0"); i < addresses; i, a = i+1, a.Next() {
				f.Apply(fsmtest.OwnerReleased(a, f.S.Addresses[a].Owner, f.S.Addresses[a].Epoch))
				f.assign(a, node, logv1.OwnerReason_OWNER_REASON_LINK_DOWN)
			}
		}
	}
}

// A plan ends with what would move but for flapping, and until when that waits.
func TestHeldBack(t *testing.T) {
	f := newFleet(t, 3, 12, &logv1.L2Advertisement{Name: "ad"})
	f.flap(9) // n2 owns them and 1 of the others, n1 and n3 one each
	plan := allocator.NewChooser(f.S).NewBalance(allocator.Options{}, true)
	m, more := plan.Next()
	if !more || m.From != "n2" {
		t.Fatalf("first move %v %t, want what n2 owns and flapping does not hold back", m, more)
	}
	if m, more := plan.Next(); more {
		t.Fatalf("moves on with %v", m)
	}
	left := map[string]int{"n1": 1, "n2": 10, "n3": 1}
	left[m.From]--
	left[m.To]++
	last := netip.Addr{}
	for _, held := range plan.Held() {
		if until := allocator.DampedUntil(f.S.Addresses[held.Addr]); held.Until != until || until <= f.S.Time {
			t.Errorf("%v until %d, want %d, after %d", held.Addr, held.Until, until, f.S.Time)
		}
		if f.S.Addresses[held.Addr].Owner != held.From || !last.Less(held.Addr) {
			t.Errorf("%v after %v", held, last)
		}
		left[held.From]--
		left[held.To]++
		last = held.Addr
	}
	for node, n := range left {
		if n != 4 {
			t.Errorf("%s owns %d after what is held back, want 4", node, n)
		}
	}
}

// The pace is that of the slowest advertisement that says Gradual.
func TestPaceOfAPolicy(t *testing.T) {
	l := cluster(t)
	for name, n := range map[string]uint32{"x": 60, "y": 6, "z": 0} {
		l.Apply(adWith(name, func(a *logv1.L2Advertisement) {
			if n > 0 {
				a.Rebalance, a.RebalancePerMinute = logv1.Rebalance_REBALANCE_GRADUAL, n
			}
		}))
	}
	if got := allocator.PolicyOf(l.S, ip1).RebalancePerMinute; got != 6 {
		t.Errorf("pace %d, want 6", got)
	}
}

// BenchmarkBalanceNext is the search that finds nothing to move, and so asks about
// every address.
func BenchmarkBalanceNext(b *testing.B) {
	f := newFleet(b, 20, 10_000, &logv1.L2Advertisement{Name: "ad"})
	c := allocator.NewChooser(f.S)
	for b.Loop() {
		if m, ok := c.NewBalance(allocator.Options{}, true).Next(); ok {
			b.Fatal(m)
		}
	}
}

// BenchmarkBalancePlan lists all moves where the node that owns most may give none of its
// addresses away.
func BenchmarkBalancePlan(b *testing.B) {
	f := newFleet(b, 10, 0, &logv1.L2Advertisement{Name: "ad"})
	for i := range 10_000 {
		svc, node := fsmtest.Service(fmt.Sprintf("s%d", i), 80), "n2"
		if i < 5_500 {
			node = "n1"
			svc.NodeSelectors = []*logv1.LabelSelector{{MatchLabels: map[string]string{"name": "n1"}}}
		}
		a := f.S.NextFresh("p", true)
		f.Apply(fsmtest.Declared(svc), fsmtest.AllocatedFor(fsm.KeyOf("default", svc.Name), a, "p", fresh))
		f.assign(a, node, logv1.OwnerReason_OWNER_REASON_NEW_ADDRESS)
	}
	c := allocator.NewChooser(f.S)
	for b.Loop() {
		moves, plan := 0, c.NewBalance(allocator.Options{}, true)
		for _, ok := plan.Next(); ok; _, ok = plan.Next() {
			moves++
		}
		b.ReportMetric(float64(moves), "moves")
	}
}
