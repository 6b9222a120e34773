package session

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/internal/clock"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/speakers/internal/nettest"
)

const (
	testDetection = 250 * time.Millisecond
	testHeartbeat = 50 * time.Millisecond
	testFence     = 500 * time.Millisecond
)

// group is what the fake members agree on.
type group struct {
	mu       sync.Mutex
	cluster  string
	revision uint64
	session  uint64
	process  string
	count    uint64 // incarnation
	opens    int
	vips     []*speakerv1.Vip
	hosts    [][]byte
	nodes    []*speakerv1.NodeMacs
	// taken is the newest revision that takes an address from the node.
	taken   uint64
	refuse  speakerv1.HeartbeatRefusal
	mute    bool // nobody acks
	changed chan struct{}
	left    []bool // Leave calls, by done
	acked   uint64
}

func newGroup() *group {
	return &group{cluster: "0123456789abcdef", revision: 10, changed: make(chan struct{})}
}

func (g *group) change(f func()) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.revision++
	f()
	close(g.changed)
	g.changed = make(chan struct{})
	return g.revision
}

// now returns the open session and how many times one was asked for.
func (g *group) now() (session uint64, opens int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.session, g.opens
}

func (g *group) own(addrs ...string) uint64 {
	return g.change(func() {
		var now []*speakerv1.Vip
		for _, s := range addrs {
			a := netip.MustParseAddr(s).AsSlice()
			vip := &speakerv1.Vip{Address: a, Epoch: g.revision, OnControlLoss: logv1.ControlLoss_CONTROL_LOSS_RELEASE}
			if i := slices.IndexFunc(g.vips, func(v *speakerv1.Vip) bool { return slices.Equal(v.Address, a) }); i >= 0 {
				vip = g.vips[i]
			}
			now = append(now, vip)
		}
		for _, v := range g.vips {
			if !slices.Contains(now, v) {
				g.taken = g.revision
			}
		}
		g.vips = now
	})
}

func (g *group) view() *speakerv1.WatchResponse {
	return &speakerv1.WatchResponse{Revision: g.revision, Change: &speakerv1.WatchResponse_View{View: &speakerv1.View{
		ClusterId: []byte(g.cluster), Vips: slices.Clone(g.vips), HostAddresses: g.hosts, Nodes: g.nodes,
		LeaseTimes: &logv1.LeaseTimes{DetectionNanos: int64(testDetection), HeartbeatNanos: int64(testHeartbeat)},
	}}}
}

// fakeMember is one member's SpeakerService.
type fakeMember struct {
	speakerv1.UnimplementedSpeakerServiceServer
	g       *group
	t       *testing.T
	address string
	server  *grpc.Server

	mu       sync.Mutex
	beats    []*speakerv1.HeartbeatRequest
	watching int
	reported []*speakerv1.AttachRequest
	ask      chan *speakerv1.Probe
	members  []*speakerv1.MemberAddress
	told     chan struct{} // closed when members changed
	// frozen stops the views that this member sends at a revision.
	frozen uint64
	hang   bool // heartbeats are neither passed on nor answered
}

func startMember(t *testing.T, g *group, address string) *fakeMember {
	t.Helper()
	m := &fakeMember{g: g, t: t, ask: make(chan *speakerv1.Probe, 1), told: make(chan struct{})}
	m.start(address)
	t.Cleanup(m.stop)
	return m
}

func (m *fakeMember) start(address string) {
	m.t.Helper()
	var ln net.Listener
	nettest.Eventually(m.t, 5*time.Second, "listening on "+address, func() (ok bool) {
		var err error
		ln, err = net.Listen("tcp", address)
		return err == nil
	})
	m.address = ln.Addr().String()
	m.server = grpc.NewServer()
	speakerv1.RegisterSpeakerServiceServer(m.server, m)
	go m.server.Serve(ln) //nolint:errcheck // ends with stop
}

func (m *fakeMember) stop() { m.server.Stop() }

func withReason(code codes.Code, reason string) error {
	st, err := status.New(code, reason).WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "quorumlb.io"})
	if err != nil {
		return err
	}
	return st.Err()
}

func (m *fakeMember) OpenSession(_ context.Context, r *speakerv1.OpenSessionRequest) (*speakerv1.OpenSessionResponse, error) {
	g := m.g
	if r.GetNode() != "n1" || len(r.GetProcess()) != 16 || len(r.GetMacs()) != 1 || len(r.GetLinks()) != 1 || r.GetLabels()["rack"] != "a" {
		return nil, status.Error(codes.InvalidArgument, "bad request")
	}
	g.mu.Lock()
	if g.refuse == speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_REPLACED {
		g.mu.Unlock()
		return nil, withReason(codes.FailedPrecondition, "REPLACED")
	}
	again := g.session != 0 && g.process == string(r.GetProcess())
	if g.process != "" && g.process == string(r.GetProcess()) && r.GetIncarnation() != g.count {
		m.t.Errorf("incarnation %d, want %d", r.GetIncarnation(), g.count)
	}
	g.opens++
	g.mu.Unlock()
	if !again {
		g.change(func() {
			g.session = g.revision
			if g.process != string(r.GetProcess()) {
				g.process = string(r.GetProcess())
				g.count++
			}
		})
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return &speakerv1.OpenSessionResponse{
		ClusterId: []byte(g.cluster), Session: g.session, Incarnation: g.count, Revision: g.revision,
		LeaseTimes: &logv1.LeaseTimes{DetectionNanos: int64(testDetection), HeartbeatNanos: int64(testHeartbeat)},
	}, nil
}

func (m *fakeMember) Heartbeat(stream grpc.BidiStreamingServer[speakerv1.HeartbeatRequest, speakerv1.HeartbeatResponse]) error {
	for {
		hb, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		m.mu.Lock()
		hang := m.hang
		if !hang {
			m.beats = append(m.beats, hb)
		}
		m.mu.Unlock()
		if hang {
			continue
		}
		resp := &speakerv1.HeartbeatResponse{Session: hb.GetSession()}
		m.g.mu.Lock()
		switch {
		case m.g.mute:
			resp = nil
		case hb.GetSession() != m.g.session:
			resp.Refusal = speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_NO_SESSION
		case m.g.refuse != 0:
			resp.Refusal = m.g.refuse
		case hb.GetSeen() < m.g.taken:
			resp.Refusal, resp.NeedRevision = speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_BEHIND, m.g.taken
		default:
			resp.AckedSeq, resp.FenceNanos = hb.GetSeq(), int64(testFence)
			m.g.acked = max(m.g.acked, hb.GetSeq())
		}
		m.g.mu.Unlock()
		if resp != nil {
			if err := stream.Send(resp); err != nil {
				return err
			}
		}
	}
}

func (m *fakeMember) Watch(r *speakerv1.WatchRequest, stream grpc.ServerStreamingServer[speakerv1.WatchResponse]) error {
	m.mu.Lock()
	m.watching++
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.watching--
		m.mu.Unlock()
	}()
	first, sent := true, uint64(0)
	for {
		m.mu.Lock()
		frozen := m.frozen
		m.mu.Unlock()
		m.g.mu.Lock()
		msg, changed := m.g.view(), m.g.changed
		m.g.mu.Unlock()
		if first && frozen != 0 && frozen < r.GetMinRevision() {
			return status.Error(codes.Unavailable, "behind")
		}
		if frozen != 0 && msg.Revision > frozen {
			<-stream.Context().Done()
			return nil
		}
		if first || msg.Revision > sent {
			if err := stream.Send(msg); err != nil {
				return err
			}
		}
		first, sent = false, msg.Revision
		select {
		case <-stream.Context().Done():
			return nil
		case <-changed:
		}
	}
}

func (m *fakeMember) Attach(stream grpc.BidiStreamingServer[speakerv1.AttachRequest, speakerv1.AttachResponse]) error {
	failed := make(chan error, 1)
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			m.mu.Lock()
			m.reported = append(m.reported, r)
			m.mu.Unlock()
		}
	}()
	for {
		m.mu.Lock()
		list, told := m.members, m.told
		m.mu.Unlock()
		if err := stream.Send(&speakerv1.AttachResponse{Members: list}); err != nil {
			return err
		}
		select {
		case <-failed:
			return nil
		case q := <-m.ask:
			if err := stream.Send(&speakerv1.AttachResponse{Probe: q}); err != nil {
				return err
			}
		case <-told:
		}
	}
}

func (m *fakeMember) Leave(_ context.Context, r *speakerv1.LeaveRequest) (*speakerv1.LeaveResponse, error) {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	if r.GetSession() != m.g.session {
		return nil, withReason(codes.FailedPrecondition, "NO_SESSION")
	}
	m.g.left = append(m.g.left, r.GetDone())
	return &speakerv1.LeaveResponse{Revision: m.g.revision, Owned: uint32(len(m.g.vips))}, nil
}

func (m *fakeMember) tell(members ...*fakeMember) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.members = nil
	for _, o := range members {
		m.members = append(m.members, &speakerv1.MemberAddress{Id: o.address, Address: o.address})
	}
	close(m.told)
	m.told = make(chan struct{})
}

func (m *fakeMember) lastBeat() *speakerv1.HeartbeatRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.beats) == 0 {
		return nil
	}
	return m.beats[len(m.beats)-1]
}

func (m *fakeMember) watched() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.watching
}

// fakeNode records what the session asks of the rest of the speaker.
type fakeNode struct {
	mu       sync.Mutex
	views    []View
	conf     Confirmation
	statuses []*speakerv1.VipStatus
	seq      uint64
	more     chan struct{}
	links    chan struct{}
	// applying, if set, is called within Apply.
	applying func(View)
}

func newNode() *fakeNode {
	return &fakeNode{more: make(chan struct{}), links: make(chan struct{})}
}

func (n *fakeNode) Links() ([]*logv1.Link, [][]byte, <-chan struct{}) {
	mac := []byte{2, 0, 0, 0, 0, 1}
	n.mu.Lock()
	defer n.mu.Unlock()
	return []*logv1.Link{{Name: "eth0", Mac: mac, Up: true}}, [][]byte{mac}, n.links
}

func (n *fakeNode) Apply(v View) {
	n.mu.Lock()
	n.views = append(n.views, v)
	applying := n.applying
	n.mu.Unlock()
	if applying != nil {
		applying(v)
	}
}

func (n *fakeNode) Confirm(c Confirmation) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conf = c
}

func (n *fakeNode) Statuses(since uint64) ([]*speakerv1.VipStatus, []netip.Addr, uint64, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if since == n.seq {
		return nil, nil, n.seq, n.more
	}
	return n.statuses, nil, n.seq, n.more
}

func (n *fakeNode) report(s ...*speakerv1.VipStatus) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.statuses = s
	n.seq++
	close(n.more)
	n.more = make(chan struct{})
}

func (n *fakeNode) Probe(_ context.Context, addr netip.Addr, _ time.Duration) ([]*speakerv1.ProbeHit, error) {
	if addr.Is6() {
		return nil, errors.New("no link is up")
	}
	return []*speakerv1.ProbeHit{{Mac: []byte{1, 2, 3, 4, 5, 6}, Interface: "eth0"}}, nil
}

func (n *fakeNode) owns() (out []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.views) == 0 {
		return nil
	}
	for _, v := range n.views[len(n.views)-1].Vips {
		out = append(out, v.Addr.String())
	}
	return out
}

func (n *fakeNode) until() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.conf.Until
}

func (n *fakeNode) confirmed() bool { return clock.Boottime.Now() < n.until() }

func config(t *testing.T, members ...*fakeMember) Config {
	cfg := Config{
		Node: "n1", StateDir: t.TempDir(), Labels: map[string]string{"rack": "a"}, Version: "v1",
		Clock: clock.Boottime, Log: slog.New(slog.DiscardHandler),
	}
	for _, m := range members {
		cfg.Members = append(cfg.Members, m.address)
	}
	return cfg
}

// startSession runs a session; the channel gives what Run returns.
func startSession(t *testing.T, cfg Config, n *fakeNode) (*Session, <-chan error) {
	t.Helper()
	s, err := New(cfg, n)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended, result := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(ended)
		result <- s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	})
	return s, result
}

func three(t *testing.T, g *group) []*fakeMember {
	return []*fakeMember{startMember(t, g, "127.0.0.1:0"), startMember(t, g, "127.0.0.1:0"), startMember(t, g, "127.0.0.1:0")}
}
