package allocator

import (
	"net/netip"
	"slices"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Several addresses of a service and one family are there to have several owners. So a
// node that owns one of them is worse for the others; it may own them all the same where
// there are too few nodes.

// beside are the other addresses of one family that a service has which has this one, each once.
// They come in the order in which the services, sorted, were given them, and before counts
// those that come before the address.
func (c *Chooser) beside(rec *fsm.Address) (others []*fsm.Address, before int) {
	for _, key := range rec.Services {
		svc := c.s.Services[key]
		if len(svc.Addresses) == 1 {
			continue
		}
		for _, a := range svc.Addresses {
			switch other := c.s.Addresses[a]; {
			case a == rec.Addr && key == rec.Services[0]:
				before = len(others)
			case a != rec.Addr && a.Is4() == rec.Addr.Is4() && !slices.Contains(others, other):
				others = append(others, other)
			}
		}
	}
	return others, before
}

// countBeside counts for each node the others that it owns; nil when there are none. With
// Ideal placement, where an address goes to must not depend on where the others happen to be, or two
// would take turns: there it counts those before this one, each where it ought to be.
func (c *Chooser) countBeside(q *question, owner func(*fsm.Address) string) []int {
	others, before := c.beside(q.rec)
	if q.ideal {
		others = others[:before]
	}
	if len(others) == 0 {
		return nil
	}
	n := make([]int, len(c.nodes))
	for _, other := range others {
		node := owner(other)
		if q.ideal {
			node = c.idealOwner(other, q, n)
		}
		if at, known := slices.BinarySearch(c.nodes, node); known {
			n[at]++
		}
	}
	return n
}

// idealOwner is where an address ought to be when nodes have so many of those before it.
func (c *Chooser) idealOwner(rec *fsm.Address, asked *question, beside []int) string {
	opt := asked.opt
	opt.Exclude = ""
	q := c.alone(rec, opt)
	if q.policy.Placement != logv1.Placement_PLACEMENT_IDEAL {
		return rec.Owner
	}
	q.beside = beside
	return c.best(&q).node
}

// Crowded tells whether the node owns another address of one family of a service that has
// this one.
func (c *Chooser) Crowded(addr netip.Addr, node string) bool {
	rec := c.s.Addresses[addr]
	if rec == nil || node == "" {
		return false
	}
	others, _ := c.beside(rec)
	return slices.ContainsFunc(others, func(other *fsm.Address) bool { return other.Owner == node })
}

// Beside are the other addresses that want another owner than this one.
func (c *Chooser) Beside(addr netip.Addr) (others []netip.Addr) {
	if rec := c.s.Addresses[addr]; rec != nil {
		list, _ := c.beside(rec)
		for _, other := range list {
			others = append(others, other.Addr)
		}
	}
	return others
}
