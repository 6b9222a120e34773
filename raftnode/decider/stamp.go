package decider

import (
	"fmt"
	"time"

	"github.com/quorumlb/quorumlb/internal/clock"
)

// maxJump is how far the wall clock may run ahead of the boot clock between two
// batches before it is not believed.
const maxJump = time.Hour

// catchUp: while the log is ahead of the wall clock its time goes on with the boot clock,
// but slower by one part in catchUp, so that the wall clock catches up.
const catchUp = 8

// stamper gives batches their time. It trusts the rate of CLOCK_BOOTTIME and
// the value of the wall clock, the latter only while it does not leap: a time
// once in the log can never go back.
type stamper struct {
	boot clock.Clock
	wall func() time.Time

	// anchorWall was believed at anchorBoot: the highest there was, so that a clock
	// that went back may return.
	anchorWall int64
	anchorBoot time.Duration

	// last was given at lastBoot.
	last     int64
	lastBoot time.Duration
}

func newStamper(boot clock.Clock, wall func() time.Time) *stamper {
	return &stamper{boot: boot, wall: wall, anchorWall: wall().UnixNano(), anchorBoot: boot.Now()}
}

// now gives the time of a batch that follows one of time prev, in nanoseconds
// since 1970 UTC and never less than prev. When the wall clock has leapt it
// gives the time that the boot clock leads to, and an error that wraps
// ErrClockJump: facts may go on with that time, wishes are refused. While the log is ahead
// of the clocks it goes on too, more slowly.
func (s *stamper) now(prev int64) (int64, error) {
	wall, boot := s.wall().UnixNano(), s.boot.Now()
	expected := s.anchorWall + int64(boot-s.anchorBoot)
	if ahead := time.Duration(wall - expected); ahead > maxJump {
		return s.after(prev, expected, boot), fmt.Errorf(
			"%w by %v: correct the clock, or restart this member if its clock is right and was wrong before",
			ErrClockJump, ahead.Round(time.Second))
	}
	if wall > expected {
		s.anchorWall, s.anchorBoot = wall, boot
	}
	return s.after(prev, wall, boot), nil
}

// after is the time of a batch that follows one of time prev, when the clocks say it is
// now. A leader whose clock was ahead leaves a log that is: if that stood still until the
// clocks are there, nothing that waits for a time would end.
func (s *stamper) after(prev, now int64, boot time.Duration) int64 {
	if prev == s.last {
		now = max(now, prev+int64((boot-s.lastBoot)/catchUp*(catchUp-1)))
	}
	s.last, s.lastBoot = max(prev, now), boot
	return s.last
}
