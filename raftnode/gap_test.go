package raftnode

import (
	"sync"
	"time"
)

// Gap is the longest time that a speaker of a test was silent without being told
// to: on a busy machine it may get no processor for so long that it loses what it
// owns, and rightly so.
type Gap struct {
	mu      sync.Mutex
	last    time.Time // of the newest beat; zero before the first and after the end
	longest time.Duration
	ended   bool
}

// Beat notes a heartbeat.
func (g *Gap) Beat() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.ended {
		g.note()
		g.last = time.Now()
	}
}

// End notes that no beat is due any more.
func (g *Gap) End() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.note()
	g.last, g.ended = time.Time{}, true
}

func (g *Gap) note() {
	if !g.last.IsZero() {
		g.longest = max(g.longest, time.Since(g.last))
	}
}

// Reset begins anew.
func (g *Gap) Reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.longest = 0
}

// Get is the longest silence since the last reset, one that lasts included.
func (g *Gap) Get() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.note()
	return g.longest
}
