package fsm_test

import (
	"fmt"
	"testing"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// BenchmarkReservations folds one batch that defines 500 reservations in a pool of
// 50,000 addresses in use.
func BenchmarkReservations(b *testing.B) {
	l := bigLog(b, 50_000)
	events := make([]*logv1.Event, 0, 500)
	for i := range 500 {
		events = append(events, reserve(fmt.Sprintf("r%d", i), 0, fmt.Sprintf("10.%d.%d.0/24", 20+i%200, i/200)))
	}
	raw := fsm.EncodeBatch(l.S.NextBatch(l.Now, []string{"member:m1"}, events))
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		s := l.S.Clone()
		b.StartTimer()
		if _, _, err := s.Apply(raw); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUnused finds the first of a range whose other 50,000 are in use.
func BenchmarkUnused(b *testing.B) {
	l := bigLog(b, 50_000)
	r, _ := fsm.ParseRange("10.0.0.0/16")
	b.ResetTimer()
	for range b.N {
		for a := range l.S.Unused(r) {
			if a.String() != "10.0.195.80" {
				b.Fatal(a)
			}
			break
		}
	}
}
