package sim

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/clock"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
	"github.com/quorumlb/quorumlb/raftnode/lease"
	"github.com/quorumlb/quorumlb/raftnode/watch"
)

var (
	scaleNodes     = flag.Int("scale.nodes", 50, "nodes of TestScale")
	scaleAddresses = flag.Int("scale.addresses", 1000, "addresses of TestScale")
)

// TestScale measures what a member does for many nodes and addresses. It fails only
// if something does not work; docs/scale.md has the figures.
func TestScale(t *testing.T) {
	t.Logf("%d nodes, %d addresses", *scaleNodes, *scaleAddresses)
	t.Run("decide and watch", func(t *testing.T) { scaleDecide(t, *scaleNodes, *scaleAddresses) })
	t.Run("heartbeats", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { scaleHeartbeats(t, *scaleNodes) })
	})
}

// cpu is the CPU time of this process so far: a busy machine does not change it
// much, and virtual time not at all.
func cpu() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// heap is the memory in use after a collection.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// instantLog commits at once: what is left is what deciding, folding and watching cost.
type instantLog struct {
	mu      sync.Mutex
	state   *fsm.State
	changed chan struct{}
	tell    []func(*logv1.Batch, fsm.Changes, *fsm.State)
	// Of the batches since reset, and the CPU time until the first was proposed.
	batches, events, size int
	proposed              time.Duration
}

func (l *instantLog) Propose(raw []byte) decider.Future {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.proposed == 0 {
		l.proposed = cpu()
	}
	b, ch, err := l.state.Apply(raw)
	if err != nil {
		return newFuture().end(nil, err)
	}
	l.batches, l.events, l.size = l.batches+1, l.events+len(b.GetEvents()), l.size+len(raw)
	for _, f := range l.tell {
		f(b, ch, l.state)
	}
	return newFuture().end(nil, nil)
}

func (l *instantLog) reset()                      { l.batches, l.events, l.size, l.proposed = 0, 0, 0, 0 }
func (l *instantLog) Barrier(time.Duration) error { return nil }
func (l *instantLog) Verify() decider.Future      { return newFuture().end(nil, nil) }
func (l *instantLog) NotAppended(error) bool      { return false }
func (l *instantLog) Leadership() decider.Leadership {
	return decider.Leadership{Leader: true, Term: 1, Changed: l.changed}
}

func (l *instantLog) Read(f func(*fsm.State)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l.state)
}

// easyLeases are leases under which nobody waits.
type easyLeases struct{}

func (easyLeases) Lead(uint64, *fsm.State)                           {}
func (easyLeases) Decided(*fsm.State, fsm.Changes)                   {}
func (easyLeases) Follow()                                           {}
func (easyLeases) ReleaseWait(decider.Release) (bool, time.Duration) { return true, 0 }
func (easyLeases) FencePassed(string) (bool, time.Duration)          { return true, 0 }
func (easyLeases) HeardLately(string) bool                           { return true }
func (easyLeases) StillSilent(string, uint64) bool                   { return true }
func (easyLeases) HasSeen(string, uint64, uint64) bool               { return true }
func (easyLeases) LeaseChange() time.Duration                        { return 0 }

// watchers read the views of all nodes, one watch each; a speaker has two.
type watchers struct {
	messages, bytes atomic.Int64
	wg              sync.WaitGroup
}

func (w *watchers) read(ctx context.Context, s *watch.Subscription) {
	w.wg.Go(func() {
		for {
			m, err := s.Next(ctx)
			if err != nil {
				return
			}
			w.messages.Add(1)
			w.bytes.Add(int64(proto.Size(m)))
		}
	})
}

// rest waits until a counter stands still.
func rest(count func() uint64) {
	for last, same := count(), 0; same < 10; time.Sleep(5 * time.Millisecond) {
		if now := count(); now == last {
			same++
		} else {
			last, same = now, 0
		}
	}
}

// take gives what was read since the last call.
func (w *watchers) take() (messages, bytes int64) {
	rest(func() uint64 { return uint64(w.messages.Load()) })
	return w.messages.Swap(0), w.bytes.Swap(0)
}

func scaleDecide(t *testing.T, nodes, addresses int) {
	before := heap()
	l := &instantLog{state: fsm.New(), changed: make(chan struct{})}
	d := decider.New(decider.Config{Self: "m0", Log: l, Leases: easyLeases{}, Clock: clock.Boottime})
	l.tell = append(l.tell, d.Applied)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = d.Run(ctx) })
	defer func() { cancel(); wg.Wait() }()
	do := func(name string, f func()) {
		l.Read(func(*fsm.State) { l.reset() })
		start, wall := cpu(), time.Now()
		f()
		took, real := cpu()-start, time.Since(wall)
		rest(d.Stats().Batches.Load) // a planned move takes more than one
		l.Read(func(*fsm.State) {
			t.Logf("%-28s %8.1f ms CPU (%.1f ms real), %.1f ms CPU until proposed, %d batches, %d events, %d bytes in the log",
				name, ms(took), ms(real), ms(l.proposed-start), l.batches, l.events, l.size)
		})
	}
	waitFounded(t, d)
	must(t, d, &decider.Apply{Resources: []*adminv1.Resource{pool("p", "10.0.0.0/8"), ad("a", "p", holdLoss, sticky)}})
	do("open all sessions", func() {
		var all sync.WaitGroup
		for i := range nodes {
			all.Go(func() { must(t, d, opening(i)) })
		}
		all.Wait()
	})
	do("declare all services", func() {
		for i := 0; i < addresses; i += 1000 {
			cmd := &decider.Apply{}
			for j := i; j < min(i+1000, addresses); j++ {
				svc := &logv1.Service{Namespace: "scale", Name: fmt.Sprintf("service-%06d", j), Ports: service(1).GetPorts()}
				cmd.Resources = append(cmd.Resources, &adminv1.Resource{Kind: &adminv1.Resource_Service{Service: svc}})
			}
			must(t, d, cmd)
		}
	})
	t.Logf("%-28s %.1f MB of heap for state and head", "memory", float64(heap()-before)/1e6)
	scaleState(t, l)
	hub := watch.NewHub(l, 0)
	w := &watchers{}
	defer w.wg.Wait()
	defer cancel()
	var subs []*watch.Subscription
	before = heap()
	start := cpu()
	for i := range nodes {
		name := nodeName(i)
		var session uint64
		l.Read(func(s *fsm.State) { session = s.Nodes[name].Session })
		sub, err := hub.Subscribe(name, session, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		subs = append(subs, sub)
	}
	took := cpu() - start
	t.Logf("%-28s %8.1f ms CPU; %.1f MB of heap", "all nodes begin to watch", ms(took), float64(heap()-before)/1e6)
	for _, sub := range subs {
		w.read(ctx, sub)
	}
	messages, size := w.take()
	t.Logf("%-28s %d messages, %.1f MB in all", "whole views", messages, float64(size)/1e6)
	var inHub time.Duration
	l.Read(func(*fsm.State) {
		l.tell = append(l.tell, func(b *logv1.Batch, ch fsm.Changes, s *fsm.State) {
			start := cpu()
			hub.Apply(b, ch, s)
			inHub += cpu() - start
		})
	})
	watched := func(name string, f func()) {
		inHub = 0
		do(name, f)
		messages, size := w.take()
		t.Logf("%-28s %8.1f ms CPU of that in the hub, %d messages, %d bytes to one watch of every node", "", ms(inHub), messages, size)
	}
	watched("one service more", func() {
		must(t, d, &decider.Apply{Resources: []*adminv1.Resource{{Kind: &adminv1.Resource_Service{Service: &logv1.Service{Namespace: "scale", Name: "more", Ports: service(1).GetPorts()}}}}})
	})
	watched("a node dies", func() { must(t, d, expiry(l, 0)) })
	watched("it comes back", func() { must(t, d, opening(0)) })
	watched("a new node", func() { must(t, d, opening(nodes)) })
	watched("ten nodes die at once", func() { must(t, d, expiry(l, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)) })
	watched("a node is drained", func() { must(t, d, &decider.Drain{Node: nodeName(11)}) })
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

func must(t testing.TB, d *decider.Decider, cmd decider.Command) {
	t.Helper()
	if _, err := d.Submit(t.Context(), cmd); err != nil {
		t.Error(err)
	}
}

func waitFounded(t *testing.T, d *decider.Decider) {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, err := d.Submit(t.Context(), &decider.Found{ClusterID: [16]byte{1}, Version: fsm.MaxClusterVersion}); err == nil {
			return
		}
	}
	t.Fatal("not founded")
}

func opening(i int) *decider.OpenSession {
	mac := fsm.MAC{2, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
	return &decider.OpenSession{
		Node: nodeName(i), Process: [16]byte{1, byte(i >> 8), byte(i)}, MACs: []fsm.MAC{mac}, Version: "scale",
		Labels: map[string]string{"kubernetes.io/hostname": nodeName(i), "topology.kubernetes.io/zone": fmt.Sprint(i % 3)},
		Links:  []*logv1.Link{{Name: "eth0", Mac: mac[:], Up: true, Prefixes: []string{"10.0.0.0/8"}}},
	}
}

func expiry(l *instantLog, nodes ...int) *decider.ExpireNodes {
	cmd := &decider.ExpireNodes{}
	l.Read(func(s *fsm.State) {
		for _, i := range nodes {
			if n := s.Nodes[nodeName(i)]; n != nil {
				cmd.Sessions = append(cmd.Sessions, decider.SessionID{Node: n.Name, Session: n.Session})
			}
		}
	})
	return cmd
}

// scaleState measures what is done with the state as a whole.
func scaleState(t *testing.T, l *instantLog) {
	l.Read(func(s *fsm.State) {
		start := cpu()
		s.Clone()
		clone := cpu() - start
		start = cpu()
		s.Digest()
		digest := cpu() - start
		start = cpu()
		var buf bytes.Buffer
		if err := fsm.WriteSnapshot(&buf, s); err != nil {
			t.Error(err)
		}
		save := cpu() - start
		size := buf.Len()
		start = cpu()
		if _, err := fsm.ReadSnapshot(&buf); err != nil {
			t.Error(err)
		}
		t.Logf("%-28s clone %.1f ms, digest %.1f ms, snapshot %.1f MB, written in %.1f ms, read in %.1f ms (CPU)", "state",
			ms(clone), ms(digest), float64(size)/1e6, ms(save), ms(cpu()-start))
	})
}

// scaleHeartbeats runs three members, whose real leases hear all nodes, for some
// virtual seconds.
func scaleHeartbeats(t *testing.T, nodes int) {
	w := NewWorld(1, Options{Unchecked: true})
	w.voters = 3
	ended := make(chan struct{})
	go func() { defer close(ended); w.run() }()
	w.mu.Lock()
	for _, m := range w.members[:3] {
		m.start()
	}
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	o := &operator{w: w}
	time.Sleep(2 * time.Second) // founded by now
	sessions := make([]uint64, nodes)
	var all sync.WaitGroup
	for i := range nodes {
		all.Go(func() {
			r, err := o.submit(ctx, 0, opening(i))
			if err != nil {
				t.Error(err)
				return
			}
			sessions[i] = r.Session.Session
		})
	}
	all.Wait()
	brains := []*brain{w.members[0].brain, w.members[1].brain, w.members[2].brain}
	for i := range nodes {
		for _, b := range brains {
			_, stop := b.keeper.Acks(nodeName(i))
			defer stop()
		}
	}
	h := &hearts{brains: brains, sessions: sessions, seqs: make([]uint64, nodes), seen: w.check.last()}
	done := make(chan struct{})
	go func() { defer close(done); h.run(ctx) }()
	time.Sleep(2 * time.Second)
	const span = 3 * time.Second
	w.mu.Lock()
	bytes := w.sent
	w.mu.Unlock()
	beats, start := h.beats, cpu()
	time.Sleep(span)
	took := cpu() - start
	w.mu.Lock()
	for c := range bytes {
		bytes[c] = w.sent[c] - bytes[c]
	}
	w.mu.Unlock()
	var acked uint64
	for _, b := range brains {
		acked += b.keeper.Stats().Acked.Load()
	}
	t.Logf("heartbeats: %.0f a second at each member; CPU of three members together %.1f %% of a core; pulse streams %.2f MB/s; %d acks in all; heap %.1f MB",
		float64(h.beats-beats)/3/span.Seconds(), 100*took.Seconds()/span.Seconds(), float64(bytes[pulseClass])/1e6/span.Seconds(), acked, float64(heap())/1e6)
	if acked == 0 {
		t.Error("nobody is acked")
	}
	// One node falls silent.
	expired := func() (n uint64) {
		for _, b := range brains {
			n += b.keeper.Stats().Expired.Load()
		}
		return n
	}
	if n := expired(); n > 0 {
		t.Errorf("%d nodes are taken for dead", n)
	}
	h.silence(0)
	from := w.now()
	for expired() == 0 && w.now()-from < 5*time.Second {
		time.Sleep(5 * time.Millisecond)
	}
	t.Logf("one silent node is reported after %v", (w.now() - from).Round(time.Millisecond))
	cancel()
	<-done
	w.shutDown()
	close(w.stop)
	<-ended
}

// hearts are the heartbeats of all nodes, spread over h.
type hearts struct {
	brains   []*brain
	sessions []uint64
	seqs     []uint64
	seen     uint64
	beats    int

	mu     sync.Mutex
	silent map[int]bool
}

func (h *hearts) silence(i int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.silent = map[int]bool{i: true}
}

func (h *hearts) run(ctx context.Context) {
	const step, parts = 5 * time.Millisecond, 30 // h = 150 ms
	for n := 0; ctx.Err() == nil; n++ {
		h.mu.Lock()
		for i := n % parts; i < len(h.sessions); i += parts {
			if h.silent[i] {
				continue
			}
			h.seqs[i]++
			for _, b := range h.brains {
				b.keeper.Heard(lease.Heartbeat{Node: nodeName(i), Session: h.sessions[i], Seq: h.seqs[i], Seen: h.seen})
				h.beats++
			}
		}
		h.mu.Unlock()
		_ = pause(ctx, step)
	}
}
