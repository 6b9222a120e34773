package allocator

import (
	"fmt"
	"slices"
)

// Several addresses of one family (addressCount).

// most has take take the first addresses from the first of the pools where it can and
// there are as many more as are wanted, or else from the first of those that have most. It
// calls take once for each pool, and once more for the one. No says why none has enough
// in place of those that leave.
func (c *chooser) most(pools []string, no *Refusal, take func(pool string) bool) bool {
	before, best, n := len(c.plan.Choices), "", 0
	for _, pool := range pools {
		if !take(pool) {
			continue
		}
		if c.count == 1 {
			return true // no pool has more
		}
		if c.chooseMore() == nil && c.plan.Wish == nil {
			return true
		}
		if has := len(c.plan.Choices) - before; has > n {
			best, n = pool, has
		}
		c.plan.Wish = nil
		c.drop(before)
	}
	if best == "" {
		return false
	}
	take(best)
	if !c.leaves.IsValid() {
		return true
	}
	// Those that it has are not given up for fewer, so another pool may do.
	r := c.chooseMore()
	if !c.loses() {
		return true
	}
	if r == nil {
		r = c.plan.Wish
	}
	if r != nil {
		no.Pools = append(no.Pools, r.Pools...)
		if no.Part == "" {
			no.Part = r.Part
		}
	}
	c.plan.Wish = nil
	c.drop(before)
	return false
}

// chooseMore adds to each family of which there is one until there are as many as the
// service asks for, from the pool of the first.
func (c *chooser) chooseMore() *Refusal {
	if c.count == 1 {
		return nil
	}
	if !c.leaves.IsValid() {
		c.vain = nil // it has one: others than that pool are nothing to it
	}
	var lacks []PoolRefusal
	for _, f := range []family{c.first, c.first.other()} {
		if len(c.has[f]) == 0 {
			continue
		}
		pool := c.poolOf(f)
		for len(c.has[f]) < c.count {
			choice, ok := c.again(f, pool)
			if !ok {
				var lack PoolRefusal
				if choice, lack = c.fromPool(pool, f); lack.Why != WhyInvalid {
					lacks = append(lacks, lack)
					break
				}
			}
			c.take(choice)
		}
	}
	// Who only prefers two families is content with all of one, whichever that is: a pool
	// that has more of the other must not be worse than one that has none.
	prefers := c.second && !c.required
	content := prefers && (len(c.has[ipv4]) >= c.count || len(c.has[ipv6]) >= c.count)
	var no, wish Refusal
	for _, lack := range lacks {
		if f := lack.family; content || prefers && f != c.first && len(c.has[f.other()]) > 0 {
			wish.add(c, f, lack)
		} else {
			no.add(c, f, lack)
		}
	}
	if c.plan.Wish != nil {
		wish.Pools = append(wish.Pools, c.plan.Wish.Pools...)
		c.vain = append(c.vain, c.plan.Wish.beside...)
	}
	switch {
	case no.Part != "":
		no.Pools = append(no.Pools, wish.Pools...)
		return &no
	case wish.Part != "":
		wish.beside = c.vain
		c.plan.Wish = &wish
	}
	return nil
}

// add says that a pool has too few of a family.
func (r *Refusal) add(c *chooser, f family, why PoolRefusal) {
	if r.Part == "" {
		r.Family = f.String()
	} else {
		r.Family = "IPv4 and IPv6"
		r.Part += " and "
	}
	r.Part += fmt.Sprintf("%d of %d %s addresses", len(c.has[f]), c.count, f)
	r.Pools = append(r.Pools, why)
}

// poolOf is the pool that further addresses of a family come from.
func (c *chooser) poolOf(f family) string {
	at := slices.IndexFunc(c.plan.Choices, func(choice Choice) bool { return familyOf(choice.Addr) == f })
	return c.plan.Choices[at].Pool
}
