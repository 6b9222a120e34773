package decider

import (
	"container/heap"
	"net/netip"
	"time"
)

// addrQueue is a queue without doubles.
type addrQueue struct {
	list []netip.Addr
	set  map[netip.Addr]struct{}
}

func (q *addrQueue) len() int { return len(q.list) }

func (q *addrQueue) push(a netip.Addr) {
	if _, in := q.set[a]; in {
		return
	}
	if q.set == nil {
		q.set = map[netip.Addr]struct{}{}
	}
	q.set[a] = struct{}{}
	q.list = append(q.list, a)
}

func (q *addrQueue) pop() netip.Addr {
	a := q.list[0]
	q.list = q.list[1:]
	delete(q.set, a)
	if len(q.list) == 0 {
		q.list, q.set = nil, nil // lets go of the memory of a large one
	}
	return a
}

// timedAddr is an address to look at again at a boot time.
type timedAddr struct {
	at   time.Duration
	addr netip.Addr
}

// timeQueue is a heap of them, the earliest first (container/heap).
type timeQueue []timedAddr

func (q timeQueue) Len() int           { return len(q) }
func (q timeQueue) Less(i, j int) bool { return q[i].at < q[j].at }
func (q timeQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push is heap.Interface's; use add.
func (q *timeQueue) Push(x any) { *q = append(*q, x.(timedAddr)) }

// Pop is heap.Interface's.
func (q *timeQueue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

func (q *timeQueue) add(at time.Duration, addr netip.Addr) { heap.Push(q, timedAddr{at, addr}) }
