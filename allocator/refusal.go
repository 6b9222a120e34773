package allocator

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Why says why an address or a pool was not taken.
type Why uint8

// Reasons of a refusal, with the numbers that the log gives them.
const (
	// WhyInvalid is the zero value.
	WhyInvalid Why = iota
	// NotAnAddress: what the service asks for cannot be read.
	NotAnAddress
	// InNoPool: no pool holds the address asked for.
	InNoPool
	// InOtherPool: the address asked for is not in the pool asked for.
	InOtherPool
	// BuggyAddress: the address asked for ends in .0 or .255 and its pool avoids those.
	BuggyAddress
	// InUse: another service has the address, and they share no key.
	InUse
	// PortTaken: a service with the same sharing key uses one of the ports.
	PortTaken
	// PolicyDiffers: services share an address only when all have
	// externalTrafficPolicy Cluster or all have Local.
	PolicyDiffers
	// FamilyNotWanted: the service does not ask for this family.
	FamilyNotWanted
	// NoPools: there are no pools.
	NoPools
	// NoSuchPool: the pool asked for does not exist.
	NoSuchPool
	// ManualOnly: the pool gives addresses only to those who ask for it.
	ManualOnly
	// NotSelected: the pool's serviceAllocation is not for the service.
	NotSelected
	// NoFamily: the pool has no addresses of the family.
	NoFamily
	// Full: all addresses of the family are in use.
	Full
	// Kept: all free addresses of the family are kept for services that had them, or rest;
	// of those kept one falls free first.
	Kept
	// Reserved: the address asked for, or all that is free, is promised to another
	// service or held back.
	Reserved
	// Quota: the service's namespace has as many addresses of the pool as it may.
	Quota
	// Quarantined: another service gave the address asked for up lately.
	Quarantined
	// LetGo: the address's pool lets it go, or is no longer for the service.
	LetGo
	// SelectorDiffers: services with externalTrafficPolicy Local share an address
	// only when they have the same backends.
	SelectorDiffers
	// Foreign: foreign stations have all addresses of the family that are free.
	Foreign
	// Surplus: the service has more addresses than it asks for.
	Surplus
	// Resting: the free address of the family that others may have first is in the
	// pool's quarantine, since its service gave it up.
	Resting
)

var whyTexts = [...]string{
	WhyInvalid:      "invalid",
	NotAnAddress:    "not an IP address",
	InNoPool:        "in no pool",
	InOtherPool:     "not in the requested pool",
	BuggyAddress:    "ends in .0 or .255, which its pool avoids",
	InUse:           "in use",
	PortTaken:       "port taken by a service that shares the address",
	PolicyDiffers:   "externalTrafficPolicy differs from that of a service that shares the address",
	FamilyNotWanted: "family not wanted by the service",
	NoPools:         "no pool is defined",
	NoSuchPool:      "no such pool",
	ManualOnly:      "only on request",
	NotSelected:     "not for this service",
	NoFamily:        "has none",
	Full:            "full",
	Kept:            "full but for addresses kept for deleted services",
	Reserved:        "reserved",
	Quota:           "the namespace has as many as it may",
	Quarantined:     "in quarantine after another service gave it up",
	LetGo:           "its pool lets it go",
	SelectorDiffers: "selector differs from that of a service that shares the address, under externalTrafficPolicy Local",
	Foreign:         "full but for addresses in quarantine, which foreign stations have",
	Surplus:         "more than the service asks for",
	Resting:         "full but for addresses in its quarantine after use",
}

// String explains the reason to an operator.
func (w Why) String() string {
	if int(w) < len(whyTexts) {
		return whyTexts[w]
	}
	return whyTexts[WhyInvalid]
}

// PoolRefusal says why a pool gave nothing.
type PoolRefusal struct {
	Pool string
	Why  Why
	// family that it lacks.
	family family
	// until, with Resting, is when the first address has rested, nanoseconds since 1970 UTC.
	until int64
}

// Refusal is why a service has fewer addresses than it asks for. One state and
// one service always give the same text.
type Refusal struct {
	// Family is "IPv4", "IPv6", "IPv4 and IPv6" or "IPv4 or IPv6"; empty when the
	// refusal is not about one.
	Family string
	// Part says what a service has that got some of its addresses, such as "1 of 3 IPv4
	// addresses"; empty when it got none, or none of a family that it cannot do without.
	Part string
	// Requested is the address that the service asked for, as written; empty for any.
	Requested string
	// Why is set for a refused request, and when there is no pool to try.
	Why Why
	// Service stands in the way of the request: it has the address.
	Service fsm.ServiceKey
	// Leaves is an address that the service keeps until it has another; invalid for none.
	Leaves netip.Addr
	// pool whose quota refuses the request.
	pool string
	// Pools were tried in this order.
	Pools []PoolRefusal
	// beside are what else was asked for in vain, with doubles: an address of any of
	// them may help, too.
	beside []PoolRefusal
}

// Reason is the reason as the log has it.
func (w Why) Reason() logv1.RefusalReason { return logv1.RefusalReason(w) }

// hopeless tells of a pool that gives nothing to the service, whatever falls free.
func (w Why) hopeless() bool { return w == NotSelected || w == ManualOnly }

// frees tells of a pool that may give something to the service when an address falls free.
func (w Why) frees() bool { return fsm.Frees(w.Reason()) }

// hopelessKept bounds the pools without hope that a refusal names for programs:
// with many pools, each for a few services, they would be most of the log.
const hopelessKept = 8

// Refusals are the same for programs: first the pools that are for the service.
func (r *Refusal) Refusals() []fsm.Refusal {
	if r == nil {
		return nil
	}
	if r.Requested != "" {
		a, _ := fsm.ParseAddr(r.Requested) // invalid when it is no address
		out := fsm.Refusal{Addr: a, Pool: r.pool, Reason: r.Why.Reason()}
		if a.IsValid() {
			out.Family = familyOf(a).proto()
		}
		return []fsm.Refusal{out}
	}
	if r.Why != WhyInvalid {
		return []fsm.Refusal{{Reason: r.Why.Reason()}}
	}
	pools := r.all()
	out := make([]fsm.Refusal, 0, len(pools))
	for _, hopeless := range []bool{false, true} {
		n := 0
		for _, p := range pools {
			if p.Why.hopeless() != hopeless || hopeless && n == hopelessKept {
				continue
			}
			n++
			out = append(out, fsm.Refusal{Pool: p.Pool, Reason: p.Why.Reason(), Family: p.family.proto(), Until: p.until})
		}
	}
	return out
}

// all are the pools, and then what else was asked for in vain.
func (r *Refusal) all() []PoolRefusal {
	if len(r.beside) == 0 {
		return r.Pools
	}
	seen := make(map[PoolRefusal]struct{}, len(r.Pools))
	for _, p := range r.Pools {
		seen[p] = struct{}{}
	}
	out := slices.Clip(r.Pools)
	for _, p := range r.beside {
		if _, twice := seen[p]; !twice {
			seen[p] = struct{}{}
			out = append(out, p)
		}
	}
	return out
}

// Error names the first eight pools, those that are for the service before others.
func (r *Refusal) Error() string {
	var b strings.Builder
	if r.Leaves.IsValid() {
		fmt.Fprintf(&b, "keeps %s, which is to be replaced: ", r.Leaves)
	}
	switch {
	case r.Requested != "":
		fmt.Fprintf(&b, "requested address %s: %s", r.Requested, r.Why)
		if r.Service != (fsm.ServiceKey{}) {
			fmt.Fprintf(&b, " (%s)", r.Service)
		}
		return b.String()
	case r.Part != "":
		if r.Leaves.IsValid() {
			b.WriteString("would have " + r.Part)
		} else {
			b.WriteString("has " + r.Part)
		}
	case r.Family != "":
		fmt.Fprintf(&b, "no %s address", r.Family)
	default:
		b.WriteString("no address")
	}
	if r.Why != WhyInvalid {
		fmt.Fprintf(&b, ": %s", r.Why)
	}
	pools := r.byPool()
	for i, p := range pools {
		if i == 8 {
			fmt.Fprintf(&b, "; and %d more pools", len(pools)-i)
			break
		}
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&b, "%spool %s: %s", sep, p.Pool, p.Why)
	}
	return b.String()
}

// byPool names each pool once, those without hope last.
func (r *Refusal) byPool() []PoolRefusal {
	out := make([]PoolRefusal, 0, len(r.Pools))
	for _, hopeless := range []bool{false, true} {
		for i, p := range r.Pools {
			if p.Why.hopeless() == hopeless && (i == 0 || r.Pools[i-1].Pool != p.Pool) {
				out = append(out, p)
			}
		}
	}
	return out
}

// Release is an address that a service must give up.
type Release struct {
	Addr netip.Addr
	Why  Why
}
