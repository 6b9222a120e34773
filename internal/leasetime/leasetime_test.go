package leasetime

import (
	"sync"
	"testing"
	"time"
)

const (
	ms = time.Millisecond
	f  = 1500 * ms
)

func TestDriftErrsTowardsSafety(t *testing.T) {
	for _, tc := range []struct{ in, short, long time.Duration }{
		{0, 0, 10 * ms},
		{5 * ms, 0, 15*ms + 50*time.Microsecond},
		{1500 * ms, 1475 * ms, 1525 * ms},
		{120 * time.Second, 120*time.Second - 1210*ms, 120*time.Second + 1210*ms},
		{1500*ms + 1, 1475 * ms, 1525*ms + 2},
	} {
		if got := Shorten(tc.in); got != tc.short {
			t.Errorf("Shorten(%v) = %v, want %v", tc.in, got, tc.short)
		}
		if got := Lengthen(tc.in); got != tc.long {
			t.Errorf("Lengthen(%v) = %v, want %v", tc.in, got, tc.long)
		}
	}
}

// A holder whose clock is 1 % slow must be done before a waiter whose clock is 1 % fast.
func TestDriftCoversOnePercentEachWay(t *testing.T) {
	for d := 100 * ms; d <= 2*time.Minute; d += 777 * ms {
		holder := float64(Shorten(d)) / 0.99
		waiter := float64(Lengthen(d)) / 1.01
		if holder >= waiter {
			t.Fatalf("F=%v: holder lasts %v of true time, waiter waits %v", d, time.Duration(holder), time.Duration(waiter))
		}
	}
}

func TestHolderCountsFromSendTime(t *testing.T) {
	h := NewHolder(7)
	if h.Confirmed(0) || h.Deadline() != 0 {
		t.Fatal("confirmed before any ack")
	}
	h.Send(100 * ms)
	h.Send(250 * ms)
	if !h.Acked(Ack{Session: 7, Seq: 1, Fence: f}) {
		t.Fatal("first ack is no news")
	}
	if got, want := h.Deadline(), 100*ms+Shorten(f); got != want {
		t.Fatalf("deadline %v, want %v", got, want)
	}
	if !h.Confirmed(h.Deadline()-1) || h.Confirmed(h.Deadline()) {
		t.Fatal("the deadline itself must be unconfirmed, the instant before confirmed")
	}
	if sent, acked := h.Newest(); sent != 2 || acked != 1 {
		t.Fatalf("newest sent %d acked %d", sent, acked)
	}
}

// The newest acked heartbeat decides, with the F of its own ack, even when that ends earlier.
func TestHolderFollowsTheNewestAck(t *testing.T) {
	h := NewHolder(1)
	h.Send(0)
	h.Send(150 * ms)
	h.Acked(Ack{1, 1, 6 * time.Second})
	h.Acked(Ack{1, 2, f})
	if got, want := h.Deadline(), 150*ms+Shorten(f); got != want {
		t.Fatalf("deadline %v, want %v", got, want)
	}
}

func TestHolderIgnores(t *testing.T) {
	for name, ack := range map[string]Ack{
		"another session":         {8, 3, f},
		"the same heartbeat":      {7, 2, 2 * f},
		"an older heartbeat":      {7, 1, f},
		"a heartbeat never sent":  {7, 4, f},
		"number 0":                {7, 0, f},
		"no lease time":           {7, 3, 0},
		"a negative lease time":   {7, 3, -1},
		"a number out of reach":   {7, 1 << 63, f},
		"the largest number":      {7, ^uint64(0), f},
		"an ack of session 0":     {0, 3, f},
		"a seq that wraps around": {7, ^uint64(0) - maxInFlight, f},
	} {
		h := NewHolder(7)
		h.Send(0)
		h.Send(1)
		h.Send(2)
		h.Acked(Ack{7, 2, f})
		before := h.Deadline()
		if h.Acked(ack) || h.Deadline() != before {
			t.Errorf("%s changed the deadline to %v", name, h.Deadline())
		}
	}
}

// Send times are kept in a ring; a slot that was used again must not lend its time to an old ack.
func TestHolderForgetsOldSendTimes(t *testing.T) {
	h := NewHolder(1)
	for i := range time.Duration(maxInFlight + 1) {
		h.Send(i * ms)
	}
	if h.Acked(Ack{1, 1, f}) {
		t.Fatal("the overwritten heartbeat was confirmed")
	}
	if !h.Acked(Ack{1, 2, f}) || h.Deadline() != 1*ms+Shorten(f) {
		t.Fatalf("the oldest one kept was not confirmed: %v", h.Deadline())
	}
}

func TestHolderConcurrentUse(t *testing.T) {
	h := NewHolder(1)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 1000 {
				seq := h.Send(time.Duration(i) * ms)
				h.Acked(Ack{1, seq, f})
				h.Confirmed(time.Duration(i))
			}
		})
	}
	wg.Wait()
	if sent, acked := h.Newest(); sent != 4000 || acked == 0 {
		t.Fatalf("sent %d acked %d", sent, acked)
	}
}
