package decider

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/consensus/clustertest"
)

// benchHarness is a harness outside a bubble, on a log that commits at once.
func benchHarness(b *testing.B) *harness {
	h := newHarness(b, func(c *Config) { c.Logger = slog.New(slog.DiscardHandler) })
	h.log.set(func(l *memLog) { l.delay = func() time.Duration { return 0 } })
	h.log.lead()
	clustertest.Eventually(b, "it decides", func() bool {
		_, err := h.submit(&Found{ClusterID: [16]byte{1}, Version: 1})
		return err == nil
	})
	return h
}

// fill declares n services, 500 at a time.
func (h *harness) fill(n int) {
	h.t.Helper()
	for i := 0; i < n; i += 500 {
		var batch []*adminv1.Resource
		for j := i; j < min(i+500, n); j++ {
			batch = append(batch, service(fmt.Sprintf("s%d", j)))
		}
		h.must(apply(batch...))
	}
}

// BenchmarkDeclarations is what the decider itself can do: one service per
// command, 256 callers, a log in memory.
func BenchmarkDeclarations(b *testing.B) {
	for _, there := range []int{0, 100_000} {
		b.Run(fmt.Sprintf("beside=%d", there), func(b *testing.B) {
			h := benchHarness(b)
			defer h.stop()
			h.must(apply(pool("p", "10.0.0.0/8"), ad("a")))
			for i := range 5 {
				h.must(openSession(fmt.Sprintf("n%d", i), 1))
			}
			h.fill(there)
			before := h.d.Stats().Batches.Load()
			b.ResetTimer()
			declare(b, h.d, b.N)
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "declarations/s")
			b.ReportMetric(float64(b.N)/float64(h.d.Stats().Batches.Load()-before), "commands/batch")
		})
	}
}

// declare submits n declarations from 256 callers.
func declare(b *testing.B, d *Decider, n int) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 256 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				if _, err := d.Submit(context.Background(), apply(service(fmt.Sprintf("new%d", i)))); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkRaftDeclarations is the same through three members of real Raft, in
// one process, with fsync.
func BenchmarkRaftDeclarations(b *testing.B) {
	g := newRaftGroup(b, consensus.DefaultTiming.Times(8))
	g.must(apply(pool("p", "10.0.0.0/8"), ad("a")))
	for i := range 5 {
		g.must(openSession(fmt.Sprintf("n%d", i), 1))
	}
	_, d := g.leading()
	before := d.Stats().Batches.Load()
	b.ResetTimer()
	declare(b, d, b.N)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "declarations/s")
	b.ReportMetric(float64(b.N)/float64(d.Stats().Batches.Load()-before), "commands/batch")
}

// BenchmarkRaftLatency is one declaration after the other.
func BenchmarkRaftLatency(b *testing.B) {
	g := newRaftGroup(b, consensus.DefaultTiming.Times(8))
	g.must(apply(pool("p", "10.0.0.0/8"), ad("a")))
	_, d := g.leading()
	i := 0
	for b.Loop() {
		i++
		if _, err := g.submit(d, apply(service(fmt.Sprintf("new%d", i)))); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDeadNode is a failover of a node with 20,000 addresses: from the
// command to the moment in which the batch is proposed.
func BenchmarkDeadNode(b *testing.B) {
	for _, nodes := range []int{5, 100} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) { deadNode(b, nodes) })
	}
}

func deadNode(b *testing.B, nodes int) {
	h := benchHarness(b)
	defer h.stop()
	h.must(apply(pool("p", "10.0.0.0/8"), ad("a")))
	h.must(openSession("n0", 1))
	h.fill(20_000)
	for i := range nodes - 1 {
		h.must(openSession(fmt.Sprintf("n%d", i+1), 1))
	}
	h.leases.auto = time.Nanosecond
	var took time.Duration
	var proposed atomic.Int64
	h.log.set(func(l *memLog) {
		l.onPropose = func([]byte) Future { proposed.Store(time.Now().UnixNano()); return nil }
	})
	for b.Loop() {
		h.idle(b)
		// All go to one node first, by way of moves that cost nothing here.
		cmd := h.expire("n0")
		proposed.Store(0)
		start := time.Now()
		h.must(cmd)
		took += time.Duration(proposed.Load() - start.UnixNano())
		left := 0
		h.log.Read(func(s *fsm.State) { left = s.Nodes["n0"].Owned })
		if left != 0 {
			b.Fatalf("%d addresses are left with the dead node", left)
		}
		b.StopTimer()
		h.giveAllTo(b, "n0", nodes)
		b.StartTimer()
	}
	b.ReportMetric(float64(took.Milliseconds())/float64(b.N), "ms-to-propose")
	b.ReportMetric(float64(20_000*b.N)/took.Seconds(), "owners/s")
}

// giveAllTo has the node return and all others expire, one after the other.
func (h *harness) giveAllTo(b *testing.B, node string, nodes int) {
	h.must(openSession(node, 1))
	for i := range nodes {
		if n := fmt.Sprintf("n%d", i); n != node {
			h.must(&Drain{Node: n, Actor: "admin:test"})
		}
	}
	clustertest.Eventually(b, "it owns all", func() bool {
		owned := 0
		h.d.Wake()
		h.log.Read(func(s *fsm.State) { owned = s.Nodes[node].Owned })
		return owned == 20_000
	})
	for i := range nodes {
		if n := fmt.Sprintf("n%d", i); n != node {
			h.must(&Undrain{Node: n, Actor: "admin:test"})
		}
	}
}

// idle waits until nothing is in flight.
func (h *harness) idle(b *testing.B) {
	clustertest.Eventually(b, "nothing is in flight", func() bool { return h.d.Stats().InFlight.Load() == 0 })
}

// BenchmarkTakeover is how long a new leader needs until it decides, at 100,000
// services: the clone of the state and the first look.
func BenchmarkTakeover(b *testing.B) {
	h := benchHarness(b)
	defer h.stop()
	h.must(apply(pool("p", "10.0.0.0/8"), ad("a")))
	for i := range 5 {
		h.must(openSession(fmt.Sprintf("n%d", i), 1))
	}
	h.fill(100_000)
	for b.Loop() {
		h.log.lose(0)
		h.log.lead()
		clustertest.Eventually(b, "it decides", func() bool {
			_, err := h.submit(&Undrain{Node: "n0", Actor: "admin:test"})
			return err == nil
		})
	}
}

// BenchmarkDryRun is a dry run that takes the addresses of 100,000 services, and how long
// the decider itself is kept by it: a command that comes at the same time.
func BenchmarkDryRun(b *testing.B) {
	h := benchHarness(b)
	defer h.stop()
	h.must(apply(pool("p", "10.0.0.0/8"), ad("a")))
	for i := range 5 {
		h.must(openSession(fmt.Sprintf("n%d", i), 1))
	}
	h.fill(100_000)
	h.must(apply(pool("q", "11.0.0.0/8")))
	away := &Delete{Names: remove(KindPool, "p").Names, DryRun: true}
	var longest time.Duration
	for b.Loop() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			if r := h.must(away); len(r.Effects) != 100_000 {
				b.Errorf("%d effects", len(r.Effects))
			}
		}()
		for running := true; running; {
			start := time.Now()
			h.must(&SetRetention{Retention: time.Duration(b.N) * time.Hour})
			longest = max(longest, time.Since(start))
			select {
			case <-done:
				running = false
			case <-time.After(time.Millisecond):
			}
		}
	}
	b.ReportMetric(float64(longest.Microseconds())/1000, "ms-longest-other")
}

// BenchmarkOthersComeAndGo replaces one service by another while so many wait on a
// full pool: the one that has waited longest gets what the first gives up.
func BenchmarkOthersComeAndGo(b *testing.B) {
	for _, waiting := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprintf("waiting=%d", waiting), func(b *testing.B) {
			h := benchHarness(b)
			defer h.stop()
			h.must(&SetRetention{})
			h.must(apply(pool("p", "10.0.0.0/24")))
			h.fill(256 + waiting)
			next, tries := 0, h.d.Stats().Retries.Load()
			var took []time.Duration
			for b.Loop() {
				start := time.Now()
				h.must(remove(KindService, fmt.Sprintf("s%d", next)))
				h.must(apply(service(fmt.Sprintf("s%d", 256+waiting+next))))
				next++
				took = append(took, time.Since(start))
			}
			tenth := max(len(took)/10, 1)
			b.ReportMetric(medianMicros(took[:tenth]), "us-first-tenth")
			b.ReportMetric(medianMicros(took[len(took)-tenth:]), "us-last-tenth")
			b.ReportMetric(float64(h.d.Stats().Retries.Load()-tries)/float64(next), "tries/op")
		})
	}
}

func medianMicros(took []time.Duration) float64 {
	sorted := slices.Sorted(slices.Values(took))
	return float64(sorted[len(sorted)/2].Nanoseconds()) / 1000
}
