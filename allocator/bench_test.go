package allocator_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// filled has one pool of which so many addresses are in use. Of those released
// again, every one is in the queue.
func filled(b testing.TB, pool string, used, released int) *fsmtest.Log {
	l := fsmtest.NewLog(b)
	l.Apply(fsmtest.PoolDefined("p", pool))
	v4 := l.S.PoolHas("p", true)
	for i := 0; i < used+released; {
		d := l.S.Begin(l.Now)
		for range 4096 {
			if i == used+released {
				break
			}
			key := fsm.KeyOf("default", fmt.Sprintf("s%07d", i))
			a := l.S.NextFresh("p", v4)
			must(b, d.Add("x", fsmtest.Declared(&logv1.Service{Namespace: key.Namespace, Name: key.Name})))
			must(b, d.Add("x", fsmtest.AllocatedFor(key, a, "p", logv1.AllocationReason_ALLOCATION_REASON_FRESH)))
			if i >= used {
				must(b, d.Add("x", fsmtest.Released(key, a, 0)))
				must(b, d.Add("x", fsmtest.Deleted(key)))
			}
			i++
		}
		_, _, _, err := d.Commit()
		must(b, err)
	}
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// BenchmarkChooseAddresses is one choice for a service that has nothing yet.
func BenchmarkChooseAddresses(b *testing.B) {
	for _, c := range []struct {
		name, pool     string
		used, released int
	}{
		{"v4-16/10%", "10.0.0.0/16", 6554, 0},
		{"v4-16/50%", "10.0.0.0/16", 32768, 0},
		{"v4-16/99%", "10.0.0.0/16", 64881, 0},
		{"v4-16/99%-reused", "10.0.0.0/16", 64881, 655},
		{"v4-16/10%-reused", "10.0.0.0/16", 6554, 65536 - 6554},
		{"v4-16/100%-refused", "10.0.0.0/16", 65536, 0},
		{"v6-64/million", "2001:db8::/64", 1_000_000, 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := filled(b, c.pool, c.used, c.released).S
			spec := &logv1.Service{Namespace: "default", Name: "new"}
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				plan, err := allocator.ChooseAddresses(s, spec, s.Time)
				if (err == nil) != (c.used+c.released < 65536 || c.released > 0 || c.used > 65536) || len(plan.Choices) > 1 {
					b.Fatal(plan, err)
				}
			}
		})
	}
}

// BenchmarkAllocateAndFold is a choice and the folding of what it takes: the
// service declared, the address given, and both taken back.
func BenchmarkAllocateAndFold(b *testing.B) {
	for _, c := range []struct {
		name, pool     string
		used, released int
	}{
		{"v4-16/50%", "10.0.0.0/16", 32768, 0},
		{"v4-16/99%", "10.0.0.0/16", 64881, 655},
		{"v6-64/million", "2001:db8::/64", 1_000_000, 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			l := filled(b, c.pool, c.used, c.released)
			spec := &logv1.Service{Namespace: "default", Name: "new"}
			key := fsm.KeyOf("default", "new")
			runtime.GC() // of what the filling left
			b.ReportAllocs()
			b.ResetTimer()
			d := l.S.Begin(l.Now)
			for range b.N {
				must(b, d.Add("x", fsmtest.Declared(spec)))
				plan, err := allocator.ChooseAddresses(l.S, spec, l.S.Time)
				must(b, err)
				a := plan.Choices[0].Addr
				must(b, d.Add("x", fsmtest.AllocatedFor(key, a, "p", plan.Choices[0].Reason)))
				must(b, d.Add("x", fsmtest.Released(key, a, 0)))
				must(b, d.Add("x", fsmtest.Deleted(key)))
			}
		})
	}
}

// BenchmarkChooseOwner is the choice of one owner of many, with one chooser.
func BenchmarkChooseOwner(b *testing.B) {
	for _, nodes := range []int{5, 100, 1000} {
		b.Run(fmt.Sprintf("%d-nodes", nodes), func(b *testing.B) {
			l := filled(b, "10.0.0.0/16", 1000, 0)
			events := []*logv1.Event{fsmtest.Ad(&logv1.L2Advertisement{Name: "all"})}
			for i := range nodes {
				events = append(events, fsmtest.Opened(fmt.Sprintf("node-%04d", i), 1, map[string]string{"zone": "a"}))
			}
			l.Apply(events...)
			addr := netip.MustParseAddr("10.0.0.7")
			c := allocator.NewChooser(l.S)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if _, ok := c.ChooseOwner(addr, allocator.Options{}); !ok {
					b.Fatal("nobody")
				}
			}
		})
	}
}
