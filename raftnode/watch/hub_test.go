package watch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/raftnode/watch"
)

// group is a state that advances as a member's does.
type group struct {
	t     testing.TB
	mu    sync.RWMutex
	state *fsm.State
	hub   *watch.Hub
	// meanwhile, if not nil, is called when the state has a batch and the hub has not.
	meanwhile func()
}

func newGroup(t testing.TB, queue int) *group {
	g := &group{t: t, state: fsm.New()}
	g.hub = watch.NewHub(g, queue)
	g.apply(
		&logv1.Event{Fact: &logv1.Event_ClusterFounded{ClusterFounded: &logv1.ClusterFounded{ClusterId: []byte("0123456789abcdef"), ClusterVersion: 1}}},
		&logv1.Event{Fact: &logv1.Event_PoolDefined{PoolDefined: &logv1.PoolDefined{Pool: &logv1.Pool{Name: "p", Addresses: []string{"192.0.2.0/24"}}}}},
		advertise("eth0"),
	)
	return g
}

func (g *group) Read(f func(*fsm.State)) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	f(g.state)
}

func (g *group) apply(events ...*logv1.Event) uint64 {
	g.t.Helper()
	g.mu.Lock()
	raw := fsm.EncodeBatch(g.state.NextBatch(time.Now().UnixNano(), []string{"member:test"}, events))
	batch, ch, err := g.state.Apply(raw)
	g.mu.Unlock()
	if err != nil {
		g.t.Fatalf("apply %v: %v", events, err)
	}
	if g.meanwhile != nil {
		g.meanwhile()
	}
	g.hub.Apply(batch, ch, g.state)
	return batch.GetRevision()
}

func advertise(interfaces ...string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AdvertisementDefined{AdvertisementDefined: &logv1.AdvertisementDefined{
		Advertisement: &logv1.L2Advertisement{Name: "ad", Interfaces: interfaces, OnControlLoss: logv1.ControlLoss_CONTROL_LOSS_HOLD},
	}}}
}

func open(node string, incarnation uint64, mac byte, labels map[string]string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_SessionOpened{SessionOpened: &logv1.SessionOpened{
		Node: node, Process: make([]byte, 16), Incarnation: incarnation, Macs: [][]byte{{2, 0, 0, 0, 0, mac}}, Labels: labels,
	}}}
}

// onlyHosts keeps local delivery to nodes that are not labelled "host: no".
var onlyHosts = []*logv1.LabelSelector{{MatchExpressions: []*logv1.LabelRequirement{{Key: "host", Operator: "NotIn", Values: []string{"no"}}}}}

func declare(name string, delivery logv1.Delivery) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_ServiceDeclared{ServiceDeclared: &logv1.ServiceDeclared{
		Service: &logv1.Service{Namespace: "ns", Name: name, Delivery: delivery, NodeSelectors: onlyHosts, Ports: []*logv1.Port{{Protocol: logv1.Protocol_PROTOCOL_TCP, Port: 80}}},
		Source:  "apply",
	}}}
}

func allocate(name, addr string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AddressAllocated{AddressAllocated: &logv1.AddressAllocated{
		Address: netip.MustParseAddr(addr).AsSlice(), Namespace: "ns", Name: name, Pool: "p",
	}}}
}

func assign(addr, node string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_OwnerAssigned{OwnerAssigned: &logv1.OwnerAssigned{
		Address: netip.MustParseAddr(addr).AsSlice(), Node: node, Reason: logv1.OwnerReason_OWNER_REASON_NEW_ADDRESS,
	}}}
}

func release(addr, node string, epoch uint64) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_OwnerReleased{OwnerReleased: &logv1.OwnerReleased{
		Address: netip.MustParseAddr(addr).AsSlice(), Node: node, Epoch: epoch, Reason: logv1.OwnerReason_OWNER_REASON_MOVE,
	}}}
}

func (g *group) session(node string) (id uint64) {
	g.Read(func(s *fsm.State) { id = s.Nodes[node].Session })
	return id
}

func (g *group) subscribe(node string) *reader {
	g.t.Helper()
	sub, err := g.hub.Subscribe(node, g.session(node), 0)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(sub.Close)
	return &reader{t: g.t, sub: sub}
}

// trySubscribe is subscribe, nil when the hub has not got the node's session yet.
func (g *group) trySubscribe(node string) *reader {
	g.t.Helper()
	sub, err := g.hub.Subscribe(node, g.session(node), 0)
	if errors.Is(err, watch.ErrBehind) {
		return nil
	}
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(sub.Close)
	return &reader{t: g.t, sub: sub}
}

// reader keeps a view as a speaker does.
type reader struct {
	t        testing.TB
	sub      *watch.Subscription
	revision uint64
	view     *speakerv1.View
}

func (r *reader) next() *speakerv1.WatchResponse {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
	defer cancel()
	msg, err := r.sub.Next(ctx)
	if err != nil {
		r.t.Fatalf("Next: %v", err)
	}
	r.take(msg)
	return msg
}

func (r *reader) take(msg *speakerv1.WatchResponse) {
	r.t.Helper()
	if r.view == nil != (msg.GetView() != nil) {
		r.t.Fatalf("the whole view must come first and once: %v", msg)
	}
	if msg.GetRevision() <= r.revision && r.view != nil {
		r.t.Fatalf("revision %d after %d", msg.GetRevision(), r.revision)
	}
	r.revision = msg.GetRevision()
	if v := msg.GetView(); v != nil {
		r.view = proto.CloneOf(v)
		return
	}
	fold(r.view, msg.GetDelta())
}

func fold(v *speakerv1.View, d *speakerv1.ViewDelta) {
	v.Vips = slices.DeleteFunc(v.Vips, func(old *speakerv1.Vip) bool {
		return slices.ContainsFunc(d.GetGoneVips(), func(a []byte) bool { return slices.Equal(a, old.GetAddress()) }) ||
			slices.ContainsFunc(d.GetVips(), func(n *speakerv1.Vip) bool { return slices.Equal(n.GetAddress(), old.GetAddress()) })
	})
	v.Vips = append(v.Vips, d.GetVips()...)
	slices.SortFunc(v.Vips, func(a, b *speakerv1.Vip) int { return slices.Compare(a.GetAddress(), b.GetAddress()) })
	v.SoftVips = slices.DeleteFunc(v.SoftVips, func(old *speakerv1.Vip) bool {
		return slices.ContainsFunc(d.GetGoneSoftVips(), func(a []byte) bool { return slices.Equal(a, old.GetAddress()) }) ||
			slices.ContainsFunc(d.GetSoftVips(), func(n *speakerv1.Vip) bool { return slices.Equal(n.GetAddress(), old.GetAddress()) })
	})
	v.SoftVips = append(v.SoftVips, d.GetSoftVips()...)
	slices.SortFunc(v.SoftVips, func(a, b *speakerv1.Vip) int { return slices.Compare(a.GetAddress(), b.GetAddress()) })
	v.HostAddresses = slices.DeleteFunc(v.HostAddresses, func(old []byte) bool {
		return slices.ContainsFunc(d.GetGoneHostAddresses(), func(a []byte) bool { return slices.Equal(a, old) })
	})
	v.HostAddresses = append(v.HostAddresses, d.GetHostAddresses()...)
	slices.SortFunc(v.HostAddresses, slices.Compare[[]byte])
	if d.GetLeaseTimes() != nil {
		v.LeaseTimes = d.GetLeaseTimes()
	}
	v.Nodes = slices.DeleteFunc(v.Nodes, func(old *speakerv1.NodeMacs) bool {
		return slices.Contains(d.GetGoneNodes(), old.GetNode()) ||
			slices.ContainsFunc(d.GetChangedNodes(), func(n *speakerv1.NodeMacs) bool { return n.GetNode() == old.GetNode() })
	})
	v.Nodes = append(v.Nodes, d.GetChangedNodes()...)
	slices.SortFunc(v.Nodes, func(a, b *speakerv1.NodeMacs) int { return strings.Compare(a.GetNode(), b.GetNode()) })
	if d.Drained != nil {
		v.Drained = d.GetDrained()
	}
}

// fresh is the view that a hub without a past makes.
func (g *group) fresh(node string) *speakerv1.View {
	g.t.Helper()
	sub, err := watch.NewHub(g, 0).Subscribe(node, g.session(node), 0)
	if err != nil {
		g.t.Fatal(err)
	}
	defer sub.Close()
	msg, err := sub.Next(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	return msg.GetView()
}

func TestWholeViewThenDeltas(t *testing.T) {
	g := newGroup(t, 0)
	g.apply(open("n1", 1, 1, nil), open("n2", 1, 2, nil))
	g.apply(declare("a", logv1.Delivery_DELIVERY_HOST), allocate("a", "192.0.2.1"))
	epoch := g.apply(assign("192.0.2.1", "n1"))

	r1, r2 := g.subscribe("n1"), g.subscribe("n2")
	r1.next()
	r2.next()
	if v := r1.view; len(v.GetVips()) != 1 || v.GetVips()[0].GetEpoch() != epoch || !slices.Equal(v.GetVips()[0].GetInterfaces(), []string{"eth0"}) {
		t.Errorf("view of the owner: %v", v)
	}
	if v := r2.view; len(v.GetVips()) != 0 || len(v.GetHostAddresses()) != 1 || len(v.GetNodes()) != 1 || v.GetNodes()[0].GetNode() != "n1" {
		t.Errorf("view of the other: %v", v)
	}

	taken := g.apply(release("192.0.2.1", "n1", epoch))
	if msg := r1.next(); msg.GetRevision() != taken || len(msg.GetDelta().GetGoneVips()) != 1 {
		t.Errorf("release: %v", msg)
	}
	moved := g.apply(assign("192.0.2.1", "n2"))
	if msg := r2.next(); msg.GetRevision() != moved || msg.GetDelta().GetVips()[0].GetEpoch() != moved {
		t.Errorf("assignment: %v", msg)
	}
	// Host delivery survives the loss of the address: frames still arrive.
	if len(r1.view.GetHostAddresses()) != 1 {
		t.Errorf("host addresses of the old owner: %v", r1.view.GetHostAddresses())
	}
}

func TestDeltaOnlyForThoseConcerned(t *testing.T) {
	g := newGroup(t, 0)
	g.apply(open("n1", 1, 1, nil), open("n2", 1, 2, nil))
	g.apply(declare("a", logv1.Delivery_DELIVERY_NONE), allocate("a", "192.0.2.1"))
	r1, r2 := g.subscribe("n1"), g.subscribe("n2")
	r1.next()
	r2.next()
	for range 10 {
		epoch := g.apply(assign("192.0.2.1", "n1"))
		g.apply(release("192.0.2.1", "n1", epoch))
		r1.next()
		r1.next()
	}
	last := g.apply(assign("192.0.2.1", "n2"))
	if msg := r2.next(); msg.GetRevision() != last {
		t.Errorf("the first message for n2 is of revision %d, want %d", msg.GetRevision(), last)
	}
}

func TestTakenMakesAMessageEvenWithoutContent(t *testing.T) {
	g := newGroup(t, 0)
	g.apply(open("n1", 1, 1, nil))
	g.apply(declare("a", logv1.Delivery_DELIVERY_NONE), allocate("a", "192.0.2.1"))
	g.apply(assign("192.0.2.1", "n1"))
	r := g.subscribe("n1")
	r.next()
	rev := g.apply(advertise("eth0")) // says what it said before
	if msg := r.next(); msg.GetRevision() != rev {
		t.Errorf("revision %d, want %d", msg.GetRevision(), rev)
	}
}

func TestUnadvertisedAddressLeavesTheView(t *testing.T) {
	g := newGroup(t, 0)
	g.apply(open("n1", 1, 1, nil))
	g.apply(declare("a", logv1.Delivery_DELIVERY_NONE), allocate("a", "192.0.2.1"))
	g.apply(assign("192.0.2.1", "n1"))
	r := g.subscribe("n1")
	r.next()
	g.apply(&logv1.Event{Fact: &logv1.Event_AdvertisementDeleted{AdvertisementDeleted: &logv1.AdvertisementDeleted{Name: "ad"}}})
	r.next()
	if len(r.view.GetVips()) != 0 {
		t.Errorf("an address without an advertisement must not be announced on all interfaces: %v", r.view.GetVips())
	}
}

func TestAdmission(t *testing.T) {
	g := newGroup(t, 0)
	session := g.apply(open("n1", 1, 1, nil))
	for _, tc := range []struct {
		name         string
		node         string
		session, min uint64
		want         error
	}{
		{"own session", "n1", session, 0, nil},
		{"min behind", "n1", session, 1, nil},
		{"min ahead", "n1", session, session + 1, watch.ErrBehind},
		{"session ahead", "n1", session + 1, 0, watch.ErrBehind},
		{"older session", "n1", session - 1, 0, watch.ErrReplaced},
		{"no session", "n1", 0, 0, watch.ErrNoSession},
		{"unknown node", "n9", session, 0, watch.ErrNoSession},
	} {
		sub, err := g.hub.Subscribe(tc.node, tc.session, tc.min)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
		if sub != nil {
			sub.Close()
		}
	}
	if n := g.hub.Watchers(); n != 0 {
		t.Errorf("%d watchers left", n)
	}
}

// Another process ends the watches of the one before it; another session of the same
// process does not.
func TestReplacedProcessIsToldNothingMore(t *testing.T) {
	g := newGroup(t, 0)
	first := g.apply(open("n1", 1, 1, nil))
	old, err := g.hub.Subscribe("n1", first, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	g.apply(&logv1.Event{Fact: &logv1.Event_SessionExpired{SessionExpired: &logv1.SessionExpired{Node: "n1", Session: first}}})
	g.apply(open("n1", 1, 1, nil))
	if _, err := old.Next(t.Context()); err != nil {
		t.Fatalf("after another session of the same process: %v", err)
	}
	replacement := open("n1", 2, 1, nil)
	replacement.GetSessionOpened().Process = bytes.Repeat([]byte{1}, 16)
	second := g.apply(replacement)
	if _, err := old.Next(t.Context()); !errors.Is(err, watch.ErrReplaced) {
		t.Errorf("after another process: %v, want %v", err, watch.ErrReplaced)
	}
	newer, err := g.hub.Subscribe("n1", second, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer newer.Close()
	if _, err := newer.Next(t.Context()); err != nil || g.hub.Watchers() != 1 {
		t.Errorf("the other process: %v, %d watchers", err, g.hub.Watchers())
	}
}

func TestSlowReaderIsClosedAndNeverBlocksApply(t *testing.T) {
	const queue = 8
	g := newGroup(t, queue)
	g.apply(open("n1", 1, 1, nil))
	g.apply(declare("a", logv1.Delivery_DELIVERY_NONE), allocate("a", "192.0.2.1"))
	slow, quick := g.subscribe("n1"), g.subscribe("n1")
	slow.next()
	quick.next()
	for range queue + 1 {
		epoch := g.apply(assign("192.0.2.1", "n1"))
		quick.next()
		g.apply(release("192.0.2.1", "n1", epoch))
		quick.next()
	}
	if _, err := slow.sub.Next(t.Context()); !errors.Is(err, watch.ErrTooSlow) {
		t.Errorf("slow reader: %v", err)
	}
	if n := g.hub.Watchers(); n != 1 {
		t.Errorf("%d watchers, want the quick one", n)
	}
}

func TestResetCloseAndForget(t *testing.T) {
	g := newGroup(t, 0)
	g.apply(open("n1", 1, 1, nil))
	r := g.subscribe("n1")
	r.next()
	g.Read(func(s *fsm.State) { g.hub.Apply(nil, fsm.Changes{All: true}, s) })
	if _, err := r.sub.Next(t.Context()); !errors.Is(err, watch.ErrReset) {
		t.Errorf("after a restore: %v", err)
	}
	r = g.subscribe("n1")
	r.next()
	g.apply(expire("n1", g.session("n1")))
	g.apply(&logv1.Event{Fact: &logv1.Event_NodeForgotten{NodeForgotten: &logv1.NodeForgotten{Node: "n1"}}})
	if _, err := r.sub.Next(t.Context()); !errors.Is(err, watch.ErrNoSession) {
		t.Errorf("forgotten node: %v", err)
	}
	g.apply(open("n1", 1, 1, nil))
	r = g.subscribe("n1")
	g.hub.Close()
	if _, err := r.sub.Next(t.Context()); !errors.Is(err, watch.ErrClosed) {
		t.Errorf("closed hub: %v", err)
	}
	if _, err := g.hub.Subscribe("n1", g.session("n1"), 0); !errors.Is(err, watch.ErrClosed) {
		t.Errorf("subscribe to a closed hub: %v", err)
	}
}

// TestDeltasAddUp: after any batches, a reader's view is the one that a hub
// without a past makes of the same state, whenever the reader came.
func TestDeltasAddUp(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			g := newGroup(t, 0)
			rnd := rand.New(rand.NewPCG(seed, 1))
			nodes := []string{"n1", "n2", "n3"}
			for i, n := range nodes {
				g.apply(open(n, 1, byte(i), nil))
			}
			readers := map[string][]*reader{}
			for i := range 300 {
				n := nodes[rnd.IntN(len(nodes))]
				switch rnd.IntN(12) {
				case 0:
					readers[n] = append(readers[n], g.subscribe(n))
				case 1, 2, 3:
					g.between(func() {
						for _, n := range nodes {
							if len(readers[n]) > 2 {
								continue
							}
							if r := g.trySubscribe(n); r != nil {
								readers[n] = append(readers[n], r)
							}
						}
					})
				case 4, 5: // the node's view goes with its last reader
					for _, r := range readers[n] {
						r.sub.Close()
					}
					delete(readers, n)
				}
				g.randomBatch(rnd, nodes)
				g.meanwhile = nil
				if i%10 == 9 {
					g.allLevel(readers)
				}
			}
		})
	}
}

// allLevel checks that every reader's view is as if it came now.
func (g *group) allLevel(readers map[string][]*reader) {
	g.t.Helper()
	last := g.settle()
	for n, rs := range readers {
		want := g.fresh(n)
		for _, r := range rs {
			r.until(last)
			if !proto.Equal(want, r.view) {
				g.t.Fatalf("view of %s (-fresh +folded):\n%s", n, cmp.Diff(want, r.view, protocmp.Transform()))
			}
		}
	}
}

// settle makes a batch that concerns every node, so that a reader who has it
// has all before it.
func (g *group) settle() uint64 {
	var settle time.Duration
	g.Read(func(s *fsm.State) { settle = s.Lease.Settle })
	return g.apply(&logv1.Event{Fact: &logv1.Event_LeaseTimesSet{LeaseTimesSet: &logv1.LeaseTimesSet{Times: &logv1.LeaseTimes{
		DetectionNanos: int64(time.Second), HeartbeatNanos: int64(time.Second / 5), SettleNanos: int64(settle) + 1,
	}}}})
}

func (r *reader) until(revision uint64) {
	r.t.Helper()
	for r.revision < revision {
		r.next()
	}
}

func softEnded(addr, node string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_SoftMoveEnded{SoftMoveEnded: &logv1.SoftMoveEnded{
		Address: netip.MustParseAddr(addr).AsSlice(), Node: node, Reason: logv1.OwnerReason_OWNER_REASON_GRACE_OVER,
	}}}
}

// The old owner of a soft move is told what it may still do, the new one that it is
// not alone, and both when that is over.
func TestSoftMove(t *testing.T) {
	g := newGroup(t, 0)
	g.apply(open("n1", 1, 1, nil), open("n2", 1, 2, nil))
	g.apply(declare("a", logv1.Delivery_DELIVERY_HOST), allocate("a", "192.0.2.1"))
	epoch := g.apply(assign("192.0.2.1", "n1"))
	r1, r2 := g.subscribe("n1"), g.subscribe("n2")
	r1.next()
	r2.next()
	soft := release("192.0.2.1", "n1", epoch)
	soft.GetOwnerReleased().Soft = true
	g.apply(soft)
	d := r1.next().GetDelta()
	if len(d.GetGoneVips()) != 1 || len(d.GetSoftVips()) != 1 || d.GetSoftVips()[0].GetEpoch() != epoch || len(d.GetSoftVips()[0].GetInterfaces()) != 1 {
		t.Fatalf("released softly: %v", d)
	}
	quiet := assign("192.0.2.1", "n2")
	quiet.GetOwnerAssigned().Predecessor = "n1"
	moved := g.apply(quiet)
	if v := r2.next().GetDelta().GetVips(); len(v) != 1 || v[0].GetPredecessor() != "n1" || v[0].GetEpoch() != moved {
		t.Fatalf("assigned softly: %v", v)
	}
	late := g.subscribe("n1")
	if late.next(); len(late.view.GetSoftVips()) != 1 || len(late.view.GetVips()) != 0 {
		t.Fatalf("whole view of the old owner: %v", late.view)
	}
	g.apply(softEnded("192.0.2.1", "n1"))
	if d := r1.next().GetDelta(); len(d.GetGoneSoftVips()) != 1 {
		t.Errorf("ended, at the old owner: %v", d)
	}
	if v := r2.next().GetDelta().GetVips(); len(v) != 1 || v[0].GetPredecessor() != "" || v[0].GetEpoch() != moved {
		t.Errorf("ended, at the new owner: %v", v)
	}
	if len(late.view.GetHostAddresses()) != 1 {
		t.Error("the old owner must go on delivering")
	}
}

func (g *group) randomBatch(rnd *rand.Rand, nodes []string) {
	addr := fmt.Sprintf("192.0.2.%d", rnd.IntN(8))
	name := "svc-" + addr
	node := nodes[rnd.IntN(len(nodes))]
	rec := g.state.Addresses[netip.MustParseAddr(addr)]
	n := g.state.Nodes[node]
	delivery := logv1.Delivery(1 + rnd.IntN(2))
	switch rnd.IntN(12) {
	case 0:
		ad := advertise(fmt.Sprintf("eth%d", rnd.IntN(2)))
		if rnd.IntN(3) == 0 {
			ad.GetAdvertisementDefined().GetAdvertisement().NodeSelectors = onlyHosts
		}
		g.apply(ad)
	case 1:
		g.apply(open(node, n.Incarnation+1, byte(rnd.IntN(4)), map[string]string{"host": []string{"yes", "no"}[rnd.IntN(2)]}))
	case 2:
		if n.SessionState == fsm.SessionOpen {
			g.apply(expire(node, n.Session))
		}
	case 3:
		g.apply(&logv1.Event{Fact: &logv1.Event_NodeDrained{NodeDrained: &logv1.NodeDrained{Node: node, Reason: logv1.DrainReason_DRAIN_REASON_ADMIN}}},
			&logv1.Event{Fact: &logv1.Event_LeaseTimesSet{LeaseTimesSet: &logv1.LeaseTimesSet{Times: &logv1.LeaseTimes{
				DetectionNanos: int64(time.Second) + rnd.Int64N(3), HeartbeatNanos: int64(time.Second / 5), SettleNanos: 1}}}})
	case 4:
		if rec != nil && rec.SoftNode != "" {
			g.apply(softEnded(addr, rec.SoftNode))
			return
		}
		if rec != nil && rec.Owner != "" {
			g.apply(&logv1.Event{Fact: &logv1.Event_AddressConflictObserved{AddressConflictObserved: &logv1.AddressConflictObserved{
				Address: rec.Addr.AsSlice(), Node: rec.Owner, Mac: make([]byte, 6), Kind: logv1.ConflictKind(rnd.IntN(3))}}})
			return
		}
		g.apply(&logv1.Event{Fact: &logv1.Event_NodeUndrained{NodeUndrained: &logv1.NodeUndrained{Node: node}}})
	case 5:
		if rec != nil {
			g.apply(declare(name, delivery))
		} else {
			g.apply(declare(name, delivery), allocate(name, addr))
		}
	case 6, 7:
		if rec == nil || n.SessionState != fsm.SessionOpen {
			return
		}
		if rec.Owner != "" && g.state.Nodes[rec.Owner].SessionState == fsm.SessionOpen {
			ev := release(addr, rec.Owner, rec.Epoch)
			ev.GetOwnerReleased().Soft = rnd.IntN(2) == 0
			g.apply(ev)
			return
		}
		if rec.SoftNode != "" && rnd.IntN(4) == 0 {
			g.apply(softEnded(addr, rec.SoftNode))
			return
		}
		ev := assign(addr, node)
		if rec.Owner == "" && rec.SoftNode != node && rnd.IntN(2) == 0 {
			ev.GetOwnerAssigned().Predecessor = rec.SoftNode
		}
		ev.GetOwnerAssigned().FirstUse = rnd.IntN(2) == 0
		g.apply(ev)
	case 9, 10, 11: // a failover: the addresses go over in the batch that says that the node is gone
		if n.SessionState != fsm.SessionOpen {
			g.apply(open(node, n.Incarnation+1, n.MACs[0][5], n.Labels))
			return
		}
		next := g.state.Nodes[nodes[rnd.IntN(len(nodes))]]
		if next == n || next.SessionState != fsm.SessionOpen {
			return
		}
		evs := []*logv1.Event{expire(node, n.Session)}
		for rec := range g.state.OwnedBy(node) {
			evs = append(evs, assign(rec.Addr.String(), next.Name))
		}
		g.apply(evs...)
	case 8:
		if rec == nil {
			return
		}
		var evs []*logv1.Event
		if rec.Owner != "" {
			evs = append(evs, release(addr, rec.Owner, rec.Epoch))
		}
		g.apply(append(evs, &logv1.Event{Fact: &logv1.Event_AddressReleased{AddressReleased: &logv1.AddressReleased{
			Address: rec.Addr.AsSlice(), Namespace: "ns", Name: name}}},
			&logv1.Event{Fact: &logv1.Event_ServiceDeleted{ServiceDeleted: &logv1.ServiceDeleted{Namespace: "ns", Name: name}}})...)
	}
}

// TestSubscribeWhileApplying: readers that come at any moment miss nothing.
func TestSubscribeWhileApplying(t *testing.T) {
	g := newGroup(t, 2000)
	g.apply(open("n1", 1, 1, nil), open("n2", 1, 2, nil))
	g.apply(declare("a", logv1.Delivery_DELIVERY_NONE), allocate("a", "192.0.2.1"))
	session := g.session("n1")
	var wg sync.WaitGroup
	var readers []*reader
	wg.Go(func() {
		for range 200 {
			sub, err := g.hub.Subscribe("n1", session, 0)
			if err != nil {
				t.Error(err)
				return
			}
			readers = append(readers, &reader{t: t, sub: sub})
		}
	})
	for range 500 {
		epoch := g.apply(assign("192.0.2.1", "n1"))
		g.apply(release("192.0.2.1", "n1", epoch))
	}
	g.apply(assign("192.0.2.1", "n1"))
	wg.Wait()
	last := g.settle()
	want := g.fresh("n1")
	for _, r := range readers {
		r.until(last)
		if diff := cmp.Diff(want, r.view, protocmp.Transform()); diff != "" {
			t.Fatalf("(-fresh +folded):\n%s", diff)
		}
	}
}

// newHubOf makes a hub with a reader for each node, on a clone of a group's state.
func newHubOf(t testing.TB, g *group, nodes int) (*watch.Hub, *fsm.State) {
	t.Helper()
	c := &group{t: t}
	g.Read(func(s *fsm.State) { c.state = s.Clone() })
	c.hub = watch.NewHub(c, 4)
	for i := range nodes {
		node := fmt.Sprintf("n%d", i)
		if _, err := c.hub.Subscribe(node, c.session(node), 0); err != nil {
			t.Fatal(err)
		}
	}
	return c.hub, c.state
}
