package fsm

import (
	"testing"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// BenchmarkStrictCheck is what strictness adds to decoding, over 768 events.
func BenchmarkStrictCheck(b *testing.B) {
	batch := &logv1.Batch{Revision: 1, Prev: make([]byte, 32), Actors: []string{"admin:a"}}
	for range 256 {
		batch.Events = append(batch.Events,
			&logv1.Event{Fact: &logv1.Event_ServiceDeclared{ServiceDeclared: &logv1.ServiceDeclared{Service: &logv1.Service{
				Namespace: "namespace", Name: "service-000001", Ports: []*logv1.Port{{Name: "http", Protocol: 1, Port: 80}}}}}},
			&logv1.Event{Fact: &logv1.Event_AddressAllocated{AddressAllocated: &logv1.AddressAllocated{
				Address: []byte{10, 0, 0, 1}, Namespace: "namespace", Name: "service-000001", Pool: "v4"}}},
			&logv1.Event{Fact: &logv1.Event_OwnerAssigned{OwnerAssigned: &logv1.OwnerAssigned{Address: []byte{10, 0, 0, 1}, Node: "node-001"}}})
	}
	raw, err := proto.Marshal(batch)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for range b.N {
		if err := batchSchema.check(raw, 0); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/768, "ns/event")
}
