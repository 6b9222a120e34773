package decider

import (
	"cmp"
	"container/heap"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
)

// allocateWaiting tries those of the waiting services that something has changed
// for, the longest waiting first. Of those that wait for a free address of a pool only as
// many are looked at as it is enough for; who is tried in vain waits for something else
// from then on, so the next one has its turn. Who does not wait for a free address of a
// pool, but for one of its own, or to have one replaced, is asked as things are when its turn
// comes. What one gives up is for the longest waiting again.
func (r *reign) allocateWaiting(t *tx) error {
	q := newTurns(t, r.work.faulty)
	h := r.work.hope
	r.work.hope = hope{}
	q.hopeful(&h)
	for {
		c, ok := q.next()
		if !ok {
			return nil
		}
		if t.size >= r.allocateLimit() {
			r.work.hope.all = true // the others come with the next batch
			return nil
		}
		r.d.stats.Asked.Add(1)
		before := r.work.hope
		r.work.hope = hope{}
		err := r.try(t, c.key, func() {
			svc := t.s.Services[c.key]
			f := t.choose(svc)
			f.keepStray(svc)
			if f.news(svc) || c.pool {
				r.d.stats.Retries.Add(1)
				t.give(svc, f)
			}
		})
		if err != nil {
			return err
		}
		if len(r.work.hope.pools) > 0 {
			q.freed(&r.work.hope)
		}
		r.work.hope.add(&before)
	}
}

// turns are the waiting services that may be helped, by how long they wait.
type turns struct {
	tx   *tx
	heap turnHeap
	// open are the waits for a free address of a pool for which there may be one, with how
	// often each was opened: of each the next service is in the heap.
	open map[fsm.Wait]int
	// tried are the services that were, and the round it was in. Whenever something falls
	// free, a new round begins.
	tried map[fsm.ServiceKey]int
	round int
	// faulty services have run into a fault of this program.
	faulty map[fsm.ServiceKey]struct{}
}

func newTurns(t *tx, faulty map[fsm.ServiceKey]struct{}) *turns {
	return &turns{tx: t, open: map[fsm.Wait]int{}, tried: map[fsm.ServiceKey]int{}, faulty: faulty}
}

// turn is a service in the heap.
type turn struct {
	svc *fsm.Service
	// wait, if not nil, is what it is in the heap for, and opened is which time that is open.
	wait   *fsm.Wait
	opened int
}

// candidate is a service whose turn it is; with pool because of a pool that it waits for.
type candidate struct {
	key  fsm.ServiceKey
	pool bool
}

// hopeful takes in all that hope concerns.
func (q *turns) hopeful(h *hope) {
	h.services(q.tx.s, func(svc *fsm.Service) { q.push(turn{svc: svc}) })
	for wait := range q.tx.s.WaitedFor() {
		if !h.concerns(wait) {
			continue
		}
		if wait.Namespace != "" && allocator.QuotaAllows(q.tx.s, wait) {
			for svc := range q.tx.s.WaitingFor(wait, nil) {
				if forItself(q.tx.s, svc) {
					q.push(turn{svc: svc}) // others do not wait for what it may have
				}
			}
		}
		q.reopen(wait)
	}
}

// freed begins a new round with who waits for a pool in which an address has fallen free.
func (q *turns) freed(h *hope) {
	q.round++
	for wait := range q.tx.s.WaitedFor() {
		if _, freed := h.pools[wait.Pool]; freed {
			q.reopen(wait)
		}
	}
}

// reopen begins with the longest waiting again, if something is free there.
func (q *turns) reopen(wait fsm.Wait) {
	if allocator.HasFree(q.tx.s, wait, q.tx.now) {
		q.open[wait]++
		q.advance(turn{wait: &wait, opened: q.open[wait]})
	}
}

// advance pushes the service that waits next for what the last one does.
func (q *turns) advance(last turn) {
	for svc := range q.tx.s.WaitingFor(*last.wait, last.svc) {
		q.push(turn{svc, last.wait, last.opened})
		return
	}
}

// next is the service whose turn it is; false when there is none.
func (q *turns) next() (candidate, bool) {
	for len(q.heap) > 0 {
		e := heap.Pop(&q.heap).(turn)
		if e.wait != nil {
			if q.open[*e.wait] != e.opened || !allocator.HasFree(q.tx.s, *e.wait, q.tx.now) {
				continue // others have taken it, or it has been opened again
			}
			q.advance(e)
		}
		svc := q.tx.s.Services[e.svc.Key]
		round, tried := q.tried[e.svc.Key]
		_, faulty := q.faulty[e.svc.Key]
		if tried && round == q.round || faulty || svc == nil || !waits(svc) {
			continue
		}
		q.tried[svc.Key] = q.round
		return candidate{svc.Key, e.wait != nil}, true
	}
	return candidate{}, false
}

func (q *turns) push(e turn) { heap.Push(&q.heap, e) }

// turnHeap has the longest waiting first, and first without a wait: there is more hope
// than that.
type turnHeap []turn

func (h turnHeap) Len() int { return len(h) }
func (h turnHeap) Less(i, j int) bool {
	a, b := h[i], h[j]
	c := fsm.CompareAge(a.svc, b.svc)
	return cmp.Or(c, forWait(a)-forWait(b)) < 0
}
func (h turnHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *turnHeap) Push(e any)   { *h = append(*h, e.(turn)) }
func (h *turnHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	*h = (*h)[:last]
	return e
}

func forWait(e turn) int {
	if e.wait != nil {
		return 1
	}
	return 0
}
