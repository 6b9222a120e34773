package watch_test

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode/watch"
)

// BenchmarkDeadNode measures what the hub does in the apply goroutine when a
// node that owned all addresses dies and the others, all watched, take over.
func BenchmarkDeadNode(b *testing.B) {
	for _, addresses := range []int{1, 100, 20000} {
		b.Run(fmt.Sprintf("addresses=%d", addresses), func(b *testing.B) {
			const nodes = 50
			g := newGroup(b, 4)
			g.apply(&logv1.Event{Fact: &logv1.Event_PoolDefined{PoolDefined: &logv1.PoolDefined{Pool: &logv1.Pool{Name: "p", Addresses: []string{"10.0.0.0/8"}}}}})
			var evs []*logv1.Event
			for i := range nodes {
				evs = append(evs, open(fmt.Sprintf("n%d", i), 1, byte(i), nil))
			}
			g.apply(evs...)
			addr := func(i int) string { return fmt.Sprintf("10.0.%d.%d", i/256, i%256) }
			evs = nil
			for i := range addresses {
				name := fmt.Sprintf("s%d", i)
				evs = append(evs, declare(name, logv1.Delivery_DELIVERY_HOST), allocate(name, addr(i)))
			}
			g.apply(evs...)
			evs = nil
			for i := range addresses {
				evs = append(evs, assign(addr(i), "n0"))
			}
			g.apply(evs...)
			for i := range nodes {
				g.subscribe(fmt.Sprintf("n%d", i)).next()
			}
			evs = []*logv1.Event{{Fact: &logv1.Event_SessionExpired{SessionExpired: &logv1.SessionExpired{Node: "n0", Session: g.session("n0")}}}}
			for i := range addresses {
				evs = append(evs, assign(addr(i), fmt.Sprintf("n%d", 1+i%(nodes-1))))
			}
			raw := fsm.EncodeBatch(g.state.NextBatch(g.state.Time, []string{"member:m1"}, evs))
			for b.Loop() {
				b.StopTimer()
				hub, s := newHubOf(b, g, nodes)
				batch, ch, err := s.Apply(raw)
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				hub.Apply(batch, ch, s)
			}
		})
	}
}

// BenchmarkJoin measures what one more node costs when many are watched: the hub's
// work and the encoding of what it sends to them.
func BenchmarkJoin(b *testing.B) {
	for _, nodes := range []int{50, 500} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			g := newGroup(b, 4)
			var evs []*logv1.Event
			for i := range nodes {
				evs = append(evs, openAs(fmt.Sprintf("n%d", i), i))
			}
			g.apply(evs...)
			raw := fsm.EncodeBatch(g.state.NextBatch(g.state.Time, []string{"member:m1"}, []*logv1.Event{openAs("late", nodes)}))
			bytes := 0
			for b.Loop() {
				b.StopTimer()
				hub, s := newHubOf(b, g, 0)
				subs := make([]*watch.Subscription, nodes)
				for i := range subs {
					name := fmt.Sprintf("n%d", i)
					sub, err := hub.Subscribe(name, s.Nodes[name].Session, 0)
					if err != nil {
						b.Fatal(err)
					}
					_, _ = sub.Next(b.Context())
					subs[i] = sub
				}
				batch, ch, err := s.Apply(raw)
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				hub.Apply(batch, ch, s)
				for _, sub := range subs {
					msg, err := sub.Next(b.Context())
					if err != nil {
						b.Fatal(err)
					}
					encoded, err := proto.Marshal(msg)
					if err != nil {
						b.Fatal(err)
					}
					bytes = len(encoded)
				}
			}
			b.ReportMetric(float64(bytes), "bytes/message")
		})
	}
}

// openAs opens a session of a node with a MAC of its own.
func openAs(name string, i int) *logv1.Event {
	ev := open(name, 1, 0, nil)
	ev.GetSessionOpened().Macs = [][]byte{{2, 0, 0, 0, byte(i >> 8), byte(i)}}
	return ev
}

// BenchmarkHealthChanged measures what the result of a health check costs when many nodes
// run it.
func BenchmarkHealthChanged(b *testing.B) {
	const nodes = 100
	g := newGroup(b, 4)
	var evs []*logv1.Event
	for i := range nodes {
		evs = append(evs, openAs(fmt.Sprintf("n%d", i), i))
	}
	check := &logv1.HealthCheck{Tcp: &logv1.TcpCheck{}, IntervalNanos: 1e9, TimeoutNanos: 1e9, Rise: 1, Fall: 1}
	g.apply(append(evs, declareChecked("web", logv1.Delivery_DELIVERY_HOST, check), allocate("web", "192.0.2.1"))...)
	hub, s := newHubOf(b, g, nodes)
	healthy := false
	for b.Loop() {
		b.StopTimer()
		healthy = !healthy
		batch, ch, err := s.Apply(fsm.EncodeBatch(s.NextBatch(s.Time, []string{"member:m1"}, []*logv1.Event{
			{Fact: &logv1.Event_HealthChanged{HealthChanged: &logv1.HealthChanged{Namespace: "ns", Name: "web", Node: "n0", Healthy: healthy}}},
		})))
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		hub.Apply(batch, ch, s)
	}
}
