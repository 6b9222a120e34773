package allocator

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// choose finds what is missing.
func (c *chooser) choose() *Refusal {
	if c.bad != "" {
		return &Refusal{Requested: c.bad, Why: NotAnAddress}
	}
	if r := c.chooseRequested(); r != nil {
		return r
	}
	if r := c.chooseFirst(); r != nil {
		return r
	}
	return c.chooseMore()
}

// chooseFirst finds one address of each family of which there is none.
func (c *chooser) chooseFirst() *Refusal {
	switch none, both := len(c.plan.Choices) == 0, len(c.has[ipv4]) > 0 && len(c.has[ipv6]) > 0; {
	case both, !none && !c.second:
		return nil
	case !none:
		return c.chooseSecond()
	case c.second:
		return c.chooseBoth()
	default:
		return c.chooseOne()
	}
}

// chooseRequested takes the addresses that the service asks for: all of them or none.
func (c *chooser) chooseRequested() *Refusal {
	before := len(c.plan.Choices)
	for _, a := range slices.Concat(c.requested[ipv4], c.requested[ipv6]) {
		if c.chosen(a) {
			continue
		}
		choice, r := c.request(a)
		if r != nil {
			c.drop(before)
			return r
		}
		c.take(choice) // it counts for the quota
	}
	return nil
}

// drop takes back all choices but the first n.
func (c *chooser) drop(n int) {
	for _, choice := range c.plan.Choices[n:] {
		f := familyOf(choice.Addr)
		c.has[f] = c.has[f][:len(c.has[f])-1]
	}
	c.plan.Choices = c.plan.Choices[:n]
}

func (c *chooser) request(a netip.Addr) (Choice, *Refusal) {
	no := &Refusal{Requested: a.String(), Family: familyOf(a).String()}
	pool := c.s.PoolOf(a)
	rec := c.s.Addresses[a]
	switch {
	case !c.second && familyOf(a) != c.first:
		no.Why = FamilyNotWanted
	case pool == "" || c.s.Leaving(a):
		no.Why = InNoPool
	case c.spec.GetPool() != "" && pool != c.spec.GetPool():
		no.Why = InOtherPool
	case !c.selects(pool):
		no.Why = NotSelected
	case fsm.Buggy(a) && c.s.Pools[pool].Spec.GetAvoidBuggyIps():
		no.Why = BuggyAddress
	case c.reservedAgainst(a):
		no.Why = Reserved
	case c.quarantined(a):
		no.Why = Quarantined
	case c.overQuota(pool, rec):
		no.Why, no.pool = Quota, pool
	case rec != nil:
		no.Why, no.Service = c.shareable(rec)
	}
	if no.Why != WhyInvalid {
		return Choice{}, no
	}
	return Choice{Addr: a, Pool: pool, Reason: logv1.AllocationReason_ALLOCATION_REASON_REQUESTED}, nil
}

// chooseOne finds an address of the first family, or of the other where that is
// as good: it is promised, or no pool has the first.
func (c *chooser) chooseOne() *Refusal {
	f := c.first
	if !c.either {
		return c.one(f)
	}
	_, first := c.reserved(f, "")
	_, other := c.reserved(f.other(), "")
	if !first && (other || !c.anyPoolHas(f) && c.anyPoolHas(f.other())) {
		f = f.other()
	}
	return c.one(f)
}

func (c *chooser) one(f family) *Refusal {
	if choice, ok := c.again(f, ""); ok {
		c.take(choice)
		return nil
	}
	no := &Refusal{Family: f.String()}
	for _, class := range c.classes(c.pools(no)) {
		if c.oneOf(class, f, no) {
			return nil
		}
	}
	return no
}

// oneOf takes an address of the first of the pools that has as many as are wanted, or
// else of the first that has most; no says why each has none.
func (c *chooser) oneOf(pools []string, f family, no *Refusal) bool {
	return c.most(pools, no, func(pool string) bool {
		choice, lack := c.fromPool(pool, f)
		if lack.Why != WhyInvalid {
			no.Pools = append(no.Pools, lack)
			return false
		}
		c.take(choice)
		return true
	})
}

// chosen tells whether an address is among the choices made so far.
func (c *chooser) chosen(a netip.Addr) bool { return slices.Contains(c.has[familyOf(a)], a) }

// chooseSecond adds the second family from the pool that the first came from.
// Who only prefers two is content with one.
func (c *chooser) chooseSecond() *Refusal {
	have := c.plan.Choices[0]
	f := familyOf(have.Addr).other()
	from := len(c.vain) // it has one: others than that pool are nothing to it
	choice, ok := c.again(f, have.Pool)
	if !ok {
		var lack PoolRefusal
		if choice, lack = c.fromPool(have.Pool, f); lack.Why != WhyInvalid {
			no := &Refusal{Family: f.String(), Pools: []PoolRefusal{lack}}
			if !c.required {
				no.beside = c.vain[from:]
				c.plan.Wish = no
				return nil
			}
			return no
		}
	}
	c.take(choice)
	return nil
}

// chooseBoth finds a pool that gives both families; who only prefers two takes
// one where there is none.
func (c *chooser) chooseBoth() *Refusal {
	no := &Refusal{Family: "IPv4 or IPv6"}
	needsBoth := c.needsBoth()
	if needsBoth {
		no.Family = "IPv4 and IPv6"
	}
	for _, f := range []family{c.first, c.first.other()} {
		if c.pairAny(c.promises(f, "")) {
			return nil
		}
		if choice, ok := c.reserved(f, ""); ok && !needsBoth {
			c.take(choice) // rather than two that are not promised
			return c.chooseSecond()
		}
	}
	if c.pairAny(c.own(c.first, "")) {
		return nil
	}
	for _, class := range c.classes(c.pools(no)) {
		if c.most(class, no, func(pool string) bool {
			choice, lack := c.fromPool(pool, c.first)
			if lack.Why == WhyInvalid && c.pairIn(choice) {
				return true
			}
			if lack.Why == WhyInvalid {
				if _, lack = c.fromPool(pool, c.first.other()); lack.Why == WhyInvalid {
					lack.Why = Quota // of each one, but not of both
				}
			}
			no.Pools = append(no.Pools, lack)
			if !needsBoth && lack.family == c.first {
				// Either would do.
				_, other := c.fromPool(pool, c.first.other())
				no.Pools = append(no.Pools, other)
			}
			return false
		}) {
			return nil
		}
		if !needsBoth && (c.single(class, c.first) || c.single(class, c.first.other())) {
			return c.chooseSecond() // in vain, but it says why
		}
	}
	return no
}

// needsBoth tells whether one address will not do: both are required, or there is to be
// another in place of each of two.
func (c *chooser) needsBoth() bool {
	return c.required || c.leaves.IsValid() && slices.ContainsFunc(c.s.Services[c.key].Addresses, func(a netip.Addr) bool { return a.Is4() != c.leaves.Is4() })
}

// single takes one address of the family from one of the pools.
func (c *chooser) single(pools []string, f family) bool {
	for choice := range c.own(f, "") {
		if slices.Contains(pools, choice.Pool) {
			c.take(choice)
			return true
		}
	}
	return c.oneOf(pools, f, new(Refusal))
}

// classes parts the pools into those for certain services and those for all.
func (c *chooser) classes(pools []string) [2][]string {
	at := slices.IndexFunc(pools, func(pool string) bool {
		def := c.s.Pools[pool]
		return def == nil || def.Spec.GetServiceAllocation() == nil
	})
	if at < 0 {
		at = len(pools)
	}
	return [2][]string{pools[:at], pools[at:]}
}

// pairAny takes the first of the choices of which there is one of the other family in
// the same pool, and that one.
func (c *chooser) pairAny(choices iter.Seq[Choice]) bool {
	for choice := range choices {
		if c.pairIn(choice) {
			return true
		}
	}
	return false
}

// pairIn takes the choice and one of the other family from its pool, or nothing.
func (c *chooser) pairIn(choice Choice) bool {
	c.take(choice) // it counts for the quota
	f := familyOf(choice.Addr).other()
	other, ok := c.again(f, choice.Pool)
	if !ok {
		var lack PoolRefusal
		if other, lack = c.fromPool(choice.Pool, f); lack.Why != WhyInvalid {
			c.drop(len(c.plan.Choices) - 1)
			return false
		}
	}
	c.take(other)
	return true
}

// pools lists the pools to try; when there are none, no says why.
func (c *chooser) pools(no *Refusal) []string {
	if name := c.spec.GetPool(); name != "" {
		return []string{name}
	}
	if len(c.s.PoolNames()) == 0 {
		no.Why = NoPools
	}
	return c.s.TryOrder()
}

// admits tells whether the service may take from a pool; WhyInvalid when it may.
func (c *chooser) admits(pool string) Why {
	def := c.s.Pools[pool]
	switch {
	case def == nil:
		return NoSuchPool
	case c.spec.GetPool() != "" && c.spec.GetPool() != pool:
		return InOtherPool
	case !c.selects(pool):
		return NotSelected
	case def.Spec.GetManualOnly() && c.spec.GetPool() != pool:
		return ManualOnly // the last: a promise overrules it
	}
	return WhyInvalid
}

// selects tells whether the pool is for the service.
func (c *chooser) selects(pool string) bool { return c.s.PoolSelects(c.s.Pools[pool].Spec, c.spec) }

func (c *chooser) anyPoolHas(f family) bool {
	for _, pool := range c.pools(new(Refusal)) {
		if c.admits(pool) == WhyInvalid && c.s.PoolHas(pool, f == ipv4) {
			return true
		}
	}
	return false
}

// fromPool finds an address that nobody has and that is kept for nobody, or tells what
// is lacking.
func (c *chooser) fromPool(pool string, f family) (Choice, PoolRefusal) {
	choice, why := c.firstOf(pool, f)
	lack := PoolRefusal{Pool: pool, Why: why, family: f}
	if why == Resting {
		lack.until = c.s.NextKeptOf(pool, f == ipv4, c.has[f]...).KeptUntil
	}
	if why.frees() {
		c.vain = append(c.vain, lack)
	}
	return choice, lack
}

func (c *chooser) firstOf(pool string, f family) (Choice, Why) {
	if why := c.admits(pool); why != WhyInvalid {
		return Choice{}, why
	}
	v4 := f == ipv4
	if !c.s.PoolHas(pool, v4) {
		return Choice{}, NoFamily
	}
	if c.overQuota(pool, nil) {
		return Choice{}, Quota
	}
	for a := range c.s.Fresh(pool, v4) {
		if !c.chosen(a) {
			return Choice{Addr: a, Pool: pool, Reason: logv1.AllocationReason_ALLOCATION_REASON_FRESH}, WhyInvalid
		}
	}
	if free := c.s.LeastRecent(pool, v4, c.now, c.has[f]...); free != nil {
		return Choice{Addr: free.Addr, Pool: pool, Reason: logv1.AllocationReason_ALLOCATION_REASON_REUSED}, WhyInvalid
	}
	use := c.s.PoolUse(pool)
	used, size, quarantined := use.Used4, use.Size4, use.Quarantined4
	if !v4 {
		used, size, quarantined = use.Used6, use.Size6, use.Quarantined6
	}
	for _, a := range c.has[f] { // those chosen now count as used
		if c.s.Addresses[a] == nil && c.s.PoolOf(a) == pool {
			used++
		}
	}
	kept := c.s.NextKeptOf(pool, v4, c.has[f]...)
	switch {
	case used >= size:
		return Choice{}, Full
	case used+quarantined >= size:
		return Choice{}, Foreign
	case kept == nil:
		return Choice{}, Reserved
	case kept.Rests():
		return Choice{}, Resting
	}
	return Choice{}, Kept
}

// again finds an address of the family that is the service's own; in one pool, or any
// that admits the service.
func (c *chooser) again(f family, pool string) (Choice, bool) { return first(c.own(f, pool)) }

// own iterates over the addresses of the family that are promised to the service, kept
// for it or its sharing key, or of its sharing key so that it can join; in one pool, or any
// that admits the service.
func (c *chooser) own(f family, pool string) iter.Seq[Choice] {
	return func(yield func(Choice) bool) {
		for choice := range c.promises(f, pool) {
			if !yield(choice) {
				return
			}
		}
		// Not the pool in its record, which is settled at the end of a batch.
		found := func(a netip.Addr, why logv1.AllocationReason) bool {
			return yield(Choice{Addr: a, Pool: c.s.PoolOf(a), Reason: why})
		}
		retained := func(list iter.Seq[*fsm.Free]) bool {
			for free := range list {
				if free.KeptUntil > c.now && c.usable(free.Addr, f, pool, nil) &&
					!found(free.Addr, logv1.AllocationReason_ALLOCATION_REASON_RETAINED) {
					return false
				}
			}
			return true
		}
		key := c.spec.GetSharingKey()
		if !retained(c.s.KeptFor(c.key)) || key == "" {
			return
		}
		for rec := range c.s.WithSharingKey(key) {
			if why, _ := c.shareable(rec); why == WhyInvalid && c.usable(rec.Addr, f, pool, rec) &&
				!found(rec.Addr, logv1.AllocationReason_ALLOCATION_REASON_SHARED) {
				return
			}
		}
		retained(c.s.KeptForSharing(key))
	}
}

func first[T any](seq iter.Seq[T]) (one T, ok bool) {
	for one = range seq {
		return one, true
	}
	return one, false
}

// usable tells whether the pool of an address gives it to the service; rec is its
// record when it is in use.
func (c *chooser) usable(a netip.Addr, f family, pool string, rec *fsm.Address) bool {
	has := c.s.PoolOf(a)
	if familyOf(a) != f || c.chosen(a) || has == "" || c.s.Leaving(a) || pool != "" && has != pool || c.admits(has) != WhyInvalid ||
		c.reservedAgainst(a) || fsm.Buggy(a) && c.s.Pools[has].Spec.GetAvoidBuggyIps() {
		return false
	}
	return c.withinQuota(has, rec, f)
}
