package lease

import "time"

// mass is rule 8: when most nodes fall silent at once, the fault is more likely on
// this side. It also begins with the process, since a member that has just
// started has heard nobody. Times are waking times.
type mass struct {
	on bool
	// since is when it began; over when most nodes were last found silent.
	since, over time.Duration
}

func (m *mass) begin(now time.Duration) {
	m.on, m.since, m.over = true, now, now
}

// update takes whether most nodes are silent now. The event ends when fewer have
// been for d without a break; while it lasts it does not begin anew, so that what is really
// dead is expired once the settle time has passed.
func (m *mass) update(now time.Duration, mostSilent bool, d time.Duration) {
	switch {
	case mostSilent && !m.on:
		m.begin(now)
	case mostSilent:
		m.over = now
	case m.on && now-m.over >= d:
		m.on = false
	}
}

// recency is the list of nodes, the one heard last first.
type recency struct{ first, last *heardNode }

func (l *recency) pushFront(n *heardNode) {
	n.prev, n.next = nil, l.first
	if l.first != nil {
		l.first.prev = n
	} else {
		l.last = n
	}
	l.first = n
}

func (l *recency) remove(n *heardNode) {
	if n.prev != nil {
		n.prev.next = n.next
	} else {
		l.first = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	} else {
		l.last = n.prev
	}
	n.prev, n.next = nil, nil
}

func (l *recency) moveToFront(n *heardNode) {
	if l.first == n {
		return
	}
	l.remove(n)
	l.pushFront(n)
}
