package raftnode_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode"
)

func pool(name string, addresses ...string) *adminv1.Resource {
	return &adminv1.Resource{Kind: &adminv1.Resource_Pool{Pool: &logv1.Pool{Name: name, Addresses: addresses}}}
}

func advertisement(name string, loss logv1.ControlLoss) *adminv1.Resource {
	return &adminv1.Resource{Kind: &adminv1.Resource_L2Advertisement{L2Advertisement: &logv1.L2Advertisement{
		Name: name, OnControlLoss: loss, Placement: logv1.Placement_PLACEMENT_STICKY,
	}}}
}

func service(name string) *adminv1.Resource {
	return &adminv1.Resource{Kind: &adminv1.Resource_Service{Service: &logv1.Service{
		Namespace: "test", Name: name, Delivery: logv1.Delivery_DELIVERY_HOST,
		IpFamilyPolicy: logv1.IPFamilyPolicy_IP_FAMILY_POLICY_SINGLE_STACK, IpFamilies: []logv1.IPFamily{logv1.IPFamily_IP_FAMILY_IPV4},
		ExternalTrafficPolicy: logv1.ExternalTrafficPolicy_EXTERNAL_TRAFFIC_POLICY_CLUSTER,
		Ports:                 []*logv1.Port{{Name: "http", Protocol: logv1.Protocol_PROTOCOL_TCP, Port: 80}},
	}}}
}

// apply declares resources through one member.
func (g *group) apply(i int, resources ...*adminv1.Resource) *adminv1.ApplyResponse {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	resp, err := g.client(i).Apply(ctx, &adminv1.ApplyRequest{Resources: resources})
	if err != nil {
		g.t.Fatalf("apply through %s: %v", g.members[i].conf.Name, err)
	}
	return resp
}

func (g *group) get(i int, kinds ...string) *adminv1.GetResponse {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	resp, err := g.client(i).Get(ctx, &adminv1.GetRequest{Kinds: kinds})
	if err != nil {
		g.t.Fatalf("get through %s: %v", g.members[i].conf.Name, err)
	}
	return resp
}

// settled waits until the leases are as in a group that has run for a while:
// after a start nobody is expired for the settle time, and what a new session
// reports counts only after the fence time.
func (g *group) settled(speakers ...*fakeSpeaker) {
	g.t.Helper()
	for _, s := range speakers {
		eventually(g.t, "acked heartbeats of "+s.node, func() bool {
			return time.Duration(s.ackedSeq())*testHeartbeat > 2*time.Second
		})
	}
}

// follower is the index of a member that does not lead.
func (g *group) follower() int { return (g.leader() + 1) % len(g.members) }

// owner waits until one of the speakers, and no other, owns the address.
func owner(t testing.TB, a netip.Addr, speakers ...*fakeSpeaker) *fakeSpeaker {
	t.Helper()
	var found *fakeSpeaker
	eventually(t, "an owner of "+a.String(), func() bool {
		n := 0
		for _, s := range speakers {
			if s.owns(a) {
				n++
				found = s
			}
		}
		return n == 1
	})
	return found
}

func other(of *fakeSpeaker, speakers ...*fakeSpeaker) *fakeSpeaker {
	for _, s := range speakers {
		if s != of {
			return s
		}
	}
	return nil
}

// TestGroup: three members found a group, take in speakers and operators, give
// an address to a node, and move it when the node falls silent.
func TestGroup(t *testing.T) {
	g := newGroup(t, 3)
	g.start()
	s1, s2 := g.speaker("n1", 1).start(), g.speaker("n2", 2).start()
	g.settled(s1, s2)

	resp := g.apply(g.follower(), pool("p", "192.0.2.0/24"), advertisement("ad", logv1.ControlLoss_CONTROL_LOSS_HOLD), service("web"))
	if len(resp.GetResults()) != 3 || resp.GetResults()[2].GetResult() != "created" || len(resp.GetResults()[2].GetAddresses()) != 1 {
		t.Fatalf("apply: %v", resp)
	}
	addr := netip.MustParseAddr(resp.GetResults()[2].GetAddresses()[0])
	first := owner(t, addr, s1, s2)
	second := other(first, s1, s2)
	for i := range g.members { // any member answers, with the same
		vip := g.get(i, "vips").GetVips()[0]
		if vip.GetOwner() != first.node || vip.GetAddress() != addr.String() {
			t.Errorf("vip at %s: %v", g.members[i].conf.Name, vip)
		}
	}
	eventually(t, "the owner's announcement", func() bool {
		a := g.get(0, "vips").GetVips()[0].GetAnnounced()
		return len(a) == 1 && a[0].GetNode() == first.node
	})

	silent := time.Now()
	first.stop()
	eventually(t, "the successor", func() bool { return second.owns(addr) })
	gained := second.gainedAt(addr)
	t.Logf("silence to successor's view: %v (D %v)", gained.Sub(silent), testDetection)
	if d := first.gap.Get(); d > testDetection/2 {
		t.Logf("the owner was silent for %v before it died; when it was expired says nothing", d)
	} else if took := gained.Sub(first.lastHeard()); took < testDetection {
		t.Errorf("moved %v after a heartbeat that was acked, want D = %v at least", took, testDetection)
	}
	if took := gained.Sub(silent); took > testDetection+10*time.Second {
		t.Errorf("moved after %v, want D = %v and a little", took, testDetection)
	}
	if n := g.get(g.leader(), "nodes").GetNodes(); n[0].GetState() == n[1].GetState() {
		t.Errorf("nodes: %v", n)
	}

	// What the log says of it.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := g.client(g.follower()).Events(ctx, &adminv1.EventsRequest{Address: addr.String()})
	if err != nil {
		t.Fatal(err)
	}
	assigned := 0
	for {
		ev, err := stream.Recv()
		if err != nil {
			break
		}
		if ev.GetEvent().GetOwnerAssigned() != nil {
			assigned++
		}
	}
	if busy := max(s1.gap.Get(), s2.gap.Get()) > testDetection/2; assigned < 2 || assigned > 2 && !busy {
		t.Errorf("%d assignments in the address's history, want 2", assigned)
	}
}

// TestDryRunsOfAGroup: what is only tried, through any member, says what it would do and
// leaves no trace in the log.
func TestDryRunsOfAGroup(t *testing.T) {
	g := newGroup(t, 3)
	g.start()
	s1, s2 := g.speaker("n1", 1).start(), g.speaker("n2", 2).start()
	resp := g.apply(g.follower(), pool("p", "192.0.2.0/24"), advertisement("ad", logv1.ControlLoss_CONTROL_LOSS_HOLD), service("web"))
	addr := netip.MustParseAddr(resp.GetResults()[2].GetAddresses()[0])
	first := owner(t, addr, s1, s2)
	before := g.get(g.leader(), "pools", "l2advertisements", "services", "namespaces", "reservations")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range g.members {
		api := g.client(i)
		tried, err := api.Apply(ctx, &adminv1.ApplyRequest{DryRun: true, Force: true, Resources: []*adminv1.Resource{
			pool("p", "198.51.100.0/24"), pool("q", "203.0.113.0/24"), service("new"),
		}})
		if err != nil || len(tried.GetEffects()) != 1 || len(tried.GetEffects()[0].GetTaken()) != 1 {
			t.Errorf("apply: %v, %v", tried, err)
		}
		gone, err := api.Delete(ctx, &adminv1.DeleteRequest{DryRun: true, Names: []*adminv1.ResourceName{{Kind: "L2Advertisement", Name: "ad"}}})
		if err != nil || len(gone.GetEffects()) != 1 || len(gone.GetEffects()[0].GetOwners()) != 1 {
			t.Fatalf("delete: %v, %v", gone, err)
		}
		if o := gone.GetEffects()[0].GetOwners()[0]; o.GetFromNode() != first.node || o.GetToNode() != "" {
			t.Errorf("delete: %v", o)
		}
		used, err := api.Delete(ctx, &adminv1.DeleteRequest{DryRun: true, Names: []*adminv1.ResourceName{{Kind: "IPAddressPool", Name: "p"}}})
		if err != nil || len(used.GetNeedsForce()) != 1 {
			t.Errorf("delete: %v, %v", used, err)
		}
	}
	after := g.get(g.leader(), "pools", "l2advertisements", "services", "namespaces", "reservations")
	after.Revision = before.GetRevision() // a busy machine may take a speaker for dead
	if !proto.Equal(before, after) {
		t.Errorf("before %v\nafter  %v", before, after)
	}
	stream, err := g.client(g.leader()).Events(ctx, &adminv1.EventsRequest{SinceRevision: resp.GetRevision() + 1})
	if err != nil {
		t.Fatal(err)
	}
	for {
		ev, err := stream.Recv()
		if err != nil {
			break
		}
		if strings.HasPrefix(ev.GetActor(), "admin") {
			t.Errorf("in the log: %v", ev)
		}
	}
}

// TestLeaderDies: a dead leader costs the owners nothing, and calls that come
// while there is none are held.
func TestLeaderDies(t *testing.T) {
	g := newGroup(t, 3)
	g.start()
	s1, s2 := g.speaker("n1", 1).start(), g.speaker("n2", 2).start()
	addr := netip.MustParseAddr(g.apply(0, pool("p", "192.0.2.0/24"), advertisement("ad", logv1.ControlLoss_CONTROL_LOSS_HOLD), service("web")).GetResults()[2].GetAddresses()[0])
	leader := g.unmoved(addr, s1, s2)
	if got := g.get(leader, "services").GetServices(); len(got) != 2 {
		t.Errorf("the returned member has %d services", len(got))
	}
}

// unmoved kills the leader, writes, and starts it again, and checks that the address
// does not move meanwhile. An attempt in which a speaker was silent says nothing
// and is made again.
func (g *group) unmoved(addr netip.Addr, s1, s2 *fakeSpeaker) (leader int) {
	g.t.Helper()
	for range 5 {
		first := owner(g.t, addr, s1, s2)
		since := first.gainedAt(addr)
		acked := first.ackedSeq()
		eventually(g.t, "acks", func() bool { return first.ackedSeq() > acked+3 })
		s1.gap.Reset()
		s2.gap.Reset()

		leader = g.leader()
		g.members[leader].kill()
		start := time.Now()
		g.apply((leader+1)%3, service("held"))
		g.t.Logf("a write that came without a leader was answered after %v", time.Since(start).Round(time.Millisecond))
		acked = first.ackedSeq()
		eventually(g.t, "acks of the new leader", func() bool { return first.ackedSeq() > acked+2 })
		moved := !first.owns(addr) || first.gainedAt(addr) != since
		g.members[leader].start()
		g.members[leader].waitReady()
		if !moved {
			return leader
		}
		silent := max(s1.gap.Get(), s2.gap.Get())
		if silent <= testDetection/2 {
			g.t.Error("the address moved although its owner lived")
			return leader
		}
		g.t.Logf("the address moved, but a speaker was silent for %v: again", silent)
	}
	g.t.Log("this machine is too busy to tell whether a leader's death moves an address")
	return leader
}

// TestOwnerAndLeaderDieTogether: not detection plus election, but the longer.
func TestOwnerAndLeaderDieTogether(t *testing.T) {
	g := newGroup(t, 3)
	g.start()
	s1, s2 := g.speaker("n1", 1).start(), g.speaker("n2", 2).start()
	addr := netip.MustParseAddr(g.apply(0, pool("p", "192.0.2.0/24"), advertisement("ad", logv1.ControlLoss_CONTROL_LOSS_HOLD), service("web")).GetResults()[2].GetAddresses()[0])
	first := owner(t, addr, s1, s2)
	second := other(first, s1, s2)
	g.settled(s1, s2)

	leader := g.leader()
	dead := time.Now()
	g.members[leader].kill()
	first.stop()
	eventually(t, "the successor", func() bool { return second.owns(addr) })
	took := second.gainedAt(addr).Sub(dead)
	t.Logf("owner and leader dead to successor's view: %v (D %v)", took, testDetection)
	if took > testDetection+15*time.Second {
		t.Errorf("took %v", took)
	}
}

// TestPlannedMove: drain, undrain and move, with the old owner told first.
func TestPlannedMove(t *testing.T) {
	g := newGroup(t, 3)
	g.start()
	s1, s2 := g.speaker("n1", 1).start(), g.speaker("n2", 2).start()
	addr := netip.MustParseAddr(g.apply(0, pool("p", "192.0.2.0/24"), advertisement("ad", logv1.ControlLoss_CONTROL_LOSS_RELEASE), service("web")).GetResults()[2].GetAddresses()[0])
	first := owner(t, addr, s1, s2)
	second := other(first, s1, s2)
	g.settled(s1, s2)

	start := time.Now()
	drain, err := g.client(g.follower()).Drain(t.Context(), &adminv1.DrainRequest{Node: first.node})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the drained node's address on the other", func() bool { return second.owns(addr) && !first.owns(addr) })
	t.Logf("drained after %v (%d owned at first)", time.Since(start).Round(time.Millisecond), drain.GetOwned())
	if lost, gained := first.lostAt(addr), second.gainedAt(addr); gained.Before(lost) {
		t.Errorf("the new owner was told %v before the old one", lost.Sub(gained))
	}
	if !first.delivers(addr) {
		t.Error("the drained node must go on forwarding")
	}
	if _, err := g.client(0).Move(t.Context(), &adminv1.MoveRequest{Address: addr.String(), ToNode: first.node}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("move to a drained node: %v", err)
	}
	if _, err := g.client(0).Undrain(t.Context(), &adminv1.UndrainRequest{Node: first.node}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.client(1).Move(t.Context(), &adminv1.MoveRequest{Address: addr.String(), ToNode: first.node}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the moved address", func() bool { return first.owns(addr) && !second.owns(addr) })
}

// TestRollingRestart: SIGTERM of each member in turn hands leadership over, and
// no write through another member fails.
func TestRollingRestart(t *testing.T) {
	g := newGroup(t, 3)
	g.start()
	g.apply(0, pool("p", "192.0.2.0/24"))
	var down atomic.Int32 // the member that is being restarted
	down.Store(-1)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var written atomic.Int64
	for w := range 3 {
		client := g.client(w)
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if down.Load() == int32(w) {
					pause(ctx, 5*time.Millisecond)
					continue
				}
				_, err := client.Apply(ctx, &adminv1.ApplyRequest{Resources: []*adminv1.Resource{service(fmt.Sprintf("s%d-%d", w, i%50))}})
				if err == nil {
					written.Add(1)
				} else if ctx.Err() == nil && down.Load() != int32(w) {
					t.Errorf("a write through m%d: %v", w+1, err)
				}
			}
		})
	}
	for i, m := range g.members {
		pause(ctx, 200*time.Millisecond)
		down.Store(int32(i))
		start := time.Now()
		m.stop()
		stopped := time.Now()
		m.start()
		m.waitReady()
		t.Logf("%s stopped in %v, ready after %v", m.conf.Name, stopped.Sub(start).Round(time.Millisecond), time.Since(stopped).Round(time.Millisecond))
		down.Store(-1)
	}
	cancel()
	wg.Wait()
	t.Logf("%d writes while every member was restarted", written.Load())
	g.equalDigests()
}

// equalDigests waits until all members have said the same digest of one revision.
func (g *group) equalDigests() {
	g.t.Helper()
	eventually(g.t, "equal digests", func() bool {
		var first []byte
		members := g.get(g.leader(), "members").GetMembers()
		for _, m := range members {
			if m.GetProblem() != "" {
				g.t.Fatalf("%s: %s", m.GetId(), m.GetProblem())
			}
			if len(m.GetDigest()) == 0 {
				return false
			}
			if first == nil {
				first = m.GetDigest()
			}
			if !slices.Equal(first, m.GetDigest()) {
				g.t.Fatalf("digests differ: %v", members)
			}
		}
		return len(members) == len(g.members)
	})
}

// TestAcknowledgedWritesSurvive: any two of three members are killed at random
// moments of writing. Whatever was acknowledged is there afterwards.
func TestAcknowledgedWritesSurvive(t *testing.T) {
	g := newGroup(t, 3)
	g.start()
	g.apply(0, pool("p", "10.0.0.0/8"))
	var mu sync.Mutex
	acked := make(map[string]string) // service: address
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seed := raftnode.Seed(t)
	rnd := rand.New(rand.NewPCG(seed, 4))
	var wg sync.WaitGroup
	for w := range 4 {
		rnd := rand.New(rand.NewPCG(seed, uint64(w)))
		clients := []adminv1.AdminServiceClient{g.client(0), g.client(1), g.client(2)}
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("w%d-%d", w, i)
				try, cancel := context.WithTimeout(ctx, 3*time.Second)
				resp, err := clients[rnd.IntN(3)].Apply(try, &adminv1.ApplyRequest{Resources: []*adminv1.Resource{service(name)}})
				cancel()
				if err == nil {
					mu.Lock()
					acked["test/"+name] = resp.GetResults()[0].GetAddresses()[0]
					mu.Unlock()
				}
			}
		})
	}
	rounds := 5
	if testing.Short() {
		rounds = 2
	}
	for range rounds {
		pause(ctx, time.Duration(200+rnd.IntN(600))*time.Millisecond)
		two := rnd.Perm(3)[:2]
		for _, i := range two {
			g.members[i].kill()
			pause(ctx, time.Duration(rnd.IntN(30))*time.Millisecond)
		}
		pause(ctx, time.Duration(rnd.IntN(500))*time.Millisecond)
		for _, i := range two {
			g.members[i].start()
		}
		for _, m := range g.members {
			m.waitReady()
		}
	}
	cancel()
	wg.Wait()
	for i := range g.members {
		have := make(map[string]string)
		for _, svc := range g.get(i, "services").GetServices() {
			if len(svc.GetAddresses()) == 1 {
				have[svc.GetService().GetNamespace()+"/"+svc.GetService().GetName()] = svc.GetAddresses()[0]
			}
		}
		for name, addr := range acked {
			if have[name] != addr {
				t.Errorf("%s: %s was acknowledged with %s and has %q", g.members[i].conf.Name, name, addr, have[name])
			}
		}
	}
	t.Logf("%d acknowledged writes over %d rounds of killing two of three", len(acked), rounds)
	g.equalDigests()
}

// TestRestartWithLongLog: a log of 100,000 events is replayed within seconds.
func TestRestartWithLongLog(t *testing.T) {
	events := 100_000
	if testing.Short() {
		events = 10_000
	}
	g := newGroup(t, 3)
	g.start()
	g.apply(0, pool("p", "10.0.0.0/8"))
	const batch = 500 // resources: two events each
	client := g.client(g.leader())
	start := time.Now()
	for n := 0; n < events/2; n += batch {
		var resources []*adminv1.Resource
		for i := range batch {
			resources = append(resources, service(fmt.Sprintf("s%d", n+i)))
		}
		eventually(t, "a write", func() bool {
			_, err := client.Apply(t.Context(), &adminv1.ApplyRequest{Resources: resources})
			if err != nil && status.Code(err) != codes.Unavailable { // a busy machine may lose its leader
				t.Fatal(err)
			}
			return err == nil
		})
	}
	t.Logf("%d events written in %v", events, time.Since(start).Round(time.Millisecond))
	for _, m := range g.members {
		m.kill()
	}
	start = time.Now()
	g.start()
	took := time.Since(start)
	t.Logf("all three members ready %v after their start", took.Round(time.Millisecond))
	if took > time.Minute {
		t.Errorf("took %v", took)
	}
	if n := len(g.get(0, "services").GetServices()); n != events/2 {
		t.Errorf("%d services, want %d", n, events/2)
	}
	g.equalDigests()
}

// TestStopAllTogether: nobody is left to hand leadership to, and that must not
// hold anybody up.
func TestStopAllTogether(t *testing.T) {
	g := newGroup(t, 3)
	g.start()
	s1 := g.speaker("n1", 1).start()
	eventually(t, "acks", func() bool { return s1.ackedSeq() > 3 })
	start := time.Now()
	var wg sync.WaitGroup
	for _, m := range g.members {
		wg.Go(func() {
			m.stop()
			t.Logf("%s stopped after %v", m.conf.Name, time.Since(start).Round(time.Millisecond))
		})
	}
	wg.Wait()
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("stopping took %v", took)
	}
	g.start()
	eventually(t, "acks after the pause", func() bool {
		acked := s1.ackedSeq()
		pause(t.Context(), 300*time.Millisecond)
		return s1.ackedSeq() > acked
	})
}
