package raftnode_test

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/raftnode"
)

// fakeSpeaker does what a speaker does towards the members, and nothing on any
// wire: it opens a session, sends heartbeats to all members, follows its view,
// and says that it announces what it owns.
type fakeSpeaker struct {
	t     testing.TB
	node  string
	mac   byte
	conns []*grpc.ClientConn // one for each member

	cancel context.CancelFunc
	wg     sync.WaitGroup

	gap raftnode.Gap // between heartbeats

	mu      sync.Mutex
	process []byte
	session uint64
	seq     uint64
	seen    uint64
	made    []time.Time // when each heartbeat was made
	acked   uint64      // newest acked heartbeat
	refused map[speakerv1.HeartbeatRefusal]int
	vips    map[netip.Addr]uint64 // epoch
	gained  map[netip.Addr]time.Time
	lost    map[netip.Addr]time.Time
	hosts   map[netip.Addr]bool
	changed chan struct{}
}

const testHeartbeat = 50 * time.Millisecond

func newFakeSpeaker(t testing.TB, node string, mac byte, conns []*grpc.ClientConn) *fakeSpeaker {
	process := make([]byte, 16)
	for i := range process {
		process[i] = byte(rand.Uint32())
	}
	return &fakeSpeaker{
		t: t, node: node, mac: mac, conns: conns, process: process,
		refused: make(map[speakerv1.HeartbeatRefusal]int),
		vips:    make(map[netip.Addr]uint64), hosts: make(map[netip.Addr]bool),
		gained: make(map[netip.Addr]time.Time), lost: make(map[netip.Addr]time.Time),
		changed: make(chan struct{}),
	}
}

// start opens the session and runs until stop.
func (s *fakeSpeaker) start() *fakeSpeaker {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.open(ctx)
	for _, conn := range s.conns {
		s.wg.Go(func() { s.heartbeats(ctx, conn) })
		s.wg.Go(func() { s.attach(ctx, conn) })
	}
	s.wg.Go(func() { s.count(ctx) })
	s.wg.Go(func() { s.watch(ctx) })
	s.t.Cleanup(s.stop)
	return s
}

// stop is what a power failure does: nothing is said any more.
func (s *fakeSpeaker) stop() {
	s.gap.End()
	s.cancel()
	s.wg.Wait()
}

func (s *fakeSpeaker) open(ctx context.Context) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for i := 0; ; i++ {
		client := speakerv1.NewSpeakerServiceClient(s.conns[i%len(s.conns)])
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		resp, err := client.OpenSession(try, &speakerv1.OpenSessionRequest{
			Node: s.node, Process: s.process, Macs: [][]byte{{2, 0, 0, 0, 0, s.mac}},
			Links: []*logv1.Link{{Name: "eth0", Mac: []byte{2, 0, 0, 0, 0, s.mac}, Up: true}}, Version: "test",
		})
		cancel()
		if err == nil {
			s.mu.Lock()
			s.session, s.seen = resp.GetSession(), resp.GetRevision()
			s.gap.Beat()
			s.mu.Unlock()
			return
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			s.t.Fatalf("open session of %s: %v", s.node, err)
		}
	}
}

// count raises the heartbeat's number; a change of the view raises it at once.
func (s *fakeSpeaker) count(ctx context.Context) {
	tick := time.NewTicker(testHeartbeat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.beat()
		case <-ctx.Done():
			return
		}
	}
}

func (s *fakeSpeaker) beat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	s.made = append(s.made, time.Now())
	s.gap.Beat()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *fakeSpeaker) heartbeats(ctx context.Context, conn *grpc.ClientConn) {
	for ctx.Err() == nil {
		s.beats(ctx, speakerv1.NewSpeakerServiceClient(conn))
		pause(ctx, 20*time.Millisecond)
	}
}

func (s *fakeSpeaker) beats(ctx context.Context, client speakerv1.SpeakerServiceClient) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Heartbeat(ctx)
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
			s.mu.Lock()
			if m.GetRefusal() != 0 {
				s.refused[m.GetRefusal()]++
			} else if m.GetSession() == s.session || m.GetSession() == 0 {
				s.acked = max(s.acked, m.GetAckedSeq())
			}
			s.mu.Unlock()
		}
	})
	for {
		s.mu.Lock()
		m := &speakerv1.HeartbeatRequest{Node: s.node, Session: s.session, Seq: s.seq, Seen: s.seen}
		next := s.changed
		s.mu.Unlock()
		if m.GetSeq() > 0 && stream.Send(m) != nil {
			return
		}
		select {
		case <-next:
		case <-ctx.Done():
			return
		}
	}
}

func (s *fakeSpeaker) watch(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		s.follow(ctx, speakerv1.NewSpeakerServiceClient(s.conns[i%len(s.conns)]))
		pause(ctx, 20*time.Millisecond)
	}
}

func (s *fakeSpeaker) follow(ctx context.Context, client speakerv1.SpeakerServiceClient) {
	s.mu.Lock()
	req := &speakerv1.WatchRequest{Node: s.node, Session: s.session, MinRevision: s.seen}
	s.mu.Unlock()
	stream, err := client.Watch(ctx, req)
	if err != nil {
		return
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		s.take(m)
		s.beat()
	}
}

func (s *fakeSpeaker) take(m *speakerv1.WatchResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	before := maps.Clone(s.vips)
	if v := m.GetView(); v != nil {
		clear(s.vips)
		clear(s.hosts)
		for _, vip := range v.GetVips() {
			s.vips[addrOf(vip.GetAddress())] = vip.GetEpoch()
		}
		for _, raw := range v.GetHostAddresses() {
			s.hosts[addrOf(raw)] = true
		}
	}
	for _, vip := range m.GetDelta().GetVips() {
		s.vips[addrOf(vip.GetAddress())] = vip.GetEpoch()
	}
	for _, raw := range m.GetDelta().GetGoneVips() {
		delete(s.vips, addrOf(raw))
	}
	for _, raw := range m.GetDelta().GetHostAddresses() {
		s.hosts[addrOf(raw)] = true
	}
	for _, raw := range m.GetDelta().GetGoneHostAddresses() {
		delete(s.hosts, addrOf(raw))
	}
	for a := range s.vips {
		if _, had := before[a]; !had {
			s.gained[a] = now
		}
	}
	for a := range before {
		if _, has := s.vips[a]; !has {
			s.lost[a] = now
		}
	}
	s.seen = max(s.seen, m.GetRevision())
}

func (s *fakeSpeaker) attach(ctx context.Context, conn *grpc.ClientConn) {
	for ctx.Err() == nil {
		s.tell(ctx, speakerv1.NewSpeakerServiceClient(conn))
		pause(ctx, 20*time.Millisecond)
	}
}

func (s *fakeSpeaker) tell(ctx context.Context, client speakerv1.SpeakerServiceClient) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Attach(ctx)
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer cancel()
		for {
			if _, err := stream.Recv(); err != nil {
				return
			}
		}
	})
	told := make(map[netip.Addr]uint64)
	m := &speakerv1.AttachRequest{}
	s.mu.Lock()
	m.Hello = &speakerv1.AttachHello{Node: s.node, Session: s.session}
	s.mu.Unlock()
	for {
		s.mu.Lock()
		next := s.changed
		for a, epoch := range s.vips {
			if told[a] != epoch {
				told[a] = epoch
				m.Vips = append(m.Vips, &speakerv1.VipStatus{Address: a.AsSlice(), Epoch: epoch, Announced: speakerv1.Announced_ANNOUNCED_UNPROVEN})
			}
		}
		for a := range told {
			if _, has := s.vips[a]; !has {
				delete(told, a)
				m.GoneVips = append(m.GoneVips, a.AsSlice())
			}
		}
		s.mu.Unlock()
		if (m.Hello != nil || len(m.Vips) > 0 || len(m.GoneVips) > 0) && stream.Send(m) != nil {
			return
		}
		m = &speakerv1.AttachRequest{}
		select {
		case <-next:
		case <-ctx.Done():
			return
		}
	}
}

func (s *fakeSpeaker) owns(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, has := s.vips[a]
	return has
}

func (s *fakeSpeaker) gainedAt(a netip.Addr) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gained[a]
}

func (s *fakeSpeaker) ackedSeq() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

// lastHeard is when the newest heartbeat was made that members are known to have
// heard: the acked one. They may have heard a later one too.
func (s *fakeSpeaker) lastHeard() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.acked == 0 {
		s.t.Fatalf("no heartbeat of %s was ever acked", s.node)
	}
	return s.made[s.acked-1]
}

func addrOf(raw []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(raw)
	return a
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (s *fakeSpeaker) lostAt(a netip.Addr) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost[a]
}

func (s *fakeSpeaker) delivers(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hosts[a]
}
