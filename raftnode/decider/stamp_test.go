package decider

import (
	"errors"
	"testing"
	"time"
)

type handClock struct{ boot time.Duration }

func (c *handClock) Now() time.Duration { return c.boot }

// Given a log whose newest batch was stamped by a clock two hours ahead, time goes on from
// there, and the wall clock catches up.
func TestALogAheadOfTheClockGoesOn(t *testing.T) {
	boot := &handClock{time.Hour}
	wall := time.Unix(1_800_000_000, 0)
	s := newStamper(boot, func() time.Time { return wall })
	ahead := 2 * time.Hour
	start := wall.Add(ahead).UnixNano()
	at, err := s.now(start)
	if err != nil || at != start {
		t.Fatalf("%v after the newest batch: %v", time.Duration(at-start), err)
	}
	for range 17 * 60 {
		boot.boot += time.Minute
		wall = wall.Add(time.Minute)
		prev := at
		at, err = s.now(prev)
		went, over := time.Duration(at-prev), time.Duration(at-wall.UnixNano())
		if err != nil || went < 52*time.Second || went > time.Minute || over < 0 || over > ahead {
			t.Fatalf("it went on by %v and is %v ahead, before %v: %v", went, over, ahead, err)
		}
		ahead = over
	}
	if ahead != 0 {
		t.Errorf("it is still %v ahead", ahead)
	}
	// A quiet time between two batches counts, also when the clock does not.
	wall = wall.Add(-24 * time.Hour)
	at, _ = s.now(at)
	boot.boot += 8 * time.Hour
	later, _ := s.now(at)
	if went := time.Duration(later - at); went != 7*time.Hour {
		t.Errorf("it went on by %v in 8 h", went)
	}
	// So it does with a clock that leaps, and one is still not believed.
	s = newStamper(boot, func() time.Time { return wall })
	at, _ = s.now(wall.Add(time.Hour).UnixNano())
	boot.boot += 8 * time.Minute
	wall = wall.Add(48 * time.Hour)
	later, err = s.now(at)
	if went := time.Duration(later - at); went != 7*time.Minute || !errors.Is(err, ErrClockJump) {
		t.Errorf("it went on by %v: %v", went, err)
	}
}
