package sim

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seedFlag  = flag.Uint64("sim.seed", 0, "play this one schedule, several times, with a trace")
	timeFlag  = flag.Duration("sim.time", 0, "for how long to play fresh schedules")
	leastFlag = flag.Uint64("sim.least", 0, "how many to play at least, however long that takes")
)

// tries is how often a seed is played again: what a schedule leaves open, the
// scheduler of goroutines decides.
const tries = 20

// TestSim plays fresh schedules, or the one of a seed.
func TestSim(t *testing.T) {
	if *seedFlag != 0 {
		replay(t, *seedFlag)
		return
	}
	most := *timeFlag
	if most == 0 {
		most = 3 * time.Second
	}
	seed := rand.Uint64()
	t.Logf("schedules from seed %d on", seed)
	var played, next atomic.Uint64
	var mu sync.Mutex
	var sum Stats
	var slowest time.Duration
	start := time.Now()
	t.Run("group", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for (time.Since(start) < most || played.Load() < *leastFlag) && !t.Failed() {
					s := seed + next.Add(1)
					w, failure := play(t, s, false)
					played.Add(1)
					if failure != "" {
						t.Errorf("seed %d: %s\nreplay: make sim SEED=%d", s, failure, s)
					}
					mu.Lock()
					sum.add(&w.Stats)
					slowest = max(slowest, w.Stats.Settled)
					mu.Unlock()
				}
			})
		}
	})
	took := time.Since(start)
	t.Logf("%d schedules in %v, %.0f a minute; %+v; slowest to settle: %v", played.Load(), took.Round(time.Millisecond),
		float64(played.Load())/took.Minutes(), sum, slowest)
}

func (s *Stats) add(o *Stats) {
	s.Events += o.Events
	s.Batches += o.Batches
	s.Leaders += o.Leaders
	s.Acks += o.Acks
	s.Faults += o.Faults
	s.Acked += o.Acked
	s.Unknown += o.Unknown
	s.Refused += o.Refused
}

func play(t *testing.T, seed uint64, trace bool) (w *World, failure string) {
	synctest.Test(t, func(*testing.T) { w, failure = Play(seed, Options{Trace: trace}) })
	return w, failure
}

func replay(t *testing.T, seed uint64) {
	failed := 0
	var trace, first string
	for range tries {
		w, failure := play(t, seed, true)
		if failure != "" {
			failed++
		}
		if trace == "" || failure != "" && first == "" {
			trace, first = w.Trace(), failure
		}
	}
	t.Logf("\n%s", trace)
	if failed > 0 {
		t.Errorf("seed %d failed in %d of %d plays: %s", seed, failed, tries, first)
	}
}
