package session

import (
	"context"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/internal/clock"
)

// Over a line on which every view takes longer than h no member would ever bring one, if
// each next member had as little time as the one before.
func TestEachNextMemberHasMoreTimeToCatchUp(t *testing.T) {
	clk := &clock.Manual{}
	clk.Set(time.Hour)
	s := &Session{cfg: Config{Clock: clk}, roster: &roster{}}
	s.times.Store(&defaultTimes)
	s.applied = make(chan struct{})
	l := &live{s: s, now: make(chan struct{}, 1)}
	for i := range l.slots {
		l.slots[i] = &slot{number: i}
	}
	var given []time.Duration
	h := defaultTimes.heartbeat
	for range 6 {
		_, cancel := context.WithCancelCause(t.Context())
		taken, start := false, clk.Now()
		w := l.slots[0]
		w.cancel, w.member = func(cause error) { taken = true; cancel(cause) }, &member{}
		w.member.heard.Store(int64(clk.Now()))
		l.needed(7)
		for !taken && clk.Now() < start+time.Minute {
			clk.Advance(10 * time.Millisecond)
			l.lookAtSlots()
		}
		given = append(given, (clk.Now() - start).Truncate(h))
	}
	for i, want := range []time.Duration{h, 2 * h, 4 * h, 8 * h, 16 * h, 16 * h} {
		if given[i] != want {
			t.Fatalf("members had %v, want the next twice the time up to %d h of %v", given, maxPatience, h)
		}
	}
	l.inForce(View{Revision: 7})
	if l.behind.patience != 0 {
		t.Error("it is caught up, and the next member is given the time of the last one")
	}
}
