package allocator_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

var long = flag.Bool("long", false, "fill a /16 ten times, and print how long an operation takes at each tenth")

// curve is what an operation costs by tenths of the fill.
type curve struct {
	took    [10]time.Duration
	mallocs [10]uint64
	count   [10]int
}

// add measures n operations at a tenth, in the time that this thread computes: others
// on the machine have no part in it.
func (c *curve) add(tenth, n int, f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, start := mallocs(), threadTime()
	f()
	c.took[tenth] += threadTime() - start
	c.mallocs[tenth] += mallocs() - before
	c.count[tenth] += n
}

func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

// mallocs counts the allocations of memory, but where the time counts: it stops the world.
func mallocs() uint64 {
	if *long {
		return 0
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// at is what an operation takes at a tenth.
func (c *curve) at(tenth int) time.Duration {
	return c.took[tenth] / time.Duration(max(c.count[tenth], 1))
}

func (c *curve) String() string {
	var out []string
	for i := range c.took {
		out = append(out, fmt.Sprintf("%.1f", float64(c.at(i).Nanoseconds())/1000))
	}
	return strings.Join(out, " ")
}

// work are the allocations of memory for each operation, by tenths: like the steps that
// it takes, and the same on every machine.
func (c *curve) work() (out []float64) {
	for i := range c.mallocs {
		out = append(out, float64(c.mallocs[i])/float64(max(c.count[i], 1)))
	}
	return out
}

// filler fills and empties pools, and measures.
type filler struct {
	t    *testing.T
	l    *fsmtest.Log
	spec func(i int) *logv1.Service
	// choose is a choice alone, give a declaration with it, take a deletion.
	choose, give, take curve
}

// chunk is how many operations are measured at once.
const chunk = 128

// each calls f for all of the order, a thousand to a batch, and measures by tenths of what
// is in use.
func (f *filler) each(order []int, c *curve, rising bool, do func(d *fsm.Draft, i int)) {
	n := len(order)
	for at := 0; at < n; {
		d := f.l.S.Begin(f.l.Now)
		for range 1000 / chunk {
			some := order[at:min(at+chunk, n)]
			if len(some) == 0 {
				break
			}
			used := at
			if !rising {
				used = n - 1 - at
			}
			c.add(used*10/n, len(some), func() {
				for _, i := range some {
					do(d, i)
				}
			})
			at += len(some)
		}
		_, _, _, err := d.Commit()
		must(f.t, err)
	}
}

// fill gives every service an address, in a random order.
func (f *filler) fill(n int, rng *rand.Rand) {
	f.each(rng.Perm(n), &f.give, true, func(d *fsm.Draft, i int) {
		spec := f.spec(i)
		key := fsm.KeyOf(spec.Namespace, spec.Name)
		must(f.t, d.Add("x", fsmtest.Declared(spec)))
		plan, err := allocator.ChooseAddresses(f.l.S, spec, f.l.S.Time)
		must(f.t, err)
		c := plan.Choices[0]
		must(f.t, d.Add("x", fsmtest.AllocatedFor(key, c.Addr, c.Pool, c.Reason)))
	})
}

// empty takes them back in another.
func (f *filler) empty(n int, rng *rand.Rand) {
	order := rng.Perm(n)
	for tenth := 9; tenth >= 0; tenth-- {
		part := order[:n/10]
		if tenth == 0 {
			part = order
		}
		order = order[len(part):]
		f.drop(part, tenth)
		f.ask(tenth)
	}
}

func (f *filler) drop(order []int, tenth int) {
	var all curve
	f.each(order, &all, false, func(d *fsm.Draft, i int) {
		spec := f.spec(i)
		key := fsm.KeyOf(spec.Namespace, spec.Name)
		must(f.t, d.Add("x", fsmtest.Released(key, f.l.S.Services[key].Addresses[0], 0)))
		must(f.t, d.Add("x", fsmtest.Deleted(key)))
	})
	for i := range all.took {
		f.take.took[tenth] += all.took[i]
		f.take.mallocs[tenth] += all.mallocs[i]
		f.take.count[tenth] += all.count[i]
	}
}

// ask measures choices alone, for services that are not declared.
func (f *filler) ask(tenth int) {
	const n = 256
	var specs []*logv1.Service
	for i := range n {
		spec := f.spec(i)
		spec.Name = fmt.Sprintf("asks%d", i)
		specs = append(specs, spec)
	}
	f.choose.add(tenth, n, func() {
		for _, spec := range specs {
			_, err := allocator.ChooseAddresses(f.l.S, spec, f.l.S.Time)
			must(f.t, err)
		}
	})
}

// A pool is filled to its last address and emptied, in random orders, again and
// again: an operation costs the same at any fill. So it is with many pools and
// selectors, each of them filled to its last address, and in IPv6.
func TestFillAndEmpty(t *testing.T) {
	bits, rounds := 11, 2
	if *long {
		bits, rounds = 16, 10
	}
	size := 1 << bits
	plain := func(i int) *logv1.Service {
		return &logv1.Service{Namespace: "default", Name: fmt.Sprintf("s%06d", i)}
	}
	var many []*logv1.Event
	for i := range 16 {
		p := &logv1.Pool{Name: fmt.Sprintf("p%02d", i), Addresses: []string{fmt.Sprintf("10.%d.0.0/%d", i, 32-bits+4)}}
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
		full  bool
	}{
		{"one pool", size, []*logv1.Event{fsmtest.PoolDefined("p", fmt.Sprintf("10.0.0.0/%d", 32-bits))}, plain, true},
		{"16 pools with selectors", size, many, func(i int) *logv1.Service {
			s := plain(i)
			s.Labels = map[string]string{"team": fmt.Sprint(i % 16)}
			return s
		}, true},
		{"IPv6", size * 100_000 / 65536, []*logv1.Event{fsmtest.PoolDefined("p", "2001:db8::/64")}, plain, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &filler{t: t, l: fsmtest.NewLog(t), spec: c.spec}
			f.l.Apply(c.pools...)
			rng := rand.New(rand.NewPCG(1, 2))
			for range rounds {
				f.fill(c.n, rng)
				for i := range 16 {
					more := c.spec(i)
					more.Name = "more"
					if _, err := allocator.ChooseAddresses(f.l.S, more, f.l.S.Time); c.full != (err != nil) {
						t.Fatalf("one more service of team %d: %v", i, err)
					}
				}
				f.empty(c.n, rng)
				if len(f.l.S.Addresses) != 0 {
					t.Fatalf("%d addresses are left", len(f.l.S.Addresses))
				}
			}
			for _, op := range []struct {
				name string
				*curve
			}{{"choose alone", &f.choose}, {"give", &f.give}, {"take back", &f.take}} {
				work := op.work()
				if least, most := slices.Min(work), slices.Max(work); most > 1.5*least+1 {
					t.Errorf("%s: from %.1f to %.1f allocations of memory: %.1f", op.name, least, most, work)
				}
				t.Logf("%s, us by tenths of the fill: %s", op.name, op.curve)
			}
		})
	}
}
