package allocator_test

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// answers asks everything that can be asked of a state, in words.
func answers(s *fsm.State) string {
	var b strings.Builder
	specs := []*logv1.Service{svc("new"), svc("new", families(v6)), svc("new", policy(prefer)), svc("new", policy(require)),
		svc("new", pool("p1")), svc("new", sharing("blue"), port(9)), svc("new", addresses("192.0.2.9"))}
	for _, key := range slices.SortedFunc(maps.Keys(s.Services), fsm.ServiceKey.Compare) {
		specs = append(specs, s.Services[key].Spec)
	}
	for _, spec := range specs {
		plan, err := allocator.ChooseAddresses(s, spec, s.Time+int64(time.Minute))
		fmt.Fprintf(&b, "%s: %+v %v\n", spec.GetName(), plan, err)
	}
	c := allocator.NewChooser(s)
	for _, a := range slices.SortedFunc(maps.Keys(s.Addresses), netip.Addr.Compare) {
		node, ok := c.ChooseOwner(a, allocator.Options{Exclude: "n0"})
		why, move := c.ShouldMove(a, allocator.Options{})
		p := c.Policy(a)
		fmt.Fprintf(&b, "%s: %s %t, %d %t, %t %d %d %v\n", a, node, ok, why, move, p.Announced, p.ControlLoss, p.Placement, p.Interfaces)
		for _, n := range slices.Sorted(maps.Keys(s.Nodes)) {
			fmt.Fprintf(&b, " %s %s\n", n, c.Eligible(a, n, s.Time))
		}
	}
	return b.String()
}

// A state that came by a log, by a snapshot or by cloning gives the same answers.
func TestSameStateSameAnswers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := fsmtest.NewWalk(t, func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "pick") })
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			w.Step()
		}
		want := answers(w.S)
		if got := answers(w.S); got != want {
			t.Fatalf("asked twice:\n%s\n%s", want, got)
		}
		for name, s := range map[string]*fsm.State{"clone": w.S.Clone(), "replay": fsmtest.Replay(t, w.Raw), "restore": restore(t, w.S)} {
			if got := answers(s); got != want {
				t.Fatalf("%s answers differently:\n%s\n%s", name, want, got)
			}
		}
	})
}

func restore(t fsmtest.TB, s *fsm.State) *fsm.State {
	t.Helper()
	var b bytes.Buffer
	if err := fsm.WriteSnapshot(&b, s); err != nil {
		t.Fatalf("%v", err)
	}
	back, err := fsm.ReadSnapshot(&b)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return back
}

// Facts of one batch that do not depend on each other give the same state, and
// so the same answers, in whatever order they stand.
func TestOrderOfInsertionDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(t, "services")
		nodes := rapid.IntRange(1, 6).Draw(t, "nodes")
		// Stages depend on the ones before; within one everything may change places.
		stages := make([][]*logv1.Event, 4)
		stages[0] = []*logv1.Event{
			fsmtest.PoolDefined("p0", "192.0.2.0/28", "2001:db8::/64"), fsmtest.PoolDefined("p1", "198.51.100.0/24"),
			fsmtest.Pool(&logv1.Pool{Name: "p2", Addresses: []string{"203.0.113.0/24"}, AvoidBuggyIps: true, Labels: map[string]string{"tier": "gold"}}),
			fsmtest.Ad(&logv1.L2Advertisement{Name: "x", Interfaces: []string{"eth0"}}),
			fsmtest.Ad(&logv1.L2Advertisement{Name: "y", IpAddressPoolSelectors: selector("tier", "gold"), NodeSelectors: selector("zone", "n1", "n3"),
				Placement: logv1.Placement_PLACEMENT_IDEAL}),
		}
		for i := range nodes {
			name := fmt.Sprint("n", i)
			stages[0] = append(stages[0], fsmtest.Opened(name, 1, map[string]string{"zone": name}))
		}
		pools := []string{"192.0.2.0", "198.51.100.0", "203.0.113.0"}
		for i := range n {
			spec := svc(fmt.Sprint("s", i), port(uint32(i+1)))
			if rapid.IntRange(0, 3).Draw(t, "shares") == 0 {
				spec.SharingKey = "blue"
			}
			at := rapid.IntRange(0, 2).Draw(t, "pool")
			a := netip.MustParseAddr(pools[at])
			for range i % 16 {
				a = a.Next()
			}
			key := fsm.KeyOf("default", spec.Name)
			stages[1] = append(stages[1], fsmtest.Declared(spec))
			if taken := slices.ContainsFunc(stages[2], func(e *logv1.Event) bool {
				return bytes.Equal(e.GetAddressAllocated().GetAddress(), fsm.FromAddr(a))
			}); taken {
				continue
			}
			stages[2] = append(stages[2], fsmtest.AllocatedFor(key, a, fmt.Sprint("p", at), fresh))
			switch rapid.IntRange(0, 3).Draw(t, "then") {
			case 0:
				stages[3] = append(stages[3], fsmtest.Released(key, a, fsmtest.Epoch+int64(rapid.IntRange(0, 20).Draw(t, "kept"))*int64(time.Second)))
			case 1, 2:
				stages[3] = append(stages[3], fsmtest.OwnerAssigned(a, fmt.Sprint("n", rapid.IntRange(0, nodes-1).Draw(t, "owner"))))
			}
		}
		inOrder, permuted := fsmtest.NewLog(t), fsmtest.NewLog(t)
		inOrder.Apply(slices.Concat(stages...)...)
		for i := range stages {
			stages[i] = rapid.Permutation(stages[i]).Draw(t, "order")
		}
		permuted.Apply(slices.Concat(stages...)...)
		permuted.S.Chain = inOrder.S.Chain // the bytes differ, the facts do not
		if inOrder.S.Digest() != permuted.S.Digest() {
			t.Fatal("the states differ")
		}
		if a, b := answers(inOrder.S), answers(permuted.S); a != b {
			t.Fatalf("the answers differ:\n%s\n%s", a, b)
		}
	})
}

// model is what the test knows of addresses without asking the state.
type model struct {
	*decider
	pools map[string][]netip.Addr // in order, usable ones only
	freed map[netip.Addr]freed
}

type freed struct {
	at    uint64
	until int64
	key   fsm.ServiceKey
	share string
}

// available lists what a service may get from a pool, short of sharing.
func (m *model) available(pool string, spec *logv1.Service, is4 bool) (fresh, queue []netip.Addr, own bool) {
	key := fsm.KeyOf("default", spec.Name)
	for _, a := range m.pools[pool] {
		f, was := m.freed[a]
		switch {
		case a.Is4() != is4 || m.S.Addresses[a] != nil:
		case !was:
			fresh = append(fresh, a)
		case f.until <= m.S.Time:
			queue = append(queue, a)
		case f.key == key || spec.SharingKey != "" && f.share == spec.SharingKey:
			own = true
		}
	}
	slices.SortStableFunc(queue, func(a, b netip.Addr) int {
		if d := int(m.freed[a].at) - int(m.freed[b].at); d != 0 {
			return d
		}
		return a.Compare(b)
	})
	return fresh, queue, own
}

// Whatever is declared, deleted and waited for: nobody gets an address that
// another has, unless they share legally; what is kept is kept; the lowest unused comes
// first, then the one given up longest ago; a refusal means that there is none.
func TestAllocationsAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{
			decider: newDecider(t, fsmtest.PoolDefined("a", "192.0.2.0-192.0.2.4"),
				fsmtest.Pool(&logv1.Pool{Name: "b", Addresses: []string{"198.51.100.254-198.51.101.2", "2001:db8::/126"}, AvoidBuggyIps: true}),
				fsmtest.Pool(&logv1.Pool{Name: "c", Addresses: []string{"203.0.113.0/31"}, ManualOnly: true})),
			pools: map[string][]netip.Addr{},
			freed: map[netip.Addr]freed{},
		}
		for name, p := range m.S.Pools {
			for _, r := range p.Ranges {
				for a := r.First; !r.Last.Less(a); a = a.Next() {
					// Of the /126 the first is the Subnet-Router anycast address.
					if (!fsm.Buggy(a) || !p.Spec.AvoidBuggyIps) && !fsm.Anycast(a) {
						m.pools[name] = append(m.pools[name], a)
					}
				}
			}
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			m.step(t)
			m.checkSharing(t)
		}
		restore(t, m.S) // a restore checks that the rows fit together
	})
}

func (m *model) step(t *rapid.T) {
	m.Now += int64(rapid.IntRange(0, 30).Draw(t, "seconds")) * int64(time.Second)
	name := fmt.Sprint("s", rapid.IntRange(0, 11).Draw(t, "service"))
	key := fsm.KeyOf("default", name)
	if m.S.Services[key] != nil && rapid.IntRange(0, 2).Draw(t, "delete") == 0 {
		m.delete(key, int64(rapid.SampledFrom([]int{0, 0, 10, 100}).Draw(t, "keep"))*int64(time.Second))
		return
	}
	spec := svc(name, port(uint32(rapid.IntRange(1, 4).Draw(t, "port"))), families(rapid.SampledFrom([]logv1.IPFamily{v4, v4, v6}).Draw(t, "family")),
		sharing(rapid.SampledFrom([]string{"", "", "k"}).Draw(t, "sharing")), pool(rapid.SampledFrom([]string{"", "", "", "b", "c"}).Draw(t, "pool")))
	m.Apply(fsmtest.Declared(spec))
	// The state's time is that of the declaration; what is kept until then is free.
	plan, err := allocator.ChooseAddresses(m.S, spec, m.S.Time)
	m.checkPlan(t, spec, plan, err)
	for _, r := range plan.Releases {
		m.release(key, r.Addr, 0)
	}
	for _, c := range plan.New() {
		m.Apply(fsmtest.AllocatedFor(key, c.Addr, c.Pool, c.Reason))
		delete(m.freed, c.Addr)
	}
	again, err2 := allocator.ChooseAddresses(m.S, spec, m.S.Time)
	if err == nil && (err2 != nil || len(again.New()) > 0 || len(again.Releases) > 0) {
		t.Fatalf("a second look changes: %+v, %v", again, err2)
	}
}

func (m *model) delete(key fsm.ServiceKey, keep int64) {
	for _, a := range m.S.Services[key].Addresses {
		m.release(key, a, m.Now+keep)
	}
	m.Apply(fsmtest.Deleted(key))
}

func (m *model) release(key fsm.ServiceKey, a netip.Addr, until int64) {
	last := len(m.S.Addresses[a].Services) == 1
	share := m.S.Services[key].Spec.SharingKey
	m.Apply(fsmtest.Released(key, a, until))
	if last {
		m.freed[a] = freed{m.S.Revision, until, key, share}
	}
}

func (m *model) checkPlan(t *rapid.T, spec *logv1.Service, plan allocator.Plan, err error) {
	is4 := spec.IpFamilies[0] == v4
	pools := []string{"a", "b"}
	if spec.Pool != "" {
		pools = []string{spec.Pool}
	}
	if err != nil {
		for _, p := range pools {
			if fresh, queue, own := m.available(p, spec, is4); len(fresh) > 0 || len(queue) > 0 || own {
				t.Fatalf("refused (%v) while pool %s has %v %v %t", err, p, fresh, queue, own)
			}
		}
		return
	}
	if len(plan.Choices) != 1 || plan.Choices[0].Addr.Is4() != is4 {
		t.Fatalf("%+v", plan)
	}
	c := plan.Choices[0]
	if c.Kept {
		return
	}
	f, was := m.freed[c.Addr]
	switch c.Reason {
	case logv1.AllocationReason_ALLOCATION_REASON_RETAINED:
		if f.until <= m.S.Time || f.key != fsm.KeyOf("default", spec.Name) && (spec.SharingKey == "" || f.share != spec.SharingKey) {
			t.Fatalf("%s is kept for %+v", c.Addr, f)
		}
	case logv1.AllocationReason_ALLOCATION_REASON_SHARED:
		if m.S.Addresses[c.Addr] == nil {
			t.Fatalf("%s is shared with nobody", c.Addr)
		}
	default:
		for _, p := range pools {
			fresh, queue, own := m.available(p, spec, is4)
			if own && len(plan.Releases) == 0 {
				t.Fatalf("%s although one is kept", c.Addr)
			}
			if list := slices.Concat(fresh, queue); len(list) > 0 {
				if c.Addr != list[0] || was != (len(fresh) == 0) {
					t.Fatalf("%s, want %s of pool %s", c.Addr, list[0], p)
				}
				return
			}
		}
		t.Fatalf("%s out of nowhere", c.Addr)
	}
}

func (m *model) checkSharing(t *rapid.T) {
	for a, rec := range m.S.Addresses {
		for i, x := range rec.Services {
			for _, y := range rec.Services[:i] {
				sx, sy := m.S.Services[x].Spec, m.S.Services[y].Spec
				if sx.SharingKey == "" || sx.SharingKey != sy.SharingKey || sx.Ports[0].Port == sy.Ports[0].Port {
					t.Fatalf("%s and %s have %s", x, y, a)
				}
			}
		}
	}
}
