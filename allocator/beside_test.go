package allocator_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// several declares a service with n addresses, and gives them their owners.
func (f *fleet) several(name string, n int, families ...bool) (all []netip.Addr) {
	key := fsm.KeyOf("default", name)
	spec := fsmtest.Service(name, 80)
	spec.AddressCount = uint32(n)
	f.Apply(fsmtest.Declared(spec))
	for _, v4 := range append(families, true) {
		for range n {
			a := f.S.NextFresh("p", v4)
			f.Apply(fsmtest.AllocatedFor(key, a, "p", fresh))
			f.give(a, logv1.OwnerReason_OWNER_REASON_NEW_ADDRESS)
			all = append(all, a)
		}
	}
	return all
}

// crowded counts the pairs of addresses of one service and family that have one owner.
func (f *fleet) crowded() (n int) {
	for _, svc := range f.S.Services {
		for i, a := range svc.Addresses {
			for _, b := range svc.Addresses[:i] {
				if a.Is4() == b.Is4() && f.S.Addresses[a].Owner != "" && f.S.Addresses[a].Owner == f.S.Addresses[b].Owner {
					n++
				}
			}
		}
	}
	return n
}

// Addresses of one service go to distinct nodes, also to one that owns more than others or
// is not preferred; where there are too few nodes they share them, and all are owned.
func TestSeveralAddressesHaveDistinctOwners(t *testing.T) {
	for name, ad := range map[string]*logv1.L2Advertisement{
		"sticky": {Name: "a"},
		"ideal":  {Name: "a", Placement: logv1.Placement_PLACEMENT_IDEAL},
		"preferred": {Name: "a", PreferredNodeSelectors: []*logv1.PreferredNodeSelector{
			{Weight: 9, Preference: selector("zone", "z1")[0]}}},
	} {
		f := newFleet(t, 4, 0, ad)
		f.Apply(fsmtest.PoolDefined("p", "10.0.0.0/16", "2001:db8::/64"))
		f.several("first", 4)
		f.open(5) // owns nothing
		for i := range 8 {
			f.several(fmt.Sprint("s", i), 5)
		}
		f.several("both", 5, false)
		if n := f.crowded(); n != 0 {
			t.Errorf("%s: %d pairs of addresses of a service share an owner", name, n)
		}
		f.several("many", 12)
		per := map[string]int{}
		for _, a := range f.S.Services[fsm.KeyOf("default", "many")].Addresses {
			per[f.S.Addresses[a].Owner]++
		}
		for i := range 5 {
			if n := per[fmt.Sprint("n", i+1)]; n < 2 || n > 3 {
				t.Errorf("%s: 12 addresses on 5 nodes: %v", name, per)
			}
		}
	}
}

// An IPv4 and an IPv6 address of a service may have one owner.
func TestFamiliesMayShareAnOwner(t *testing.T) {
	f := newFleet(t, 2, 0, &logv1.L2Advertisement{Name: "a"})
	f.Apply(fsmtest.PoolDefined("p", "10.0.0.0/16", "2001:db8::/64"))
	spec := fsmtest.Service("x", 80)
	spec.PreferredNode = "n2"
	key := fsm.KeyOf("default", "x")
	f.Apply(fsmtest.Declared(spec))
	for _, v4 := range []bool{true, false} {
		a := f.S.NextFresh("p", v4)
		f.Apply(fsmtest.AllocatedFor(key, a, "p", fresh))
		if node, _ := allocator.ChooseOwner(f.S, a, allocator.Options{}); node != "n2" {
			t.Errorf("%s goes to %s", a, node)
		}
		f.give(a, logv1.OwnerReason_OWNER_REASON_NEW_ADDRESS)
	}
}

// Addresses that had to share a node do not leave it the moment another returns. A
// rebalance parts them, and ends.
func TestRebalancePartsAddressesOfAService(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 1))
		f := newFleet(t, 2, random.IntN(9), &logv1.L2Advertisement{Name: "a"})
		for i := range 6 {
			f.several(fmt.Sprint("m", i), 2+random.IntN(4))
		}
		for n := range 3 {
			f.open(3 + n)
		}
		for _, rec := range f.S.Addresses {
			if why, move := allocator.ShouldMove(f.S, rec.Addr); move {
				t.Fatalf("seed %d: %s moves: %v", seed, rec.Addr, why)
			}
		}
		if f.crowded() == 0 {
			t.Fatalf("seed %d: nothing shares a node", seed)
		}
		// The plan is what is done one after the other.
		plan := allocator.NewChooser(f.S).NewBalance(allocator.Options{}, true)
		for moves := 0; ; moves++ {
			want, more := plan.Next()
			m, ok := allocator.NewChooser(f.S).NewBalance(allocator.Options{}, true).Next()
			if ok != more {
				t.Fatalf("seed %d: after %d moves: %v %v, %v %v", seed, moves, want, more, m, ok)
			}
			if !ok {
				break
			}
			if moves > 100 {
				t.Fatalf("seed %d: it does not end", seed)
			}
			f.Apply(fsmtest.OwnerReleased(want.Addr, want.From, f.S.Addresses[want.Addr].Epoch))
			f.assign(want.Addr, want.To, logv1.OwnerReason_OWNER_REASON_REBALANCE)
		}
		if n := f.crowded(); n != 0 {
			t.Errorf("seed %d: %d pairs still share a node", seed, n)
		}
	}
}

// damp forces an address away from its owner and back.
func (f *fleet) damp(a netip.Addr) {
	owner := f.S.Addresses[a].Owner
	for _, node := range []string{"n2", "n1", owner} {
		if f.S.Addresses[a].Owner != node {
			f.Apply(fsmtest.OwnerReleased(a, f.S.Addresses[a].Owner, f.S.Addresses[a].Epoch))
			f.assign(a, node, logv1.OwnerReason_OWNER_REASON_LINK_DOWN)
		}
	}
}

// Part moves those that share a node with another of their service, and only to where none
// is: not for balance, and nothing that flapping or a soft move holds back.
func TestPart(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 2))
		f := newFleet(t, 2, 20, &logv1.L2Advertisement{Name: "a"})
		var all []netip.Addr
		for i := range 6 {
			all = append(all, f.several(fmt.Sprint("m", i), 2+random.IntN(4))...)
		}
		for n := range 3 {
			f.open(3 + n)
		}
		held := all[random.IntN(len(all))]
		f.damp(held)
		clear(f.moves)
		plan := allocator.NewChooser(f.S).NewBalance(allocator.Options{}, false)
		for m, ok := plan.Part(all); ok; m, ok = plan.Part(all) {
			rec := f.S.Addresses[m.Addr]
			if len(f.S.Services[rec.Services[0]].Addresses) == 1 || !allocator.NewChooser(f.S).Crowded(m.Addr, rec.Owner) || m.Addr == held {
				t.Fatalf("seed %d: %v moves", seed, m)
			}
			f.Apply(fsmtest.OwnerReleased(m.Addr, m.From, rec.Epoch))
			f.assign(m.Addr, m.To, logv1.OwnerReason_OWNER_REASON_REBALANCE)
		}
		if n := f.crowded(); n != 0 {
			t.Errorf("seed %d: %d pairs still share a node", seed, n)
		}
		if len(f.moves) > len(all) {
			t.Errorf("seed %d: %d addresses moved", seed, len(f.moves))
		}
	}
	f := newFleet(t, 1, 0, &logv1.L2Advertisement{Name: "a"})
	all := f.several("m", 2)
	f.open(2)
	f.damp(all[0])
	f.damp(all[1])
	plan := allocator.NewChooser(f.S).NewBalance(allocator.Options{}, false)
	if m, ok := plan.Part(all); ok || plan.Damped != min(allocator.DampedUntil(f.S.Addresses[all[0]]), allocator.DampedUntil(f.S.Addresses[all[1]])) {
		t.Errorf("%v %t, to be looked at again at %d", m, ok, plan.Damped)
	}
}

// With Ideal placement it does not depend on the past where the addresses of a service are, and when
// all are there none wants to move.
func TestIdealPlacementOfSeveralAddresses(t *testing.T) {
	f := newFleet(t, 5, 0, &logv1.L2Advertisement{Name: "a", Placement: logv1.Placement_PLACEMENT_IDEAL})
	for i := range 20 {
		f.several(fmt.Sprint("m", i), 3)
	}
	settle := func() {
		t.Helper()
		for range 3 {
			for _, rec := range f.S.Addresses {
				if why, move := allocator.ShouldMove(f.S, rec.Addr); move {
					f.Apply(fsmtest.OwnerReleased(rec.Addr, rec.Owner, rec.Epoch))
					f.give(rec.Addr, why)
				}
			}
		}
		for _, rec := range f.S.Addresses {
			if _, move := allocator.ShouldMove(f.S, rec.Addr); move {
				t.Fatalf("%s wants to move again", rec.Addr)
			}
		}
		if n := f.crowded(); n != 0 {
			t.Errorf("%d pairs share a node", n)
		}
	}
	settle()
	before := map[netip.Addr]string{}
	for a, rec := range f.S.Addresses {
		before[a] = rec.Owner
	}
	f.Apply(fsmtest.Drained("n2", logv1.DrainReason_DRAIN_REASON_ADMIN))
	settle()
	f.Apply(fsmtest.Undrained("n2"))
	settle()
	for a, rec := range f.S.Addresses {
		if before[a] != rec.Owner {
			t.Errorf("%s was on %s, and is on %s", a, before[a], rec.Owner)
		}
	}
}
