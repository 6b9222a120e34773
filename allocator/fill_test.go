package allocator_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

var long = flag.Bool("long", false, "fill a /16 ten times, and print how long an operation takes at each tenth")

// filler fills and empties pools, and measures.
type filler struct {
	t    *testing.T
	l    *fsmtest.Log
	spec func(i int) *logv1.Service
	// took and count are by tenths of the fill, for giving and for taking back.
	took  [2][10]time.Duration
	count [2][10]int
}

// fill gives every service an address, batch bytes of events at a time.
func (f *filler) fill(n int) {
	for i := 0; i < n; {
		d := f.l.S.Begin(f.l.Now)
		for range 1000 {
			if i == n {
				break
			}
			spec := f.spec(i)
			key := fsm.KeyOf(spec.Namespace, spec.Name)
			start := time.Now()
			must(f.t, d.Add("x", fsmtest.Declared(spec)))
			plan, err := allocator.ChooseAddresses(f.l.S, spec, f.l.S.Time)
			must(f.t, err)
			c := plan.Choices[0]
			must(f.t, d.Add("x", fsmtest.AllocatedFor(key, c.Addr, c.Pool, c.Reason)))
			f.took[0][i*10/n] += time.Since(start)
			f.count[0][i*10/n]++
			i++
		}
		_, _, _, err := d.Commit()
		must(f.t, err)
	}
}

// empty takes them back in a random order.
func (f *filler) empty(n int, rng *rand.Rand) {
	order := rng.Perm(n)
	for i := 0; i < n; {
		d := f.l.S.Begin(f.l.Now)
		for range 1000 {
			if i == n {
				break
			}
			spec := f.spec(order[i])
			key := fsm.KeyOf(spec.Namespace, spec.Name)
			start := time.Now()
			must(f.t, d.Add("x", fsmtest.Released(key, f.l.S.Services[key].Addresses[0], 0)))
			must(f.t, d.Add("x", fsmtest.Deleted(key)))
			left := n - 1 - i
			f.took[1][left*10/n] += time.Since(start)
			f.count[1][left*10/n]++
			i++
		}
		_, _, _, err := d.Commit()
		must(f.t, err)
	}
}

func (f *filler) curve() {
	for kind, name := range []string{"give", "take"} {
		line := name + ", us by tenths of the fill:"
		for i := range f.took[kind] {
			line += fmt.Sprintf(" %.2f", float64(f.took[kind][i].Microseconds())/float64(max(f.count[kind][i], 1)))
		}
		f.t.Log(line)
	}
}

// A pool is filled to its last address and emptied in random order, again and
// again: an operation costs the same at any fill. So it is with many pools and
// selectors, and in IPv6.
func TestFillAndEmpty(t *testing.T) {
	size, rounds := 2048, 2
	if *long {
		size, rounds = 1<<16, 10
	}
	plain := func(i int) *logv1.Service {
		return &logv1.Service{Namespace: "default", Name: fmt.Sprintf("s%06d", i)}
	}
	pool := fmt.Sprintf("10.0.0.0/%d", map[int]int{2048: 21, 1 << 16: 16}[size])
	var many []*logv1.Event
	for i := range 16 {
		p := &logv1.Pool{Name: fmt.Sprintf("p%02d", i), Addresses: []string{fmt.Sprintf("10.%d.0.0/16", i)}}
		if i < 15 {
			p.ServiceAllocation = &logv1.ServiceAllocation{Priority: uint32(i), ServiceSelectors: selector("team", fmt.Sprint(i))}
			p.Quota = &logv1.Quota{PerNamespace: 1 << 16}
		}
		many = append(many, fsmtest.Pool(p))
	}
	for _, c := range []struct {
		name  string
		n     int
		pools []*logv1.Event
		spec  func(int) *logv1.Service
	}{
		{"one pool", size, []*logv1.Event{fsmtest.PoolDefined("p", pool)}, plain},
		{"16 pools with selectors", size, many, func(i int) *logv1.Service {
			s := plain(i)
			s.Labels = map[string]string{"team": fmt.Sprint(i % 16)}
			return s
		}},
		{"IPv6", size * 100_000 / 65536, []*logv1.Event{fsmtest.PoolDefined("p", "2001:db8::/64")}, plain},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &filler{t: t, l: fsmtest.NewLog(t), spec: c.spec}
			f.l.Apply(c.pools...)
			rng := rand.New(rand.NewPCG(1, 2))
			for range rounds {
				f.fill(c.n)
				if c.name == "one pool" {
					if _, err := allocator.ChooseAddresses(f.l.S, plain(c.n), f.l.S.Time); err == nil {
						t.Fatal("one more address than the pool has")
					}
				}
				f.empty(c.n, rng)
				if len(f.l.S.Addresses) != 0 {
					t.Fatalf("%d addresses are left", len(f.l.S.Addresses))
				}
			}
			f.curve()
		})
	}
}
