package decider

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func gradually(perMinute uint32) func(*logv1.L2Advertisement) {
	return func(a *logv1.L2Advertisement) {
		a.Rebalance, a.RebalancePerMinute = logv1.Rebalance_REBALANCE_GRADUAL, perMinute
	}
}

// eightVips gives eight addresses to n1, and then an empty n2.
func eightVips(h *harness, change ...func(*logv1.L2Advertisement)) {
	h.t.Helper()
	h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
	h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a", change...)))
	h.open("n1")
	for i := range 8 {
		h.must(apply(service(fmt.Sprintf("s%d", i))))
	}
	h.open("n2")
	h.settle()
}

func (h *harness) spread() string {
	text := ""
	h.log.Read(func(s *fsm.State) { text = fmt.Sprintf("%d/%d", s.Nodes["n1"].Owned, s.Nodes["n2"].Owned) })
	return text
}

func TestRebalanceWaitsUntilNodesAreQuietAndKeepsItsPace(t *testing.T) {
	inBubble(t, func(h *harness) {
		eightVips(h, gradually(6))
		h.then(h.when(func() { time.Sleep(balanceQuiet - time.Second) }))
		h.then(h.when(func() { time.Sleep(2 * time.Second) }),
			"OwnerReleased 10.0.0.1 n1 REBALANCE", "--", "OwnerAssigned 10.0.0.1 n2 REBALANCE")
		h.then(h.when(func() { time.Sleep(7 * time.Second) }))
		h.then(h.when(func() { time.Sleep(3 * time.Second) }),
			"OwnerReleased 10.0.0.2 n1 REBALANCE", "--", "OwnerAssigned 10.0.0.2 n2 REBALANCE")
		// A node that comes starts the wait anew.
		h.open("n3")
		h.then(h.when(func() { time.Sleep(balanceQuiet - time.Second) }))
		time.Sleep(2 * time.Minute)
		h.settle()
		if got := h.spread(); got != "3/3" {
			t.Errorf("n1 and n2 own %s", got)
		}
		h.then(h.when(func() { time.Sleep(time.Hour) }))
	})
}

func TestAnOrderedRebalanceIsMadeAtItsPaceAndEnds(t *testing.T) {
	inBubble(t, func(h *harness) {
		eightVips(h)
		dry := h.must(&Rebalance{DryRun: true})
		if dry.Changed || len(dry.Moves) != 4 || dry.PerMinute != DefaultRebalancePerMinute {
			t.Fatalf("dry run: %+v", dry)
		}
		h.then(h.when(func() { h.must(&Rebalance{PerMinute: 30, Actor: "admin:test"}) }),
			"RebalanceStarted", "OwnerReleased 10.0.0.1 n1 REBALANCE", "--", "OwnerAssigned 10.0.0.1 n2 REBALANCE")
		h.then(h.when(func() { time.Sleep(1500 * time.Millisecond) }))
		// It goes on under another leader.
		h.log.lose(0)
		h.settle()
		h.log.lead()
		got := h.when(func() { time.Sleep(10 * time.Second) })
		if last := got[len(got)-1]; last != "RebalanceEnded" || h.spread() != "4/4" {
			t.Errorf("%s after\n%s", h.spread(), strings.Join(got, "\n"))
		}
		if r := h.must(&Rebalance{}); r.Changed || len(r.Moves) != 0 || r.PerMinute != 0 {
			t.Errorf("nothing to move: %+v", r)
		}
	})
}

func TestARebalanceCanBeStopped(t *testing.T) {
	inBubble(t, func(h *harness) {
		eightVips(h)
		h.must(&Rebalance{PerMinute: 1, Actor: "admin:test"})
		h.then(h.when(func() { h.must(&Rebalance{Stop: true}) }), "RebalanceEnded")
		h.then(h.when(func() { h.must(&Rebalance{Stop: true}) }))
		h.then(h.when(func() { time.Sleep(10 * time.Minute) }))
		h.refused(&Rebalance{PerMinute: 601}, new(*InvalidError))
		h.refused(&Rebalance{Stop: true, DryRun: true}, new(*InvalidError))
	})
}

// Silent nodes win nothing, and what is dead, leaving or waiting comes first.
func TestRebalanceOnlyToNodesThatAreHeard(t *testing.T) {
	inBubble(t, func(h *harness) {
		eightVips(h)
		h.leases.set(func(l *fakeLeases) { l.silent["n2"] = true })
		if r := h.must(&Rebalance{}); r.Changed || len(r.Moves) != 0 {
			t.Errorf("moves to a silent node: %+v", r.Moves)
		}
	})
}

// Addresses of one service that had to share a node are parted without being asked, once
// the nodes are quiet; others stay where they are.
func TestAddressesOfAServiceArePartedWhenNodesAreQuiet(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.set(func(l *fakeLeases) { l.auto = 10 * time.Millisecond })
		h.open("n1", "n2", "n3")
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a"), service("web", count(3)), service("other")))
		h.settle()
		apart := func() bool {
			owners := map[string]bool{}
			for _, a := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} {
				owners[h.owner(a)] = true
			}
			return len(owners) == 3 && !owners[""]
		}
		if !apart() {
			t.Fatal("the addresses share nodes from the start")
		}
		// Every speaker is restarted.
		for i, n := range []string{"n1", "n2", "n3"} {
			h.must(&Leave{Node: n, Session: h.session(n)})
			h.settle()
			h.must(&Leave{Node: n, Session: h.session(n), Done: true})
			h.must(openSession(n, byte(i+2)))
			h.settle()
		}
		if apart() {
			t.Fatal("nothing shares a node after the restarts")
		}
		other := h.owner("10.0.0.4")
		h.then(h.when(func() { time.Sleep(balanceQuiet - time.Second) }))
		got := h.when(func() { time.Sleep(time.Minute) })
		if !apart() || h.owner("10.0.0.4") != other || len(got) != 3 || !strings.HasSuffix(got[0], "REBALANCE") {
			t.Errorf("after a while: %t, %q\n%s", apart(), h.owner("10.0.0.4"), strings.Join(got, "\n"))
		}
		// With too few nodes they stay.
		h.must(h.expire("n3"))
		h.settle()
		h.then(h.when(func() { time.Sleep(time.Hour) }))
	})
}
