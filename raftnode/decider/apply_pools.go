package decider

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// poolSet is all ranges of all pools as they will be, sorted by first address.
type poolSet struct {
	ranges []pooledRange
	// leaving are addresses in use that will be in no pool, or not in the one that a
	// service asks for, with the services that have them.
	leaving []leaving
}

type pooledRange struct {
	fsm.Range
	pool string
}

type leaving struct {
	addr     netip.Addr
	services []fsm.ServiceKey
}

// checkPools refuses pools that overlap, and finds the addresses that they let go.
func (a *applying) checkPools() error {
	declared := map[string]int{}
	for i, res := range a.Resources {
		if p := res.GetPool(); p != nil && a.changed[i] {
			declared[p.GetName()] = i
		}
	}
	if len(declared) == 0 {
		return nil
	}
	if err := a.collectRanges(declared); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		a.collectLeaving(name)
	}
	return nil
}

// collectRanges makes the pool set; an error when ranges overlap.
func (a *applying) collectRanges(declared map[string]int) error {
	var f faults
	var pools []*logv1.Pool
	names := slices.Sorted(maps.Keys(declared))
	for _, name := range names {
		pools = append(pools, a.Resources[declared[name]].GetPool())
	}
	for i, part := range fsm.ValidatePools(a.t.s, pools) {
		f.under(fmt.Sprintf("resources[%d]", declared[names[i]]), part)
	}
	if err := f.err(); err != nil {
		return err
	}
	set := &a.pools
	for name, p := range a.t.s.Pools {
		if _, again := declared[name]; !again {
			for _, r := range p.Ranges {
				set.ranges = append(set.ranges, pooledRange{r, name})
			}
		}
	}
	for _, p := range pools {
		for _, text := range p.GetAddresses() {
			r, err := fsm.ParseRange(text)
			if err != nil {
				return fmt.Errorf("%w: a range that was checked before: %w", ErrInternal, err)
			}
			set.ranges = append(set.ranges, pooledRange{r, p.GetName()})
		}
	}
	slices.SortFunc(set.ranges, func(x, y pooledRange) int { return x.First.Compare(y.First) })
	return nil
}

// poolOf names the pool that will hold addr; "" for none.
func (p *poolSet) poolOf(addr netip.Addr) string {
	i, found := slices.BinarySearchFunc(p.ranges, addr, func(r pooledRange, a netip.Addr) int {
		return r.First.Compare(a)
	})
	if !found {
		i--
	}
	if i >= 0 && p.ranges[i].Contains(addr) {
		return p.ranges[i].pool
	}
	return ""
}

// collectLeaving finds the addresses in use that a pool lets go.
func (a *applying) collectLeaving(name string) {
	for rec := range a.t.s.InPool(name) {
		to := a.pools.poolOf(rec.Addr)
		if to == name {
			continue
		}
		gone := leaving{addr: rec.Addr}
		for _, key := range rec.Services {
			if to == "" || a.t.s.Services[key].Spec.GetPool() == name {
				gone.services = append(gone.services, key)
			}
		}
		if len(gone.services) > 0 {
			a.pools.leaving = append(a.pools.leaving, gone)
		}
	}
}

// leavingShown bounds the services that a refusal names for each pool.
const leavingShown = 10

// shorten joins the first n items and counts the others.
func shorten(items []string, n int) string {
	if len(items) <= n {
		return strings.Join(items, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(items[:n], ", "), len(items)-n)
}

// takeLeaving takes, with force, the leaving addresses from their services, which
// get others when the command has been decided. Without it they stay.
func (a *applying) takeLeaving() {
	if !a.Force {
		return
	}
	for _, gone := range a.pools.leaving {
		for _, key := range gone.services {
			a.t.release(gone.addr, key, 0)
		}
	}
}
