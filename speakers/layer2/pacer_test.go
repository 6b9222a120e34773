package layer2

import (
	"net/netip"
	"testing"
	"time"
)

// Round 1 of every address precedes round 2 of any, gateways first, and no
// second carries more frames than the rate.
func TestPacing(t *testing.T) {
	const vips, rate = 100, 150
	r := newRig(t, Config{Rate: rate, Gateways: []netip.Addr{gateway4}})
	r.confirm()
	r.tick()
	var list []Vip
	for i := range vips {
		list = append(list, Vip{Addr: netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), Epoch: 1, Mode: Hold})
	}
	r.Apply(view(list...))
	r.run(30*time.Second, true)
	frames := r.wire4.frames
	if want := vips * allRounds * 3; len(frames) != want {
		t.Fatalf("%d frames, want %d", len(frames), want)
	}
	for i := range frames {
		if i >= rate && frames[i].at-frames[i-rate].at < time.Second {
			t.Fatalf("more than %d frames in the second before %v", rate, frames[i].at)
		}
	}
	seen := make(map[string]int)
	for i, f := range frames[:vips*6] {
		d := f.describe()
		seen[d]++
		switch {
		case i < vips && d[:3] != "who":
			t.Fatalf("frame %d is %q: the gateways come first", i, d)
		case i < 3*vips && seen[d] > 1:
			t.Fatalf("frame %d, %q, is of round 2 while round 1 of others waits", i, d)
		}
	}
}

func TestBucketNeverExceedsTheRate(t *testing.T) {
	for _, rate := range []int{1, 2, 9, 15, 2000} {
		b := newBucket(rate, 0)
		var at []time.Duration
		for now := time.Duration(0); now < 5*time.Second; {
			wait := b.wait(now)
			if wait == 0 {
				b.take(now)
				at = append(at, now)
				continue
			}
			now += wait
		}
		for i := range at {
			if i >= rate && at[i]-at[i-rate] < time.Second-time.Microsecond {
				t.Fatalf("rate %d: frames %d and %d are %v apart", rate, i-rate, i, at[i]-at[i-rate])
			}
		}
		if len(at) < rate*4 {
			t.Errorf("rate %d: only %d frames in 5 s", rate, len(at))
		}
	}
}

func TestFifo(t *testing.T) {
	var q fifo
	next, want := 0, 0
	for round := range 300 {
		for range round % 7 {
			q.push(&burst{link: next})
			next++
		}
		for range round % 5 {
			b := q.pop()
			if b == nil {
				break
			}
			if b.link != want {
				t.Fatalf("popped %d, want %d", b.link, want)
			}
			want++
		}
	}
	for b := q.pop(); b != nil; b = q.pop() {
		if b.link != want {
			t.Fatalf("popped %d, want %d", b.link, want)
		}
		want++
	}
	if want != next {
		t.Errorf("popped %d of %d", want, next)
	}
}
