// Package clock is the one source of time for leases and deadlines:
// CLOCK_BOOTTIME, which goes on while the machine is suspended (CLOCK_MONOTONIC
// stops). Values of two machines are never compared.
package clock

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Clock tells the time since some fixed moment in the past.
type Clock interface {
	Now() time.Duration
}

// Boottime is the kernel's CLOCK_BOOTTIME.
var Boottime Clock = boottime{}

type boottime struct{}

func (boottime) Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		// Linux has had this clock since 2.6.39; without it no lease is safe.
		panic("clock: CLOCK_BOOTTIME: " + err.Error())
	}
	return time.Duration(ts.Nano())
}

// Manual is a clock that stands still until it is moved. The zero value is at 0.
type Manual struct{ now atomic.Int64 }

// Now returns the time that was set.
func (m *Manual) Now() time.Duration { return time.Duration(m.now.Load()) }

// Advance moves the clock on by d.
func (m *Manual) Advance(d time.Duration) { m.now.Add(int64(d)) }

// Set moves the clock to t.
func (m *Manual) Set(t time.Duration) { m.now.Store(int64(t)) }
