package decider

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func poolWith(name, cidr string, change func(*logv1.Pool)) *adminv1.Resource {
	p := pool(name, cidr)
	change(p.GetPool())
	return p
}

func namespace(name string, labels map[string]string) *adminv1.Resource {
	return &adminv1.Resource{Kind: &adminv1.Resource_Namespace{Namespace: &logv1.Namespace{Name: name, Labels: labels}}}
}

func forGold(p *logv1.Pool) {
	p.ServiceAllocation = &logv1.ServiceAllocation{NamespaceSelectors: []*logv1.LabelSelector{{MatchLabels: map[string]string{"tier": "gold"}}}}
}

// A service that waits for a pool of its namespace has an address when the
// namespace gets the label, and keeps it when it loses it.
func TestNamespaceGetsALabel(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(poolWith("gold", "10.0.0.1-10.0.0.1", forGold), service("a")))
		h.refused(apply(service("b", at("10.0.0.1"))), new(*InvalidError))
		gold := namespace("default", map[string]string{"tier": "gold"})
		var r Result
		h.then(h.when(func() { r = h.must(apply(gold)) }),
			"NamespaceDefined default", "AddressAllocated 10.0.0.1 a FRESH", `AllocationRefused a ""`)
		if r.Resources[0].Kind != KindNamespace || r.Resources[0].Name != "default" || r.Resources[0].Outcome != Created {
			t.Errorf("%+v", r.Resources)
		}
		if again := h.must(apply(gold)); again.Changed || again.Resources[0].Outcome != Unchanged {
			t.Errorf("the second time: %+v", again)
		}
		h.then(h.when(func() { h.must(remove(KindNamespace, "default")) }), "NamespaceDeleted default")
		h.refused(apply(namespace("Default", nil)), new(*InvalidError))
		h.checkHead()
	})
}

// A label declared together with the service that needs it counts for it.
func TestNamespaceAndServiceTogether(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(poolWith("gold", "10.0.0.1-10.0.0.9", forGold)))
		r := h.must(apply(service("a", at("10.0.0.5")), service("b"), namespace("default", map[string]string{"tier": "gold"})))
		if len(r.Resources[0].Addresses) != 1 || len(r.Resources[1].Addresses) != 1 {
			t.Errorf("%+v", r.Resources)
		}
	})
}

func reservation(name, service string, until int64, addresses ...string) *adminv1.Resource {
	r := &logv1.Reservation{Name: name, Addresses: addresses, UntilUnixNano: until}
	if service != "" {
		r.ServiceNamespace, r.ServiceName = "default", service
	}
	return &adminv1.Resource{Kind: &adminv1.Resource_Reservation{Reservation: r}}
}

func atMost(n uint32) func(*logv1.Pool) {
	return func(p *logv1.Pool) { p.Quota = &logv1.Quota{PerNamespace: n} }
}

func inNamespace(name string) func(*logv1.Service) {
	return func(s *logv1.Service) { s.Namespace = name }
}

func TestReservationsThatCannotBe(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), reservation("r", "", 0, "10.0.0.4-10.0.0.6")))
		for name, cmd := range map[string]*Apply{
			"overlap":                   apply(reservation("s", "", 0, "10.0.0.6")),
			"overlap with another one":  apply(reservation("s", "", 0, "10.0.0.8"), reservation("t", "", 0, "10.0.0.0/24")),
			"over already":              apply(reservation("s", "", 1, "10.0.0.8")),
			"a request of what is held": apply(service("a", at("10.0.0.5"))),
		} {
			if _, err := h.submit(cmd); len(paths(err)) == 0 {
				t.Errorf("%s: %v", name, err)
			}
		}
		// Two may change places in one command.
		h.must(apply(reservation("r", "", 0, "10.0.0.8"), reservation("s", "", 0, "10.0.0.4")))
		h.checkHead()
	})
}

// A reservation holds until its time, and an address in quarantine as long as its
// pool says; who waits has it then.
func TestReservationAndQuarantineEnd(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(&SetRetention{})
		h.must(apply(reservation("r", "", h.wall.now().Add(time.Hour).UnixNano(), "10.0.0.1"),
			poolWith("p", "10.0.0.1-10.0.0.2", func(p *logv1.Pool) { p.QuarantineNanos = int64(3 * time.Hour) }), service("a")))
		h.must(apply(service("w"), service("x")))
		h.must(remove(KindService, "a"))
		h.refused(apply(service("y", at("10.0.0.2"))), new(*InvalidError))
		time.Sleep(59 * time.Minute)
		if h.addressesOf("w") != 0 {
			t.Error("w has an address too early")
		}
		time.Sleep(2 * time.Minute)
		if h.addressesOf("w") != 1 || h.addressesOf("x") != 0 {
			t.Errorf("after the reservation w has %d, x %d", h.addressesOf("w"), h.addressesOf("x"))
		}
		time.Sleep(2 * time.Hour)
		if h.addressesOf("x") != 1 {
			t.Error("the quarantine is over, and x has no address")
		}
		h.nothingMissed()
		h.checkHead()
	})
}

// Who waits for an address that rests says so, and until when, and has it then: not
// before, and no later than time itself.
func TestWaitsForWhatRests(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(&SetRetention{})
		h.must(apply(poolWith("p", "10.0.0.1-10.0.0.1", resting(time.Hour)), service("a")))
		h.must(remove(KindService, "a"))
		h.must(apply(service("w"), service("x")))
		var end int64
		h.log.Read(func(s *fsm.State) {
			end = s.Free[vipAddr].RestsUntil
			want := []fsm.Refusal{{Pool: "p", Reason: logv1.RefusalReason_REFUSAL_REASON_RESTING, Family: logv1.IPFamily_IP_FAMILY_IPV4, Until: end}}
			for _, name := range []string{"w", "x"} {
				if got := s.Services[fsm.KeyOf("default", name)].Refusals; !slices.Equal(got, want) {
					t.Errorf("%s: %v, want %v", name, got, want)
				}
			}
		})
		before := h.d.Stats().Retries.Load()
		after := func(d time.Duration, tries uint64) {
			t.Helper()
			time.Sleep(time.Duration(end-h.wall.now().UnixNano()) + d)
			synctest.Wait()
			if got := h.d.Stats().Retries.Load() - before; got != tries {
				t.Errorf("%s after the end there were %d tries, want %d", d, got, tries)
			}
		}
		after(-time.Millisecond, 0)
		after(time.Millisecond, 1)
		if h.addressesOf("w") != 1 || h.addressesOf("x") != 0 {
			t.Errorf("w has %d addresses, x %d", h.addressesOf("w"), h.addressesOf("x"))
		}
		h.nothingMissed()
		h.checkHead()
	})
}

// Who asks for an address that is held back has it when it is no longer.
func TestRequestOfAHeldAddress(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), service("w", at("10.0.0.5"))))
		h.must(apply(reservation("r", "", h.wall.now().Add(time.Hour).UnixNano(), "10.0.0.5")))
		h.must(remove(KindPool, "none"))
		old := h.older()
		h.must(remove(KindService, "w"))
		// A revert gives it back all the same: it had it.
		h.must(&RestoreTo{Older: old})
		if h.addressesOf("w") != 1 {
			t.Error("not reverted")
		}
		h.checkHead()
	})
}

// Without force a pool that shrinks takes nothing; the dry run says what would be.
func TestPoolLetsAddressesGo(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.1-10.0.0.3"), service("a"), service("b"), service("c")))
		shrink := func(change func(*Apply)) *Apply {
			cmd := apply(pool("p", "10.0.0.3-10.0.0.4"))
			change(cmd)
			return cmd
		}
		effects := func(cmd *Apply) string {
			cmd.DryRun = true
			return effectsText(h.must(cmd).Effects)
		}
		if got := effects(shrink(func(*Apply) {})); got != "a leaving [10.0.0.1] | b leaving [10.0.0.2]" {
			t.Errorf("dry run: %s", got)
		}
		if got := effects(shrink(func(c *Apply) { c.Force = true })); got != "a taken [10.0.0.1] given [10.0.0.4] | b taken [10.0.0.2] pending: no IPv4 address: pool p: full" {
			t.Errorf("dry run with force: %s", got)
		}
		h.then(h.when(func() { h.must(shrink(func(*Apply) {})) }), "PoolDefined p")
		h.refused(remove(KindPool, "p"), new(*InUseError))
		// With reallocate they go, as far as there is something to go to.
		moves := shrink(func(c *Apply) { c.Resources[0].GetPool().Reallocate = true })
		if got := effects(moves); got != "a taken [10.0.0.1] given [10.0.0.4] | b leaving [10.0.0.2] pending: keeps 10.0.0.2, which is to be replaced: no IPv4 address: pool p: full" {
			t.Errorf("dry run with reallocate: %s", got)
		}
		moves.DryRun = false
		h.then(h.when(func() { h.must(moves) }), "PoolDefined p", "AddressReleased 10.0.0.1 a", "AddressAllocated 10.0.0.4 a FRESH",
			`AllocationRefused b "keeps 10.0.0.2, which is to be replaced: no IPv4 address: pool p: full"`)
		h.then(h.when(func() { h.must(apply(pool("q", "10.1.0.1-10.1.0.1"))) }), "PoolDefined q",
			"AddressReleased 10.0.0.2 b", "AddressAllocated 10.1.0.1 b FRESH", `AllocationRefused b ""`)
		h.nothingMissed()
		del := &Delete{Names: remove(KindPool, "q").Names, Force: true, DryRun: true}
		if got := effectsText(h.must(del).Effects); got != "b taken [10.1.0.1] pending: no IPv4 address: pool p: full" {
			t.Errorf("dry run of a deletion: %s", got)
		}
		h.checkHead()
	})
}

// An address that leaves its pool keeps its owner and moves like any other.
func TestLeavingAddressKeepsItsOwner(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.auto = 10 * time.Millisecond
		oneVip(h)
		h.must(apply(pool("p", "10.0.0.200-10.0.0.201")))
		h.settle()
		owner := h.owner("10.0.0.1")
		if owner == "" {
			t.Fatal("nobody owns it")
		}
		h.must(&Drain{Node: owner})
		h.settle()
		if now := h.owner("10.0.0.1"); now == "" || now == owner {
			t.Errorf("owned by %q after the drain of %q", now, owner)
		}
		h.must(remove(KindService, "web"))
		h.settle()
		h.log.Read(func(s *fsm.State) {
			if free := s.Free[netip.MustParseAddr("10.0.0.1")]; free != nil && free.Pool != "" {
				t.Errorf("%+v", free)
			}
		})
		h.checkHead()
	})
}

// What a pool wins is given away in the same command that gives it to the pool.
func TestPoolWinsAnAddressAndGivesIt(t *testing.T) {
	for name, again := range map[string]func(*harness){
		"one that nobody had": func(h *harness) {
			h.must(remove(KindService, "web"))
			h.must(apply(pool("p", "10.0.0.200-10.0.0.201")))
			h.must(apply(pool("p", "10.0.0.1-10.0.0.5"), service("web")))
		},
		"one of another pool": func(h *harness) {
			h.must(remove(KindService, "web"))
			h.must(apply(pool("p", "10.0.0.200-10.0.0.201"), pool("q", "10.0.0.1-10.0.0.5"), service("web")))
		},
		"one that is shared": func(h *harness) {
			h.must(apply(service("web", shares(80))))
			h.must(apply(pool("p", "10.0.0.200-10.0.0.201"), pool("q", "10.0.0.1-10.0.0.5"), service("other", shares(81), inPool("q"))))
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				h.leases.auto = 10 * time.Millisecond
				oneVip(h)
				h.settle()
				if h.owner("10.0.0.1") == "" {
					t.Fatal("nobody owns it")
				}
				again(h)
				h.settle()
				h.log.Read(func(s *fsm.State) {
					if rec := s.Addresses[netip.MustParseAddr("10.0.0.1")]; rec == nil || rec.Pool != s.PoolOf(rec.Addr) {
						t.Errorf("%+v", rec)
					}
				})
				h.checkHead()
			})
		})
	}
}
