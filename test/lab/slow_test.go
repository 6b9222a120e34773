package lab

import (
	"testing"
	"time"
)

// TestSlowLine sends datagrams and connections over a cable that takes 40 ms in
// each direction, in both families, and over the short one afterwards.
func TestSlowLine(t *testing.T) {
	s := newSmall(t)
	ctx := t.Context()
	must(s.a.StartResponder())(t)
	line := must(s.sw.Slow("a", 40*time.Millisecond, 10*time.Millisecond))(t)
	ok(t, Poll(ctx, 5*time.Second, greets(s.c, addrA4, "a")))
	ok(t, Poll(ctx, 5*time.Second, greets(s.c, addrA6, "a")))
	probe := must(s.c.ProbeUDP(addrA4, 5*time.Millisecond))(t)
	from := time.Now()
	ok(t, Wait(ctx, 500*time.Millisecond))
	to := time.Now()
	ok(t, Wait(ctx, Patience))
	answered := 0
	for _, x := range probe.Samples(from, to) {
		if x.Answered.IsZero() {
			continue
		}
		answered++
		if took := x.Answered.Sub(x.Sent); took < 80*time.Millisecond {
			t.Fatalf("answered after %v, the line alone takes 80 ms", took)
		}
	}
	if answered < 50 {
		t.Errorf("%d answers", answered)
	}
	ok(t, line.Clear())
	ok(t, Poll(ctx, 5*time.Second, greets(s.c, addrA4, "a")))

	probe.Forget(to)
	if left := probe.Samples(from, to); len(left) > 0 {
		t.Errorf("%d samples are not forgotten", len(left))
	}
	now := time.Now()
	ok(t, Wait(ctx, 200*time.Millisecond))
	if r := probe.Window(now, now.Add(100*time.Millisecond)); r.Sent == 0 || r.Lost == r.Sent {
		t.Errorf("after forgetting: %d sent, %d lost", r.Sent, r.Lost)
	}
}
