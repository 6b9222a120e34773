package rules

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
)

// Unserved finds a service that could have an address that it lacks at the time now, in
// nanoseconds since 1970 UTC and not before s.Time; empty when there is none. All are judged
// by the rules, and also, for the sake of those that ask for certain addresses, or would have
// another instead of one that leaves its pool, or join others, by what
// the allocator would give them if it was asked at that time. It does not know who has been
// told about what, which is what makes a retry come late.
func Unserved(s *fsm.State, now int64) string {
	s = s.Clone()
	s.Begin(now)
	keys := slices.SortedFunc(maps.Keys(s.Services), fsm.ServiceKey.Compare)
	for _, key := range keys {
		if a := couldHave(s, s.Services[key]); a.IsValid() {
			return fmt.Sprintf("%v has %v, waits (%q), and %v could be its", key, s.Services[key].Addresses, s.Services[key].Pending, a)
		}
	}
	for _, key := range keys {
		svc := s.Services[key]
		plan, refusal := allocator.ChooseAddresses(s, svc.Spec, s.Time)
		if (svc.Pending == "" || refusal != nil) && slices.ContainsFunc(plan.Releases, func(r allocator.Release) bool { return r.Why == allocator.InOtherPool }) {
			continue // its address has another pool now, and is its own until it is declared again
		}
		if len(plan.New()) > 0 {
			return fmt.Sprintf("%v has %v, waits (%q, %v) and could have %v", key, svc.Addresses, svc.Pending, svc.Refusals, plan.New())
		}
		keeps := refusal != nil && strings.HasPrefix(refusal.Error(), "keeps ")
		if keeps != strings.HasPrefix(svc.Pending, "keeps ") {
			return fmt.Sprintf("%v says %q, not %v", key, svc.Pending, refusal)
		}
	}
	return ""
}

// couldHave finds an address for a service that lacks some, if it asks for none by name.
func couldHave(s *fsm.State, svc *fsm.Service) netip.Addr {
	for _, pool := range s.Pools {
		for _, v4 := range []bool{true, false} {
			for a := range free(s, svc.Key, pool, v4) {
				if couldTake(s, svc, pool, a) {
					return a
				}
				break // the next one is like it
			}
		}
	}
	return netip.Addr{}
}

// couldTake tells whether a service could have an address of a pool, besides what it has,
// if it asks for none by name.
func couldTake(s *fsm.State, svc *fsm.Service, pool *fsm.Pool, a netip.Addr) bool {
	w := wishOf(svc.Spec)
	if len(w.named) > 0 || !w.family(a) || w.any && !w.two && !a.Is4() || !mayTake(s, pool, svc.Spec) || !isFree(s, svc.Key, pool, a) {
		return false
	}
	n := [2]int{}
	for _, has := range svc.Addresses {
		if poolOf(s, has) != pool || !w.two && has.Is4() != a.Is4() {
			return false // all have to be of one pool
		}
		n[family(has)]++
	}
	need := 1
	if w.both && n[1-family(a)] == 0 {
		need = 2
		if !exists(free(s, svc.Key, pool, !a.Is4())) {
			return false
		}
	}
	return n[family(a)] < w.count && left(s, pool, svc.Key.Namespace) >= need
}

func exists[T any](seq iter.Seq[T]) bool {
	for range seq {
		return true
	}
	return false
}
