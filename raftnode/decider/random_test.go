package decider

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

var (
	randomSeeds = flag.Int("seeds", 60, "runs of the random test")
	randomFrom  = flag.Uint64("from", 1, "first seed of the random test")
)

// TestRandomCommandsAndFaults runs clients against a log that loses leadership,
// delays, hangs, refuses and is written to by others, and then holds every
// answer against the log.
func TestRandomCommandsAndFaults(t *testing.T) {
	for i := range *randomSeeds {
		seed := *randomFrom + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { randomRun(t, seed) })
		})
	}
}

// attempt is one declaration with a mark that no other has.
type attempt struct {
	mark string
	rev  uint64
	err  error
}

type randomClient struct {
	h    *harness
	rng  *rand.Rand
	name string
	made []attempt
	// old is a state that the client has seen.
	old *fsm.State
}

func randomRun(t *testing.T, seed uint64) {
	h := newHarness(t, func(c *Config) { c.MaxInFlight = 1 + int(seed%8); c.MaxCommands = 1 + int(seed%5); c.Logger = nil })
	h.leases.auto = 20 * time.Millisecond
	rng := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, n)) }
	delays := rng(100)
	h.log.delay = func() time.Duration { return time.Duration(delays.IntN(3000)) * time.Microsecond }
	h.log.lead()
	synctest.Wait()
	h.must(&Found{ClusterID: [16]byte{1}, Version: 1})
	h.must(apply(pool("p", "10.0.0.0/29"), pool("q", "10.0.1.0/29"), ad("a")))
	var clients []*randomClient
	var wg sync.WaitGroup
	for i := range 4 {
		c := &randomClient{h: h, rng: rng(uint64(i)), name: fmt.Sprintf("c%d", i)}
		clients = append(clients, c)
		wg.Go(c.run)
	}
	done := make(chan struct{})
	var chaos sync.WaitGroup
	chaos.Go(func() { randomChaos(h, rng(200), done) })
	wg.Wait()
	close(done)
	chaos.Wait()

	h.settle()
	time.Sleep(15 * time.Second) // whatever hangs is noticed
	// A leader in between that nobody noticed shows with the next write only.
	h.must(&SetRetention{Retention: time.Hour + time.Duration(seed), Actor: "admin:test"})
	// A new head looks at all that wait; now only what changes has one tried.
	for i := range 40 {
		if last := clients[i%len(clients)]; i%3 == 0 {
			last.declare(100 + i)
		} else {
			_, _ = h.submit(last.command())
		}
	}
	time.Sleep(15 * time.Second) // for moves that go on
	h.checkHead()
	h.nothingMissed()
	h.log.Read(func(s *fsm.State) {
		for name, n := range s.Nodes {
			if soft := s.SoftCount(name); soft > 0 && (n.SessionState != fsm.SessionOpen || n.GraceUntil <= s.Time) {
				t.Errorf("%d addresses still move softly away from %s, whose session is %d and grace time over", soft, name, n.SessionState)
			}
		}
	})
	h.stop()
	for _, c := range clients {
		c.check(t)
	}
	checkHistory(t, h)
	var acked, unknown, not int
	for _, c := range clients {
		for _, a := range c.made {
			switch {
			case a.err == nil:
				acked++
			case errors.Is(a.err, ErrUnknownOutcome):
				unknown++
			default:
				not++
			}
		}
	}
	st := h.d.Stats()
	t.Logf("declarations: %d applied, %d unknown, %d not; %d batches, %d recoveries, %d rebuilds, %d decided again",
		acked, unknown, not, len(h.log.batches), st.Recoveries.Load(), st.Rebuilds.Load(), st.Redecided.Load())
}

func randomChaos(h *harness, rng *rand.Rand, done chan struct{}) {
	for {
		select {
		case <-done:
			h.log.set(func(l *memLog) { l.stalled, l.onPropose = false, nil })
			if !h.log.Leadership().Leader {
				h.log.lead()
			}
			return
		case <-time.After(time.Duration(rng.IntN(30)) * time.Millisecond):
		}
		n := 0
		switch rng.IntN(6) {
		case 0:
			h.log.lose(rng.IntN(4))
			time.Sleep(time.Duration(rng.IntN(50)) * time.Millisecond)
			if rng.IntN(2) == 0 {
				h.log.foreign(retentionSet(time.Duration(rng.IntN(1000)) * time.Hour))
			}
			if rng.IntN(8) == 0 {
				time.Sleep(3 * time.Second)
			}
			h.log.lead()
		case 1: // lost and regained between two looks
			h.log.lose(rng.IntN(4))
			h.log.lead()
		case 2:
			h.log.set(func(l *memLog) { l.stalled = true })
			time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
			h.log.set(func(l *memLog) { l.stalled = false })
		case 3: // a leader in between that nobody noticed
			h.log.foreign(retentionSet(time.Duration(rng.IntN(1000)) * time.Hour))
		case 4:
			h.log.set(func(l *memLog) {
				l.onPropose = func(raw []byte) (f Future) {
					if n++; n%3 != 0 {
						return nil
					}
					l.set(func(l *memLog) {
						switch n % 4 {
						case 0:
							f = newFuture().end(errMemNotLeader, nil)
						case 1:
							l.append(raw, true)
							f = newFuture().end(errMemLost, nil)
						case 2:
							f = newFuture().end(errMemLost, nil)
						case 3:
							l.append(raw, true)
							f = l.hang()
						}
					})
					return f
				}
			})
		case 5:
			h.log.set(func(l *memLog) { l.onPropose = nil })
		}
	}
}

func (c *randomClient) run() {
	for i := range 60 {
		time.Sleep(time.Duration(c.rng.IntN(3000)) * time.Microsecond)
		if c.rng.IntN(2) == 0 {
			c.declare(i)
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+c.rng.IntN(100))*time.Millisecond)
		_, _ = c.h.d.Submit(ctx, c.command())
		cancel()
	}
}

// nodes names some of the nodes.
func (c *randomClient) nodes() (some []string) {
	for i := range 4 {
		if c.rng.IntN(2) == 0 {
			some = append(some, fmt.Sprintf("n%d", i))
		}
	}
	return some
}

// declare applies the client's own service with a mark.
func (c *randomClient) declare(i int) {
	a := attempt{mark: fmt.Sprintf("%s-%d", c.name, i)}
	resources := []*adminv1.Resource{service(c.name, func(s *logv1.Service) {
		s.Labels = map[string]string{"mark": a.mark}
		if c.rng.IntN(3) == 0 {
			s.HealthCheck = &logv1.HealthCheck{Tcp: &logv1.TcpCheck{}, IntervalNanos: 1e9, TimeoutNanos: 1e9, Rise: 1, Fall: 1}
		}
		if c.rng.IntN(3) == 0 {
			s.ExternalTrafficPolicy = logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_LOCAL
		}
		if c.rng.IntN(4) == 0 {
			s.PreferredNode = "n1"
		}
		c.sometimes(s)
		if c.rng.IntN(4) == 0 {
			s.Addresses = []string{fmt.Sprintf("10.0.%d.%d", c.rng.IntN(2), c.rng.IntN(20))}
		}
	})}
	for range c.rng.IntN(3) {
		resources = append(resources, service(fmt.Sprintf("%s-more-%d", c.name, c.rng.IntN(8)), func(s *logv1.Service) {
			s.Labels = map[string]string{"mark": a.mark}
			c.sometimes(s)
		}))
	}
	if len(resources) == 3 && resources[1].GetService().GetName() == resources[2].GetService().GetName() {
		resources = resources[:2]
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+c.rng.IntN(4000))*time.Millisecond)
	defer cancel()
	r, err := c.h.d.Submit(ctx, apply(resources...))
	a.rev, a.err = r.Revision, err
	c.made = append(c.made, a)
}

// sometimes asks for something about addresses.
func (c *randomClient) sometimes(s *logv1.Service) {
	if c.rng.IntN(3) == 0 {
		s.SharingKey, s.Ports[0].Port = []string{"k", "l"}[c.rng.IntN(2)], uint32(80+c.rng.IntN(4))
	}
	if c.rng.IntN(4) == 0 {
		s.Pool = []string{"p", "q", "m", "six"}[c.rng.IntN(4)]
	}
	if c.rng.IntN(3) == 0 {
		s.IpFamilyPolicy = logv1.IPFamilyPolicy(c.rng.IntN(4))
	}
}

// pool declares a pool of a few addresses anew, with other rules.
func (c *randomClient) pool() Command {
	change := func(p *logv1.Pool) {
		p.Reallocate, p.ManualOnly = c.rng.IntN(3) == 0, p.Name == "m"
		if c.rng.IntN(2) == 0 {
			p.Quota = &logv1.Quota{PerNamespace: uint32(1 + c.rng.IntN(6))}
		}
		if c.rng.IntN(3) == 0 {
			p.QuarantineNanos = int64(c.rng.IntN(100)) * int64(time.Millisecond)
		}
	}
	// Ranges change hands.
	if c.rng.IntN(3) == 0 {
		p := pool("p", "10.0.0.0/29")
		change(p.GetPool())
		return apply(p)
	}
	name := []string{"q", "m", "six"}[c.rng.IntN(3)]
	p := pool(name, [][]string{
		{"10.0.1.0/29", "10.0.4.0-10.0.4.3"}, {"10.0.1.4-10.0.1.15"}, {"2001:db8::/126"}, {"10.0.4.0-10.0.4.3", "2001:db8::/126"},
	}[c.rng.IntN(4)]...)
	change(p.GetPool())
	cmd := apply(p)
	cmd.Force = c.rng.IntN(3) == 0
	return cmd
}

// reservation promises a few addresses to somebody, or holds them back.
func (c *randomClient) reservation() Command {
	net, first := c.rng.IntN(2), c.rng.IntN(16)
	ranges := fmt.Sprintf("10.0.%d.%d-10.0.%d.%d", net, first, net, first+c.rng.IntN(3))
	var until int64
	if c.rng.IntN(3) == 0 {
		until = c.h.wall.now().Add(time.Duration(c.rng.IntN(200)) * time.Millisecond).UnixNano()
	}
	name := fmt.Sprintf("r%d", c.rng.IntN(3))
	if c.rng.IntN(3) == 0 {
		return remove(KindReservation, name)
	}
	return apply(reservation(name, []string{"", c.name, c.name + "-more-1"}[c.rng.IntN(3)], until, ranges))
}

// command is anything else.
func (c *randomClient) command() Command {
	node := fmt.Sprintf("n%d", c.rng.IntN(4))
	addr := netip.AddrFrom4([4]byte{10, 0, byte(c.rng.IntN(2)), byte(c.rng.IntN(16))})
	var session, epoch, softEpoch uint64
	c.h.log.Read(func(s *fsm.State) {
		if n := s.Nodes[node]; n != nil {
			session = n.Session
		}
		if rec := s.Addresses[addr]; rec != nil {
			epoch, softEpoch = rec.Epoch, rec.SoftEpoch
		}
	})
	switch c.rng.IntN(36) {
	case 30, 31:
		return c.pool()
	case 32, 33:
		return c.reservation()
	case 34:
		return remove(KindService, c.name)
	case 35:
		return &SetRetention{Retention: time.Duration(c.rng.IntN(300)) * time.Millisecond}
	case 25:
		return &Drain{Node: node, Grace: time.Duration(c.rng.IntN(200)) * time.Millisecond, Actor: "admin:test"}
	case 26:
		return &SoftIdle{Node: node, Address: addr, Epoch: softEpoch}
	case 27, 28:
		return &ConflictObserved{Node: node, Address: addr, MAC: fsm.MAC{0x52, byte(c.rng.IntN(2))}, Kind: logv1.ConflictKind(c.rng.IntN(4))}
	case 29:
		return &EndQuarantine{Address: addr, Actor: "admin:test"}
	case 0, 1:
		return openSession(node, byte(1+c.rng.IntN(3)))
	case 2, 3:
		return &ExpireNodes{Sessions: []SessionID{{node, session}}}
	case 4:
		return &Drain{Node: node, Actor: "admin:test"}
	case 5:
		return &Undrain{Node: node, Actor: "admin:test"}
	case 6:
		return &Move{Address: addr, Actor: "admin:test"}
	case 7:
		return &LinksChanged{Node: node, Session: session, Links: links("eth0", c.rng.IntN(2) == 0)}
	case 8:
		return &AnnounceFailed{Node: node, Address: addr, Epoch: epoch, Reason: "random"}
	case 9:
		switch c.rng.IntN(6) {
		case 2:
			return apply(reservation("r", []string{"", "c1"}[c.rng.IntN(2)], 0, fmt.Sprintf("10.0.0.%d", c.rng.IntN(16))))
		case 3:
			return remove(KindReservation, "r")
		case 0:
			return apply(namespace("default", map[string]string{"tier": []string{"gold", "silver"}[c.rng.IntN(2)]}))
		case 1:
			return apply(poolWith("gold", "10.0.3.0/30", forGold))
		}
		cmd := apply(pool("q", fmt.Sprintf("10.0.1.0/%d", 28+c.rng.IntN(3))))
		cmd.Force = c.rng.IntN(2) == 0
		return cmd
	case 10:
		return remove(KindService, fmt.Sprintf("%s-more-%d", c.name, c.rng.IntN(8)))
	case 11:
		if c.rng.IntN(2) == 0 {
			return remove(KindAd, "a")
		}
		return apply(ad("a"))
	case 12:
		return &Leave{Node: node, Session: session, Done: c.rng.IntN(2) == 0}
	case 19:
		return &Rebalance{DryRun: c.rng.IntN(3) == 0, Stop: c.rng.IntN(3) == 0, PerMinute: 600, Actor: "admin:test"}
	case 20:
		return apply(ad("a", func(a *logv1.L2Advertisement) {
			switch c.rng.IntN(4) {
			case 0:
				a.PreferredNodeSelectors = []*logv1.PreferredNodeSelector{{Weight: 5, Preference: &logv1.LabelSelector{MatchLabels: map[string]string{"name": node}}}}
				a.Placement = logv1.Placement_PLACEMENT_IDEAL
			case 1:
				a.Rebalance, a.RebalancePerMinute = logv1.Rebalance_REBALANCE_GRADUAL, 600
			case 2:
				a.ServiceSelectors = []*logv1.LabelSelector{{MatchExpressions: []*logv1.LabelRequirement{
					{Key: "mark", Operator: fsm.OpNotIn, Values: []string{c.name + "-3"}}}}}
			}
		}))
	case 21:
		return &EndpointsObserved{Service: fsm.KeyOf("default", c.name), Ready: c.nodes(), Terminating: c.nodes()}
	case 22:
		return &HealthObserved{Node: node, Session: session, Results: []HealthResult{
			{Service: fsm.KeyOf("default", c.name), Healthy: c.rng.IntN(2) == 0, Reason: "random"}}}
	case 23:
		return &MoveUnproven{Node: node, Address: addr, Epoch: epoch}
	case 24:
		l := links("eth0", true)
		l[0].Prefixes = []string{fmt.Sprintf("10.0.%d.0/24", c.rng.IntN(3))}
		return &LinksChanged{Node: node, Session: session, Links: l}
	case 17:
		c.h.log.Read(func(s *fsm.State) { c.old = s.Clone() })
		return &SetRetention{Retention: time.Duration(c.rng.IntN(100)) * time.Hour}
	case 18:
		if c.old != nil {
			return &RestoreTo{Older: c.old, Actor: "admin:test", DryRun: c.rng.IntN(3) == 0}
		}
		return &Found{ClusterID: [16]byte{2}, Version: 1}
	case 13: // refused only after the pool is defined: the client's own service cannot have it
		return apply(pool("r", "10.0.2.0/30"), service(c.name, at("10.7.7.7")))
	case 14:
		cmd := apply(pool("p", "10.0.0.0/30"), service(c.name+"-dry"))
		cmd.DryRun, cmd.Force = true, true
		return cmd
	case 15:
		return &sabotage{"bad", func(t *tx) {
			if len(t.s.Services)%2 == 0 {
				panic("test")
			}
			t.emit(poolDefined(pool("inside", "10.66.0.0/25").GetPool()))
		}}
	default:
		return &ForgetNode{Node: node, Actor: "admin:test"}
	}
}

// check holds the client's answers against the log.
func (c *randomClient) check(t *testing.T) {
	at := map[string]uint64{}
	for _, b := range c.h.log.batches {
		// A revert declares again what was declared before.
		again := reverts(b)
		for _, ev := range b.GetEvents() {
			mark := ev.GetServiceDeclared().GetService().GetLabels()["mark"]
			first, twice := at[mark]
			switch {
			case mark == "":
			case !twice:
				at[mark] = b.GetRevision()
			case first != b.GetRevision() && !again:
				t.Errorf("%s is in the log at %d and %d", mark, first, b.GetRevision())
			}
		}
	}
	for _, a := range c.made {
		rev, applied := at[a.mark]
		switch {
		case a.err == nil && !applied:
			t.Errorf("%s was acknowledged at %d and is not in the log", a.mark, a.rev)
		case a.err == nil && rev != a.rev:
			t.Errorf("%s was acknowledged at %d and is in the log at %d", a.mark, a.rev, rev)
		case a.err != nil && !errors.Is(a.err, ErrUnknownOutcome) && applied:
			t.Errorf("%s is said not to be applied (%v) and is in the log at %d", a.mark, a.err, rev)
		}
	}
}

func reverts(b *logv1.Batch) bool {
	return slices.ContainsFunc(b.GetEvents(), func(ev *logv1.Event) bool { return ev.GetRestoreBegun() != nil })
}

// checkHistory replays the log and checks the rules of ownership that show in it.
func checkHistory(t *testing.T, h *harness) {
	s := fsm.New()
	for _, b := range h.log.batches {
		touched, ended := map[netip.Addr]string{}, map[netip.Addr]bool{}
		for _, ev := range b.GetEvents() {
			switch ev.GetPoolDefined().GetPool().GetName() {
			case "bad", "inside", "r":
				if reverts(b) {
					break // it mends a batch that would have been impossible
				}
				t.Errorf("revision %d holds an event of a refused command: %v", b.GetRevision(), ev)
			}
			if strings.HasSuffix(ev.GetServiceDeclared().GetService().GetName(), "-dry") {
				t.Errorf("revision %d holds an event of a dry run: %v", b.GetRevision(), ev)
			}
			if f := ev.GetAddressAllocated(); f != nil && !reverts(b) {
				a, _ := fsm.ToAddr(f.GetAddress())
				free := s.Free[a]
				if free != nil && free.Quarantined() && !ended[a] && f.GetReason() != logv1.AllocationReason_ALLOCATION_REASON_REQUESTED {
					t.Errorf("revision %d: %s is given to %s out of quarantine", b.GetRevision(), a, f.GetName())
				}
			}
			if f := ev.GetQuarantineEnded(); f != nil {
				a, _ := fsm.ToAddr(f.GetAddress())
				ended[a] = true
			}
			if f := ev.GetOwnerReleased(); f != nil {
				a, _ := fsm.ToAddr(f.GetAddress())
				touched[a] = "released"
				if rec := s.Addresses[a]; rec != nil && allocator.Voluntary(f.GetReason()) && b.GetTimeUnixNano() < allocator.DampedUntil(rec) {
					t.Errorf("revision %d: %s moves by choice (%s) before its flapping has ended", b.GetRevision(), a, f.GetReason())
				}
			}
			f := ev.GetOwnerAssigned()
			if f == nil {
				continue
			}
			a, _ := fsm.ToAddr(f.GetAddress())
			if before := touched[a]; before != "" {
				t.Errorf("revision %d: %s is assigned after it was %s in the same batch", b.GetRevision(), a, before)
			}
			touched[a] = "assigned"
			rec := s.Addresses[a]
			var prior Release
			switch free := s.Free[a]; {
			case rec != nil && rec.Owner != "":
				continue // of a dead node, or fsm would have refused it
			case rec != nil:
				prior = Release{Node: rec.Prior, Session: rec.PriorSession, At: rec.PriorAt}
			case free != nil:
				prior = Release{Node: free.Prior, Session: free.PriorSession, At: free.PriorAt}
			}
			hold := prior
			hold.Hold = true
			if prior.Node != "" && !h.leases.waited[prior] && !h.leases.waited[hold] {
				t.Errorf("revision %d: %s is assigned without waiting for %+v", b.GetRevision(), a, prior)
			}
		}
		if _, _, err := s.Apply(fsm.EncodeBatch(b)); err != nil {
			t.Fatal(err)
		}
	}
}
