package allocator

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Choice is an address for a service.
type Choice struct {
	Addr   netip.Addr
	Pool   string
	Reason logv1.AllocationReason
	// Kept: the service has the address already.
	Kept bool
}

// Plan is what a service should have, and what it must give up first. A
// service that has all it asks for, and may keep it, gets a plan that changes
// nothing.
type Plan struct {
	// Choices are all addresses that the service should have, IPv4 first, those of one
	// family in the order in which they were, or are to be, given.
	Choices []Choice
	// Releases are addresses that it has and must not keep.
	Releases []Release
	// Wish says why it lacks an address that it would take but does not need: the
	// second of PreferDualStack. Nil when there is none.
	Wish *Refusal
}

// New gives the choices that the service does not have yet.
func (p Plan) New() []Choice {
	return slices.DeleteFunc(slices.Clone(p.Choices), func(c Choice) bool { return c.Kept })
}

// ChooseAddresses chooses the addresses of a service as spec declares it, at
// the time now (nanoseconds since 1970 UTC, not before s.Time). spec must be
// valid (fsm.ValidateService); the service need not be in the state yet.
//
// The error is a *Refusal when the service gets fewer addresses than it asks
// for; the plan then still says what it should have and give up.
//
//   - An address that the service has is kept for as long as it is legal: in the
//     requested pool, the requested one, of a wanted family, and not in conflict
//     with those who share it. One that its pool no longer has, or that is no
//     longer for the service, is kept as well, but with reallocate: then it is
//     given up as soon as there is another.
//   - A requested address has to be in a pool and free, or shareable. A request
//     outranks the time for which an address is kept for another service.
//     Neither reservations for others, nor a quarantine, nor the quota of the
//     namespace can be requested away.
//   - Otherwise, in this order: an address reserved for this service, the one kept
//     for it (or for its sharing key), an address of its sharing key that it can
//     join, and then of the pools, those only on request left out, the lowest address that was
//     never used, or the one given up longest ago that is kept for nobody.
//   - A pool with a serviceAllocation gives only to the services that it selects,
//     requests included. Such pools are tried first, by priority and name, and
//     then those for everybody, by name.
//   - All addresses come from one pool, the requested and the kept ones excepted.
//     PreferDualStack takes a pool with both families
//     first, then one of the first family, then one of the second; pools for
//     certain services before those for everybody.
//   - With addressCount the service gets so many of each family. Of the pools that would
//     do as well otherwise, one with all of them comes first, then the one with the most; the rest comes
//     later from the same pool. What is too much it gives up: first what its pool no longer
//     has, then what a foreign station has, then what was given last.
func ChooseAddresses(s *fsm.State, spec *logv1.Service, now int64) (Plan, error) {
	c := chooser{s: s, spec: spec, now: now, key: fsm.KeyOf(spec.GetNamespace(), spec.GetName()), replace: true}
	r := c.attempt()
	if c.leaves.IsValid() && (r != nil || c.plan.Wish != nil) && c.loses() {
		// There is no other yet: it keeps what it has, and says so.
		if r == nil {
			r = c.plan.Wish
		}
		stay := chooser{s: s, spec: spec, now: now, key: c.key}
		if why := stay.attempt(); why == nil {
			r.Leaves = c.leaves
		} else {
			// It waits for what it lacks beside the one that leaves, and for another in its place.
			why.Pools = join(why.Pools, r.Pools)
			r = why
		}
		r.beside = slices.Concat(c.vain, stay.vain)
		c = stay
	}
	if r != nil && c.required && !r.Leaves.IsValid() && (len(c.has[ipv4]) == 0 || len(c.has[ipv6]) == 0) {
		// Both or none; what it has already it keeps.
		c.plan.Choices = slices.DeleteFunc(c.plan.Choices, func(c Choice) bool { return !c.Kept })
	}
	slices.SortStableFunc(c.plan.Choices, func(x, y Choice) int { return cmp.Compare(familyOf(x.Addr), familyOf(y.Addr)) })
	if r != nil {
		return c.plan, r
	}
	return c.plan, nil
}

// join adds the pools of b to those of a that are not there yet.
func join(a, b []PoolRefusal) []PoolRefusal {
	all := slices.Clone(a)
	for _, p := range b {
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// loses tells whether the service would have fewer addresses than it has and asks for.
func (c *chooser) loses() bool {
	var had [2]int
	for _, a := range c.s.Services[c.key].Addresses {
		had[familyOf(a)] = min(had[familyOf(a)]+1, c.count)
	}
	return len(c.plan.Choices) < had[ipv4]+had[ipv6]
}

// attempt finds what the service should have.
func (c *chooser) attempt() *Refusal {
	c.want()
	c.keep()
	r := c.choose()
	if r != nil {
		r.beside = c.vain
	}
	return r
}

// family is a position in arrays: IPv4, then IPv6.
type family int

const (
	ipv4 family = iota
	ipv6
)

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

func (f family) proto() logv1.IPFamily {
	if f == ipv4 {
		return logv1.IPFamily_IP_FAMILY_IPV4
	}
	return logv1.IPFamily_IP_FAMILY_IPV6
}

func (f family) other() family { return 1 - f }

func (f family) String() string {
	if f == ipv4 {
		return "IPv4"
	}
	return "IPv6"
}

// chooser is one choice of addresses.
type chooser struct {
	s    *fsm.State
	spec *logv1.Service
	key  fsm.ServiceKey
	now  int64

	// first is the family to take when there is to be one; either says that the
	// other is as good when no pool has the first.
	first  family
	either bool
	// second: two families are wanted; required: both or none.
	second, required bool
	// count is how many addresses of each family are wanted.
	count int
	// requested are the addresses asked for, by family.
	requested [2][]netip.Addr
	bad       string // a request that cannot be read

	// vain are all that had nothing when they were asked, but might have later: also
	// those of a pair of which the other half was there.
	vain []PoolRefusal
	// replace: addresses that leave their pool are given up; leaves is one of them.
	replace bool
	leaves  netip.Addr

	plan Plan
	// has are the choices made so far, by family.
	has [2][]netip.Addr
}

// want reads from the spec which families it asks for.
func (c *chooser) want() {
	c.count = fsm.AddressCount(c.spec)
	for _, text := range c.spec.GetAddresses() {
		a, err := fsm.ParseAddr(text)
		if err != nil {
			c.bad = text
			continue
		}
		c.requested[familyOf(a)] = append(c.requested[familyOf(a)], a)
	}
	switch c.spec.GetIpFamilyPolicy() {
	case logv1.IPFamilyPolicy_IP_FAMILY_POLICY_PREFER_DUAL_STACK:
		c.second = true
	case logv1.IPFamilyPolicy_IP_FAMILY_POLICY_REQUIRE_DUAL_STACK:
		c.second, c.required = true, true
	case logv1.IPFamilyPolicy_IP_FAMILY_POLICY_UNSPECIFIED:
		// Two named families or two requested addresses ask for both.
		c.required = len(c.spec.GetIpFamilies()) > 1
		c.second = c.required || c.asked(ipv4) && c.asked(ipv6)
	}
	switch families := c.spec.GetIpFamilies(); {
	case len(families) > 0 && families[0] == logv1.IPFamily_IP_FAMILY_IPV6:
		c.first = ipv6
	case len(families) > 0:
		c.first = ipv4
	case c.asked(ipv6) && !c.asked(ipv4):
		c.first = ipv6
	default:
		c.either = !c.asked(ipv4)
	}
}

// asked tells whether the service asks for certain addresses of the family.
func (c *chooser) asked(f family) bool { return len(c.requested[f]) > 0 }

// keep decides which of its addresses the service keeps.
func (c *chooser) keep() {
	svc := c.s.Services[c.key]
	if svc == nil {
		return
	}
	// Those of the first family are looked at first: a second one is then legal or not.
	current := slices.Clone(svc.Addresses)
	slices.SortStableFunc(current, func(x, y netip.Addr) int { return cmp.Compare(c.worth(x), c.worth(y)) })
	var others [2]int // of those kept, the ones that are not asked for
	for _, a := range current {
		f, rec := familyOf(a), c.s.Addresses[a]
		why := c.mustGo(a, rec)
		if why == WhyInvalid && !slices.Contains(c.requested[f], a) {
			if others[f]++; others[f] > c.count-len(c.requested[f]) {
				why = Surplus
			}
		}
		if why != WhyInvalid {
			c.plan.Releases = append(c.plan.Releases, Release{a, why})
			continue
		}
		c.take(Choice{Addr: a, Pool: c.s.PoolOf(a), Reason: rec.Reason, Kept: true})
	}
	// Kept in the order in which they were given, not in that of their worth.
	slices.SortFunc(c.plan.Choices, func(x, y Choice) int {
		return cmp.Compare(slices.Index(svc.Addresses, x.Addr), slices.Index(svc.Addresses, y.Addr))
	})
}

// worth orders the addresses that a service has by which to keep first, the lowest.
func (c *chooser) worth(a netip.Addr) (rank int) {
	if familyOf(a) != c.first {
		rank += 4
	}
	switch {
	case c.s.Leaving(a):
		rank += 2
	case c.s.Addresses[a].ConflictKind == logv1.ConflictKind_CONFLICT_KIND_FOREIGN:
		rank++
	}
	return rank
}

func (c *chooser) take(choice Choice) {
	f := familyOf(choice.Addr)
	c.has[f] = append(c.has[f], choice.Addr)
	c.plan.Choices = append(c.plan.Choices, choice)
}

// mustGo tells why the service cannot keep an address; WhyInvalid when it can.
func (c *chooser) mustGo(a netip.Addr, rec *fsm.Address) Why {
	f := familyOf(a)
	pool := c.s.PoolOf(a)
	switch {
	case pool == "":
		return InNoPool
	case c.spec.GetPool() != "" && pool != c.spec.GetPool():
		return InOtherPool
	case !c.asked(f) && c.asked(f.other()) && !c.second:
		return FamilyNotWanted
	case !c.second && !c.either && f != c.first:
		return FamilyNotWanted
	case !c.second && len(c.has[f.other()]) > 0:
		return FamilyNotWanted
	}
	if why, _ := c.shareable(rec); why != WhyInvalid {
		return why
	}
	if c.replace && c.s.Pools[pool].Spec.GetReallocate() && (c.s.Leaving(a) || !c.selects(pool)) {
		c.leaves = a
		return LetGo
	}
	return WhyInvalid
}

// shareable tells whether the service may have an address together with those
// that have it, and which stands in the way.
func (c *chooser) shareable(rec *fsm.Address) (Why, fsm.ServiceKey) {
	for _, key := range rec.Services {
		if key == c.key {
			continue
		}
		if why := conflict(c.spec, c.s.Services[key].Spec); why != WhyInvalid {
			return why, key
		}
	}
	return WhyInvalid, fsm.ServiceKey{}
}

// conflict tells why two services cannot share an address: they need one
// sharing key, one externalTrafficPolicy (and, when it is Local, one selector), and
// ports that are disjoint.
func conflict(a, b *logv1.Service) Why {
	if a.GetSharingKey() == "" || a.GetSharingKey() != b.GetSharingKey() {
		return InUse
	}
	local := func(s *logv1.Service) bool {
		return s.GetExternalTrafficPolicy() == logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_LOCAL
	}
	if local(a) != local(b) {
		return PolicyDiffers
	}
	if local(a) && !maps.Equal(a.GetSelector(), b.GetSelector()) {
		return SelectorDiffers
	}
	for _, p := range a.GetPorts() {
		for _, q := range b.GetPorts() {
			if protocol(p) == protocol(q) && p.GetPort() == q.GetPort() {
				return PortTaken
			}
		}
	}
	return WhyInvalid
}

// protocol is TCP when the port names none, as in Kubernetes.
func protocol(p *logv1.Port) logv1.Protocol {
	if p.GetProtocol() == logv1.Protocol_PROTOCOL_UNSPECIFIED {
		return logv1.Protocol_PROTOCOL_TCP
	}
	return p.GetProtocol()
}
