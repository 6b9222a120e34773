// Package rules has the rules of allocation once more, in the plainest way and address by
// address, to hold against them what was decided. It knows nothing of queues and hopes, and
// is slow.
package rules

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Book remembers the newest revision, to go from there to the next one event by event.
type Book struct {
	// Judged counts how often each rule had something to judge, by a name for it.
	Judged map[string]int
	now    *fsm.State
}

// Rules are the names in Book.Judged.
var Rules = []string{
	"given", "joins others", "services on one address", "kept apart: " + samePort, "kept apart: " + otherPolicy, "kept apart: " + otherBackends,
	"any family", "one pool for all", "a pool for it before one for all", "a pool with both families before one with one",
	"a pool with more before one with fewer", "pools by priority", "pools by name", "addresses of a pool", "before older ones that wait", "before younger ones that wait for it",
}

// Take finds what no state may have, and what the batch that s is the result of may not
// have given, as things were at that very event. Batches are taken in their order; what one
// gave that comes after others that were left out is not looked at.
func (b *Book) Take(s *fsm.State, batch *logv1.Batch) (wrongs []string) {
	if b.Judged == nil {
		b.Judged = map[string]int{}
	}
	wrongs = b.inState(s)
	if b.now == nil || b.now.Revision+1 != s.Revision {
		b.now = s.Clone()
		return wrongs
	}
	p := &play{s: b.now, judged: b.Judged, declared: map[fsm.ServiceKey]bool{}, lost: map[fsm.ServiceKey]bool{}, shared: map[fsm.ServiceKey]bool{}}
	if err := p.batch(batch); err != nil || b.now.Chain != s.Chain {
		p.wrong("played again it is another revision %d: %v", s.Revision, err)
		b.now = s.Clone()
	}
	return append(wrongs, p.wrongs...)
}

// play is one batch, played again on the state before it.
type play struct {
	s      *fsm.State
	judged map[string]int
	wrongs []string
	// declared are the services that were declared so far, lost those that gave up an address.
	// shared are those that had one together with others.
	declared, lost, shared map[fsm.ServiceKey]bool
}

func (p *play) wrong(format string, args ...any) {
	p.wrongs = append(p.wrongs, fmt.Sprintf(format, args...))
}

func (p *play) batch(batch *logv1.Batch) error {
	draft := p.s.Begin(batch.GetTimeUnixNano())
	restores := false // what was given then is given again
	judged := 0
	for i, ev := range batch.GetEvents() {
		p.noteShared(ev)
		if g := exchangeOf(p.s, batch.GetEvents()[i:]); g != nil && i >= judged && !restores {
			p.judge(g, p.queue)
			judged = i + g.events
		}
		switch f := ev.GetFact().(type) {
		case *logv1.Event_RestoreBegun:
			restores = true
		case *logv1.Event_ServiceDeclared:
			p.declared[fsm.KeyOf(f.ServiceDeclared.GetService().GetNamespace(), f.ServiceDeclared.GetService().GetName())] = true
		case *logv1.Event_AddressReleased:
			p.lost[fsm.KeyOf(f.AddressReleased.GetNamespace(), f.AddressReleased.GetName())] = true
		case *logv1.Event_AddressAllocated:
			key := keyOf(f.AddressAllocated)
			if restores {
				break
			}
			if i == 0 || batch.GetEvents()[i-1].GetAddressAllocated() == nil || keyOf(batch.GetEvents()[i-1].GetAddressAllocated()) != key {
				p.judge(giftOf(p.s, key, batch.GetEvents()[i:]), p.halves, p.pools, p.first, p.order, p.apart)
			}
			if why := p.against(f.AddressAllocated); why != "" {
				p.wrong("%v was given to %v (%v): %s", toAddr(f.AddressAllocated.GetAddress()), key, f.AddressAllocated.GetReason(), why)
			}
		}
		if err := draft.Add(batch.GetActors()[ev.GetActor()], &logv1.Event{Fact: ev.GetFact()}); err != nil {
			return err
		}
	}
	_, _, _, err := draft.Commit()
	return err
}

// noteShared notes who has an address together with others when a command, or something
// else, begins to change that.
func (p *play) noteShared(ev *logv1.Event) {
	if ev.GetAddressReleased() == nil {
		return
	}
	if rec := p.s.Addresses[toAddr(ev.GetAddressReleased().GetAddress())]; rec != nil && len(rec.Services) > 1 {
		for _, key := range rec.Services {
			p.shared[key] = true
		}
	}
}

func keyOf(e *logv1.AddressAllocated) fsm.ServiceKey { return fsm.KeyOf(e.GetNamespace(), e.GetName()) }

// inState finds what no state may have.
func (b *Book) inState(s *fsm.State) (wrongs []string) {
	wrong := func(format string, args ...any) { wrongs = append(wrongs, fmt.Sprintf(format, args...)) }
	for a := range s.Free {
		if s.Addresses[a] != nil {
			wrong("%v is free and in use", a)
		}
	}
	for a, rec := range s.Addresses {
		switch pool := poolOf(s, a); {
		case pool != nil && pool.Spec.GetName() != rec.Pool:
			wrong("%v is in pool %s, and of pool %s", a, pool.Spec.GetName(), rec.Pool)
		case s.Pools[rec.Pool] == nil:
			wrong("%v is of pool %q, which is gone", a, rec.Pool)
		}
		for i, key := range rec.Services {
			for _, other := range rec.Services[:i] {
				b.Judged["services on one address"]++
				if why := apart(s.Services[key].Spec, s.Services[other].Spec); why != "" {
					wrong("%v and %v are on %v: %s", other, key, a, why)
				}
			}
		}
	}
	for key, svc := range s.Services {
		if why := tooMany(s, svc); why != "" {
			wrong("%v %s", key, why)
		}
		w := wishOf(svc.Spec)
		for _, a := range svc.Addresses {
			if !w.family(a) {
				wrong("%v has %v, of a family that it does not want", key, svc.Addresses)
			}
		}
		if !w.two && slices.ContainsFunc(svc.Addresses, func(a netip.Addr) bool { return a.Is4() != svc.Addresses[0].Is4() }) {
			wrong("%v has %v, and wants one family", key, svc.Addresses)
		}
	}
	return wrongs
}

// tooMany tells what is wrong with the number of addresses of a service. One that asks for
// fewer than before, in this revision, may still have them.
func tooMany(s *fsm.State, svc *fsm.Service) string {
	n, most := map[bool]int{}, wishOf(svc.Spec).count
	for i, a := range svc.Addresses {
		n[a.Is4()]++
		if slices.Contains(svc.Addresses[:i], a) {
			return fmt.Sprintf("has %v twice", a)
		}
	}
	if max(n[true], n[false]) > most && svc.DeclaredAt != s.Revision {
		return fmt.Sprintf("has %v, and asks for %d of each family", svc.Addresses, most)
	}
	return ""
}
