package lab

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Sample is one datagram or one connection attempt of a probe.
type Sample struct {
	Sent     time.Time
	Answered time.Time // zero: never
	Node     string    // who answered
	Reset    bool      // TCP: connected, and then cut off before the greeting
	Err      string    // TCP: why not
}

// Report sums up what a probe saw in a window of time.
type Report struct {
	Sent int
	Lost int // sent in the window and not answered within Patience
	// Resets counts TCP connections that were made and then cut off: an
	// established connection of an address that moved, not a lost one.
	Resets int
	// LongestGap is the longest time without an answer: between answers that
	// follow each other, and to the window's edges.
	LongestGap time.Duration
	GapFrom    time.Time
	Nodes      []string // who answered, in order of first answer
}

// Patience is how long a probe waits: an answer that comes later counts as lost.
const Patience = time.Second

// series holds a probe's samples in the order of sending.
type series struct {
	mu      sync.Mutex
	samples []Sample
	gone    int // samples that were forgotten; they were the first
}

func (s *series) add(x Sample) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.samples = append(s.samples, x)
	return s.gone + len(s.samples) - 1
}

func (s *series) update(i int, fn func(*Sample)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i -= s.gone; i >= 0 && i < len(s.samples) {
		fn(&s.samples[i])
	}
}

// Forget drops what was sent before the moment, so that a probe can run for hours.
func (s *series) Forget(before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, _ := slices.BinarySearchFunc(s.samples, before, func(x Sample, t time.Time) int { return x.Sent.Compare(t) })
	s.samples, s.gone = slices.Clone(s.samples[n:]), s.gone+n
}

// Samples copies what was sent in [from, to).
func (s *series) Samples(from, to time.Time) []Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := func(x Sample, t time.Time) int { return x.Sent.Compare(t) }
	i, _ := slices.BinarySearchFunc(s.samples, from, at)
	j, _ := slices.BinarySearchFunc(s.samples, to, at)
	return slices.Clone(s.samples[i:max(i, j)])
}

// Window reports on what was sent in [from, to). Ask for it Patience after to;
// earlier the last ones still count as lost.
func (s *series) Window(from, to time.Time) Report {
	samples := s.Samples(from, to)
	r := Report{Sent: len(samples)}
	var answers []Sample
	for _, x := range samples {
		if x.Reset {
			r.Resets++
		}
		if x.Answered.IsZero() || x.Answered.Sub(x.Sent) > Patience {
			r.Lost++
			continue
		}
		answers = append(answers, x)
	}
	slices.SortFunc(answers, func(a, b Sample) int { return a.Answered.Compare(b.Answered) })
	last := from
	gap := func(until time.Time) {
		if d := until.Sub(last); d > r.LongestGap {
			r.LongestGap, r.GapFrom = d, last
		}
		last = until
	}
	for _, x := range answers {
		gap(x.Answered)
		if x.Node != "" && !slices.Contains(r.Nodes, x.Node) {
			r.Nodes = append(r.Nodes, x.Node)
		}
	}
	gap(latest(last, to))
	return r
}

func latest(a, b time.Time) time.Time {
	if cmp.Compare(a.UnixNano(), b.UnixNano()) > 0 {
		return a
	}
	return b
}

// Last is the newest sample that has an answer, and whether there is one newer
// than so long ago.
func (s *series) Last(within time.Duration) (Sample, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, x := range slices.Backward(s.samples) {
		if now.Sub(x.Sent) > within+Patience {
			break
		}
		if !x.Answered.IsZero() && now.Sub(x.Answered) <= within {
			return x, true
		}
	}
	return Sample{}, false
}

// ticker calls fn every interval until stop is closed. A late tick is made up
// for by none: the probe counts what it sends.
func ticker(every time.Duration, stop <-chan struct{}, fn func()) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			fn()
		case <-stop:
			return
		}
	}
}
