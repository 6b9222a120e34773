package membership

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"golang.org/x/sync/errgroup"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/internal/testaddr"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/consensus/clustertest"
	"github.com/quorumlb/quorumlb/raftnode/storage"
	"github.com/quorumlb/quorumlb/raftnode/transport"
)

// world is a set of machines on which members can run.
type world struct {
	t       *testing.T
	pki     *clustertest.PKI
	list    map[string]string // name -> address, the command line of everybody
	members map[string]*host
}

// host runs one member, put together as the daemon does it.
type host struct {
	w    *world
	name string
	dir  string
	id   *pki.Reloader
	addr string

	mu   sync.Mutex
	node *consensus.Node
	ms   *Membership

	cancel context.CancelFunc
	ended  chan error
}

// newWorld makes machines with addresses; nobody runs.
func newWorld(t *testing.T, names ...string) *world {
	w := &world{t: t, pki: clustertest.NewPKI(t), list: make(map[string]string), members: make(map[string]*host)}
	for _, name := range names {
		w.list[name] = w.add(name).addr
	}
	return w
}

// add makes a machine that is not on the list.
func (w *world) add(name string) *host {
	w.t.Helper()
	h := &host{w: w, name: name, addr: testaddr.New(w.t), dir: w.t.TempDir(), id: w.pki.Identity("member/" + name)}
	w.members[name] = h
	w.t.Cleanup(func() {
		if h.cancel != nil {
			h.stop()
		}
	})
	return h
}

// start starts the member, which may wait for others.
func (h *host) start() {
	h.w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel, h.ended = cancel, make(chan error, 1)
	go func() { h.ended <- h.run(ctx) }()
}

func (h *host) stop() {
	h.w.t.Helper()
	h.cancel()
	if err := h.wait(); err != nil {
		h.w.t.Errorf("%s: %v", h.name, err)
	}
}

// wait awaits the member's end.
func (h *host) wait() error {
	h.w.t.Helper()
	select {
	case err := <-h.ended:
		h.cancel()
		h.cancel = nil
		return err
	case <-time.After(clustertest.Patience):
		h.w.t.Fatalf("%s did not end", h.name)
		return nil
	}
}

func (h *host) wipe() { h.dir = h.w.t.TempDir() }

func (h *host) running() *consensus.Node {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.node
}

// run is a small daemon.
func (h *host) run(ctx context.Context) (err error) {
	log := clustertest.Logger(h.w.t, h.name)
	store, err := storage.Open(h.dir, storage.Options{Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	mux, err := h.listen()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return mux.Run(context.Background()) })
	defer func() {
		mux.Close()
		err = errors.Join(err, g.Wait())
	}()
	conns := &conns{id: h.id, all: make(map[string]*grpc.ClientConn)}
	defer conns.close()
	ms, err := New(Config{
		Name: h.name, Advertise: h.addr, Members: h.w.list, Store: store, Dial: conns.member,
		CallTimeout: 500 * time.Millisecond, Interval: 20 * time.Millisecond, Logger: log,
	})
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.ms = ms
	h.mu.Unlock()
	id, err := ms.Resolve(ctx, mux.GRPC())
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	node, err := consensus.Open(consensus.Config{
		ID: id.ID, Store: store, Logger: log, AskRevision: ms.AskRevision,
		Transport: transport.NewRaft(mux, transport.RaftConfig{Peers: h.w.list}),
	})
	if err != nil {
		return err
	}
	ms.Attach(node)
	srv := grpc.NewServer(grpc.Creds(transport.Credentials()))
	memberv1.RegisterMemberServiceServer(srv, &service{ms: ms, node: node, conns: conns})
	go func() { _ = srv.Serve(mux.GRPC()) }()
	defer srv.Stop()
	h.mu.Lock()
	h.node = node
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.node = nil
		h.mu.Unlock()
	}()
	inner, ctx := errgroup.WithContext(ctx)
	inner.Go(func() error { return node.Run(ctx) })
	inner.Go(func() error { return ms.Run(ctx) })
	inner.Go(func() error { return foundWhenLeading(ctx, node) })
	return inner.Wait()
}

func (h *host) listen() (mux *transport.Mux, err error) {
	for deadline := time.Now().Add(clustertest.Patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if mux, err = transport.Listen(transport.Config{Name: h.name, Listen: h.addr, Identity: h.id}); err == nil {
			return mux, nil
		}
	}
	return nil, err
}

// foundWhenLeading does what the decider does first of all.
func foundWhenLeading(ctx context.Context, node *consensus.Node) error {
	for {
		l := node.Leadership()
		if l.Leader && node.Barrier(time.Second) == nil {
			empty := false
			node.Read(func(s *fsm.State) { empty = s.Revision == 0 })
			if empty {
				id := storage.JoiningIdentity("x").ID // random enough
				_ = node.Propose(clustertest.Batch(node, &logv1.Event{Fact: &logv1.Event_ClusterFounded{
					ClusterFounded: &logv1.ClusterFounded{ClusterId: []byte(id)[2:18], ClusterVersion: 1},
				}})).Wait(ctx)
			}
		}
		select {
		case <-l.Changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// conns are gRPC connections by address.
type conns struct {
	id  *pki.Reloader
	mu  sync.Mutex
	all map[string]*grpc.ClientConn
}

func (c *conns) member(addr string) (memberv1.MemberServiceClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all[addr] == nil {
		conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(transport.ClientCredentials(c.id)),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, MaxDelay: 50 * time.Millisecond, Multiplier: 1.5}}))
		if err != nil {
			return nil, err
		}
		c.all[addr] = conn
	}
	return memberv1.NewMemberServiceClient(c.all[addr]), nil
}

func (c *conns) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.all {
		_ = conn.Close()
	}
}

// service is as much of the MemberService as membership needs.
type service struct {
	memberv1.UnimplementedMemberServiceServer
	ms    *Membership
	node  *consensus.Node
	conns *conns
}

func (s *service) Hello(ctx context.Context, req *memberv1.HelloRequest) (*memberv1.HelloResponse, error) {
	return s.ms.Hello(ctx, req)
}

func (s *service) Join(ctx context.Context, req *memberv1.JoinRequest) (*memberv1.JoinResponse, error) {
	if l := s.node.Leadership(); !l.Leader && l.Address != "" {
		leader, err := s.conns.member(l.Address)
		if err != nil {
			return nil, err
		}
		return leader.Join(ctx, req)
	}
	return s.ms.Join(ctx, req)
}

func (s *service) ReadIndex(ctx context.Context, _ *memberv1.ReadIndexRequest) (*memberv1.ReadIndexResponse, error) {
	if err := s.node.LinearizableRead(ctx); err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &memberv1.ReadIndexResponse{Revision: s.node.Revision()}, nil
}

// cluster waits until the named members form one group of voters with a leader,
// and gives their cluster's id.
func (w *world) cluster(names ...string) (cluster [16]byte) {
	w.t.Helper()
	clustertest.Eventually(w.t, "the members form a group", func() bool {
		cluster = [16]byte{}
		for _, name := range names {
			node := w.members[name].running()
			if node == nil || node.LeaderID() == "" {
				return false
			}
			voters := make(map[string]bool)
			for _, m := range node.Members() {
				if m.Voter {
					voters[m.Name] = true
				}
			}
			if len(voters) != len(names) {
				return false
			}
			var mine [16]byte
			node.Read(func(s *fsm.State) { mine = s.ClusterID })
			if mine == [16]byte{} || cluster != [16]byte{} && mine != cluster {
				return false
			}
			cluster = mine
		}
		return true
	})
	return cluster
}

// leader gives the leading host.
func (w *world) leader() (leader *host) {
	w.t.Helper()
	clustertest.Eventually(w.t, "somebody leads", func() bool {
		for _, h := range w.members {
			if n := h.running(); n != nil && n.Leadership().Leader {
				leader = h
				return true
			}
		}
		return false
	})
	return leader
}

func (w *world) start(names ...string) {
	for _, name := range names {
		w.members[name].start()
	}
}
