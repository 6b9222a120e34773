package decider

import (
	"strings"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func requires(s *logv1.Service) {
	s.IpFamilyPolicy = logv1.IPFamilyPolicy_IP_FAMILY_POLICY_REQUIRE_DUAL_STACK
}

func six(s *logv1.Service) { s.IpFamilies = []logv1.IPFamily{logv1.IPFamily_IP_FAMILY_IPV6} }

func reallocates(changes ...func(*logv1.Pool)) func(*logv1.Pool) {
	return func(p *logv1.Pool) {
		p.Reallocate = true
		for _, f := range changes {
			f(p)
		}
	}
}

func with(ranges string, changes ...func(*logv1.Pool)) func(*logv1.Pool) {
	return func(p *logv1.Pool) {
		p.Addresses = strings.Fields(ranges)
		for _, f := range changes {
			f(p)
		}
	}
}

// A service waits for several things at once, and whichever comes has it tried. "w"
// waits when the last command comes, with an hour of retention.
func TestWhicheverComes(t *testing.T) {
	do := func(cmd Command) func(h *harness) { return func(h *harness) { h.must(cmd) } }
	for name, c := range map[string]struct {
		given []Command
		when  func(h *harness)
		has   string // addresses of "w" before
		gets  string // and then
	}{
		"another pool, for who lacks a second address beside one that is to be replaced": {
			[]Command{&SetRetention{}, apply(pool("p", "10.0.0.1-10.0.0.1", "2001:db8::1-2001:db8::1"), pool("q", "10.1.0.1-10.1.0.1", "2001:db8:1::1-2001:db8:1::1"),
				service("b", inPool("q"), requires), service("w", inPool("p"))),
				apply(poolWith("p", "", with("10.0.0.1-10.0.0.1 2001:db8::1-2001:db8::1", forGold, reallocates()))),
				apply(service("w", requires))},
			do(remove(KindService, "b")), "10.0.0.1", "10.1.0.1 2001:db8:1::1"},
		"the other half, for who may join the first": {
			[]Command{&SetRetention{}, apply(pool("p", "10.0.0.1-10.0.0.1", "2001:db8::1-2001:db8::1"), service("six", six), service("a", shares(80))),
				apply(service("w", shares(81), requires))},
			do(remove(KindService, "six")), "", "10.0.0.1 2001:db8::1"},
		"another pool, for others, takes over what the quota counted": {
			[]Command{apply(pool("p", "10.0.0.1-10.0.0.2"), service("a", at("10.0.0.1")), service("w", at("10.0.0.2"))), apply(service("w")),
				apply(poolWith("p", "10.0.0.3-10.0.0.9", reallocates(atMost(1))))},
			do(apply(poolWith("q", "10.0.0.1-10.0.0.1", forGold))), "10.0.0.2", "10.0.0.3"},
		"a place in its pool, for who was to leave it and came to another": {
			[]Command{&SetRetention{}, apply(pool("p", "10.0.0.1-10.0.0.2"), service("w", inPool("p")), service("a", inPool("p"))),
				apply(poolWith("p", "10.0.0.1-10.0.0.2", reallocates(forGold))),
				apply(pool("q", "10.0.0.1-10.0.0.1"), pool("p", "10.0.0.2-10.0.0.2"))},
			do(remove(KindService, "a")), "10.0.0.1", "10.0.0.2"},
		"a promised address has rested, but is kept for another yet": {
			[]Command{apply(poolWith("p", "10.0.0.1-10.0.0.1", resting(time.Minute)), service("a")), apply(reservation("r", "w", 0, "10.0.0.1")),
				remove(KindService, "a"), apply(service("w"))},
			func(*harness) { time.Sleep(time.Minute + 2*time.Second) }, "", "10.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				h.must(&SetRetention{Retention: time.Hour})
				for _, cmd := range c.given {
					h.must(cmd)
					h.nothingMissed()
				}
				if got := h.addressesText("w"); got != c.has {
					t.Fatalf("w has %q before, want %q", got, c.has)
				}
				c.when(h)
				h.nothingMissed()
				if got := h.addressesText("w"); got != c.gets {
					t.Errorf("w has %q, want %q", got, c.gets)
				}
				h.checkHead()
			})
		})
	}
}

func (h *harness) addressesText(name string) string {
	h.settle()
	var has []string
	h.log.Read(func(s *fsm.State) {
		for _, a := range s.Services[fsm.KeyOf("default", name)].Addresses {
			has = append(has, a.String())
		}
	})
	return strings.Join(has, " ")
}

// An address that came to another pool than the one that its service asks for is the
// service's own until that is declared again, whatever else it would take.
func TestStrayIsKept(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(&SetRetention{})
		h.must(apply(pool("p", "10.0.0.1-10.0.0.2", "2001:db8::1-2001:db8::1"), service("six", six), service("w", inPool("p"), prefers)))
		h.must(apply(pool("q", "10.0.0.1-10.0.0.1"), pool("p", "10.0.0.2-10.0.0.2", "2001:db8::1-2001:db8::1")))
		h.must(remove(KindService, "six"))
		if got := h.addressesText("w"); got != "10.0.0.1" {
			t.Errorf("w has %q", got)
		}
		h.nothingMissed()
		h.must(apply(service("w", inPool("p"), prefers, func(s *logv1.Service) { s.Ports[0].Port = 81 })))
		if got := h.addressesText("w"); got != "10.0.0.2 2001:db8::1" {
			t.Errorf("declared again it has %q", got)
		}
		h.checkHead()
	})
}
