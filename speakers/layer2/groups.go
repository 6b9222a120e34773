package layer2

import (
	"net/netip"
	"slices"
	"time"
)

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

// join holds the solicited-node group of an IPv6 address on a link. This is done
// before the address is announced there and not before it is answered: a join
// takes the kernel the longer the more there are, and announcements are paced
// anyway. A refusal takes the link away from the address for a while.
func (l *Layer2) join(v *vip, index int, now time.Duration) error {
	if v.Addr.Is4() || slices.Contains(v.joined, index) {
		return nil
	}
	if err := l.groups.join(index, solicitedNode(v.Addr)); err != nil {
		if v.refused == nil {
			v.refused = make(map[int]error)
		}
		v.refused[index] = err
		l.misplaced = true
		l.unjoined = min(l.unjoined, now+joinRetry)
		return err
	}
	v.joined = append(v.joined, index)
	return nil
}

func (l *Layer2) leave(v *vip, indexes []int) {
	for _, index := range indexes {
		l.groups.leave(index, solicitedNode(v.Addr))
	}
	v.joined = slices.DeleteFunc(slices.Clone(v.joined), func(i int) bool { return slices.Contains(indexes, i) })
}

// lookAtGroups tries refused groups again when it is time, and takes the links of
// newly refused ones away. It returns when to look again.
func (l *Layer2) lookAtGroups(now time.Duration) time.Duration {
	if l.unjoined <= now {
		l.unjoined = never
		for _, v := range l.vips {
			v.refused = nil
		}
		l.misplaced = true
	}
	if l.misplaced {
		l.misplaced = false
		l.place(now)
	}
	return l.unjoined
}
