package allocator

import (
	"cmp"
	"encoding/binary"
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
	// owned counts what the nodes own, moves included. givers are what each may give
	// away, nil until it is needed.
	owned  []int
	givers []*giver
	// moved are the moves so far.
	moved map[netip.Addr]string
	// Damped is when the first address that flapping holds back may move, nanoseconds
	// since 1970 UTC; 0: none is held back.
	Damped int64
	// damped are all that it holds back.
	damped []*fsm.Address
}

// HeldMove is a move that waits because the address was forced to move again and again.
type HeldMove struct {
	BalanceMove
	// Until is when it may be made, nanoseconds since 1970 UTC.
	Until int64
}

// NewBalance makes one. Only nodes that opt.Preferred knows win addresses; nil: all.
// With all, it moves the addresses of every Sticky policy, else of those that say Gradual.
func (c *Chooser) NewBalance(opt Options, all bool) *Balance {
	if opt.Now == 0 {
		opt.Now = c.s.Time
	}
	b := &Balance{c: c, opt: opt, all: all, owned: make([]int, len(c.nodes)), givers: make([]*giver, len(c.nodes)), moved: map[netip.Addr]string{}}
	for i, name := range c.nodes {
		b.owned[i] = c.s.Nodes[name].Owned
	}
	if opt.Preferred != nil { // asked once: one plan, one answer
		preferred := make(map[string]bool, len(c.nodes))
		for _, name := range c.nodes {
			preferred[name] = opt.Preferred(name)
		}
		b.opt.Preferred = func(node string) bool { return preferred[node] }
	}
	return b
}

// Next finds the next move: from the node that owns most, of what it owns the
// address that was forced to move the least often and is there longest, to the
// node that a choice would prefer. False when nothing is left that would be better
// elsewhere.
func (b *Balance) Next() (BalanceMove, bool) {
	order := make([]int, len(b.c.nodes))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(x, y int) int { return cmp.Or(cmp.Compare(b.owned[y], b.owned[x]), cmp.Compare(x, y)) })
	for _, from := range order {
		for rec := b.first(from); rec != nil; rec = b.first(from) {
			to := b.target(rec, from)
			if to < 0 {
				continue // cannot be; it is out of the list
			}
			b.askAgain(rec)
			return b.move(rec, from, to), true
		}
	}
	return BalanceMove{}, false
}

// Part finds a move that parts addresses of one service: of those that are asked about the
// first that shares its owner with another of its service and family, and need not. False
// when there is none.
func (b *Balance) Part(among []netip.Addr) (BalanceMove, bool) {
	for _, addr := range among {
		rec := b.c.s.Addresses[addr]
		if rec == nil || rec.Owner == "" || rec.SoftNode != "" || b.c.Policy(addr).Placement == logv1.Placement_PLACEMENT_IDEAL {
			continue
		}
		from, _ := slices.BinarySearch(b.c.nodes, rec.Owner)
		q := b.question(rec)
		if q.beside == nil || q.beside[from] == 0 || q.reasons[from] != OK {
			continue
		}
		if b.opt.Preferred != nil && !b.opt.Preferred(rec.Owner) {
			continue // it would have to give the address up
		}
		if to := b.target(rec, from); to >= 0 && q.beside[to] < q.beside[from] && b.dampedUntil(rec) <= b.opt.Now {
			return b.move(rec, from, to), true
		}
	}
	return BalanceMove{}, false
}

// dampedUntil is DampedUntil, and notes what flapping holds back.
func (b *Balance) dampedUntil(rec *fsm.Address) int64 {
	until := DampedUntil(rec)
	if until > b.opt.Now && (b.Damped == 0 || until < b.Damped) {
		b.Damped = until
	}
	return until
}

// Held lists, once Next has found nothing more, the moves that flapping holds back, by
// address; each is reckoned with those before it.
func (b *Balance) Held() (held []HeldMove) {
	slices.SortFunc(b.damped, func(x, y *fsm.Address) int { return x.Addr.Compare(y.Addr) })
	for _, rec := range b.damped {
		from, _ := slices.BinarySearch(b.c.nodes, rec.Owner) // it was found as that node's
		if b.c.choice(rec.Addr).reasons[from] != OK {
			continue // it is about to leave for another reason
		}
		if to := b.target(rec, from); to >= 0 {
			held = append(held, HeldMove{b.move(rec, from, to), DampedUntil(rec)})
		}
	}
	return held
}

// move counts a move as made.
func (b *Balance) move(rec *fsm.Address, from, to int) BalanceMove {
	b.owned[from]--
	b.owned[to]++
	b.moved[rec.Addr] = b.c.nodes[to]
	return BalanceMove{rec.Addr, b.c.nodes[from], b.c.nodes[to], b.c.Policy(rec.Addr).RebalancePerMinute}
}

// question is the Chooser's, with what the nodes own after the moves so far.
func (b *Balance) question(rec *fsm.Address) question {
	q := b.c.question(rec.Addr, b.opt)
	if q.beside != nil && len(b.moved) > 0 {
		q.beside = b.c.countBeside(&q, func(other *fsm.Address) string {
			if to, moved := b.moved[other.Addr]; moved {
				return to
			}
			return other.Owner
		})
	}
	q.owned = b.owned
	return q
}

// askAgain has the addresses asked about once more that want another owner than one that
// has moved.
func (b *Balance) askAgain(moved *fsm.Address) {
	others, _ := b.c.beside(moved)
	for _, rec := range others {
		node, known := slices.BinarySearch(b.c.nodes, rec.Owner)
		if _, gone := b.moved[rec.Addr]; gone || !known || b.givers[node] == nil || b.c.choice(rec.Addr).reasons[node] != OK {
			continue
		}
		if at := slices.IndexFunc(b.givers[node].recs, func(r *fsm.Address) bool { return r.Addr == rec.Addr }); at >= 0 {
			b.givers[node].anywhere().askAgain(at)
		}
	}
}

// giver is what a node may give away. What becomes of one move changes only what the nodes
// own, so each address is asked about once, but for those that want another owner than the
// one that moved: some other node is better by more than that,
// or there is a set of nodes that are as good but for it, or none, and it stays for good.
type giver struct {
	// recs are the addresses, the best to move first. Everything below speaks of places in it.
	recs   []*fsm.Address
	queues []*giverQueue
}

// anywhere is the queue of addresses that may be better off on a node that owns more.
func (g *giver) anywhere() *giverQueue {
	at := slices.IndexFunc(g.queues, func(q *giverQueue) bool { return q.able == nil })
	return g.queues[at]
}

func (q *giverQueue) askAgain(at int) {
	for _, group := range q.groups {
		group.places = slices.DeleteFunc(group.places, func(p int) bool { return p == at })
	}
	q.unasked = insert(q.unasked, at)
}

// giverQueue has some of a node's addresses.
type giverQueue struct {
	// able, if not nil, are the nodes that may own any of them; nobody prefers one of
	// these, so it is not worth asking before one owns less.
	able nodeSet
	// unasked are those that were not asked about, ascending.
	unasked []int
	groups  []*giverGroup
	byEqual map[string]*giverGroup
}

// giverGroup has the addresses for which the same nodes are as good, ascending.
type giverGroup struct {
	equal  nodeSet
	places []int
}

// add puts a place among the others: what is asked about again comes late.
func (g *giverGroup) add(at int) { g.places = insert(g.places, at) }

// insert adds a place to ascending ones.
func insert(places []int, at int) []int {
	if i, found := slices.BinarySearch(places, at); !found {
		return slices.Insert(places, i, at)
	}
	return places
}

// first takes the first address out of what a node may give away that would be better off
// elsewhere as things are; nil when there is none.
func (b *Balance) first(from int) *fsm.Address {
	g := b.giver(from)
	poorer := newNodeSet(len(b.owned))
	for i, n := range b.owned {
		if n < b.owned[from]-1 {
			poorer.add(i)
		}
	}
	var queues []*giverQueue
	var best *giverGroup
	for _, q := range g.queues {
		if q.able != nil && !q.able.meets(poorer) {
			continue
		}
		queues = append(queues, q)
		for _, group := range q.groups {
			if len(group.places) > 0 && group.equal.meets(poorer) && (best == nil || group.places[0] < best.places[0]) {
				best = group
			}
		}
	}
	for {
		var next *giverQueue
		for _, q := range queues {
			if len(q.unasked) > 0 && (next == nil || q.unasked[0] < next.unasked[0]) {
				next = q
			}
		}
		if next == nil || best != nil && best.places[0] < next.unasked[0] {
			break
		}
		at := next.unasked[0]
		next.unasked = next.unasked[1:]
		better, equal := b.rivals(g.recs[at], from)
		switch {
		case better || equal.meets(poorer):
			return g.recs[at]
		case equal != nil:
			next.group(equal).add(at)
		}
	}
	if best == nil {
		return nil
	}
	at := best.places[0]
	best.places = best.places[1:]
	return g.recs[at]
}

// giver lists what a node may give away.
func (b *Balance) giver(node int) *giver {
	if b.givers[node] != nil {
		return b.givers[node]
	}
	g := &giver{}
	for rec := range b.c.s.OwnedBy(b.c.nodes[node]) {
		p := b.c.Policy(rec.Addr)
		if p.Placement == logv1.Placement_PLACEMENT_IDEAL || !b.all && p.RebalancePerMinute == 0 {
			continue
		}
		if rec.SoftNode != "" {
			continue // the clients of its former owner would be cut off
		}
		if b.dampedUntil(rec) > b.opt.Now {
			b.damped = append(b.damped, rec)
			continue
		}
		g.recs = append(g.recs, rec)
	}
	slices.SortStableFunc(g.recs, func(x, y *fsm.Address) int {
		return cmp.Or(cmp.Compare(x.FlapsAt(b.opt.Now), y.FlapsAt(b.opt.Now)), cmp.Compare(x.OwnerTime, y.OwnerTime))
	})
	queues := map[*policyChoice]*giverQueue{}
	for at, rec := range g.recs {
		choice := b.c.choice(rec.Addr)
		if choice.reasons[node] != OK {
			continue // it is about to leave for another reason
		}
		if others, _ := b.c.beside(rec); !choice.flat || len(others) > 0 || b.wanted(rec) {
			choice = nil
		}
		q := queues[choice]
		if q == nil {
			q = &giverQueue{byEqual: map[string]*giverGroup{}}
			if choice != nil {
				q.able = newNodeSet(len(b.c.nodes))
				for _, i := range choice.able {
					q.able.add(i)
				}
			}
			queues[choice] = q
			g.queues = append(g.queues, q)
		}
		q.unasked = append(q.unasked, at)
	}
	b.givers[node] = g
	return g
}

// wanted tells whether a service that has the address prefers a node.
func (b *Balance) wanted(rec *fsm.Address) bool {
	return slices.ContainsFunc(rec.Services, func(key fsm.ServiceKey) bool {
		return b.c.s.Services[key].Spec.GetPreferredNode() != ""
	})
}

func (q *giverQueue) group(equal nodeSet) *giverGroup {
	key := equal.key()
	group := q.byEqual[key]
	if group == nil {
		group = &giverGroup{equal: equal}
		q.byEqual[key] = group
		q.groups = append(q.groups, group)
	}
	return group
}

// rivals tells whether another node is better for the address whatever the nodes own, or
// else which are as good but for that; nil when none is.
func (b *Balance) rivals(rec *fsm.Address, from int) (better bool, equal nodeSet) {
	q := b.question(rec)
	own, ok := b.c.candidate(&q, from)
	if !ok || own.unserved > 0 || b.opt.Preferred != nil && !own.heard {
		return false, nil
	}
	for _, i := range q.able {
		n, ok := b.c.candidate(&q, i)
		if !ok || i == from {
			continue
		}
		n.owned = own.owned
		switch c := n.compare(&own); {
		case c < 0:
			return true, nil
		case c == 0:
			if equal == nil {
				equal = newNodeSet(len(b.c.nodes))
			}
			equal.add(i)
		}
	}
	return false, equal
}

// target is the node that the address would be better off on; -1 when there is none.
func (b *Balance) target(rec *fsm.Address, from int) int {
	q := b.question(rec)
	own, ok := b.c.candidate(&q, from)
	if !ok || own.unserved > 0 { // it is about to leave for another reason
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

// nodeSet is a set of nodes, by their place among the Chooser's: a bit for each.
type nodeSet []uint64

func newNodeSet(nodes int) nodeSet { return make(nodeSet, (nodes+63)/64) }

func (s nodeSet) add(node int) { s[node/64] |= 1 << (node % 64) }

// meets tells whether the sets, of one length or nil, have a node in common.
func (s nodeSet) meets(o nodeSet) bool {
	for i := range s {
		if s[i]&o[i] != 0 {
			return true
		}
	}
	return false
}

func (s nodeSet) key() string {
	b := make([]byte, 0, 8*len(s))
	for _, word := range s {
		b = binary.LittleEndian.AppendUint64(b, word)
	}
	return string(b)
}
