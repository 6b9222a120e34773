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

// timeQueue has each address once, at the earliest time that was asked for: whoever looks
// at it then asks for the next.
type timeQueue struct{ heap timeHeap }

func (q *timeQueue) len() int { return len(q.heap.list) }

// first is the earliest time; the queue is not empty.
func (q *timeQueue) first() time.Duration { return q.heap.list[0].at }

func (q *timeQueue) add(at time.Duration, addr netip.Addr) {
	i, in := q.heap.index[addr]
	switch {
	case !in:
		heap.Push(&q.heap, timedAddr{at, addr})
	case at < q.heap.list[i].at:
		q.heap.list[i].at = at
		heap.Fix(&q.heap, i)
	}
}

// pop takes the earliest address.
func (q *timeQueue) pop() netip.Addr { return heap.Pop(&q.heap).(timedAddr).addr }

// timeHeap is a heap, the earliest first, that knows where each address is (container/heap).
type timeHeap struct {
	list  []timedAddr
	index map[netip.Addr]int
}

func (h *timeHeap) Len() int           { return len(h.list) }
func (h *timeHeap) Less(i, j int) bool { return h.list[i].at < h.list[j].at }
func (h *timeHeap) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.index[h.list[i].addr], h.index[h.list[j].addr] = i, j
}

// Push is heap.Interface's.
func (h *timeHeap) Push(x any) {
	if h.index == nil {
		h.index = map[netip.Addr]int{}
	}
	h.list = append(h.list, x.(timedAddr))
	h.index[x.(timedAddr).addr] = len(h.list) - 1
}

// Pop is heap.Interface's.
func (h *timeHeap) Pop() any {
	last := len(h.list) - 1
	x := h.list[last]
	h.list = h.list[:last]
	if delete(h.index, x.addr); last == 0 {
		h.list, h.index = nil, nil // lets go of the memory of a large one
	}
	return x
}
