package raftnode

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/internal/leasetime"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/raftnode/service"
)

const attackHeartbeat = 50 * time.Millisecond

// attackSpan is a time in which a speaker was confirmed and had an address in its
// view: when it might have answered. Boot time; until is not part of it.
type attackSpan struct{ from, until time.Duration }

// attackSpeaker is one process of a speaker, as far as members see it, that keeps
// account of when it might have answered for which Release address. It is worse than
// a real one: it may leave its watch hanging, and does not exit when it is replaced.
type attackSpeaker struct {
	g             *attackGroup
	node, machine string
	mac           byte
	process       [16]byte
	conns         map[string]*grpc.ClientConn // by member

	// watchAt names the member that the view comes from; empty: whoever has it.
	watchAt atomic.Pointer[string]
	// deaf: nothing that the watch says is taken any more.
	deaf atomic.Bool
	// frozen: the process does not run.
	frozen atomic.Bool
	// exits when it is replaced.
	replaced atomic.Bool
	gap      Gap // between heartbeats

	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu          sync.Mutex
	holder      *leasetime.Holder
	incarnation uint64
	seen        uint64
	until       time.Duration // end of the confirmation
	ackedAt     time.Duration
	behindSince time.Duration
	vips        map[netip.Addr]uint64 // Release addresses: epoch
	newest      map[netip.Addr]uint64 // newest epoch seen
	spans       map[netip.Addr][]attackSpan
	accounted   time.Duration
	beat        *speakerv1.HeartbeatRequest
	next        chan struct{} // closed with the next beat
	now         chan struct{} // asks for a beat
	endWatch    context.CancelFunc
}

// speaker makes a speaker that is not started. Machine is that whose MACs it has.
func (g *attackGroup) speaker(node, machine string) *attackSpeaker {
	g.t.Helper()
	s := &attackSpeaker{
		g: g, node: node, machine: machine, mac: g.macOf(machine), conns: make(map[string]*grpc.ClientConn),
		vips: make(map[netip.Addr]uint64), newest: make(map[netip.Addr]uint64), spans: make(map[netip.Addr][]attackSpan),
		next: make(chan struct{}), now: make(chan struct{}, 1),
	}
	_, _ = rand.Read(s.process[:]) // never fails
	id := g.identity("speaker/" + node)
	for _, m := range g.names {
		s.conns[m] = g.dial(machine, id, m)
	}
	g.speakers = append(g.speakers, s)
	return s
}

// macOf gives every machine an address of its own.
func (g *attackGroup) macOf(machine string) byte {
	for _, s := range g.speakers {
		if s.machine == machine {
			return s.mac
		}
	}
	return byte(1 + len(g.speakers))
}

// startSpeakers starts one speaker for each node, each on a machine of its own.
func (g *attackGroup) startSpeakers(nodes ...string) (all []*attackSpeaker) {
	g.t.Helper()
	for _, n := range nodes {
		all = append(all, g.speaker(n, n).start())
	}
	return all
}

func (s *attackSpeaker) String() string {
	return fmt.Sprintf("%s on %s (%x)", s.node, s.machine, s.process[:2])
}

// start begins and waits for a session.
func (s *attackSpeaker) start() *attackSpeaker {
	s.g.t.Helper()
	select {
	case <-s.begin():
	case <-time.After(attackPatience):
		s.g.t.Fatalf("%s gets no session", s)
	}
	return s
}

// begin opens a session and runs until crash.
func (s *attackSpeaker) begin() (opened chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	opened = make(chan struct{})
	s.wg.Go(func() { s.sessions(ctx, opened) })
	for m, conn := range s.conns {
		s.wg.Go(func() { s.repeat(ctx, func() { s.beats(ctx, m, conn) }) })
	}
	s.wg.Go(func() { s.pulse(ctx) })
	i := 0
	s.wg.Go(func() {
		s.repeat(ctx, func() {
			at := s.g.names[i%len(s.g.names)]
			if p := s.watchAt.Load(); p != nil && *p != "" {
				at = *p
			}
			i++
			if conn := s.conns[at]; conn != nil {
				s.watch(ctx, conn)
			}
		})
	})
	return opened
}

// crash is the process's sudden death. What it may have handed to a responder in
// the kernel goes on until its confirmation ends.
func (s *attackSpeaker) crash() {
	s.gap.End()
	if s.cancel != nil {
		s.cancel()
		s.wg.Wait()
	}
}

func (s *attackSpeaker) repeat(ctx context.Context, f func()) {
	for ctx.Err() == nil {
		s.awake(ctx)
		f()
		attackPause(ctx, 20*time.Millisecond)
	}
}

func attackPause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// awake waits while the process is frozen.
func (s *attackSpeaker) awake(ctx context.Context) {
	for s.frozen.Load() && ctx.Err() == nil {
		attackPause(ctx, 5*time.Millisecond)
	}
}

// sessions opens a session, and another when the members know the one no more.
func (s *attackSpeaker) sessions(ctx context.Context, opened chan struct{}) {
	for i := 0; ctx.Err() == nil; i++ {
		s.awake(ctx)
		if s.open(ctx, s.conns[s.g.names[i%len(s.g.names)]]) && opened != nil {
			close(opened)
			opened = nil
		}
		attackPause(ctx, 20*time.Millisecond)
		for opened == nil && ctx.Err() == nil && !s.lost() {
			attackPause(ctx, 20*time.Millisecond)
		}
	}
}

// lost tells whether the session is over as far as the process can know.
func (s *attackSpeaker) lost() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.replaced.Load() && s.holder == nil
}

func (s *attackSpeaker) open(ctx context.Context, conn *grpc.ClientConn) bool {
	s.mu.Lock()
	incarnation := s.incarnation
	s.mu.Unlock()
	try, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	mac := []byte{2, 0, 0, 0, 0, s.mac}
	resp, err := speakerv1.NewSpeakerServiceClient(conn).OpenSession(try, &speakerv1.OpenSessionRequest{
		Node: s.node, Process: s.process[:], Incarnation: incarnation, Macs: [][]byte{mac},
		Links: []*logv1.Link{{Name: "eth0", Mac: mac, Up: true}}, Version: "attack",
	})
	if err != nil {
		// It may have heard that its session is no more before it hears why.
		for _, d := range status.Convert(err).Details() {
			if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == service.ReasonReplaced {
				s.replaced.Store(true)
			}
		}
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// The confirmation of the session before lasts as long as it would have.
	s.holder, s.incarnation = leasetime.NewHolder(resp.GetSession()), resp.GetIncarnation()
	s.seen, s.behindSince, s.ackedAt = 0, 0, clock.Boottime.Now()
	if s.endWatch != nil {
		s.endWatch()
	}
	return true
}

// pulse makes heartbeats.
func (s *attackSpeaker) pulse(ctx context.Context) {
	tick := time.NewTicker(attackHeartbeat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.now:
		case <-ctx.Done():
			return
		}
		s.awake(ctx)
		s.mu.Lock()
		if s.holder != nil && s.seen > 0 {
			s.beat = &speakerv1.HeartbeatRequest{
				Node: s.node, Session: s.holder.Session(), Seq: s.holder.Send(clock.Boottime.Now()), Seen: s.seen,
			}
			close(s.next)
			s.next = make(chan struct{})
		}
		s.mu.Unlock()
		s.gap.Beat()
	}
}

// beats is one stream of heartbeats.
func (s *attackSpeaker) beats(ctx context.Context, _ string, conn *grpc.ClientConn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := speakerv1.NewSpeakerServiceClient(conn).Heartbeat(ctx)
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer cancel()
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			s.awake(ctx)
			s.answered(m)
		}
	})
	for {
		s.mu.Lock()
		m, next := s.beat, s.next
		s.mu.Unlock()
		if m != nil && stream.Send(m) != nil {
			cancel()
			return
		}
		select {
		case <-next:
		case <-ctx.Done():
			return
		}
	}
}

// answered takes what the members say to a heartbeat.
func (s *attackSpeaker) answered(m *speakerv1.HeartbeatResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := clock.Boottime.Now()
	if s.holder == nil || m.GetSession() != s.holder.Session() {
		return
	}
	need := false
	switch m.GetRefusal() {
	case speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_UNSPECIFIED:
		if s.holder.Acked(leasetime.Ack{Session: m.GetSession(), Seq: m.GetAckedSeq(), Fence: time.Duration(m.GetFenceNanos())}) {
			s.account(now)
			s.until = max(s.until, s.holder.Deadline())
			s.ackedAt = now
		}
		need = m.GetNeedRevision() > s.seen
	case speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_NO_SESSION:
		// A leader that has just been deposed may not know the session yet.
		if now-s.ackedAt > 4*attackHeartbeat {
			s.holder = nil
		}
	case speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_REPLACED:
		s.replaced.Store(true)
	case speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_BEHIND:
		need = true
	}
	switch {
	case !need:
		s.behindSince = 0
	case s.behindSince == 0:
		s.behindSince = now
	case now-s.behindSince > 2*attackHeartbeat && s.endWatch != nil && !s.deaf.Load():
		s.behindSince = 0
		s.endWatch() // and attach elsewhere
	}
}

func (s *attackSpeaker) watch(ctx context.Context, conn *grpc.ClientConn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	if s.holder == nil {
		s.mu.Unlock()
		return
	}
	session := s.holder.Session()
	req := &speakerv1.WatchRequest{Node: s.node, Session: session, MinRevision: max(s.seen, session)}
	s.endWatch = cancel
	s.mu.Unlock()
	stream, err := speakerv1.NewSpeakerServiceClient(conn).Watch(ctx, req)
	if err != nil {
		return
	}
	for {
		m, err := stream.Recv()
		s.awake(ctx)
		for s.deaf.Load() && ctx.Err() == nil {
			attackPause(ctx, 5*time.Millisecond)
		}
		if err != nil || ctx.Err() != nil {
			return
		}
		s.take(session, m)
		select {
		case s.now <- struct{}{}: // a heartbeat at once
		default:
		}
	}
}

// take puts a message of the watch in force.
func (s *attackSpeaker) take(session uint64, m *speakerv1.WatchResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holder == nil || s.holder.Session() != session {
		return
	}
	s.account(clock.Boottime.Now())
	if v := m.GetView(); v != nil {
		clear(s.vips)
		s.gain(v.GetVips())
	}
	s.gain(m.GetDelta().GetVips())
	for _, raw := range m.GetDelta().GetGoneVips() {
		a, _ := netip.AddrFromSlice(raw)
		delete(s.vips, a)
	}
	s.seen = max(s.seen, m.GetRevision())
}

func (s *attackSpeaker) gain(vips []*speakerv1.Vip) {
	for _, v := range vips {
		a, _ := netip.AddrFromSlice(v.GetAddress())
		if v.GetEpoch() < s.newest[a] || v.GetOnControlLoss() != logv1.ControlLoss_CONTROL_LOSS_RELEASE {
			continue
		}
		s.vips[a], s.newest[a] = v.GetEpoch(), v.GetEpoch()
	}
}

// account writes down since the last call when the speaker might have answered. It
// is called before view or confirmation change.
func (s *attackSpeaker) account(now time.Duration) {
	if end := min(now, s.until); end > s.accounted {
		for a := range s.vips {
			spans := s.spans[a]
			if n := len(spans); n > 0 && spans[n-1].until == s.accounted {
				spans[n-1].until = end
			} else {
				s.spans[a] = append(spans, attackSpan{s.accounted, end})
			}
		}
	}
	s.accounted = now
}

// history is what the speaker might have answered for until now.
func (s *attackSpeaker) history() map[netip.Addr][]attackSpan {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.account(clock.Boottime.Now())
	out := make(map[netip.Addr][]attackSpan, len(s.spans))
	for a, spans := range s.spans {
		out[a] = append([]attackSpan(nil), spans...)
	}
	return out
}

// answers tells whether the speaker may answer for the address now.
func (s *attackSpeaker) answers(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, has := s.vips[a]
	return has && clock.Boottime.Now() < s.until
}

// has tells whether the address is in the speaker's view.
func (s *attackSpeaker) has(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, has := s.vips[a]
	return has
}

// deadline is the end of the confirmation.
func (s *attackSpeaker) deadline() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.until
}

// attachTo has the watch run at one member, "" for whoever has it.
func (s *attackSpeaker) attachTo(member string) {
	s.watchAt.Store(&member)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.endWatch != nil {
		s.endWatch()
	}
}

// firstSince gives when the first of the speakers' spans of an address that began
// after the time began, and whose.
func firstSince(a netip.Addr, after time.Duration, speakers ...*attackSpeaker) (who *attackSpeaker, at time.Duration) {
	for _, s := range speakers {
		for _, sp := range s.history()[a] {
			if sp.from >= after && (who == nil || sp.from < at) {
				who, at = s, sp.from
			}
		}
	}
	return who, at
}
