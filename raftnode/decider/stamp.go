package decider

import (
	"fmt"
	"time"

	"github.com/quorumlb/quorumlb/internal/clock"
)

// maxJump is how far the wall clock may run ahead of the boot clock between two
// batches before it is not believed.
const maxJump = time.Hour

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
}

func newStamper(boot clock.Clock, wall func() time.Time) *stamper {
	return &stamper{boot: boot, wall: wall, anchorWall: wall().UnixNano(), anchorBoot: boot.Now()}
}

// now gives the time of a batch that follows one of time prev, in nanoseconds
// since 1970 UTC and never less than prev. When the wall clock has leapt it
// gives the time that the boot clock leads to, and an error that wraps
// ErrClockJump: facts may go on with that time, wishes are refused.
func (s *stamper) now(prev int64) (int64, error) {
	wall, boot := s.wall().UnixNano(), s.boot.Now()
	expected := s.anchorWall + int64(boot-s.anchorBoot)
	if ahead := time.Duration(wall - expected); ahead > maxJump {
		return max(prev, expected), fmt.Errorf(
			"%w by %v: correct the clock, or restart this member if its clock is right and was wrong before",
			ErrClockJump, ahead.Round(time.Second))
	}
	if wall > expected {
		s.anchorWall, s.anchorBoot = wall, boot
	}
	return max(prev, wall), nil
}
