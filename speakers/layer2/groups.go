package layer2

import "net/netip"

// groupCounter shares multicast groups among addresses: those that agree in
// their last 24 bits have the same solicited-node group. Layer2's lock protects
// it.
type groupCounter struct {
	memberships memberships
	count       map[groupOn]int
}

type groupOn struct {
	link  int
	group netip.Addr
}

func newGroupCounter(m memberships) *groupCounter {
	return &groupCounter{memberships: m, count: make(map[groupOn]int)}
}

func (g *groupCounter) join(link int, group netip.Addr) error {
	key := groupOn{link, group}
	if g.count[key] == 0 {
		if err := g.memberships.Join(link, group); err != nil {
			return err
		}
	}
	g.count[key]++
	return nil
}

func (g *groupCounter) leave(link int, group netip.Addr) {
	key := groupOn{link, group}
	if g.count[key]--; g.count[key] <= 0 {
		delete(g.count, key)
		g.memberships.Leave(link, group)
	}
}

func (g *groupCounter) close() { g.memberships.Close() }
