package decider

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/test/rules"
)

func prefers(s *logv1.Service) {
	s.IpFamilyPolicy = logv1.IPFamilyPolicy_IP_FAMILY_POLICY_PREFER_DUAL_STACK
}

func shares(port uint32) func(*logv1.Service) {
	return func(s *logv1.Service) { s.SharingKey = "k"; s.Ports[0].Port = port }
}

// nothingMissed fails when a service could have an address that it lacks, or says
// that it keeps one only until there is another when that is not so.
func (h *harness) nothingMissed() {
	h.t.Helper()
	h.settle()
	h.log.Read(func(s *fsm.State) {
		if wrong := rules.Unserved(s, s.Time); wrong != "" {
			h.t.Error(wrong)
		}
	})
}

// What may help a waiting service has it tried, and nothing else has.
func TestWhatMakesAServiceTriedAgain(t *testing.T) {
	type given []*adminv1.Resource
	full := given{pool("p", "10.0.0.1-10.0.0.2"), pool("q", "10.1.0.1-10.1.0.1"), service("a", inPool("p")), service("b", inPool("p")), service("c", inPool("q"))}
	for name, c := range map[string]struct {
		given given
		waits []*adminv1.Resource
		when  Command
		tries int
		gets  string // the service that has an address then
	}{
		"an address of its pool":     {full, given{service("w", inPool("p"))}, remove(KindService, "a"), 1, "w"},
		"an address of any pool":     {full, given{service("w")}, remove(KindService, "c"), 1, "w"},
		"an address of another pool": {full, given{service("w", inPool("p"))}, remove(KindService, "c"), 0, ""},
		"one address for many":       {full, given{service("w"), service("x"), service("y")}, remove(KindService, "a"), 1, "w"},
		"two addresses for many":     {full, given{service("w"), service("x"), service("y")}, remove(KindService, "a", "b"), 2, "x"},
		"an address of another family": {
			append(given{pool("six", "2001:db8::1-2001:db8::1"), service("s", inPool("six"))}, full...),
			given{service("w", func(s *logv1.Service) { s.IpFamilies = []logv1.IPFamily{logv1.IPFamily_IP_FAMILY_IPV4} })},
			remove(KindService, "s"), 0, ""},
		"the address it asks for": {
			given{pool("p", "10.0.0.1-10.0.0.9"), service("web", at("10.0.0.1")), service("other", at("10.0.0.2")), service("w", at("10.0.0.9"))},
			nil, remove(KindService, "other"), 0, ""},
		"its pool grows":     {full, given{service("w", inPool("p"))}, apply(pool("p", "10.0.0.1-10.0.0.3")), 1, "w"},
		"another pool grows": {full, given{service("w", inPool("p"))}, apply(pool("q", "10.1.0.1-10.1.0.9")), 0, ""},
		"its pool has another label": {full, given{service("w", inPool("p"))},
			apply(&adminv1.Resource{Kind: &adminv1.Resource_Pool{Pool: &logv1.Pool{Name: "p", Addresses: []string{"10.0.0.1-10.0.0.2"}, Labels: map[string]string{"a": "b"}}}}), 0, ""},
		"a pool for others": {full, given{service("w")}, apply(poolWith("gold", "10.2.0.0/24", forGold)), 0, ""},
		"a label of its namespace": {append(given{poolWith("gold", "10.2.0.1-10.2.0.1", forGold)}, full...), given{service("w")},
			apply(namespace("default", map[string]string{"tier": "gold"})), 1, "w"},
		"a label of another namespace": {append(given{poolWith("gold", "10.2.0.1-10.2.0.1", forGold)}, full...), given{service("w")},
			apply(namespace("other", map[string]string{"tier": "gold"})), 0, ""},
		"a service to share with": {
			given{pool("p", "10.0.0.1-10.0.0.1"), service("a"), poolWith("m", "10.3.0.1-10.3.0.1", func(p *logv1.Pool) { p.ManualOnly = true })},
			given{service("w", shares(80), inPool("m")), service("x", shares(80), inPool("m"))},
			apply(service("w", shares(81), inPool("m"))), 1, "x"},
		"a reservation is deleted": {
			given{pool("p", "10.0.0.1-10.0.0.2"), reservation("r", "", 0, "10.0.0.1"), service("a")},
			given{service("w"), service("x")}, remove(KindReservation, "r"), 1, "w"},
		"a reservation for it": {
			given{pool("p", "10.0.0.1-10.0.0.2"), reservation("r", "", 0, "10.0.0.1"), service("a")},
			given{service("w"), service("x")}, apply(reservation("r", "x", 0, "10.0.0.1")), 1, "x"},
		"a reservation of a requested address is deleted": {
			given{pool("p", "10.0.0.1-10.0.0.9"), service("w", at("10.0.0.1")), service("x")},
			nil, apply(reservation("r", "", 0, "10.0.0.8")), 0, ""},
		"an address of its namespace's quota": {
			given{poolWith("p", "10.0.0.1-10.0.0.9", atMost(1)), service("a")},
			given{service("w"), service("x")}, remove(KindService, "a"), 1, "w"},
		"an address of another namespace's quota": {
			given{poolWith("p", "10.0.0.1-10.0.0.9", atMost(1)), service("a"), service("o", inNamespace("other"))},
			given{service("w")}, &Delete{Names: []*adminv1.ResourceName{{Kind: KindService, Namespace: "other", Name: "o"}}}, 0, ""},
		"a larger quota": {
			given{poolWith("p", "10.0.0.1-10.0.0.9", atMost(1)), service("a")},
			given{service("w"), service("x")}, apply(poolWith("p", "10.0.0.1-10.0.0.9", atMost(2))), 1, "w"},
		"a session":        {full, given{service("w")}, openSession("n9", 1), 0, ""},
		"an advertisement": {full, given{service("w")}, apply(ad("new")), 0, ""},
		"a dry run":        {full, given{service("w")}, dryRun(apply(pool("new", "10.9.0.0/24"))), 1, ""},
		"a second family": {
			given{pool("p", "10.0.0.1-10.0.0.9", "2001:db8::1-2001:db8::1"), service("six", func(s *logv1.Service) { s.IpFamilies = []logv1.IPFamily{logv1.IPFamily_IP_FAMILY_IPV6} })},
			given{service("w", prefers)}, remove(KindService, "six"), 1, "w"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				h.must(&SetRetention{})
				h.must(apply(c.given...))
				for _, w := range c.waits {
					h.must(apply(w))
				}
				h.nothingMissed()
				had := h.addressesOf(c.gets)
				before := h.d.Stats().Retries.Load()
				h.must(c.when)
				h.nothingMissed()
				if got := int(h.d.Stats().Retries.Load() - before); got != c.tries {
					t.Errorf("%d tries, want %d", got, c.tries)
				}
				if c.gets != "" && h.addressesOf(c.gets) != had+1 {
					t.Errorf("%s has %d addresses, before %d", c.gets, h.addressesOf(c.gets), had)
				}
				h.checkHead()
			})
		})
	}
}

// While many wait on a full pool and others come and go, each event asks as many of those
// who wait as it may help: one for an address that falls free, whoever gives it up, and
// nobody where nothing falls free.
func TestOthersComeAndGo(t *testing.T) {
	for _, waiting := range []int{10, 1000} {
		t.Run(fmt.Sprintf("%d waiting", waiting), func(t *testing.T) {
			inBubble(t, func(h *harness) {
				const size = 256
				h.must(&SetRetention{})
				h.must(apply(pool("p", "10.0.0.0/24"), pool("other", "10.1.0.0/24"), namespace("elsewhere", nil)))
				for i := 0; i < size+waiting; i += 64 {
					var some []*adminv1.Resource
					for j := i; j < min(i+64, size+waiting); j++ {
						some = append(some, service(fmt.Sprintf("s%d", j), inPool("p")))
					}
					h.must(apply(some...))
				}
				asked := func(cmd Command, want uint64) {
					h.t.Helper()
					before := h.d.Stats().Asked.Load()
					h.must(cmd)
					h.settle()
					if got := h.d.Stats().Asked.Load() - before; got != want {
						h.t.Fatalf("%T asks %d of those who wait, want %d", cmd, got, want)
					}
				}
				rng := rand.New(rand.NewPCG(1, uint64(waiting)))
				served, first, next := make([]int, size), size, size+waiting
				for i := range served {
					served[i] = i
				}
				for range 300 {
					at := rng.IntN(size)
					asked(remove(KindService, fmt.Sprintf("s%d", served[at])), 1)
					asked(apply(service(fmt.Sprintf("s%d", next), inPool("p"))), 0)
					served[at], first, next = first, first+1, next+1 // the longest waiting has it
					if name := fmt.Sprintf("s%d", served[at]); h.addressesOf(name) != 1 {
						h.t.Fatalf("%s has no address, and has waited longest", name)
					}
				}
				for name, cmd := range map[string]Command{
					"others in another pool":        apply(service("o1", inPool("other")), service("o2", inPool("other"))),
					"labels of a service":           apply(service(fmt.Sprintf("s%d", served[0]), inPool("p"), func(s *logv1.Service) { s.Labels = map[string]string{"a": "b"} })),
					"labels of another namespace":   apply(namespace("elsewhere", map[string]string{"a": "b"})),
					"who waits goes":                remove(KindService, fmt.Sprintf("s%d", next-1)),
					"an address that stays held":    apply(reservation("r", "nobody", 0, "10.0.0.0")),
					"a node":                        openSession("n1", 1),
					"addresses of another pool":     remove(KindService, "none"),
					"an advertisement of the pools": apply(ad("a")),
				} {
					h.t.Log(name)
					asked(cmd, 0)
				}
				gone := &Delete{}
				for _, i := range served[1:9] {
					gone.Names = append(gone.Names, remove(KindService, fmt.Sprintf("s%d", i)).Names...)
				}
				asked(gone, uint64(min(8, waiting-1)))
				h.nothingMissed()
				h.checkHead()
			})
		})
	}
}

func dryRun(cmd *Apply) *Apply { cmd.DryRun = true; return cmd }

func (h *harness) addressesOf(name string) (n int) {
	h.settle()
	h.log.Read(func(s *fsm.State) {
		if svc := s.Services[fsm.KeyOf("default", name)]; svc != nil {
			n = len(svc.Addresses)
		}
	})
	return n
}

// What is kept for a deleted service falls free by time, once.
func TestTimeHelpsTheWaiting(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(&SetRetention{Retention: time.Hour})
		h.must(apply(pool("p", "10.0.0.1-10.0.0.1"), service("a")))
		h.must(apply(service("w"), service("x")))
		h.must(remove(KindService, "a"))
		before := h.d.Stats().Retries.Load()
		time.Sleep(59 * time.Minute)
		if h.addressesOf("w") != 0 || h.d.Stats().Retries.Load() != before {
			t.Error("too early")
		}
		time.Sleep(2 * time.Minute)
		if h.addressesOf("w") != 1 || h.d.Stats().Retries.Load() != before+1 {
			t.Errorf("w has %d addresses after %d tries", h.addressesOf("w"), h.d.Stats().Retries.Load()-before)
		}
		h.nothingMissed()
	})
}

// The time at which something falls free is not forgotten for a command that is
// taken back, nor for one in the batch of that time.
func TestTimeHelpsAfterACommand(t *testing.T) {
	for name, between := range map[string]func(h *harness){
		"a dry run that helps": func(h *harness) { h.must(dryRun(apply(pool("p", "10.0.0.1-10.0.0.9")))) },
		"a refused command that helps": func(h *harness) {
			h.refused(apply(pool("p", "10.0.0.1-10.0.0.9"), service("z", at("10.7.7.7"))), new(*InvalidError))
		},
		"a command of that time": func(h *harness) {
			time.Sleep(29*time.Minute + 59*time.Second + 800*time.Millisecond)
			h.wall.jump(400 * time.Millisecond)
			h.must(apply(service("z", inPool("q"))))
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				h.must(&SetRetention{Retention: time.Hour})
				h.must(apply(pool("p", "10.0.0.1-10.0.0.1"), pool("q", "10.1.0.0/24"), service("a", inPool("p"))))
				h.must(remove(KindService, "a"))
				h.must(apply(service("w", inPool("p"))))
				time.Sleep(30 * time.Minute)
				between(h)
				time.Sleep(31 * time.Minute)
				if h.addressesOf("w") != 1 {
					t.Error("w has no address")
				}
				h.nothingMissed()
				h.checkHead()
			})
		})
	}
}

// When services that share an address no longer go together, the one that changed
// leaves, also if another is tried in the same batch for what it would take as well.
func TestTheOneThatChangedLeaves(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), service("s1", shares(80))))
		h.must(apply(service("s2", shares(81), prefers)))
		h.then(h.when(func() {
			h.must(apply(service("s1", shares(80), func(s *logv1.Service) { s.Ports = append(s.Ports, &logv1.Port{Port: 81}) })))
		}), "ServiceDeclared s1", "AddressReleased 10.0.0.1 s1", "AddressAllocated 10.0.0.2 s1 FRESH")
		h.nothingMissed()
		h.checkHead()
	})
}

// Given services that wait for several pools, when something falls free in all of them, then
// who has waited longest has the first choice, also before one that is looked at for a pool
// of which it waits alone.
func TestTurnsGoByArrival(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(&SetRetention{})
		only := func(priority uint32, namespaces ...string) func(*logv1.Pool) {
			return func(p *logv1.Pool) {
				p.ServiceAllocation = &logv1.ServiceAllocation{Priority: priority, Namespaces: namespaces}
			}
		}
		elsewhere := func(s *logv1.Service) { s.Namespace = "other" }
		h.must(apply(pool("p", "10.0.0.1-10.0.0.1"), poolWith("q", "10.1.0.1-10.1.0.1", only(2, "default", "other")), poolWith("r", "10.2.0.1-10.2.0.1", only(3, "other"))))
		h.must(apply(service("x", inPool("p")), service("y", inPool("q")), service("z", inPool("r"), elsewhere)))
		h.must(apply(service("first")))
		h.must(apply(service("second")))
		h.must(apply(service("third", elsewhere))) // waits for q and r
		h.settle()
		gone := remove(KindService, "x", "y", "z")
		gone.Names[2].Namespace = "other"
		h.then(h.when(func() { h.must(gone) }), "AddressReleased 10.0.0.1 x", "ServiceDeleted x", "AddressReleased 10.1.0.1 y", "ServiceDeleted y",
			"AddressReleased 10.2.0.1 z", "ServiceDeleted z",
			"AddressAllocated 10.1.0.1 first REUSED", `AllocationRefused first ""`, "AddressAllocated 10.0.0.1 second REUSED", `AllocationRefused second ""`,
			"AddressAllocated 10.2.0.1 third REUSED", `AllocationRefused third ""`)
		h.nothingMissed()
	})
}
