package layer2

import (
	"container/heap"
	"time"
)

// schedule is when the rounds of a takeover's announcements are due, counted
// from the first. 100 and 300 ms are against a single loss; 1.1 s beats the second for
// which old Linux kernels lock a fresh entry; the late ones reach ports that
// spanning tree or LACP opened late, and overwrite late frames of the old owner.
var schedule = [...]time.Duration{
	0, 100 * time.Millisecond, 300 * time.Millisecond, 1100 * time.Millisecond,
	2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// allRounds is the number of rounds of a takeover.
const allRounds = len(schedule)

// A round's steps. The gateways come first: remote clients come through them.
const (
	stepGateways = iota
	stepAnnounce
	stepReply // IPv4 only
	stepClients

	steps
)

// burst is the announcements of one address on one link.
type burst struct {
	vip  *vip
	link int
	// kind is KindDefence or KindRefresh for a single announcement, KindGroups or KindProbe
	// for frames that are ready and of no vip, and 0 for rounds.
	kind   Kind
	frames [][]byte
	// err is why a frame that was ready could not be sent.
	err    error
	round  int
	rounds int // how many there are to be
	step   int
	index  int // within the step
	// began is when the first frame of the present round was sent; due, when the
	// next round is.
	began time.Duration
	due   time.Duration
	// clients are to be asked beside the gateways.
	clients []client
	ended   bool
}

// priority is the queue that the burst stands in: defences, then rounds and
// within them steps, so that round 1 of every address precedes round 2 of any.
// Questions come between these two: a takeover does not wait for them, but the first
// round of a new address waits for its question, and is not to come after all others.
func (b *burst) priority() int {
	switch {
	case b.kind == KindDefence:
		return 0
	case b.kind == KindProbe:
		return 1 + steps
	case b.kind == KindRefresh, b.kind == KindGroups:
		return priorities - 1
	case b.round == 0:
		return 1 + b.step
	default:
		return 2 + b.round*steps + b.step
	}
}

const priorities = 3 + allRounds*steps

// pacer decides which frame is sent when. It is pure: the time is told to it.
type pacer struct {
	rate    int // frames per second and link
	waiting burstHeap
	links   map[int]*lane
}

// lane is the queues of one link.
type lane struct {
	bucket bucket
	queues [priorities]fifo
	length int
}

func newPacer(rate int) *pacer { return &pacer{rate: rate, links: make(map[int]*lane)} }

// add takes in a burst whose next round is due at b.due.
func (p *pacer) add(b *burst) { heap.Push(&p.waiting, b) }

// drop forgets a link and all that was to be sent there.
func (p *pacer) drop(link int) {
	if l := p.links[link]; l != nil {
		for b := l.pop(); b != nil; b = l.pop() {
			b.ended = true
		}
	}
	delete(p.links, link)
}

// never is a time that does not come.
const never = time.Duration(1<<63 - 1)

// run lets emit send what may be sent at now, and returns when to call it again.
// Emit sends the next frame of the burst's present step and reports true, or
// reports false if the step has no more.
func (p *pacer) run(now time.Duration, emit func(*burst) bool) time.Duration {
	for len(p.waiting) > 0 && p.waiting[0].due <= now {
		b := heap.Pop(&p.waiting).(*burst)
		if b.ended {
			continue
		}
		b.began = -1
		p.lane(b.link, now).push(b)
	}
	next := never
	for _, l := range p.links {
		for l.length > 0 {
			if wait := l.bucket.wait(now); wait > 0 {
				next = min(next, now+wait)
				break
			}
			p.serve(l, now, emit)
		}
	}
	if len(p.waiting) > 0 {
		next = min(next, p.waiting[0].due)
	}
	return next
}

// serve gives the first burst of the lane its turn.
func (p *pacer) serve(l *lane, now time.Duration, emit func(*burst) bool) {
	b := l.pop()
	if b.ended {
		return
	}
	if emit(b) {
		l.bucket.take(now)
		if b.began < 0 {
			b.began = now
		}
	} else {
		b.step, b.index = b.step+1, 0
	}
	switch {
	case b.ended: // by emit
	case b.step < steps:
		l.push(b)
	case b.round+1 < b.rounds:
		gap := schedule[b.round+1] - schedule[b.round]
		b.round, b.step = b.round+1, 0
		b.due = max(b.began, 0) + gap
		if b.began < 0 { // nothing was to be sent in this round
			b.due = now + gap
		}
		p.add(b)
	default:
		b.ended = true
	}
}

func (p *pacer) lane(link int, now time.Duration) *lane {
	l := p.links[link]
	if l == nil {
		l = &lane{bucket: newBucket(p.rate, now)}
		p.links[link] = l
	}
	return l
}

func (l *lane) push(b *burst) {
	l.queues[b.priority()].push(b)
	l.length++
}

func (l *lane) pop() *burst {
	for i := range l.queues {
		if b := l.queues[i].pop(); b != nil {
			l.length--
			return b
		}
	}
	return nil
}

// bucket lets no more than rate frames through in any second.
type bucket struct {
	depth, refill float64 // refill per second
	tokens        float64
	last          time.Duration
}

// newBucket splits the rate between what may come at once and what comes evenly
// after it, so that a full bucket and the refill of less than a second stay below
// rate + 1.
func newBucket(rate int, now time.Duration) bucket {
	depth := max(1, rate/10)
	return bucket{depth: float64(depth), refill: float64(rate - depth + 1), tokens: float64(depth), last: now}
}

func (b *bucket) fill(now time.Duration) {
	if now > b.last {
		b.tokens = min(b.depth, b.tokens+b.refill*(now-b.last).Seconds())
		b.last = now
	}
}

// wait returns how long it is until there is a token; 0 if there is one.
func (b *bucket) wait(now time.Duration) time.Duration {
	b.fill(now)
	if b.tokens >= 1 {
		return 0
	}
	return max(time.Microsecond, time.Duration((1-b.tokens)/b.refill*float64(time.Second)))
}

func (b *bucket) take(now time.Duration) {
	b.fill(now)
	b.tokens--
}

// fifo is a queue that reuses its memory.
type fifo struct {
	items []*burst
	head  int
}

func (q *fifo) push(b *burst) { q.items = append(q.items, b) }

func (q *fifo) pop() *burst {
	if q.head == len(q.items) {
		return nil
	}
	b := q.items[q.head]
	q.items[q.head] = nil
	q.head++
	switch {
	case q.head == len(q.items):
		q.items, q.head = q.items[:0], 0
	case q.head > 64 && q.head*2 > len(q.items):
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	return b
}

// burstHeap orders bursts by when they are due.
type burstHeap []*burst

func (h burstHeap) Len() int           { return len(h) }
func (h burstHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h burstHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *burstHeap) Push(x any)        { *h = append(*h, x.(*burst)) }
func (h *burstHeap) Pop() any {
	old := *h
	b := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return b
}
