package allocator_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// The log gives every reason the number that it has here, and it has words.
func TestReasonsOfTheLog(t *testing.T) {
	for n := range logv1.RefusalReason_name {
		if text := allocator.Why(n).String(); n != 0 && (text == "invalid" || text == "") {
			t.Errorf("%s has no words", logv1.RefusalReason(n))
		}
	}
	if last := allocator.Why(len(logv1.RefusalReason_name)).String(); last != "invalid" {
		t.Errorf("%q is not in the log", last)
	}
	for why, want := range map[allocator.Why]string{
		allocator.NotAnAddress: "NOT_AN_ADDRESS", allocator.InUse: "IN_USE", allocator.NoPools: "NO_POOLS",
		allocator.ManualOnly: "MANUAL_ONLY", allocator.NotSelected: "NOT_SELECTED", allocator.Full: "FULL", allocator.Kept: "KEPT",
	} {
		if got := strings.TrimPrefix(why.Reason().String(), "REFUSAL_REASON_"); got != want {
			t.Errorf("%s is %s", want, got)
		}
	}
}

// What a service waits for is told pool by pool: those that are for it first.
func TestRefusalsPoolByPool(t *testing.T) {
	d := newDecider(t, fsmtest.PoolDefined("a", "192.0.2.0/32"), fsmtest.PoolDefined("six", "2001:db8::/127"),
		fsmtest.Pool(&logv1.Pool{Name: "m", Addresses: []string{"203.0.113.0/24"}, ManualOnly: true}),
		fsmtest.Pool(&logv1.Pool{Name: "x", Addresses: []string{"198.51.100.0/24"}, ServiceAllocation: &logv1.ServiceAllocation{Namespaces: []string{"x"}}}))
	d.declare(svc("first"))
	pool := func(pool string, why allocator.Why, f logv1.IPFamily) fsm.Refusal {
		return fsm.Refusal{Pool: pool, Reason: why.Reason(), Family: f}
	}
	for name, c := range map[string]struct {
		spec *logv1.Service
		want []fsm.Refusal
	}{
		"one family": {svc("s"), []fsm.Refusal{
			pool("a", allocator.Full, v4), pool("six", allocator.NoFamily, v4), pool("x", allocator.NotSelected, v4), pool("m", allocator.ManualOnly, v4)}},
		"both": {svc("s", policy(require)), []fsm.Refusal{
			pool("a", allocator.Full, v4), pool("six", allocator.NoFamily, v4), pool("x", allocator.NotSelected, v4), pool("m", allocator.ManualOnly, v4)}},
		"either": {svc("s", policy(prefer), pool1("a")), []fsm.Refusal{pool("a", allocator.Full, v4), pool("a", allocator.NoFamily, v6)}},
		"a request": {svc("s", addresses("192.0.2.0")), []fsm.Refusal{
			{Addr: netip.MustParseAddr("192.0.2.0"), Reason: allocator.InUse.Reason(), Family: v4}}},
		"no pool of that name": {svc("s", pool1("none")), []fsm.Refusal{pool("none", allocator.NoSuchPool, v4)}},
		"what it would take":   {svc("first", policy(prefer)), []fsm.Refusal{pool("a", allocator.NoFamily, v6)}},
	} {
		plan, err := allocator.ChooseAddresses(d.S, c.spec, d.S.Time)
		got := plan.Wish.Refusals()
		if err != nil {
			got = err.(*allocator.Refusal).Refusals()
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, c.want)
		}
	}
}

func pool1(name string) func(*logv1.Service) { return pool(name) }
