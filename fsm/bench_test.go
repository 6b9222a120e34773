package fsm_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

const benchNodes = 100

// bigLog declares so many services with an address and an owner each, in
// batches of 256 services.
func bigLog(b testing.TB, services int) *fsmtest.Log {
	l := fsmtest.NewLog(b)
	events := []*logv1.Event{
		fsmtest.PoolDefined("v4", "10.0.0.0/8"),
		fsmtest.Ad(&logv1.L2Advertisement{Name: "all"}),
	}
	for i := range benchNodes {
		events = append(events, fsmtest.Opened(fmt.Sprintf("node-%03d", i), 1, map[string]string{"zone": "a"}))
	}
	l.Apply(events...)
	addr := netip.MustParseAddr("10.0.0.0")
	for from := 0; from < services; from += 256 {
		events = events[:0:0]
		for i := from; i < min(from+256, services); i++ {
			events = append(events, serviceEvents(i, addr)...)
			addr = addr.Next()
		}
		l.Apply(events...)
	}
	return l
}

func serviceEvents(i int, addr netip.Addr) []*logv1.Event {
	svc := &logv1.Service{
		Namespace: fmt.Sprintf("namespace-%d", i%50), Name: fmt.Sprintf("service-%06d", i),
		Labels: map[string]string{"app": "web"},
		Ports: []*logv1.Port{
			{Name: "http", Protocol: logv1.Protocol_PROTOCOL_TCP, Port: 80},
			{Name: "https", Protocol: logv1.Protocol_PROTOCOL_TCP, Port: 443},
		},
		IpFamilyPolicy: logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK,
	}
	key := fsm.KeyOf(svc.Namespace, svc.Name)
	return []*logv1.Event{
		fsmtest.Declared(svc),
		fsmtest.AllocatedFor(key, addr, "v4", logv1.AllocationReason_ALLOCATION_REASON_FRESH),
		fsmtest.OwnerAssigned(addr, fmt.Sprintf("node-%03d", i%benchNodes)),
	}
}

// BenchmarkEvolve folds the log of 20,000 services from its bytes: decoding,
// the strict check, hashing and folding, on one core.
func BenchmarkEvolve(b *testing.B) {
	raw := bigLog(b, 20_000).Raw
	events := 0
	for _, r := range raw {
		batch, err := fsm.DecodeBatch(r)
		if err != nil {
			b.Fatal(err)
		}
		events += len(batch.GetEvents())
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		fsmtest.Replay(b, raw)
	}
	b.ReportMetric(float64(events)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkEvolveFailover folds the move of a dead node's 20,000 addresses in
// one batch.
func BenchmarkEvolveFailover(b *testing.B) {
	l := bigLog(b, 20_000)
	events := []*logv1.Event{}
	for i, n := range l.S.Nodes {
		if i != "node-000" {
			events = append(events, fsmtest.Expired(i, n.Session))
		}
	}
	l.Apply(events...)
	// Everything to one node, then that node dies.
	events = nil
	for a, rec := range l.S.Addresses {
		if rec.Owner != "node-000" {
			events = append(events, fsmtest.OwnerAssigned(a, "node-000"))
		}
	}
	events = append(events, fsmtest.Opened("node-001", 2, nil))
	l.Apply(events...)
	events = []*logv1.Event{fsmtest.Expired("node-000", l.S.Nodes["node-000"].Session)}
	for a := range l.S.Addresses {
		events = append(events, fsmtest.OwnerAssigned(a, "node-001"))
	}
	raw := fsm.EncodeBatch(l.S.NextBatch(l.Now, []string{"member:m1"}, events))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		c := l.S.Clone()
		b.StartTimer()
		if _, _, err := c.Apply(raw); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(events))*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkDecode(b *testing.B) {
	raw := bigLog(b, 256).Raw[2]
	batch, err := fsm.DecodeBatch(raw)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := fsm.DecodeBatch(raw); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(batch.GetEvents()))*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

var bigStates = map[int]*fsm.State{}

func bigState(b testing.TB, services int) *fsm.State {
	if bigStates[services] == nil {
		bigStates[services] = bigLog(b, services).S
	}
	return bigStates[services]
}

func BenchmarkClone(b *testing.B) {
	s := bigState(b, 100_000)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		s.Clone()
	}
}

func BenchmarkDigest(b *testing.B) {
	s := bigState(b, 100_000)
	b.ResetTimer()
	for range b.N {
		s.Digest()
	}
}

func BenchmarkSnapshotSave(b *testing.B) {
	s := bigState(b, 100_000)
	var size countWriter
	b.ResetTimer()
	for range b.N {
		size = 0
		if err := fsm.WriteSnapshot(&size, s); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(size), "bytes")
}

type countWriter int

func (c *countWriter) Write(p []byte) (int, error) {
	*c += countWriter(len(p))
	return len(p), nil
}

func BenchmarkSnapshotRestore(b *testing.B) {
	var buf bytes.Buffer
	if err := fsm.WriteSnapshot(&buf, bigState(b, 100_000)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := fsm.ReadSnapshot(bytes.NewReader(buf.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSnapshotInspect(b *testing.B) {
	var buf bytes.Buffer
	if err := fsm.WriteSnapshot(&buf, bigState(b, 100_000)); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		if _, err := fsm.InspectSnapshot(bytes.NewReader(buf.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMemory reports the bytes that the state of 100,000 services holds.
func BenchmarkMemory(b *testing.B) {
	var before, after runtime.MemStats
	for range b.N {
		runtime.GC()
		runtime.ReadMemStats(&before)
		s := bigLog(b, 100_000).S
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(s)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
}
