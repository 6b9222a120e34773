package decider

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// effectsText says effects in short: "web taken [10.0.0.1] given [10.0.0.2] | ...".
func effectsText(list []Effect) string {
	var out []string
	for _, e := range list {
		line := e.Service.Name
		if e.Deleted {
			line += " deleted"
		}
		for _, part := range []struct {
			word  string
			addrs []netip.Addr
		}{{"taken", e.Taken}, {"given", e.Given}, {"leaving", e.Leaving}, {"unselected", e.Unselected}} {
			if len(part.addrs) > 0 {
				line += fmt.Sprintf(" %s %v", part.word, part.addrs)
			}
		}
		for _, o := range e.Owners {
			line += fmt.Sprintf(" %s %q>%q %s", o.Addr, o.From, o.To, o.Why)
		}
		if e.Pending != "" {
			line += " pending: " + e.Pending
		}
		out = append(out, line)
	}
	return strings.Join(out, " | ")
}

func matching(key, value string) []*logv1.LabelSelector {
	return []*logv1.LabelSelector{{MatchLabels: map[string]string{key: value}}}
}

// A change that takes an address from who announces it is an effect, whatever makes it
// so; and what a dry run says of the owner is what becomes of it.
func TestEffectsOnOwners(t *testing.T) {
	const unselected = "node is not selected by any L2Advertisement of the pool"
	nodes := func(name string) func(*logv1.L2Advertisement) {
		return func(a *logv1.L2Advertisement) { a.NodeSelectors = matching("name", name) }
	}
	for name, c := range map[string]struct {
		given []func(*logv1.L2Advertisement)
		cmd   Command
		want  string
		owner string
	}{
		"nothing":                   {nil, apply(ad("a", release)), "", "n1"},
		"other nodes":               {nil, apply(ad("a", nodes("n2"))), `web 10.0.0.1 "n1">"n2" ` + unselected, "n2"},
		"no node":                   {nil, apply(ad("a", nodes("n9"))), `web 10.0.0.1 "n1">"" ` + unselected, ""},
		"no longer":                 {nil, remove(KindAd, "a"), `web 10.0.0.1 "n1">"" no L2Advertisement selects the pool`, ""},
		"other pools":               {nil, apply(ad("a", func(a *logv1.L2Advertisement) { a.IpAddressPools = []string{"q"} })), `web 10.0.0.1 "n1">"" no L2Advertisement selects the pool`, ""},
		"other services":            {nil, apply(ad("a", func(a *logv1.L2Advertisement) { a.ServiceSelectors = matching("x", "y") })), `web 10.0.0.1 "n1">"" no L2Advertisement of the pool selects every service that has the address`, ""},
		"another advertisement too": {nil, apply(ad("b", nodes("n9"))), "", "n1"},
		"other interfaces":          {nil, apply(ad("a", func(a *logv1.L2Advertisement) { a.Interfaces = []string{"eth0"} })), `web 10.0.0.1 "n1">"n1" on eth0 instead of all interfaces`, "n1"},
		"an interface that is not there": {nil, apply(ad("a", func(a *logv1.L2Advertisement) { a.Interfaces = []string{"eth7"} })),
			`web 10.0.0.1 "n1">"n1" on eth7 instead of all interfaces`, "n1"},
		"other nodes of the service": {nil, apply(service("web", func(s *logv1.Service) { s.NodeSelectors = matching("name", "n2") })),
			`web 10.0.0.1 "n1">"n2" node is not selected by the service`, "n2"},
		"labels of the pool": {[]func(*logv1.L2Advertisement){func(a *logv1.L2Advertisement) {
			a.IpAddressPoolSelectors = []*logv1.LabelSelector{{MatchExpressions: []*logv1.LabelRequirement{{Key: "x", Operator: "DoesNotExist"}}}}
		}}, apply(poolWith("p", "10.0.0.1-10.0.0.9", func(p *logv1.Pool) { p.Labels = map[string]string{"x": "y"} })),
			`web 10.0.0.1 "n1">"" no L2Advertisement selects the pool`, ""},
		"labels of the service": {[]func(*logv1.L2Advertisement){func(a *logv1.L2Advertisement) {
			a.ServiceSelectors = []*logv1.LabelSelector{{MatchExpressions: []*logv1.LabelRequirement{{Key: "x", Operator: "DoesNotExist"}}}}
		}}, apply(service("web", func(s *logv1.Service) { s.Labels = map[string]string{"x": "y"} })),
			`web 10.0.0.1 "n1">"" no L2Advertisement of the pool selects every service that has the address`, ""},
		"Ideal": {nil, apply(ad("a", func(a *logv1.L2Advertisement) { a.Placement = logv1.Placement_PLACEMENT_IDEAL })),
			`web 10.0.0.1 "n1">"n2" its placement is Ideal`, "n2"},
		"a service that has the address no more": {nil, remove(KindService, "web"), "web deleted taken [10.0.0.1]", ""},
		"who is new is no effect":                {nil, apply(ad("b"), service("new")), "", "n1"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				h.leases.auto = 10 * time.Millisecond
				oneVip(h, c.given...)
				time.Sleep(time.Hour) // nothing is damped
				if got := effectsText(h.try(c.cmd).Effects); got != c.want {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
				h.settle()
				if h.owner(vip) != "n1" {
					t.Error("the dry run has moved it")
				}
				h.must(c.cmd)
				h.settle()
				if got := h.owner(vip); got != c.owner {
					t.Errorf("owner is %q in earnest, want %q", got, c.owner)
				}
				h.checkHead()
			})
		})
	}
}

// try has a command decided as a dry run.
func (h *harness) try(cmd Command) Result {
	h.t.Helper()
	switch c := cmd.(type) {
	case *Apply:
		dry := *c
		dry.DryRun = true
		return h.must(&dry)
	case *Delete:
		dry := *c
		dry.DryRun = true
		return h.must(&dry)
	}
	h.t.Fatalf("%T knows no dry run", cmd)
	return Result{}
}

// A pool that nobody announces is no good place to go to, and a namespace that changes
// leaves services where they no longer belong.
func TestEffectsOfPoolsAndNamespaces(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.auto = 10 * time.Millisecond
		h.must(apply(namespace("default", map[string]string{"tier": "gold"})))
		h.must(apply(poolWith("gold", "10.0.0.1-10.0.0.1", forGold), ad("a", func(a *logv1.L2Advertisement) { a.IpAddressPools = []string{"gold"} })))
		h.open("n1", "n2")
		h.must(apply(service("web")))
		h.must(apply(pool("q", "10.1.0.1-10.1.0.9"), service("other")))
		if got, want := effectsText(h.try(apply(namespace("default", nil))).Effects), "web unselected [10.0.0.1]"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		moved := apply(poolWith("gold", "10.0.0.1-10.0.0.1", func(p *logv1.Pool) { forGold(p); p.Reallocate = true }), namespace("default", nil))
		if got, want := effectsText(h.try(moved).Effects), `web taken [10.0.0.1] given [10.1.0.2] 10.1.0.2 "">"" no L2Advertisement selects the pool`; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		h.checkHead()
	})
}

// Addresses that have to move are spread over those that are left, as in earnest.
func TestEffectsSpread(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.0/24"), ad("a")))
		h.open("n1")
		var many []*adminv1.Resource
		for i := range 10 {
			many = append(many, service(fmt.Sprintf("s%d", i)))
		}
		h.must(apply(many...))
		h.open("n2", "n3")
		got := map[string]int{}
		for _, e := range h.try(apply(ad("a", func(a *logv1.L2Advertisement) {
			a.NodeSelectors = append(matching("name", "n2"), matching("name", "n3")...)
		}))).Effects {
			got[e.Owners[0].To]++
		}
		if got["n2"] != 5 || got["n3"] != 5 {
			t.Errorf("%v", got)
		}
		h.checkHead()
	})
}

// However little fits into a batch, a dry run lists all that would be touched, and is
// refused where the command would be.
func TestEffectsOfManyServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *Config) { c.MaxBatchBytes = 256 })
		defer h.stop()
		h.log.lead()
		synctest.Wait()
		h.must(&Found{ClusterID: [16]byte{1}, Version: 1})
		h.must(apply(pool("p", "10.0.0.0/23")))
		h.fill(500)
		h.settle()
		h.must(apply(poolWith("q", "10.1.0.0/23", func(*logv1.Pool) {})))
		// Each is looked at anew, for its pool is no longer for it.
		away := apply(poolWith("p", "10.0.0.0/23", func(p *logv1.Pool) {
			p.Reallocate = true
			p.ServiceAllocation = &logv1.ServiceAllocation{ServiceSelectors: matching("x", "y")}
		}))
		for name, cmd := range map[string]Command{
			"replaced": away, "taken": &Delete{Names: remove(KindPool, "p").Names, Force: true},
		} {
			list := h.try(cmd).Effects
			for _, e := range list {
				if len(e.Given) != 1 {
					t.Errorf("%s: %s", name, effectsText([]Effect{e}))
				}
			}
			if len(list) != 500 {
				t.Errorf("%s: %d of 500 services are listed", name, len(list))
			}
		}
		h.must(away)
		h.settle()
		h.log.Read(func(s *fsm.State) {
			if use := s.PoolUse("q"); use.Used4 != 500 {
				t.Errorf("%d have moved in earnest", use.Used4)
			}
		})
		h.checkHead()
	})
}

// A pool in use is deleted in a dry run without force, which says that it takes force.
func TestDryRunOfADeletionNeedsNoForce(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.1-10.0.0.1"), service("a")))
		r := h.try(remove(KindPool, "p"))
		if got, want := effectsText(r.Effects), "a taken [10.0.0.1] pending: no IPv4 address: no pool is defined"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if len(r.NeedsForce) != 1 || r.NeedsForce[0].Path != "names[0]" || !strings.Contains(r.NeedsForce[0].Message, "default/a (10.0.0.1)") {
			t.Errorf("%+v", r.NeedsForce)
		}
		forced := remove(KindPool, "p")
		forced.Force = true
		if r := h.try(forced); r.NeedsForce != nil || len(r.Effects) != 1 {
			t.Errorf("%+v", r)
		}
		h.refused(remove(KindPool, "p"), new(*InUseError))
		h.checkHead()
	})
}

// Whatever is tried, nothing is written, the head is the same, and what waits goes on
// waiting; head is not even made anew.
func TestDryRunsChangeNothing(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.auto = 10 * time.Millisecond
		h.must(&SetRetention{})
		oneVip(h)
		h.must(apply(pool("q", "10.1.0.1-10.1.0.1"), service("a", inPool("q")), service("w", inPool("q")), reservation("r", "b", 0, "10.0.0.5")))
		older := h.older()
		h.must(apply(service("late")))
		h.settle()
		digest := func() (sum fsm.Hash) {
			h.log.Read(func(s *fsm.State) { sum = s.Digest() })
			return sum
		}
		before, revision, rebuilds, batches := digest(), h.log.revision(), h.d.Stats().Rebuilds.Load(), h.d.Stats().Batches.Load()
		force := func(cmd Command) Command {
			switch c := cmd.(type) {
			case *Apply:
				c.Force, c.DryRun = true, true
			case *Delete:
				c.Force, c.DryRun = true, true
			}
			return cmd
		}
		for name, cmd := range map[string]Command{
			"everything new": force(apply(pool("n", "10.9.0.0/24"), ad("n"), service("n"), namespace("n", map[string]string{"a": "b"}), reservation("n", "n", 0, "10.9.0.9"))),
			"changes":        force(apply(pool("p", "10.0.0.8-10.0.0.9"), pool("q", "10.1.0.1-10.1.0.2"), ad("a", release), service("web", at("10.0.0.9")))),
			"deletions": force(&Delete{Names: append(append(append(remove(KindPool, "p", "q").Names, remove(KindService, "web", "a", "w").Names...),
				remove(KindAd, "a").Names...), remove(KindReservation, "r").Names...)}),
			"restore":   &RestoreTo{Older: older, DryRun: true},
			"rebalance": &Rebalance{DryRun: true},
		} {
			if r := h.must(cmd); r.Changed || r.Revision != revision {
				t.Errorf("%s: changed %v, at revision %d of %d", name, r.Changed, r.Revision, revision)
			}
			h.settle()
			if h.log.revision() != revision || digest() != before {
				h.t.Fatalf("%s has changed the state: %q", name, h.log.events(revision))
			}
		}
		h.refused(force(apply(pool("n", "10.0.0.0/8"))), new(*InvalidError))
		if h.d.Stats().Rebuilds.Load() != rebuilds || h.d.Stats().Batches.Load() != batches {
			t.Error("head was made anew, or a batch was made")
		}
		h.nothingMissed()
		h.checkHead()
		if h.must(remove(KindService, "a")); h.addressesOf("w") != 1 {
			t.Error("who waited has been forgotten")
		}
	})
}

// While a dry run of a large group is decided, the decider goes on: it has only taken a
// copy. A second one waits for the first.
func TestDryRunsOneAfterTheOther(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.0/24")))
		leave, err := h.d.enterRehearsal(context.Background())
		if err != nil {
			h.t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); h.try(apply(service("dry"))) }()
		synctest.Wait()
		select {
		case <-done:
			t.Error("two at once")
		default:
		}
		h.must(apply(service("a")))
		leave()
		<-done
		h.checkHead()
	})
}
