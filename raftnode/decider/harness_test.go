package decider

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// bubbleClock is the bubble's time as a boot clock.
type bubbleClock struct{ start time.Time }

func (c bubbleClock) Now() time.Duration { return time.Since(c.start) + time.Hour }

// fakeLeases answers as a test says, and checks that it is told in time.
type fakeLeases struct {
	mu      sync.Mutex
	clock   bubbleClock
	leading bool
	term    uint64
	// decided is the newest revision told, leads counts the calls of Lead.
	decided uint64
	leads   int
	// over are releases whose wait is over, by node; fence nodes whose fence time
	// has passed; silent nodes that are not heard; back those that were heard again
	// after an expiry was proposed.
	over, fence, silent, back map[string]bool
	// unseen are nodes whose waits end although they have not seen what they lost.
	unseen, seen map[string]bool
	// waited are the releases that were allowed to end.
	waited   map[Release]bool
	changing time.Duration // answer of LeaseChange
	// broken makes ReleaseWait panic for a node, HeardLately for "all".
	broken string
	// auto ends every wait by itself after the time given; 0: never.
	auto   time.Duration
	sawAt  map[Release]time.Duration
	endsAt map[string]time.Duration
}

func newFakeLeases(clock bubbleClock) *fakeLeases {
	return &fakeLeases{
		clock:  clock,
		unseen: map[string]bool{}, seen: map[string]bool{},
		over: map[string]bool{}, fence: map[string]bool{}, silent: map[string]bool{}, back: map[string]bool{},
		waited: map[Release]bool{}, sawAt: map[Release]time.Duration{}, endsAt: map[string]time.Duration{},
	}
}

func (l *fakeLeases) Lead(term uint64, head *fsm.State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading, l.term, l.decided = true, term, head.Revision
	l.leads++
}

func (l *fakeLeases) Decided(head *fsm.State, _ fsm.Changes) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.decided = head.Revision
}

func (l *fakeLeases) Follow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading = false
}

func (l *fakeLeases) ReleaseWait(r Release) (bool, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Node == l.broken {
		panic("test")
	}
	if _, ok := l.sawAt[r]; !ok {
		l.sawAt[r] = l.clock.Now()
	}
	over := l.over[r.Node]
	again := l.clock.Now() + time.Hour
	if l.auto > 0 {
		again = l.sawAt[r] + l.auto
		over = over || l.clock.Now() >= again
	}
	if over {
		l.waited[r] = true
	}
	return over, again
}

// HasSeen: who has seen it has no wait before it either.
func (l *fakeLeases) HasSeen(node string, _, _ uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[node] || l.over[node] && !l.unseen[node] || l.auto > 0
}

func (l *fakeLeases) FencePassed(node string) (bool, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.auto > 0 {
		if _, ok := l.endsAt[node]; !ok {
			l.endsAt[node] = l.clock.Now() + l.auto
		}
		return l.clock.Now() >= l.endsAt[node], l.endsAt[node]
	}
	return l.fence[node], l.clock.Now() + time.Hour
}

func (l *fakeLeases) HeardLately(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken == "all" {
		panic("test")
	}
	return !l.silent[node]
}

func (l *fakeLeases) StillSilent(node string, _ uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.back[node]
}

func (l *fakeLeases) LeaseChange() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changing
}

// set changes the answers.
func (l *fakeLeases) set(f func(l *fakeLeases)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l)
}

// harness is a decider on a log in memory, inside a synctest bubble.
type harness struct {
	t      testing.TB
	log    *memLog
	leases *fakeLeases
	d      *Decider
	wall   *wallClock
	stop   func()
}

type wallClock struct {
	mu     sync.Mutex
	offset time.Duration
}

func (w *wallClock) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.offset)
}

func (w *wallClock) jump(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.offset += d
}

// inBubble runs f with a decider that leads a founded cluster.
func inBubble(t *testing.T, f func(h *harness)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, nil)
		defer h.stop()
		h.log.lead()
		synctest.Wait()
		h.must(&Found{ClusterID: [16]byte{1}, Version: 1})
		f(h)
	})
}

func newHarness(t testing.TB, change func(*Config)) *harness {
	clock := bubbleClock{time.Now()}
	h := &harness{t: t, log: newMemLog(t), leases: newFakeLeases(clock), wall: &wallClock{}}
	h.log.leases = h.leases
	cfg := Config{Self: "m1", Log: h.log, Leases: h.leases, Clock: clock, Wall: h.wall.now, Logger: testLogger(t)}
	if change != nil {
		change(&cfg)
	}
	h.d = New(cfg)
	h.log.applied = h.d.Applied
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = h.d.Run(ctx) }()
	go h.log.run(ctx)
	h.stop = func() { cancel(); <-done }
	return h
}

func (h *harness) submit(cmd Command) (Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return h.d.Submit(ctx, cmd)
}

func (h *harness) must(cmd Command) Result {
	h.t.Helper()
	r, err := h.submit(cmd)
	if err != nil {
		h.t.Fatalf("%s: %v", cmd.kind(), err)
	}
	return r
}

func (h *harness) refused(cmd Command, want any) {
	h.t.Helper()
	before := h.log.revision()
	_, err := h.submit(cmd)
	switch want := want.(type) {
	case error:
		if !errors.Is(err, want) {
			h.t.Fatalf("%s: got %v, want %v", cmd.kind(), err, want)
		}
	default:
		if !errors.As(err, want) {
			h.t.Fatalf("%s: got %v (%T), want %T", cmd.kind(), err, err, want)
		}
	}
	if now := h.log.revision(); now != before {
		h.t.Fatalf("%s: refused, but revision went from %d to %d", cmd.kind(), before, now)
	}
}

// settle lets everything that is under way come to rest.
func (h *harness) settle() {
	for range 20 {
		synctest.Wait()
		time.Sleep(5 * time.Millisecond)
	}
	synctest.Wait()
}

// open opens a session for each node.
func (h *harness) open(nodes ...string) {
	h.t.Helper()
	for _, n := range nodes {
		h.must(openSession(n, 1))
	}
}

// when returns the events that f and what follows from it put into the log.
func (h *harness) when(f func()) []string {
	h.t.Helper()
	h.settle()
	before := h.log.revision()
	f()
	h.settle()
	return h.log.events(before)
}

// then compares events, each line one event; lines of one batch stand together,
// "--" separates batches.
func (h *harness) then(got []string, want ...string) {
	h.t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		h.t.Errorf("got events\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func (h *harness) owner(addr string) string {
	var owner string
	h.log.Read(func(s *fsm.State) {
		if rec := s.Addresses[netip.MustParseAddr(addr)]; rec != nil {
			owner = rec.Owner
		}
	})
	return owner
}

// Builders of commands.

func openSession(node string, process byte) *OpenSession {
	return &OpenSession{
		Node: node, Process: [16]byte{process, 0xaa}, MACs: []fsm.MAC{{2, 0, 0, 0, process, node[len(node)-1]}},
		Labels: map[string]string{"name": node}, Links: links("eth0", true), Version: "test",
	}
}

func links(name string, up bool) []*logv1.Link {
	return []*logv1.Link{{Name: name, Mac: []byte{2, 0, 0, 0, 0, 1}, Up: up, Prefixes: []string{"10.0.0.0/24"}}}
}

func pool(name string, addresses ...string) *adminv1.Resource {
	return &adminv1.Resource{Kind: &adminv1.Resource_Pool{Pool: &logv1.Pool{Name: name, Addresses: addresses}}}
}

func ad(name string, change ...func(*logv1.L2Advertisement)) *adminv1.Resource {
	a := &logv1.L2Advertisement{Name: name}
	for _, f := range change {
		f(a)
	}
	return &adminv1.Resource{Kind: &adminv1.Resource_L2Advertisement{L2Advertisement: a}}
}

func release(a *logv1.L2Advertisement) {
	a.OnControlLoss = logv1.ControlLoss_CONTROL_LOSS_RELEASE
}

func service(name string, change ...func(*logv1.Service)) *adminv1.Resource {
	s := &logv1.Service{Namespace: "default", Name: name, Ports: []*logv1.Port{{Port: 80, Protocol: logv1.Protocol_PROTOCOL_TCP}}}
	for _, f := range change {
		f(s)
	}
	return &adminv1.Resource{Kind: &adminv1.Resource_Service{Service: s}}
}

func at(addresses ...string) func(*logv1.Service) {
	return func(s *logv1.Service) { s.Addresses = addresses }
}

func inPool(name string) func(*logv1.Service) {
	return func(s *logv1.Service) { s.Pool = name }
}

func apply(resources ...*adminv1.Resource) *Apply {
	return &Apply{Resources: resources, Actor: "admin:test"}
}

func remove(kind string, names ...string) *Delete {
	c := &Delete{Actor: "admin:test"}
	for _, n := range names {
		name := &adminv1.ResourceName{Kind: kind, Name: n}
		if kind == KindService {
			name.Namespace = "default"
		}
		c.Names = append(c.Names, name)
	}
	return c
}

func (h *harness) expire(nodes ...string) *ExpireNodes {
	c := &ExpireNodes{}
	h.log.Read(func(s *fsm.State) {
		for _, n := range nodes {
			c.Sessions = append(c.Sessions, SessionID{n, s.Nodes[n].Session})
		}
	})
	return c
}

// eventText writes an event in one line.
func eventText(ev *logv1.Event) string {
	name := fsm.EventName(ev)
	addr := func(b []byte) string { a, _ := fsm.ToAddr(b); return a.String() }
	why := func(r logv1.OwnerReason) string { return strings.TrimPrefix(r.String(), "OWNER_REASON_") }
	switch f := ev.GetFact().(type) {
	case *logv1.Event_OwnerReleased:
		softly := ""
		if f.OwnerReleased.GetSoft() {
			softly = " softly"
		}
		return fmt.Sprintf("%s %s %s %s%s", name, addr(f.OwnerReleased.GetAddress()), f.OwnerReleased.GetNode(), why(f.OwnerReleased.GetReason()), softly)
	case *logv1.Event_OwnerAssigned:
		after := ""
		if p := f.OwnerAssigned.GetPredecessor(); p != "" {
			after = " beside " + p
		}
		return fmt.Sprintf("%s %s %s %s%s", name, addr(f.OwnerAssigned.GetAddress()), f.OwnerAssigned.GetNode(), why(f.OwnerAssigned.GetReason()), after)
	case *logv1.Event_SoftMoveEnded:
		return fmt.Sprintf("%s %s %s %s", name, addr(f.SoftMoveEnded.GetAddress()), f.SoftMoveEnded.GetNode(), why(f.SoftMoveEnded.GetReason()))
	case *logv1.Event_AddressQuarantined:
		return name + " " + addr(f.AddressQuarantined.GetAddress()) + " " + f.AddressQuarantined.GetNode()
	case *logv1.Event_QuarantineEnded:
		return name + " " + addr(f.QuarantineEnded.GetAddress())
	case *logv1.Event_AddressConflictObserved:
		return name + " " + addr(f.AddressConflictObserved.GetAddress()) + " " +
			strings.TrimPrefix(f.AddressConflictObserved.GetKind().String(), "CONFLICT_KIND_")
	case *logv1.Event_AddressAllocated:
		return fmt.Sprintf("%s %s %s %s", name, addr(f.AddressAllocated.GetAddress()), f.AddressAllocated.GetName(),
			strings.TrimPrefix(f.AddressAllocated.GetReason().String(), "ALLOCATION_REASON_"))
	case *logv1.Event_AddressReleased:
		return fmt.Sprintf("%s %s %s", name, addr(f.AddressReleased.GetAddress()), f.AddressReleased.GetName())
	case *logv1.Event_AllocationRefused:
		return fmt.Sprintf("%s %s %q", name, f.AllocationRefused.GetName(), f.AllocationRefused.GetReason())
	case *logv1.Event_ServiceDeclared:
		return name + " " + f.ServiceDeclared.GetService().GetName()
	case *logv1.Event_ServiceDeleted:
		return name + " " + f.ServiceDeleted.GetName()
	case *logv1.Event_PoolDefined:
		return name + " " + f.PoolDefined.GetPool().GetName()
	case *logv1.Event_PoolDeleted:
		return name + " " + f.PoolDeleted.GetName()
	case *logv1.Event_ReservationDefined:
		return name + " " + f.ReservationDefined.GetReservation().GetName()
	case *logv1.Event_ReservationDeleted:
		return name + " " + f.ReservationDeleted.GetName()
	case *logv1.Event_NamespaceDefined:
		return name + " " + f.NamespaceDefined.GetNamespace().GetName()
	case *logv1.Event_NamespaceDeleted:
		return name + " " + f.NamespaceDeleted.GetName()
	case *logv1.Event_AdvertisementDefined:
		return name + " " + f.AdvertisementDefined.GetAdvertisement().GetName()
	case *logv1.Event_AdvertisementDeleted:
		return name + " " + f.AdvertisementDeleted.GetName()
	case *logv1.Event_SessionOpened:
		return fmt.Sprintf("%s %s %d", name, f.SessionOpened.GetNode(), f.SessionOpened.GetIncarnation())
	case *logv1.Event_SessionClosed:
		return name + " " + f.SessionClosed.GetNode()
	case *logv1.Event_SessionExpired:
		return name + " " + f.SessionExpired.GetNode()
	case *logv1.Event_NodeDrained:
		return name + " " + f.NodeDrained.GetNode()
	case *logv1.Event_NodeUndrained:
		return name + " " + f.NodeUndrained.GetNode()
	case *logv1.Event_NodeLinksChanged:
		return name + " " + f.NodeLinksChanged.GetNode()
	case *logv1.Event_NodeForgotten:
		return name + " " + f.NodeForgotten.GetNode()
	case *logv1.Event_EndpointsObserved:
		e := f.EndpointsObserved
		return fmt.Sprintf("%s %s %v %v", name, e.GetName(), e.GetReady(), e.GetTerminating())
	case *logv1.Event_HealthChanged:
		return fmt.Sprintf("%s %s %s %t", name, f.HealthChanged.GetName(), f.HealthChanged.GetNode(), f.HealthChanged.GetHealthy())
	case *logv1.Event_AnnounceFailed:
		return name + " " + addr(f.AnnounceFailed.GetAddress()) + " " + f.AnnounceFailed.GetNode()
	}
	return name
}

func (h *harness) session(node string) (id uint64) {
	h.log.Read(func(s *fsm.State) { id = s.Nodes[node].Session })
	return id
}

func (h *harness) epoch(addr string) (epoch uint64) {
	h.log.Read(func(s *fsm.State) { epoch = s.Addresses[netip.MustParseAddr(addr)].Epoch })
	return epoch
}
