package leasetime

import "time"

// The drift bound ρ of the lease rules: 1 % of the duration plus a fixed slack,
// which covers reading the clock and timers of the kernel.
const (
	driftDivisor = 100
	driftSlack   = 10 * time.Millisecond
)

// Shorten returns F(1-ρ): how long a holder may rely on a lease of length f,
// counted from before its heartbeat was sent. Never negative.
func Shorten(f time.Duration) time.Duration {
	return max(0, f-drift(f))
}

// Lengthen returns F(1+ρ): how long to wait for a lease of length f to have ended
// on every other machine, counted from after the heartbeat was received.
func Lengthen(f time.Duration) time.Duration {
	return f + drift(f)
}

// drift is ρ·f, rounded up so that both uses of it err towards safety.
func drift(f time.Duration) time.Duration {
	return (f+driftDivisor-1)/driftDivisor + driftSlack
}
