package allocator_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

var (
	ip1 = netip.MustParseAddr("192.0.2.1")
	web = fsm.KeyOf("default", "web")
)

const fresh = logv1.AllocationReason_ALLOCATION_REASON_FRESH

// cluster has pool "a", one advertisement for all, a service with ip1, and
// nodes n1 to n3 with open sessions (3, 4, 5).
func cluster(t testing.TB) *fsmtest.Log {
	l := fsmtest.NewLog(t)
	l.Apply(fsmtest.PoolDefined("a", "192.0.2.0/24", "2001:db8::/64"), fsmtest.Ad(&logv1.L2Advertisement{Name: "all"}),
		fsmtest.Declared(fsmtest.Service("web", 80)), fsmtest.AllocatedFor(web, ip1, "a", fresh))
	for _, n := range []string{"n1", "n2", "n3"} {
		l.Apply(fsmtest.Opened(n, 1, map[string]string{"zone": n}))
	}
	return l
}

func selector(key string, values ...string) []*logv1.LabelSelector {
	return []*logv1.LabelSelector{{MatchExpressions: []*logv1.LabelRequirement{{Key: key, Operator: fsm.OpIn, Values: values}}}}
}

func TestEligible(t *testing.T) {
	picky := fsmtest.Service("web", 80)
	picky.NodeSelectors = selector("zone", "n2")
	ad := func(change func(*logv1.L2Advertisement)) *logv1.Event {
		a := &logv1.L2Advertisement{Name: "all"}
		change(a)
		return fsmtest.Ad(a)
	}
	for _, c := range []struct {
		name   string
		events []*logv1.Event
		node   string
		want   allocator.Reason
	}{
		{"as it is", nil, "n1", allocator.OK},
		{"never seen", nil, "n9", allocator.UnknownNode},
		{"expired", []*logv1.Event{fsmtest.Expired("n1", 3)}, "n1", allocator.NoSession},
		{"closed", []*logv1.Event{fsmtest.Closed("n1", 3)}, "n1", allocator.NoSession},
		{"drained", []*logv1.Event{fsmtest.Drained("n1", logv1.DrainReason_DRAIN_REASON_ADMIN)}, "n1", allocator.Drained},
		{"leaving", []*logv1.Event{fsmtest.Drained("n1", logv1.DrainReason_DRAIN_REASON_LEAVE)}, "n1", allocator.Leaving},
		{"excluded", []*logv1.Event{fsmtest.Opened("n1", 2, map[string]string{allocator.LabelExclude: ""})}, "n1", allocator.ExcludedLabel},
		{"no advertisement", []*logv1.Event{fsmtest.AdDeleted("all")}, "n1", allocator.NoAdvertisement},
		{"advertisement of another pool", []*logv1.Event{ad(func(a *logv1.L2Advertisement) { a.IpAddressPools = []string{"b"} })}, "n1", allocator.NoAdvertisement},
		{"not selected", []*logv1.Event{ad(func(a *logv1.L2Advertisement) { a.NodeSelectors = selector("zone", "n2") })}, "n1", allocator.NodeSelector},
		{"selected", []*logv1.Event{ad(func(a *logv1.L2Advertisement) { a.NodeSelectors = selector("zone", "n2") })}, "n2", allocator.OK},
		{"selected by another", []*logv1.Event{ad(func(a *logv1.L2Advertisement) { a.NodeSelectors = selector("zone", "n2") }),
			fsmtest.Ad(&logv1.L2Advertisement{Name: "more", NodeSelectors: selector("zone", "n1")})}, "n1", allocator.OK},
		{"not of the service", []*logv1.Event{fsmtest.Declared(picky)}, "n1", allocator.ServiceNodeSelector},
		{"of the service", []*logv1.Event{fsmtest.Declared(picky)}, "n2", allocator.OK},
		{"all links down", []*logv1.Event{fsmtest.Links("n1", "!eth0")}, "n1", allocator.LinkDown},
		{"one link up", []*logv1.Event{fsmtest.Links("n1", "!eth0", "eth1")}, "n1", allocator.OK},
		{"no links", []*logv1.Event{fsmtest.Links("n1")}, "n1", allocator.LinkDown},
		{"the wrong link up", []*logv1.Event{fsmtest.Links("n1", "!eth0", "eth1"),
			ad(func(a *logv1.L2Advertisement) { a.Interfaces = []string{"eth0"} })}, "n1", allocator.LinkDown},
		{"the link of another advertisement up", []*logv1.Event{fsmtest.Links("n1", "!eth0", "eth1"),
			ad(func(a *logv1.L2Advertisement) { a.Interfaces = []string{"eth0"} }),
			fsmtest.Ad(&logv1.L2Advertisement{Name: "more", Interfaces: []string{"eth1"}})}, "n1", allocator.OK},
		{"the link of another node's advertisement up", []*logv1.Event{fsmtest.Links("n1", "!eth0", "eth1"),
			ad(func(a *logv1.L2Advertisement) { a.Interfaces = []string{"eth0"} }),
			fsmtest.Ad(&logv1.L2Advertisement{Name: "more", Interfaces: []string{"eth1"}, NodeSelectors: selector("zone", "n2")})}, "n1", allocator.LinkDown},
		{"announcing failed", []*logv1.Event{fsmtest.AnnounceFailed(ip1, "n1", "x")}, "n1", allocator.AnnounceFailed},
		{"announcing failed elsewhere", []*logv1.Event{fsmtest.AnnounceFailed(ip1, "n2", "x")}, "n1", allocator.OK},
		{"announcing recovered", []*logv1.Event{fsmtest.AnnounceFailed(ip1, "n1", "x"), fsmtest.AnnounceRecovered(ip1, "n1")}, "n1", allocator.OK},
		{"address not in use", []*logv1.Event{fsmtest.Released(web, ip1, 0)}, "n1", allocator.NotInUse},
	} {
		l := cluster(t)
		if c.events != nil {
			l.Apply(c.events...)
		}
		if got := allocator.Eligible(l.S, ip1, c.node); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		owner, ok := allocator.ChooseOwner(l.S, ip1, allocator.Options{})
		if ok && allocator.Eligible(l.S, ip1, owner) != allocator.OK {
			t.Errorf("%s: chosen is %s, which is not eligible", c.name, owner)
		}
	}
}

// Services that share an address must all admit its node.
func TestEligibleForAllWhoShare(t *testing.T) {
	l := cluster(t)
	a, b := fsmtest.Service("web", 80), fsmtest.Service("dns", 53)
	a.SharingKey, b.SharingKey = "k", "k"
	a.NodeSelectors, b.NodeSelectors = selector("zone", "n1", "n2"), selector("zone", "n2", "n3")
	l.Apply(fsmtest.Declared(a), fsmtest.Declared(b), fsmtest.AllocatedFor(fsm.KeyOf("default", "dns"), ip1, "a", fresh))
	for node, want := range map[string]allocator.Reason{"n1": allocator.ServiceNodeSelector, "n2": allocator.OK, "n3": allocator.ServiceNodeSelector} {
		if got := allocator.Eligible(l.S, ip1, node); got != want {
			t.Errorf("%s: %s, want %s", node, got, want)
		}
	}
}

func TestReasonsHaveWords(t *testing.T) {
	seen := map[string]bool{}
	for r := allocator.OK; r <= allocator.Unhealthy; r++ {
		if text := r.String(); text == "" || text == "invalid" || seen[text] {
			t.Errorf("reason %d: %q", r, text)
		}
		seen[r.String()] = true
	}
	if allocator.Reason(200).String() != "invalid" || allocator.ReasonInvalid.String() != "invalid" {
		t.Error("what is no reason")
	}
	for w := allocator.NotAnAddress; w <= allocator.Kept; w++ {
		if text := w.String(); text == "" || text == "invalid" || seen[text] {
			t.Errorf("why %d: %q", w, text)
		}
		seen[w.String()] = true
	}
}

func TestBackoff(t *testing.T) {
	for failures, want := range map[uint32]time.Duration{
		0: allocator.FirstBackoff, 1: 10 * time.Second, 2: 20 * time.Second, 3: 40 * time.Second, 6: 320 * time.Second,
		7: 10 * time.Minute, 8: 10 * time.Minute, 1 << 31: 10 * time.Minute,
	} {
		if got := allocator.Backoff(failures); got != want {
			t.Errorf("%d failures: %s, want %s", failures, got, want)
		}
	}
	l := cluster(t)
	l.Apply(fsmtest.AnnounceFailed(ip1, "n1", "x"))
	c := allocator.NewChooser(l.S)
	failed := l.S.Time
	if got := c.Eligible(ip1, "n1", failed+int64(allocator.FirstBackoff)-1); got != allocator.AnnounceFailed {
		t.Errorf("before the end: %s", got)
	}
	if got := c.Eligible(ip1, "n1", failed+int64(allocator.FirstBackoff)); got != allocator.OK {
		t.Errorf("at the end: %s", got)
	}
	if node, ok := c.ChooseOwner(ip1, allocator.Options{Now: failed, Exclude: "n2"}); !ok || node != "n3" {
		t.Errorf("chosen: %s", node)
	}
}

// The rank of a node is part of the contract between releases only in so far as
// a change would move addresses of Ideal advertisements at an upgrade. It must not.
func TestRankIsForEver(t *testing.T) {
	for _, c := range []struct {
		node, addr string
		want       uint64
	}{
		{"n1", "192.0.2.1", 0x13e81b1b664040cc},
		{"n2", "192.0.2.1", 0xe5b76311e934f5fa},
		{"worker-3.example.com", "2001:db8::1", 0x74f840c3666d11f3},
		{"", "0.0.0.0", 0xf4f72fb7a8c648},
	} {
		if got := allocator.Rank(c.node, netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%s, %s: %#x, want %#x", c.node, c.addr, got, c.want)
		}
	}
}

func TestRankSpreads(t *testing.T) {
	nodes := []string{"n1", "n2", "n3", "n4", "n5"}
	wins := map[string]int{}
	a := netip.MustParseAddr("10.0.0.0")
	const n = 5000
	for range n {
		a = a.Next()
		wins[slices.MaxFunc(nodes, func(x, y string) int {
			if allocator.Rank(x, a) < allocator.Rank(y, a) {
				return -1
			}
			return 1
		})]++
	}
	for _, node := range nodes {
		if wins[node] < n/5*85/100 || wins[node] > n/5*115/100 {
			t.Errorf("%s wins %d of %d", node, wins[node], n)
		}
	}
}

func TestChooseOwner(t *testing.T) {
	l := cluster(t)
	nodes := []string{"n1", "n2", "n3"}
	best := slices.MaxFunc(nodes, func(x, y string) int {
		if allocator.Rank(x, ip1) < allocator.Rank(y, ip1) {
			return -1
		}
		return 1
	})
	choose := func(opt allocator.Options) string {
		node, _ := allocator.ChooseOwner(l.S, ip1, opt)
		return node
	}
	if got := choose(allocator.Options{}); got != best {
		t.Errorf("a tie: %s, want the hash winner %s", got, best)
	}
	if got := choose(allocator.Options{Exclude: best}); got == best || got == "" {
		t.Errorf("excluded is chosen: %s", got)
	}
	other := nodes[(slices.Index(nodes, best)+1)%3]
	if got := choose(allocator.Options{Preferred: func(n string) bool { return n == other }}); got != other {
		t.Errorf("preferred is %s, chosen %s", other, got)
	}
	// The hash winner owns one more than the others.
	ip2 := netip.MustParseAddr("192.0.2.2")
	l.Apply(fsmtest.Declared(fsmtest.Service("b")), fsmtest.AllocatedFor(fsm.KeyOf("default", "b"), ip2, "a", fresh), fsmtest.OwnerAssigned(ip2, best))
	if got := choose(allocator.Options{}); got == best {
		t.Errorf("%s owns most and is chosen", got)
	}
	if got := choose(allocator.Options{Preferred: func(n string) bool { return n == best }}); got != best {
		t.Errorf("preferred comes before fewest: %s", got)
	}
	l.Apply(fsmtest.Ad(&logv1.L2Advertisement{Name: "ideal", Placement: logv1.Placement_PLACEMENT_IDEAL}))
	if got := choose(allocator.Options{}); got != best {
		t.Errorf("ideal: %s, want the hash winner %s", got, best)
	}
	for _, n := range nodes {
		l.Apply(fsmtest.Expired(n, l.S.Nodes[n].Session))
	}
	if node, ok := allocator.ChooseOwner(l.S, ip1, allocator.Options{}); ok {
		t.Errorf("of no nodes: %s", node)
	}
	if node, ok := allocator.ChooseOwner(l.S, netip.MustParseAddr("192.0.2.99"), allocator.Options{}); ok {
		t.Errorf("of an address nobody has: %s", node)
	}
}

// Folding every choice before the next spreads addresses evenly, also over
// nodes that had different numbers before.
func TestOwnersSpreadEvenly(t *testing.T) {
	l := cluster(t)
	d := l.S.Begin(l.Now)
	c := allocator.NewChooser(l.S)
	must(t, d.Add("x", fsmtest.OwnerAssigned(ip1, "n1")))
	for i := range 29 {
		key := fsm.KeyOf("default", fmt.Sprint("s", i))
		a := l.S.NextFresh("a", true)
		must(t, d.Add("x", fsmtest.Declared(fsmtest.Service(key.Name))))
		must(t, d.Add("x", fsmtest.AllocatedFor(key, a, "a", fresh)))
		node, ok := c.ChooseOwner(a, allocator.Options{})
		if !ok {
			t.Fatal("nobody")
		}
		must(t, d.Add("x", fsmtest.OwnerAssigned(a, node)))
	}
	for name, n := range maps.All(l.S.Nodes) {
		if n.Owned != 10 {
			t.Errorf("%s owns %d of 30", name, n.Owned)
		}
	}
}

func TestShouldMove(t *testing.T) {
	ideal := fsmtest.Ad(&logv1.L2Advertisement{Name: "all", Placement: logv1.Placement_PLACEMENT_IDEAL})
	others := []*logv1.Event{fsmtest.Expired("n2", 4), fsmtest.Expired("n3", 5)}
	for _, c := range []struct {
		name   string
		events []*logv1.Event
		alone  bool // no other node has a session
		why    logv1.OwnerReason
		move   bool
	}{
		{"sticky", nil, false, 0, false},
		{"drained", []*logv1.Event{fsmtest.Drained("n1", 1)}, false, logv1.OwnerReason_OWNER_REASON_DRAIN, true},
		{"drained, alone", []*logv1.Event{fsmtest.Drained("n1", 1)}, true, 0, false},
		{"leaving", []*logv1.Event{fsmtest.Drained("n1", 2)}, false, logv1.OwnerReason_OWNER_REASON_LEAVE, true},
		{"expired", []*logv1.Event{fsmtest.Expired("n1", 3)}, false, logv1.OwnerReason_OWNER_REASON_OWNER_EXPIRED, true},
		{"expired, alone", []*logv1.Event{fsmtest.Expired("n1", 3)}, true, 0, false},
		{"link down", []*logv1.Event{fsmtest.Links("n1", "!eth0")}, false, logv1.OwnerReason_OWNER_REASON_LINK_DOWN, true},
		{"link down, alone", []*logv1.Event{fsmtest.Links("n1", "!eth0")}, true, 0, false},
		{"failed", []*logv1.Event{fsmtest.AnnounceFailed(ip1, "n1", "x")}, false, logv1.OwnerReason_OWNER_REASON_ANNOUNCE_FAILED, true},
		{"failed everywhere", []*logv1.Event{fsmtest.AnnounceFailed(ip1, "n1", "x"), fsmtest.AnnounceFailed(ip1, "n2", "x"), fsmtest.AnnounceFailed(ip1, "n3", "x")}, false, 0, false},
		{"excluded, alone", []*logv1.Event{fsmtest.Opened("n1", 2, map[string]string{allocator.LabelExclude: "x"})}, true, logv1.OwnerReason_OWNER_REASON_NOT_ELIGIBLE, true},
		{"not selected, alone", []*logv1.Event{fsmtest.Ad(&logv1.L2Advertisement{Name: "all", NodeSelectors: selector("zone", "n2")})}, true, logv1.OwnerReason_OWNER_REASON_NOT_ELIGIBLE, true},
		{"not announced", []*logv1.Event{fsmtest.AdDeleted("all")}, false, logv1.OwnerReason_OWNER_REASON_NOT_ELIGIBLE, true},
		{"ideal, alone", []*logv1.Event{ideal}, true, 0, false},
	} {
		l := cluster(t)
		l.Apply(fsmtest.OwnerAssigned(ip1, "n1"))
		if c.alone {
			l.Apply(others...)
		}
		if c.events != nil {
			l.Apply(c.events...)
		}
		why, move := allocator.ShouldMove(l.S, ip1)
		if why != c.why || move != c.move {
			t.Errorf("%s: %s, %t", c.name, why, move)
		}
	}
	l := cluster(t)
	if _, move := allocator.ShouldMove(l.S, ip1); move {
		t.Error("what nobody owns moves")
	}
	best, _ := allocator.ChooseOwner(l.S, ip1, allocator.Options{})
	other, _ := allocator.ChooseOwner(l.S, ip1, allocator.Options{Exclude: best})
	l.Apply(ideal, fsmtest.OwnerAssigned(ip1, other))
	if why, move := allocator.ShouldMove(l.S, ip1); why != logv1.OwnerReason_OWNER_REASON_IDEAL || !move {
		t.Errorf("ideal: %s, %t", why, move)
	}
}

func TestPolicy(t *testing.T) {
	const release, ideal = logv1.ControlLoss_CONTROL_LOSS_RELEASE, logv1.Placement_PLACEMENT_IDEAL
	l := cluster(t)
	l.Apply(fsmtest.AdDeleted("all"), fsmtest.Pool(&logv1.Pool{Name: "gold", Addresses: []string{"203.0.113.0/24"}, Labels: map[string]string{"tier": "gold"}}))
	gold := netip.MustParseAddr("203.0.113.1")
	if p := allocator.PolicyOf(l.S, ip1); p.Announced || p.ControlLoss != logv1.ControlLoss_CONTROL_LOSS_HOLD || p.Placement != logv1.Placement_PLACEMENT_STICKY {
		t.Errorf("no advertisement: %+v", p)
	}
	l.Apply(fsmtest.Ad(&logv1.L2Advertisement{Name: "x", IpAddressPools: []string{"a"}, Interfaces: []string{"eth1", "eth0"}}),
		fsmtest.Ad(&logv1.L2Advertisement{Name: "y", IpAddressPoolSelectors: selector("tier", "gold"), Placement: ideal, NodeSelectors: selector("zone", "n1")}),
		fsmtest.Ad(&logv1.L2Advertisement{Name: "z", Interfaces: []string{"eth2", "eth1"}, OnControlLoss: release}))
	p := allocator.PolicyOf(l.S, ip1)
	if !p.Announced || p.ControlLoss != release || p.Placement == ideal || !slices.Equal(p.Interfaces, []string{"eth0", "eth1", "eth2"}) {
		t.Errorf("a: %+v", p)
	}
	p = allocator.PolicyOf(l.S, gold)
	if !p.Announced || p.ControlLoss != release || p.Placement != ideal || p.Interfaces != nil {
		t.Errorf("gold: %+v", p)
	}
	if ifs, ok := p.On(map[string]string{"zone": "n1"}); !ok || ifs != nil {
		t.Errorf("gold on n1: %v %t", ifs, ok)
	}
	if ifs, ok := p.On(map[string]string{"zone": "n2"}); !ok || !slices.Equal(ifs, []string{"eth1", "eth2"}) {
		t.Errorf("gold on n2: %v %t", ifs, ok)
	}
	if p := allocator.PolicyOf(l.S, netip.MustParseAddr("198.51.100.1")); p.Announced {
		t.Error("an address of no pool is announced")
	}
}
