package agenda

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestOrder(t *testing.T) {
	var a Agenda
	random := rand.New(rand.NewPCG(1, 2))
	var done []int
	for id := range 10000 {
		if next, ok := a.Next(); ok && random.IntN(3) == 0 {
			if got := a.Take(); got.At != next.At || got.seq != next.seq {
				t.Fatal("Take took another one than Next named")
			}
		}
		a.Add(time.Duration(random.IntN(50)), func() { done = append(done, id) })
	}
	// What is left comes in order of time, and of adding within one time.
	last, first := time.Duration(-1), 0
	for next, ok := a.Next(); ok; next, ok = a.Next() {
		a.Take().Do()
		if next.At > last {
			last, first = next.At, len(done)-1
		}
		if n := len(done); next.At < last || n-1 > first && done[n-1] < done[n-2] {
			t.Fatalf("%d at %v", done[n-1], next.At)
		}
	}
	if len(done) < 5000 {
		t.Fatalf("only %d were done", len(done))
	}
}
