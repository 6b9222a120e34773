package decider

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// OwnerEffect is what a change does to the announcement of an address.
type OwnerEffect struct {
	Addr netip.Addr
	// From announces it now, To would then, as things are; empty: nobody. They are the
	// same when only the interfaces change.
	From, To string
	// Why, in words.
	Why string
}

// ownerEffects compares who announces an address before and after a change.
type ownerEffects struct {
	t         *tx
	s         *fsm.State
	was, will *allocator.Chooser
	// draft takes what would move, so that the next choice counts it.
	draft *fsm.Draft
	found map[netip.Addr]*OwnerEffect
}

// announce finds the addresses that another node would announce then, or none.
func (e effects) announce(t *tx, head *fsm.State) {
	o := &ownerEffects{
		t: t, s: head, was: allocator.NewChooser(t.before), will: allocator.NewChooser(head),
		draft: head.Begin(t.now), found: map[netip.Addr]*OwnerEffect{},
	}
	for _, key := range sortedKeys(head.Services) {
		old := t.before.Services[key]
		if old == nil {
			continue
		}
		for _, a := range head.Services[key].Addresses {
			one := o.of(a, old)
			if one != nil {
				e.of(key).Owners = append(e.of(key).Owners, *one)
			}
		}
	}
}

// of tells what becomes of an address of the service; nil for nothing.
func (o *ownerEffects) of(a netip.Addr, old *fsm.Service) *OwnerEffect {
	if !slices.Contains(old.Addresses, a) {
		return o.given(a, old)
	}
	one, known := o.found[a]
	if !known {
		one = o.kept(a)
		o.found[a] = one
	}
	return one
}

// given: an address that the service did not have gets an owner like any other. Only
// that it gets none is worth telling, unless the service had none before.
func (o *ownerEffects) given(a netip.Addr, old *fsm.Service) *OwnerEffect {
	if to, _ := o.announcer(o.will, a); to != "" {
		return nil
	}
	silent := func(a netip.Addr) bool { from, _ := o.announcer(o.was, a); return from == "" }
	if len(old.Addresses) > 0 && !slices.ContainsFunc(old.Addresses, func(a netip.Addr) bool { return !silent(a) }) {
		return nil
	}
	return &OwnerEffect{Addr: a, Why: o.whyNobody(a)}
}

func (o *ownerEffects) kept(a netip.Addr) *OwnerEffect {
	from, _ := o.announcer(o.was, a)
	to, why := o.announcer(o.will, a)
	if from != "" && from == to {
		was, will := interfaces(o.was, a, o.t.before.Nodes[from]), interfaces(o.will, a, o.s.Nodes[to])
		if was == will {
			return nil
		}
		return &OwnerEffect{Addr: a, From: from, To: to, Why: fmt.Sprintf("on %s instead of %s", will, was)}
	}
	switch {
	case from == to, from != "" && to != "" && from != o.t.before.Addresses[a].Owner:
		return nil // it moves anyway, and where to changes from one moment to the next
	case to == "":
		why = o.whyNobody(a)
	}
	o.move(a, to)
	return &OwnerEffect{Addr: a, From: from, To: to, Why: why}
}

// announcer is the node that has the address as long as nothing else changes, or gets it
// next, and why it leaves its owner then; empty for none.
func (o *ownerEffects) announcer(c *allocator.Chooser, a netip.Addr) (node, why string) {
	s := o.s
	if c == o.was {
		s = o.t.before
	}
	rec := s.Addresses[a]
	opt := allocator.Options{Preferred: o.t.heard, Now: o.t.now}
	if rec.Owner != "" {
		r, move := c.ShouldMove(a, opt)
		reason := c.Eligible(a, rec.Owner, o.t.now)
		switch {
		case reason != allocator.OK:
			opt.Exclude, why = rec.Owner, reason.String()
		case r == logv1.OwnerReason_OWNER_REASON_IDEAL:
			why = "its placement is Ideal"
		case r == logv1.OwnerReason_OWNER_REASON_OFF_SUBNET:
			why = "the address's subnet is there"
		}
		if !move {
			if s.Nodes[rec.Owner].SessionState != fsm.SessionOpen {
				return "", why
			}
			return rec.Owner, ""
		}
	}
	node, _ = c.ChooseOwner(a, opt)
	return node, why
}

// whyNobody says what keeps every node from the address.
func (o *ownerEffects) whyNobody(a netip.Addr) string {
	switch policy := o.will.Policy(a); {
	case policy.Unselected:
		return allocator.ServiceUnselected.String()
	case !policy.Announced:
		return allocator.NoAdvertisement.String()
	case len(o.s.Nodes) == 0:
		return "there is no node"
	}
	nodes := map[allocator.Reason][]string{}
	var order []allocator.Reason
	for _, name := range slices.Sorted(maps.Keys(o.s.Nodes)) {
		r := o.will.Eligible(a, name, o.t.now)
		if nodes[r] == nil {
			order = append(order, r)
		}
		nodes[r] = append(nodes[r], name)
	}
	if len(order) == 1 {
		return order[0].String()
	}
	var parts []string
	for _, r := range order {
		parts = append(parts, shorten(nodes[r], 3)+": "+r.String())
	}
	return strings.Join(parts, "; ")
}

// move has the address at its next owner, for the choices to come.
func (o *ownerEffects) move(a netip.Addr, to string) {
	rec := o.s.Addresses[a]
	if owner := o.s.Nodes[rec.Owner]; owner != nil && owner.SessionState == fsm.SessionOpen {
		o.add(ownerReleased(rec, logv1.OwnerReason_OWNER_REASON_NOT_ELIGIBLE))
	}
	if to != "" {
		o.add(&logv1.Event{Fact: &logv1.Event_OwnerAssigned{OwnerAssigned: &logv1.OwnerAssigned{
			Address: fsm.FromAddr(a), Node: to, Reason: logv1.OwnerReason_OWNER_REASON_NOT_ELIGIBLE,
		}}})
	}
}

func (o *ownerEffects) add(ev *logv1.Event) {
	if err := o.draft.Add(o.t.self, ev); err != nil && o.t.err == nil {
		o.t.err = fmt.Errorf("%w: %s in a dry run: %w", ErrInternal, fsm.EventName(ev), err)
	}
}

// interfaces says on which interfaces a node announces the address.
func interfaces(c *allocator.Chooser, a netip.Addr, node *fsm.Node) string {
	list, _ := c.Policy(a).On(node.Labels)
	if len(list) == 0 {
		return "all interfaces"
	}
	return strings.Join(list, ", ")
}
