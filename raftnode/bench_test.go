package raftnode_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

// BenchmarkDeclarations declares services through three members on loopback,
// with TLS and fsync: alone for the latency, and by many for the throughput.
func BenchmarkDeclarations(b *testing.B) {
	for _, writers := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			g := newGroup(b, 3)
			g.start()
			g.apply(0, pool("p", "10.0.0.0/8"))
			leader := g.leader()
			var clients []adminv1.AdminServiceClient
			for range 8 { // a connection is one socket
				clients = append(clients, g.client(leader))
			}
			var next atomic.Int64
			var mu sync.Mutex
			var took []time.Duration
			b.ResetTimer()
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					for {
						i := next.Add(1)
						if i > int64(b.N) {
							return
						}
						start := time.Now()
						_, err := clients[w%len(clients)].Apply(b.Context(), &adminv1.ApplyRequest{
							Resources: []*adminv1.Resource{service(fmt.Sprintf("s%d", i))},
						})
						if err != nil {
							b.Error(err)
							return
						}
						mu.Lock()
						took = append(took, time.Since(start))
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "declarations/s")
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}
