package lease

import (
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/leasetime"
)

// Times are the lease times in force, and those that were in force so lately that
// leases granted by them may still run (rule 9). The zero value has no times.
type Times struct {
	cur  fsm.LeaseTimes
	past []pastTimes
}

type pastTimes struct {
	times fsm.LeaseTimes
	until time.Duration
}

// set puts new times in force from now on. The old ones count for their own
// F(1+ρ) longer.
func (t *Times) set(now time.Duration, times fsm.LeaseTimes) {
	if times == t.cur {
		return
	}
	if t.cur != (fsm.LeaseTimes{}) {
		t.remember(now, t.cur)
	}
	t.cur = times
}

// remember counts times as having been in force until now.
func (t *Times) remember(now time.Duration, times fsm.LeaseTimes) {
	t.past = append(t.past, pastTimes{times, now + leasetime.Lengthen(times.Fence())})
}

// longest returns, field by field, the longest of all times that count at now.
func (t *Times) longest(now time.Duration) fsm.LeaseTimes {
	long := t.cur
	kept := t.past[:0]
	for _, p := range t.past {
		if now >= p.until {
			continue
		}
		kept = append(kept, p)
		long.Detection = max(long.Detection, p.times.Detection)
		long.Heartbeat = max(long.Heartbeat, p.times.Heartbeat)
		long.Settle = max(long.Settle, p.times.Settle)
	}
	t.past = kept
	return long
}

// clone returns a copy that shares nothing.
func (t *Times) clone() Times {
	return Times{cur: t.cur, past: append([]pastTimes(nil), t.past...)}
}

// Past remembers when this member learned of revisions. What it has applied was
// decided before, so the time of application is a safe start for every wait that
// counts from a decision, whoever leads (DESIGN.md, "Since it was known here").
type Past struct {
	// marks rise in both fields. A revision was known no later than at the first
	// mark that is not below it.
	marks []mark
}

type mark struct {
	revision uint64
	at       time.Duration
}

// markStep is the shortest time between two marks; those nearer are merged into the later.
const markStep = 2 * time.Millisecond

// applied notes that the state is at revision now. Marks older than keep are
// merged into one.
func (p *Past) applied(now time.Duration, revision uint64, keep time.Duration) {
	n := len(p.marks)
	if n > 0 && revision < p.marks[n-1].revision {
		p.marks, n = p.marks[:0], 0 // another history has been restored
	}
	switch {
	case n > 0 && revision == p.marks[n-1].revision:
		return
	case n > 1 && now-p.marks[n-2].at < markStep:
		p.marks[n-1] = mark{revision, now}
	default:
		p.marks = append(p.marks, mark{revision, now})
	}
	old := 0
	for old+1 < len(p.marks) && p.marks[old+1].at < now-keep {
		old++
	}
	// Cut seldom, so that a mark costs constant time on average.
	if old > len(p.marks)/2 {
		p.marks = append(p.marks[:0], p.marks[old:]...)
	}
}

// known returns the time at which the revision was known here; false if it is not
// applied yet.
func (p *Past) known(revision uint64) (time.Duration, bool) {
	lo, hi := 0, len(p.marks)
	for lo < hi {
		if mid := (lo + hi) / 2; p.marks[mid].revision < revision {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(p.marks) {
		return 0, false
	}
	return p.marks[lo].at, true
}
