package pulse

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/testaddr"
	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/decider"
	"github.com/quorumlb/quorumlb/raftnode/lease"
)

const patience = 10 * time.Second

// group is a Raft that does as the test says.
type group struct {
	term    atomic.Uint64
	mu      sync.Mutex
	members []consensus.Member
}

func (g *group) Term() uint64 { return g.term.Load() }

func (g *group) Members() []consensus.Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.members
}

func (g *group) set(members ...consensus.Member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members = members
}

// submitted is a decider that notes what it is given.
type submitted struct {
	expired chan decider.SessionID
	woken   chan struct{}
}

func (s *submitted) Submit(_ context.Context, cmd decider.Command) (decider.Result, error) {
	for _, id := range cmd.(*decider.ExpireNodes).Sessions {
		select {
		case s.expired <- id:
		default:
		}
	}
	return decider.Result{}, nil
}

func (s *submitted) Wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// cell is one member with a server of its own.
type cell struct {
	memberv1.UnimplementedMemberServiceServer
	t       testing.TB
	id      string
	group   *group
	decider *submitted
	addr    string
	keeper  atomic.Pointer[Keeper]
	server  *grpc.Server
	stop    context.CancelFunc
	done    chan struct{}
	// hang keeps answers back while it is set.
	hang atomic.Bool
}

func (c *cell) Pulse(stream grpc.BidiStreamingServer[memberv1.PulseRequest, memberv1.PulseResponse]) error {
	for c.hang.Load() {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-time.After(time.Millisecond):
		}
	}
	return c.keeper.Load().Pulse(stream)
}

// trio is three members.
type trio struct {
	t     testing.TB
	cells []*cell
	state *fsm.State
}

var testTimes = fsm.LeaseTimes{Detection: 300 * time.Millisecond, Heartbeat: 60 * time.Millisecond, Settle: 0}

func newTrio(t testing.TB) *trio {
	tr := &trio{t: t, state: fsm.New()}
	tr.state.Revision, tr.state.Lease = 10, testTimes
	var members []consensus.Member
	for i := range 3 {
		c := &cell{t: t, id: fmt.Sprintf("m%d", i), group: &group{}}
		c.group.term.Store(5)
		c.addr = testaddr.New(t)
		members = append(members, consensus.Member{ID: c.id, Address: c.addr, Voter: true})
		c.serve(listen(t, c.addr))
		tr.cells = append(tr.cells, c)
	}
	for _, c := range tr.cells {
		c.group.set(members...)
		c.start(tr.state)
	}
	t.Cleanup(func() {
		for _, c := range tr.cells {
			c.end()
			c.server.Stop()
		}
	})
	return tr
}

func (c *cell) serve(l net.Listener) {
	c.server = grpc.NewServer()
	memberv1.RegisterMemberServiceServer(c.server, c)
	go func() { _ = c.server.Serve(l) }() // ends with Stop
}

// start runs a new Keeper, as a new process would.
func (c *cell) start(state *fsm.State) {
	ctx, cancel := context.WithCancel(context.Background())
	c.decider = &submitted{expired: make(chan decider.SessionID, 100), woken: make(chan struct{}, 1)}
	dial := func(addr string) (Conn, error) {
		return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	k := New(Config{ID: c.id, Group: c.group, Dial: dial, Logger: slog.New(slog.DiscardHandler)})
	k.Bind(c.decider)
	k.Applied(nil, fsm.Changes{All: true}, state)
	c.keeper.Store(k)
	c.stop, c.done = cancel, make(chan struct{})
	go func() {
		defer close(c.done)
		if err := k.Run(ctx); err != nil {
			c.t.Error(err)
		}
	}()
}

// restart ends the process and starts another.
func (c *cell) restart(state *fsm.State) {
	c.server.Stop()
	c.end()
	c.serve(listen(c.t, c.addr))
	c.start(state)
}

func (c *cell) end() {
	c.stop()
	<-c.done
}

// node puts a node with an open session into the state of all members.
func (tr *trio) node(name string, session uint64) {
	tr.state.Nodes[name] = &fsm.Node{Name: name, Session: session, SessionState: fsm.SessionOpen}
	for _, c := range tr.cells {
		c.keeper.Load().Applied(nil, fsm.Changes{All: true}, tr.state)
	}
}

// lead makes the first member lead.
func (tr *trio) lead() *Keeper {
	k := tr.cells[0].keeper.Load()
	k.Lead(5, tr.state.Clone())
	return k
}

// speaker sends heartbeats to some members until stopped.
type speaker struct {
	hb   lease.Heartbeat
	to   []*cell
	stop context.CancelFunc
	done chan struct{}
	seen atomic.Uint64
	// last is when the last heartbeat was made. Valid after end.
	last time.Time
}

func (tr *trio) speaker(node string, session uint64, to ...*cell) *speaker {
	ctx, cancel := context.WithCancel(context.Background())
	s := &speaker{hb: lease.Heartbeat{Node: node, Session: session}, to: to, stop: cancel, done: make(chan struct{})}
	s.seen.Store(10)
	go func() {
		defer close(s.done)
		for {
			s.hb.Seq++
			s.hb.Seen = s.seen.Load()
			s.last = time.Now()
			for _, c := range s.to {
				c.keeper.Load().Heard(s.hb)
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(testTimes.Heartbeat):
			}
		}
	}()
	tr.t.Cleanup(s.end)
	return s
}

func (s *speaker) end() {
	s.stop()
	<-s.done
}

// await takes acks until one satisfies ok.
func await(t testing.TB, acks <-chan lease.Ack, what string, ok func(lease.Ack) bool) lease.Ack {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case a := <-acks:
			if ok(a) {
				return a
			}
		case <-timeout:
			t.Fatalf("no %s in time", what)
		}
	}
}

func isAck(a lease.Ack) bool { return a.Refusal == lease.NotRefused }

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func addrOf(t testing.TB, s string) netip.Addr {
	t.Helper()
	a, err := netip.ParseAddr(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	eventually(t, "the address is free", func() (ok bool) {
		var err error
		l, err = net.Listen("tcp", addr)
		return err == nil
	})
	return l
}
