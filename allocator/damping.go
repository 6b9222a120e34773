package allocator

import (
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Damping of an address that was forced to move again and again: doubled with every
// such move, from the second to the longest.
const (
	FirstDamping   = 30 * time.Second
	LongestDamping = 30 * time.Minute
)

// Damping is how long an address makes no voluntary move after so many forced ones.
// One alone is no flapping.
func Damping(flaps uint32) time.Duration {
	if flaps < 2 {
		return 0
	}
	d := FirstDamping
	for range min(flaps-2, 16) {
		d *= 2
	}
	return min(d, LongestDamping)
}

// DampedUntil is the time (nanoseconds since 1970 UTC) before which the address
// makes no voluntary move.
func DampedUntil(rec *fsm.Address) int64 {
	return rec.FlapTime + int64(Damping(rec.Flaps))
}

// Voluntary tells whether a move for this reason may as well wait: the address is
// fine where it is.
func Voluntary(why logv1.OwnerReason) bool {
	switch why {
	case logv1.OwnerReason_OWNER_REASON_IDEAL, logv1.OwnerReason_OWNER_REASON_REBALANCE, logv1.OwnerReason_OWNER_REASON_OFF_SUBNET:
		return true
	}
	return false
}
