// Package membertest has members that are not: they speak the members' side of
// the contract with one speaker, and let a test play any of their faults.
package membertest

import (
	"context"
	"errors"
	"io"
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
	"google.golang.org/protobuf/proto"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/speakers/internal/nettest"
)

// Times of a new group. Fence is shorter than the rules have it, for tests that
// wait for its end.
const (
	Detection = 250 * time.Millisecond
	Heartbeat = 50 * time.Millisecond
	Fence     = 500 * time.Millisecond
)

// Group is what the members agree on. Hold the lock to touch a field; Change does.
type Group struct {
	sync.Mutex
	Cluster  string
	Revision uint64
	Session  uint64
	Count    uint64 // incarnation
	Opens    int    // OpenSession calls
	Vips     []*speakerv1.Vip
	Hosts    [][]byte
	Nodes    []*speakerv1.NodeMacs
	// Taken is the newest revision that takes an address from the node.
	Taken uint64
	// Refuse is what heartbeats are answered with, if not 0.
	Refuse speakerv1.HeartbeatRefusal
	Mute   bool   // nobody acks
	Left   []bool // Leave calls, by done
	Acked  uint64
	Times  *logv1.LeaseTimes
	Fence  time.Duration
	// Check looks at OpenSession requests, if not nil.
	Check func(*speakerv1.OpenSessionRequest) error

	process string
	changed chan struct{}
}

// NewGroup returns a group with the lease times of the profile fast.
func NewGroup() *Group {
	return &Group{
		Cluster: "0123456789abcdef", Revision: 10, changed: make(chan struct{}),
		Times: &logv1.LeaseTimes{DetectionNanos: int64(Detection), HeartbeatNanos: int64(Heartbeat)},
		Fence: Fence,
	}
}

// Change makes a new revision.
func (g *Group) Change(f func()) uint64 {
	g.Lock()
	defer g.Unlock()
	g.Revision++
	f()
	close(g.changed)
	g.changed = make(chan struct{})
	return g.Revision
}

// Now returns the open session and how many times one was asked for.
func (g *Group) Now() (session uint64, opens int) {
	g.Lock()
	defer g.Unlock()
	return g.Session, g.Opens
}

// Own makes the node own these addresses and no others (onControlLoss: Release).
func (g *Group) Own(addrs ...string) uint64 {
	return g.Change(func() {
		var now []*speakerv1.Vip
		for _, s := range addrs {
			a := netip.MustParseAddr(s).AsSlice()
			vip := &speakerv1.Vip{Address: a, Epoch: g.Revision, OnControlLoss: logv1.ControlLoss_CONTROL_LOSS_RELEASE}
			if i := slices.IndexFunc(g.Vips, func(v *speakerv1.Vip) bool { return slices.Equal(v.Address, a) }); i >= 0 {
				vip = g.Vips[i]
			}
			now = append(now, vip)
		}
		for _, v := range g.Vips {
			if !slices.Contains(now, v) {
				g.Taken = g.Revision
			}
		}
		g.Vips = now
	})
}

// view is a copy, which is sent without the lock.
func (g *Group) view() *speakerv1.WatchResponse {
	return &speakerv1.WatchResponse{Revision: g.Revision, Change: &speakerv1.WatchResponse_View{View: proto.CloneOf(&speakerv1.View{
		ClusterId: []byte(g.Cluster), Vips: g.Vips, HostAddresses: g.Hosts, Nodes: g.Nodes,
		LeaseTimes: g.Times,
	})}}
}

// Member is one member's SpeakerService.
type Member struct {
	speakerv1.UnimplementedSpeakerServiceServer
	g       *Group
	t       testing.TB
	Address string
	server  *grpc.Server

	// Ask sends a question to the speaker.
	Ask chan *speakerv1.Probe

	// The lock is for what follows.
	sync.Mutex
	Beats    []*speakerv1.HeartbeatRequest
	Reported []*speakerv1.AttachRequest
	// Frozen stops the views that this member sends at a revision.
	Frozen uint64
	Hang   bool // heartbeats are neither passed on nor answered

	watching int
	members  []*speakerv1.MemberAddress
	told     chan struct{} // closed when members changed
}

// StartMember starts a member that listens at address until the test ends.
func StartMember(t testing.TB, g *Group, address string) *Member {
	t.Helper()
	m := &Member{g: g, t: t, Ask: make(chan *speakerv1.Probe, 1), told: make(chan struct{})}
	m.Start(address)
	t.Cleanup(m.Stop)
	return m
}

// Start listens at an address again after Stop.
func (m *Member) Start(address string) {
	m.t.Helper()
	var ln net.Listener
	nettest.Eventually(m.t, "listening on "+address, func() (ok bool) {
		var err error
		ln, err = net.Listen("tcp", address)
		return err == nil
	})
	m.Address = ln.Addr().String()
	m.server = grpc.NewServer()
	speakerv1.RegisterSpeakerServiceServer(m.server, m)
	go m.server.Serve(ln) //nolint:errcheck // ends with stop
}

// Stop closes all connections.
func (m *Member) Stop() { m.server.Stop() }

func withReason(code codes.Code, reason string) error {
	st, err := status.New(code, reason).WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "quorumlb.io"})
	if err != nil {
		return err
	}
	return st.Err()
}

// OpenSession plays the members' part.
func (m *Member) OpenSession(_ context.Context, r *speakerv1.OpenSessionRequest) (*speakerv1.OpenSessionResponse, error) {
	g := m.g
	if g.Check != nil {
		if err := g.Check(r); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	g.Lock()
	if g.Refuse == speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_REPLACED {
		g.Unlock()
		return nil, withReason(codes.FailedPrecondition, "REPLACED")
	}
	again := g.Session != 0 && g.process == string(r.GetProcess())
	if g.process != "" && g.process == string(r.GetProcess()) && r.GetIncarnation() != g.Count {
		m.t.Errorf("incarnation %d, want %d", r.GetIncarnation(), g.Count)
	}
	g.Opens++
	g.Unlock()
	if !again {
		g.Change(func() {
			g.Session = g.Revision
			if g.process != string(r.GetProcess()) {
				g.process = string(r.GetProcess())
				g.Count++
			}
		})
	}
	g.Lock()
	defer g.Unlock()
	return &speakerv1.OpenSessionResponse{
		ClusterId: []byte(g.Cluster), Session: g.Session, Incarnation: g.Count, Revision: g.Revision,
		LeaseTimes: g.Times,
	}, nil
}

// Heartbeat plays the members' part.
func (m *Member) Heartbeat(stream grpc.BidiStreamingServer[speakerv1.HeartbeatRequest, speakerv1.HeartbeatResponse]) error {
	for {
		hb, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		m.Lock()
		hang := m.Hang
		if !hang {
			m.Beats = append(m.Beats, hb)
		}
		m.Unlock()
		if hang {
			continue
		}
		resp := &speakerv1.HeartbeatResponse{Session: hb.GetSession()}
		m.g.Lock()
		switch {
		case m.g.Mute:
			resp = nil
		case hb.GetSession() != m.g.Session:
			resp.Refusal = speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_NO_SESSION
		case m.g.Refuse != 0:
			resp.Refusal = m.g.Refuse
		case hb.GetSeen() < m.g.Taken:
			resp.Refusal, resp.NeedRevision = speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_BEHIND, m.g.Taken
		default:
			resp.AckedSeq, resp.FenceNanos, resp.DetectionNanos = hb.GetSeq(), int64(m.g.Fence), int64(Detection)
			m.g.Acked = max(m.g.Acked, hb.GetSeq())
		}
		m.g.Unlock()
		if resp != nil {
			if err := stream.Send(resp); err != nil {
				return err
			}
		}
	}
}

// Watch plays the members' part.
func (m *Member) Watch(r *speakerv1.WatchRequest, stream grpc.ServerStreamingServer[speakerv1.WatchResponse]) error {
	m.Lock()
	m.watching++
	m.Unlock()
	defer func() {
		m.Lock()
		m.watching--
		m.Unlock()
	}()
	first, sent := true, uint64(0)
	for {
		m.Lock()
		frozen := m.Frozen
		m.Unlock()
		m.g.Lock()
		msg, changed := m.g.view(), m.g.changed
		m.g.Unlock()
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

// Attach plays the members' part.
func (m *Member) Attach(stream grpc.BidiStreamingServer[speakerv1.AttachRequest, speakerv1.AttachResponse]) error {
	failed := make(chan error, 1)
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			m.Lock()
			m.Reported = append(m.Reported, r)
			m.Unlock()
		}
	}()
	for {
		m.Lock()
		list, told := m.members, m.told
		m.Unlock()
		if err := stream.Send(&speakerv1.AttachResponse{Members: list}); err != nil {
			return err
		}
		select {
		case <-failed:
			return nil
		case q := <-m.Ask:
			if err := stream.Send(&speakerv1.AttachResponse{Probe: q}); err != nil {
				return err
			}
		case <-told:
		}
	}
}

// Leave plays the members' part.
func (m *Member) Leave(_ context.Context, r *speakerv1.LeaveRequest) (*speakerv1.LeaveResponse, error) {
	m.g.Lock()
	defer m.g.Unlock()
	if r.GetSession() != m.g.Session {
		return nil, withReason(codes.FailedPrecondition, "NO_SESSION")
	}
	m.g.Left = append(m.g.Left, r.GetDone())
	return &speakerv1.LeaveResponse{Revision: m.g.Revision, Owned: uint32(len(m.g.Vips))}, nil
}

// Tell makes members the list that this one gives.
func (m *Member) Tell(members ...*Member) {
	m.Lock()
	defer m.Unlock()
	m.members = nil
	for _, o := range members {
		m.members = append(m.members, &speakerv1.MemberAddress{Id: o.Address, Address: o.Address})
	}
	close(m.told)
	m.told = make(chan struct{})
}

// LastBeat returns the newest heartbeat heard, nil if none.
func (m *Member) LastBeat() *speakerv1.HeartbeatRequest {
	m.Lock()
	defer m.Unlock()
	if len(m.Beats) == 0 {
		return nil
	}
	return m.Beats[len(m.Beats)-1]
}

// Watched returns how many watches there are.
func (m *Member) Watched() int {
	m.Lock()
	defer m.Unlock()
	return m.watching
}
