// Package agenda orders what simulations have before them.
package agenda

import "time"

// Event is something that happens at a time.
type Event struct {
	At  time.Duration
	seq uint64
	Do  func()
}

// Agenda has the events to come, the next one first; those of one time come in the order
// in which they were added. The zero Agenda is empty. It is a binary heap of its own,
// because container/heap would cost an allocation per event.
type Agenda struct {
	heap []Event
	seq  uint64
}

// Next is the next event; false when there is none.
func (a *Agenda) Next() (Event, bool) {
	if len(a.heap) == 0 {
		return Event{}, false
	}
	return a.heap[0], true
}

// Add adds an event.
func (a *Agenda) Add(at time.Duration, do func()) {
	a.seq++
	a.heap = append(a.heap, Event{At: at, seq: a.seq, Do: do})
	for i := len(a.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !a.less(i, up) {
			break
		}
		a.swap(i, up)
		i = up
	}
}

// Take removes and returns the next event. There must be one.
func (a *Agenda) Take() Event {
	top, n := a.heap[0], len(a.heap)-1
	a.heap[0] = a.heap[n]
	a.heap[n] = Event{}
	a.heap = a.heap[:n]
	for i := 0; ; {
		c := 2*i + 1
		if c >= n {
			break
		}
		if c+1 < n && a.less(c+1, c) {
			c++
		}
		if !a.less(c, i) {
			break
		}
		a.swap(i, c)
		i = c
	}
	return top
}

func (a *Agenda) less(i, j int) bool {
	x, y := &a.heap[i], &a.heap[j]
	return x.At < y.At || x.At == y.At && x.seq < y.seq
}

func (a *Agenda) swap(i, j int) { a.heap[i], a.heap[j] = a.heap[j], a.heap[i] }
