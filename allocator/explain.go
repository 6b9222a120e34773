package allocator

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Ranked is a node as a choice of owner sees it.
type Ranked struct {
	Node string
	// Reason that it may or may not own the address.
	Reason Reason
	// Order among the nodes that may: 1 would be chosen; 0 for the others.
	Order int
	// Owned counts what the node owns beside the address.
	Owned int
	// Preference says in words what speaks for the node or against it; empty when
	// nothing does.
	Preference string
}

// Ranking says of every node, sorted by name, what a choice of owner thinks of it.
func (c *Chooser) Ranking(addr netip.Addr, opt Options) []Ranked {
	q := c.question(addr, opt)
	out := make([]Ranked, len(c.nodes))
	for i, name := range c.nodes {
		out[i] = Ranked{Node: name, Reason: NotInUse, Owned: c.s.Nodes[name].Owned}
		if q.rec != nil {
			out[i].Reason = c.Eligible(addr, name, q.now)
			if q.rec.Owner == name {
				out[i].Owned--
			}
		}
	}
	if q.rec == nil {
		return out
	}
	type placed struct {
		candidate
		at int
	}
	var all []placed
	for _, i := range q.able {
		if n, ok := c.candidate(&q, i); ok && q.serves(&n) {
			all = append(all, placed{n, i})
		}
	}
	if slices.ContainsFunc(all, func(n placed) bool { return n.unserved == 0 }) {
		all = slices.DeleteFunc(all, func(n placed) bool { return n.unserved > 0 })
	}
	slices.SortFunc(all, func(a, b placed) int {
		if a.better(&b.candidate, addr) {
			return -1
		}
		return 1
	})
	for order, n := range all {
		out[n.at].Order, out[n.at].Preference = order+1, n.words(&q)
	}
	return out
}

// words say what makes the node better or worse than others.
func (n *candidate) words(q *question) string {
	var out []string
	if q.opt.Preferred != nil && !n.heard {
		out = append(out, "not heard lately")
	}
	if n.unchecked > 0 {
		out = append(out, "health check says nothing yet")
	}
	if n.foreign {
		out = append(out, "has not the address's subnet")
	}
	if n.beside > 0 {
		out = append(out, fmt.Sprintf("has %d more of the service", n.beside))
	}
	if wanted := n.weight / wantedWeight; wanted > 0 {
		out = append(out, "preferred by the service")
	}
	if weight := n.weight % wantedWeight; weight > 0 {
		out = append(out, fmt.Sprintf("weight %d", weight))
	}
	return strings.Join(out, ", ")
}
