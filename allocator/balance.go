package allocator

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// BalanceMove is one step towards an even spread.
type BalanceMove struct {
	Addr     netip.Addr
	From, To string
	// PerMinute is the pace of the address's own policy, 0 for none.
	PerMinute uint32
}

// Balance finds, one after the other, the moves that spread Sticky addresses evenly
// over the nodes. It changes nothing, and its moves are those of the state that it
// was made from: each is reckoned with those before it.
type Balance struct {
	c   *Chooser
	opt Options
	// all: addresses move although no advertisement says Gradual.
	all bool
	// owned counts what the nodes own, moves included. lists are the addresses that
	// each may give away, nil until they are needed.
	owned []int
	lists [][]*fsm.Address
	// least is the smallest number that a node owns, by policy, until the next move.
	least map[*policyChoice]int
	// Damped is when the first address that flapping holds back may move, nanoseconds
	// since 1970 UTC; 0: none is held back.
	Damped int64
}

// NewBalance makes one. Only nodes that opt.Preferred knows win addresses; nil: all.
// With all, it moves the addresses of every Sticky policy, else of those that say Gradual.
func (c *Chooser) NewBalance(opt Options, all bool) *Balance {
	if opt.Now == 0 {
		opt.Now = c.s.Time
	}
	b := &Balance{c: c, opt: opt, all: all, owned: make([]int, len(c.nodes)), lists: make([][]*fsm.Address, len(c.nodes))}
	for i, name := range c.nodes {
		b.owned[i] = c.s.Nodes[name].Owned
	}
	return b
}

// Next finds the next move: from the node that owns most, of what it owns the
// address that was forced to move the least often and is there longest, to the
// node that a choice would prefer. False when nothing is left that would be better
// elsewhere.
func (b *Balance) Next() (BalanceMove, bool) {
	b.least = map[*policyChoice]int{}
	order := make([]int, len(b.c.nodes))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(x, y int) int { return cmp.Or(cmp.Compare(b.owned[y], b.owned[x]), cmp.Compare(x, y)) })
	for _, from := range order {
		list := b.list(from)
		for at, rec := range list {
			to := b.target(rec, from)
			if to < 0 {
				continue
			}
			b.lists[from] = slices.Delete(slices.Clone(list), at, at+1)
			b.owned[from]--
			b.owned[to]++
			return BalanceMove{rec.Addr, b.c.nodes[from], b.c.nodes[to], b.c.Policy(rec.Addr).RebalancePerMinute}, true
		}
	}
	return BalanceMove{}, false
}

// list gives the addresses that a node may give away, the best to move first.
func (b *Balance) list(node int) []*fsm.Address {
	if b.lists[node] != nil {
		return b.lists[node]
	}
	list := []*fsm.Address{}
	for rec := range b.c.s.OwnedBy(b.c.nodes[node]) {
		p := b.c.Policy(rec.Addr)
		if p.Placement == logv1.Placement_PLACEMENT_IDEAL || !b.all && p.RebalancePerMinute == 0 {
			continue
		}
		if rec.SoftNode != "" {
			continue // the clients of its former owner would be cut off
		}
		if until := DampedUntil(rec); until > b.opt.Now {
			if b.Damped == 0 || until < b.Damped {
				b.Damped = until
			}
			continue
		}
		list = append(list, rec)
	}
	slices.SortStableFunc(list, func(x, y *fsm.Address) int {
		return cmp.Or(cmp.Compare(x.FlapsAt(b.opt.Now), y.FlapsAt(b.opt.Now)), cmp.Compare(x.OwnerTime, y.OwnerTime))
	})
	b.lists[node] = list
	return list
}

// target is the node that the address would be better off on; -1 when there is none.
func (b *Balance) target(rec *fsm.Address, from int) int {
	choice := b.c.choice(rec.Addr)
	if choice.reasons[from] != OK {
		return -1 // it is about to leave for another reason
	}
	if choice.flat && !b.worth(choice, rec, from) {
		return -1
	}
	q := b.c.question(rec.Addr, b.opt)
	q.owned = b.owned
	own, ok := b.c.candidate(&q, from)
	if !ok || b.opt.Preferred != nil && !own.heard {
		return -1
	}
	best, to := own, -1
	for _, i := range q.able {
		n, ok := b.c.candidate(&q, i)
		if !ok || i == from || n.compare(&own) >= 0 {
			continue
		}
		if to < 0 || n.better(&best, rec.Addr) {
			best, to = n, i
		}
	}
	return to
}

// worth tells, without asking the nodes one by one about the address, whether it is
// worth asking: nobody prefers any node, so another has to own fewer.
func (b *Balance) worth(choice *policyChoice, rec *fsm.Address, from int) bool {
	for _, key := range rec.Services {
		if b.c.s.Services[key].Spec.GetPreferredNode() != "" {
			return true
		}
	}
	least, known := b.least[choice]
	if !known {
		least = b.owned[from]
		for _, i := range choice.able {
			least = min(least, b.owned[i])
		}
		b.least[choice] = least
	}
	return least < b.owned[from]-1
}
