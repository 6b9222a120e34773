package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/decider"
	"github.com/quorumlb/quorumlb/raftnode/pulse"
	"github.com/quorumlb/quorumlb/raftnode/watch"
)

const wallSkewMost = 200 * time.Millisecond

// member is a member of the group over all its restarts. World.mu guards the
// fields that change.
type member struct {
	w        *World
	num      int
	id, addr string
	mach     *machine
	disk     *disk
	// wallSkew is how wrong the wall clock is, at most wallSkewMost either way.
	wallSkew time.Duration

	// Of the present process; nil while there is none.
	proc        *proc
	raft        *raft
	services    *registry
	brain       *brain
	leadChanged chan struct{}
	// slowApply is until when the apply goroutine hangs.
	slowApply time.Duration
}

func newMember(w *World, num int, mach *machine) *member {
	m := &member{w: w, num: num, id: fmt.Sprintf("m%d", num), addr: fmt.Sprintf("m%d:1", num), mach: mach, disk: newDisk(w.seed, num)}
	m.wallSkew = w.between(-wallSkewMost, wallSkewMost)
	if num < w.voters {
		m.disk.found(w.voters)
	}
	return m
}

// brain is one process of a member: the real parts.
type brain struct {
	m       *member
	p       *proc
	raft    *raft
	keeper  *pulse.Keeper
	decider *decider.Decider
	hub     *watch.Hub
	reports *reports
	ears    ears

	mu    sync.RWMutex // of state
	state *fsm.State
	// applied is the newest entry applied; it belongs to the apply goroutine.
	applied uint64
	sinceSnapshot,
	snapshotEvery, trailing uint64
}

// start starts a process. World.mu is held.
func (m *member) start() {
	if m.proc != nil && !m.proc.dead.Load() {
		return
	}
	m.w.logf("%s starts", m.id)
	p := m.w.newProc(m.mach, m.id)
	m.proc = p
	snapshot, index := m.disk.snapshot, m.disk.snapIndex
	b := &brain{m: m, p: p, applied: index}
	b.snapshotEvery = 10 + m.disk.rng.Uint64N(60)
	b.trailing = m.disk.rng.Uint64N(12)
	p.run(func(ctx context.Context) { b.boot(ctx, snapshot) })
}

// crash ends the process, and loses what was not synced. World.mu is held.
func (m *member) crash() {
	if m.proc == nil || m.proc.dead.Load() {
		return
	}
	m.w.logf("fault: %s crashes", m.id)
	m.proc.kill()
	if m.raft != nil {
		m.raft.close()
	}
	m.raft, m.services, m.brain = nil, nil, nil
	m.disk.crash()
}

// restart crashes the process and starts another after d. World.mu is held.
func (m *member) restart(d time.Duration) {
	m.crash()
	m.w.after(d, m.start)
}

// boot puts the parts together, as raftnode does, and runs them.
func (b *brain) boot(ctx context.Context, snapshot []byte) {
	m, w := b.m, b.m.w
	b.state = fsm.New()
	if snapshot != nil {
		s, err := fsm.ReadSnapshot(bytes.NewReader(snapshot))
		if err != nil {
			w.check.fail("%s cannot read its snapshot: %v", m.id, err)
			return
		}
		b.state = s
		w.check.restored(b)
	}
	w.mu.Lock()
	m.leadChanged = make(chan struct{})
	b.raft = newRaft(m, b.p)
	b.raft.lead.Changed = m.leadChanged
	w.mu.Unlock()

	log := w.logger(m.id)
	b.hub = watch.NewHub(b, 0)
	b.keeper = pulse.New(pulse.Config{ID: m.id, Group: b.raft, Dial: b.dialPulse, Clock: b.p, Logger: log})
	b.decider = decider.New(decider.Config{
		Self: m.id, Log: b.raft.log(b), Leases: checkedLeases{b.keeper, b}, Clock: b.p, Logger: log,
		Wall:          func() time.Time { return w.began.Add(b.p.Now() - b.p.mach.offset + m.wallSkew) },
		FlightTimeout: 2 * time.Second, FutureTimeout: 500 * time.Millisecond, BarrierTimeout: 500 * time.Millisecond,
		UnknownAfter: time.Second,
	})
	b.keeper.Bind(b.decider)
	b.reports = newReports()
	b.tell(nil, fsm.Changes{All: true})

	services := newRegistry()
	speakerv1.RegisterSpeakerServiceServer(services, &server{b: b})
	memberv1.RegisterMemberServiceServer(services, &peerServer{b: b})
	w.mu.Lock()
	if b.p.dead.Load() {
		w.mu.Unlock()
		return
	}
	m.raft, m.services, m.brain = b.raft, services, b
	w.mu.Unlock()
	b.p.run(func(ctx context.Context) { _ = b.keeper.Run(ctx) })
	b.p.run(func(ctx context.Context) { _ = b.decider.Run(ctx) })
	b.p.run(b.found)
	b.p.run(b.observe)
	b.applyUntil(ctx)
}

func (b *brain) dialPulse(addr string) (pulse.Conn, error) {
	for _, m := range b.m.w.members {
		if m.addr == addr {
			return &conn{p: b.p, to: m}, nil
		}
	}
	return nil, fmt.Errorf("no member at %s", addr)
}

// Read calls f with the committed state.
func (b *brain) Read(f func(*fsm.State)) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	f(b.state)
}

// tell tells those who follow the state.
func (b *brain) tell(batch *logv1.Batch, ch fsm.Changes) {
	b.keeper.Applied(batch, ch, b.state)
	b.hub.Apply(batch, ch, b.state)
	b.decider.Applied(batch, ch, b.state)
}

// applyUntil is the apply goroutine.
func (b *brain) applyUntil(ctx context.Context) {
	for {
		job, wait := b.raft.nextJob(b)
		switch {
		case wait > 0:
			_ = pause(ctx, wait)
		case job == nil:
			select {
			case <-b.raft.news:
			case <-ctx.Done():
			}
		default:
			job()
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// nextJob gives what to apply next, or how long the process does not run.
func (r *raft) nextJob(b *brain) (job func(), wait time.Duration) {
	w := r.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if until := max(r.p.stalled(), r.m.slowApply); until > w.now() {
		return nil, until - w.now()
	}
	if s := r.install; s != nil {
		r.install = nil
		return func() { b.install(s) }, 0
	}
	if b.applied >= r.commit {
		return nil, 0
	}
	index := b.applied + 1
	e := r.disk.at(index)
	return func() { b.apply(index, e) }, 0
}

func (b *brain) install(s *snapshot) {
	if s.index <= b.applied {
		return
	}
	state, err := fsm.ReadSnapshot(bytes.NewReader(s.data))
	if err != nil {
		b.m.w.check.fail("%s cannot read a snapshot: %v", b.m.id, err)
		return
	}
	b.mu.Lock()
	b.state, b.applied = state, s.index
	b.mu.Unlock()
	b.m.w.check.restored(b)
	b.tell(nil, fsm.Changes{All: true})
}

func (b *brain) apply(index uint64, e *entry) {
	w := b.m.w
	var response any
	if e.kind == batchEntry {
		b.mu.Lock()
		batch, ch, err := b.state.Apply(e.raw)
		refused := errors.Is(err, fsm.ErrRevision) || errors.Is(err, fsm.ErrChain)
		if err != nil && !refused {
			b.state = fsm.New() // a member stops before anybody reads the broken one
		}
		b.mu.Unlock()
		switch {
		case refused:
			response = err
		case err != nil:
			w.check.fail("%s would stop at entry %d: %v", b.m.id, index, err)
			response = err
		default:
			w.check.applied(b, batch, ch, e)
			b.tell(batch, ch)
		}
	}
	b.applied = index
	b.sinceSnapshot++
	var snapshot []byte
	if b.sinceSnapshot >= b.snapshotEvery {
		b.sinceSnapshot = 0
		var buf bytes.Buffer
		if err := fsm.WriteSnapshot(&buf, b.state); err != nil {
			w.check.fail("%s cannot write a snapshot: %v", b.m.id, err)
		}
		snapshot = buf.Bytes()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if b.p.dead.Load() {
		return
	}
	if f := b.raft.futures[index]; f != nil {
		delete(b.raft.futures, index)
		f.end(nil, response)
	}
	if snapshot != nil {
		b.raft.disk.compact(index, snapshot, b.trailing)
	}
}

// found writes the first event, when this member leads and there is none.
func (b *brain) found(ctx context.Context) {
	for ctx.Err() == nil {
		founded := false
		b.Read(func(s *fsm.State) { founded = s.ClusterID != [16]byte{} })
		if founded {
			return
		}
		if b.raft.leadership().Leader {
			_, _ = b.decider.Submit(ctx, &decider.Found{ClusterID: [16]byte{1}, Version: fsm.MaxClusterVersion, Times: firstTimes})
		}
		_ = pause(ctx, 50*time.Millisecond)
	}
}

// reports is what attached speakers say about their links.
type reports struct {
	mu    sync.Mutex
	links map[string]linkReport
	news  chan struct{}
}

type linkReport struct {
	session uint64
	links   []*logv1.Link
}

func newReports() *reports {
	return &reports{links: make(map[string]linkReport), news: make(chan struct{}, 1)}
}

func (r *reports) add(node string, session uint64, links []*logv1.Link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.links[node] = linkReport{session, links}
	token(r.news)
}

// observe has the leader record what speakers report, as raftnode/service does.
func (b *brain) observe(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.reports.news:
		case <-tick.C:
		}
		if !b.raft.leadership().Leader {
			continue
		}
		for _, cmd := range b.differences() {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			_, _ = b.decider.Submit(ctx, cmd)
			cancel()
		}
	}
}

func (b *brain) differences() (cmds []decider.Command) {
	b.reports.mu.Lock()
	defer b.reports.mu.Unlock()
	b.Read(func(s *fsm.State) {
		for name, r := range b.reports.links {
			n := s.Nodes[name]
			if n == nil || n.Session != r.session || n.SessionState != fsm.SessionOpen {
				continue
			}
			if len(n.Links) != len(r.links) || len(r.links) > 0 && !proto.Equal(n.Links[0], r.links[0]) {
				cmds = append(cmds, &decider.LinksChanged{Node: name, Session: r.session, Links: r.links})
			}
		}
	})
	return cmds
}

// checkedLeases has every head looked at that the decider proposes from.
type checkedLeases struct {
	*pulse.Keeper
	b *brain
}

func (l checkedLeases) Decided(head *fsm.State, ch fsm.Changes) {
	l.Keeper.Decided(head, ch)
	l.b.m.w.check.decided(l.b, head)
	l.b.m.w.check.expires(l.b, head, ch)
}

// logger writes the parts' logs into the trace.
func (w *World) logger(name string) *slog.Logger {
	if w.trace == nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(traceWriter{w, name}, &slog.HandlerOptions{
		Level: slog.LevelInfo,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

type traceWriter struct {
	w    *World
	name string
}

func (t traceWriter) Write(b []byte) (int, error) {
	t.w.logf("%s: %s", t.name, bytes.TrimSpace(b))
	return len(b), nil
}

var _ pulse.Group = (*raft)(nil)

// Term and Members are what the leases ask of Raft.
func (r *raft) Term() uint64                { return r.term.Load() }
func (r *raft) Members() []consensus.Member { return *r.members.Load() }
