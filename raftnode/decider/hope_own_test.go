package decider

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func resting(d time.Duration) func(*logv1.Pool) {
	return func(p *logv1.Pool) { p.QuarantineNanos = int64(d) }
}

func onRequest(p *logv1.Pool) { p.ManualOnly = true }

func sharesIn(namespace, key string, port uint32) func(*logv1.Service) {
	return func(s *logv1.Service) { s.Namespace, s.SharingKey, s.Ports[0].Port = namespace, key, port }
}

// A service that waits is tried when there is an address for it that others have no
// use for. Retention is an hour, and "w" waits when the last command comes.
func TestWhatIsThereForOneService(t *testing.T) {
	both := func(changes ...func(*logv1.Pool)) func(*logv1.Pool) {
		return func(p *logv1.Pool) {
			for _, f := range changes {
				f(p)
			}
		}
	}
	hour := func(h *harness) { time.Sleep(time.Hour + 2*time.Second) }
	do := func(cmd Command) func(h *harness) { return func(h *harness) { h.must(cmd) } }
	other := &Delete{Names: []*adminv1.ResourceName{{Kind: KindService, Namespace: "other", Name: "o"}}}
	for name, c := range map[string]struct {
		given []Command
		when  func(h *harness)
		tries int
		gets  string // addresses of "w" then
	}{
		"a promised address falls free": {
			[]Command{apply(pool("p", "10.0.0.1-10.0.0.2"), service("a", at("10.0.0.1")), service("b")), apply(reservation("r", "w", 0, "10.0.0.1")),
				apply(service("x")), apply(service("w"))},
			do(remove(KindService, "a")), 1, "10.0.0.1"},
		"a promised address of a pool on request falls free": {
			[]Command{apply(poolWith("p", "10.0.0.1-10.0.0.2", onRequest), service("a", at("10.0.0.1"))), apply(reservation("r", "w", 0, "10.0.0.1")),
				apply(service("x")), apply(service("w"))},
			do(remove(KindService, "a")), 1, "10.0.0.1"},
		"a promised address has rested": {
			[]Command{apply(poolWith("p", "10.0.0.1-10.0.0.2", resting(time.Hour)), service("a", at("10.0.0.1")), service("b")),
				apply(reservation("r", "w", 0, "10.0.0.1")), remove(KindService, "a"), apply(service("x")), apply(service("w"))},
			hour, 1, "10.0.0.1"},
		"the quota lets a promised address of a pool on request be had": {
			[]Command{apply(poolWith("p", "10.0.0.1-10.0.0.2", both(onRequest, atMost(1))), service("a", at("10.0.0.2"))),
				apply(reservation("r", "w", 0, "10.0.0.1")), apply(service("w"))},
			do(remove(KindService, "a")), 1, "10.0.0.1"},
		"the quota lets what is kept be had": {
			[]Command{apply(poolWith("p", "10.0.0.1-10.0.0.2", atMost(1)), service("w")), remove(KindService, "w"), apply(service("a", at("10.0.0.2"))),
				apply(service("x")), apply(service("w"))},
			do(remove(KindService, "a")), 1, "10.0.0.1"},
		"the quota lets what is another namespace's be joined": {
			[]Command{apply(poolWith("p", "10.0.0.1-10.0.0.2", atMost(1)), service("o", sharesIn("other", "k", 80))),
				apply(service("a")), apply(service("x")), apply(service("w", shares(81)))},
			do(remove(KindService, "a")), 1, "10.0.0.1"},
		"the quota no longer counts what left the pool": {
			[]Command{apply(poolWith("p", "10.0.0.1-10.0.0.2", atMost(1)), service("a", at("10.0.0.1"))), apply(poolWith("p", "10.0.0.2-10.0.0.2", atMost(1))),
				apply(service("w"))},
			do(remove(KindService, "a")), 1, "10.0.0.2"},
		"another pool takes over what left the pool": {
			[]Command{apply(poolWith("p", "10.0.0.1-10.0.0.2", atMost(1)), service("a", at("10.0.0.1"))), apply(poolWith("p", "10.0.0.2-10.0.0.2", atMost(1))),
				apply(service("w", inPool("p")))},
			do(apply(pool("q", "10.0.0.1-10.0.0.1"))), 1, "10.0.0.2"},
		"what is kept is no longer held back": {
			[]Command{apply(pool("p", "10.0.0.1-10.0.0.1"), service("w")), apply(reservation("r", "", 0, "10.0.0.1")), remove(KindService, "w"),
				apply(service("x")), apply(service("w"))},
			do(remove(KindReservation, "r")), 1, "10.0.0.1"},
		"the pool gets back what is kept": {
			[]Command{apply(pool("p", "10.0.0.1-10.0.0.2"), ad("a")), openSession("n1", 1), apply(service("w", at("10.0.0.1")), service("b")),
				remove(KindService, "w"), apply(pool("p", "10.0.0.2-10.0.0.2")), apply(service("x")), apply(service("w"))},
			do(apply(pool("p", "10.0.0.1-10.0.0.2"))), 1, "10.0.0.1"},
		"the pool gets the other family": {
			[]Command{apply(pool("p", "2001:db8::1-2001:db8::1"), service("a")), apply(service("w"))},
			do(apply(pool("p", "2001:db8::1-2001:db8::1", "10.0.0.1-10.0.0.1"))), 1, "10.0.0.1"},
		"the pool gets a family that it does not want": {
			[]Command{apply(pool("p", "2001:db8::1-2001:db8::1"), service("a")),
				apply(service("w", func(s *logv1.Service) { s.IpFamilies = []logv1.IPFamily{logv1.IPFamily_IP_FAMILY_IPV6} }))},
			do(apply(pool("p", "2001:db8::1-2001:db8::1", "10.0.0.1-10.0.0.1"))), 0, ""},
		"the one in the way leaves with another key": {
			[]Command{apply(pool("p", "10.0.0.1-10.0.0.1"), pool("q", "10.1.0.1-10.1.0.1"), service("s1", shares(80), inPool("p"))),
				apply(service("s2", shares(81), inPool("p"))), apply(service("w", shares(80), inPool("p"))), apply(service("x", inPool("p")))},
			do(apply(service("s1", sharesIn("default", "other", 80)))), 1, "10.0.0.1"},
		"another namespace's quota": {
			[]Command{apply(poolWith("p", "10.0.0.1-10.0.0.9", atMost(1)), service("o", inNamespace("other"))), apply(service("a")), apply(service("w", shares(81)))},
			do(other), 0, ""},
		"nothing for one of many": {
			[]Command{apply(pool("p", "10.0.0.1-10.0.0.1"), pool("q", "10.1.0.1-10.1.0.1"), service("a", inPool("p")), service("b", inPool("q"))),
				apply(reservation("r", "w", 0, "10.0.0.9")), apply(service("w", shares(81), inPool("p"))), apply(service("x", shares(81), inPool("p")))},
			do(apply(reservation("r", "w", 0, "10.0.0.8"))), 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				h.leases.auto = 10 * time.Millisecond
				h.must(&SetRetention{Retention: time.Hour})
				for _, cmd := range c.given {
					h.must(cmd)
					h.settle()
				}
				h.nothingMissed()
				if h.addressesOf("w") != 0 {
					t.Fatal("w has an address already")
				}
				before := h.d.Stats().Retries.Load()
				c.when(h)
				h.nothingMissed()
				if got := int(h.d.Stats().Retries.Load() - before); got != c.tries {
					t.Errorf("%d tries, want %d", got, c.tries)
				}
				h.log.Read(func(s *fsm.State) {
					var has []string
					for _, a := range s.Services[fsm.KeyOf("default", "w")].Addresses {
						has = append(has, a.String())
					}
					if got := strings.Join(has, " "); got != c.gets {
						t.Errorf("w has %q, want %q", got, c.gets)
					}
				})
				h.checkHead()
			})
		})
	}
}

// When a foreign station has gone, who asks for the address by name has it at once,
// also where addresses rest after use.
func TestEndOfQuarantineOfARestingPool(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		h.must(apply(poolWith("p", "10.0.0.1-10.0.0.9", resting(48*time.Hour))))
		h.must(found(foreign))
		h.must(apply(service("w", at(vip))))
		if h.addressesOf("w") != 1 {
			t.Error("whoever names it gets it")
		}
		h.nothingMissed()
		h.checkHead()
	})
}

// A service no longer says that an address is to be replaced when it is not.
func TestReplacesNoMore(t *testing.T) {
	for name, when := range map[string]*Apply{
		"the pool lets it be":    apply(pool("p", "10.0.0.2-10.0.0.2")),
		"the pool has it again":  apply(poolWith("p", "10.0.0.1-10.0.0.2", func(p *logv1.Pool) { p.Reallocate = true })),
		"another pool has it":    apply(pool("q", "10.0.0.1-10.0.0.1")),
		"its pool is as it was":  nil,
		"another pool, for gold": apply(poolWith("q", "10.1.0.1-10.1.0.1", forGold)),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				h.must(apply(pool("p", "10.0.0.1-10.0.0.2"), service("w", at("10.0.0.1")), service("b")))
				h.must(apply(service("w")))
				h.must(apply(poolWith("p", "10.0.0.2-10.0.0.2", func(p *logv1.Pool) { p.Reallocate = true })))
				h.nothingMissed()
				if when != nil {
					h.must(when)
				}
				h.nothingMissed()
				h.checkHead()
			})
		})
	}
}

// An address that leaves its pool counts for the quota, and may be replaced as soon as
// the namespace has no more than it may.
func TestReplacesWithinTheQuota(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(&SetRetention{})
		h.must(apply(pool("p", "10.0.0.1-10.0.0.2"), service("a"), service("b")))
		h.must(apply(poolWith("p", "10.0.0.3-10.0.0.9", func(p *logv1.Pool) { p.Reallocate, p.Quota = true, &logv1.Quota{PerNamespace: 1} })))
		h.nothingMissed()
		h.then(h.when(func() { h.must(remove(KindService, "a")) }), "AddressReleased 10.0.0.1 a", "ServiceDeleted a",
			"AddressReleased 10.0.0.2 b", "AddressAllocated 10.0.0.3 b FRESH", `AllocationRefused b ""`)
		h.nothingMissed()
		h.checkHead()
	})
}

// A service with which this program has failed takes no place from the next.
func TestFaultyServiceTakesNoPlace(t *testing.T) {
	l := fsmtest.NewLog(t)
	first, second := fsm.KeyOf("default", "first"), fsm.KeyOf("default", "second")
	full := &logv1.Refusal{Pool: "p", Reason: logv1.RefusalReason_REFUSAL_REASON_FULL, Family: logv1.IPFamily_IP_FAMILY_IPV4}
	l.Apply(fsmtest.PoolDefined("p", "10.0.0.1-10.0.0.1"), fsmtest.Declared(fsmtest.Service("a", 80)),
		fsmtest.Allocated(fsm.KeyOf("default", "a"), "10.0.0.1", "p"))
	for _, name := range []string{"first", "second"} {
		l.Apply(fsmtest.Declared(fsmtest.Service(name, 80)), fsmtest.Refused(fsm.KeyOf("default", name), "full", full))
	}
	l.Apply(fsmtest.Released(fsm.KeyOf("default", "a"), netip.MustParseAddr("10.0.0.1"), 0))
	q := newTurns(&tx{s: l.S, now: l.S.Time}, map[fsm.ServiceKey]struct{}{first: {}})
	q.hopeful(&hope{anyPool: true})
	if c, ok := q.next(); !ok || c.key != second {
		t.Errorf("it is the turn of %+v (%t)", c, ok)
	}
}
