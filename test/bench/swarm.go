package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/internal/window"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// swarmRole is a process that is many speakers at once: what each of them says to
// the members is real (connections, TLS, streams), and nothing of it is on any
// segment.
const swarmRole = "swarm"

// swarmHTTP is where the bench asks the process how it is, on its own host.
const swarmHTTP = "127.0.0.1:7500"

// swarmConfig is what the process is told, by a file.
type swarmConfig struct {
	Members []string
	// Speakers have the nodes' names, and a certificate each; Watches is how many
	// members each of them watches.
	Speakers []swarmSpeaker
	Watches  int
	Admin    pki.Files
}

type swarmSpeaker struct {
	Node  string
	Files pki.Files
}

// swarmState is what the process tells of itself. Counts are since its start.
type swarmState struct {
	Open, Confirmed       int // speakers with a session; confirmed right now
	Watching              int // streams that have had their whole view
	Heartbeats, Refusals  int64
	Broken                int64 // streams that ended
	Reopened              int64 // sessions that the members had closed
	BeatsIn, BeatsOut     int64 // bytes of the heartbeats' connections
	OthersIn, OthersOut   int64 // ... of all others
	Latencies             []float64
	FirstFailure          string
	WatchBytes, WatchMsgs int64 // payload of the watch streams
}

// swarm is the process.
type swarm struct {
	cfg      swarmConfig
	speakers []*simSpeaker
	admin    *grpc.ClientConn
	state    struct {
		sync.Mutex
		latencies []float64
		failure   string
	}
	beats, others meter
	heartbeats    atomic.Int64
	refusals      atomic.Int64
	broken        atomic.Int64
	reopened      atomic.Int64
	watchBytes    atomic.Int64
	watchMsgs     atomic.Int64
	round         rounds
}

// meter counts the bytes of connections, below TLS.
type meter struct{ in, out atomic.Int64 }

type meteredConn struct {
	net.Conn
	m *meter
}

func (c meteredConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.m.in.Add(int64(n))
	return n, err
}

func (c meteredConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.m.out.Add(int64(n))
	return n, err
}

// rounds are the changes that every watch must tell of.
type rounds struct {
	sync.Mutex
	revision uint64 // of the change that is waited for, 0 for none
	missing  map[*simSpeaker]bool
	last     time.Time
	done     chan struct{}
}

// runSwarm is the process: its configuration's file is the argument.
func runSwarm(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("swarm: %d arguments", len(args))
	}
	raw, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	s := &swarm{}
	if err := json.Unmarshal(raw, &s.cfg); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", swarmHTTP)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if s.admin, err = s.dial(s.cfg.Members[0], s.cfg.Admin, &meter{}); err != nil {
		return err
	}
	for i, c := range s.cfg.Speakers {
		sp := &simSpeaker{swarm: s, number: i, node: c.Node, files: c.Files, changed: make(chan struct{})}
		_, _ = rand.Read(sp.process[:])
		s.speakers = append(s.speakers, sp)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) { reply(w, s.report(), nil) })
	mux.HandleFunc("POST /round", func(w http.ResponseWriter, req *http.Request) {
		out, err := s.playRound(req.Context(), req.FormValue("deliver") == "host")
		reply(w, out, err)
	})
	var group errgroup.Group
	group.Go(func() error {
		defer cancel()
		return http.Serve(ln, mux)
	})
	group.Go(func() error { return s.startAll(ctx) })
	return group.Wait()
}

func reply(w http.ResponseWriter, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(v)
}

// startAll starts the speakers some at a time, so that the handshakes are not all at once.
func (s *swarm) startAll(ctx context.Context) error {
	var running, starting errgroup.Group
	starting.SetLimit(8)
	for _, sp := range s.speakers {
		starting.Go(func() error {
			if err := sp.open(ctx); err != nil {
				s.fail(err)
				return nil
			}
			running.Go(func() error { sp.run(ctx); return nil })
			return nil
		})
	}
	return errors.Join(starting.Wait(), running.Wait())
}

func (s *swarm) fail(err error) {
	s.state.Lock()
	defer s.state.Unlock()
	if s.state.failure == "" {
		s.state.failure = err.Error()
	}
}

func (s *swarm) dial(addr string, files pki.Files, m *meter) (*grpc.ClientConn, error) {
	id, err := pki.NewReloader(files, nil)
	if err != nil {
		return nil, err
	}
	// As a speaker dials.
	return grpc.NewClient("passthrough:///"+addr, append(window.Dial(),
		grpc.WithTransportCredentials(credentials.NewTLS(id.ClientTLS(pki.KindMember, "h2"))),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			if err != nil {
				return nil, err
			}
			return meteredConn{conn, m}, nil
		}),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 5 * time.Second}))...)
}

func (s *swarm) report() swarmState {
	st := swarmState{
		Heartbeats: s.heartbeats.Load(), Refusals: s.refusals.Load(), Broken: s.broken.Load(), Reopened: s.reopened.Load(),
		BeatsIn: s.beats.in.Load(), BeatsOut: s.beats.out.Load(), OthersIn: s.others.in.Load(), OthersOut: s.others.out.Load(),
		WatchBytes: s.watchBytes.Load(), WatchMsgs: s.watchMsgs.Load(),
	}
	for _, sp := range s.speakers {
		open, confirmed, watching := sp.well()
		if open {
			st.Open++
		}
		if confirmed {
			st.Confirmed++
		}
		st.Watching += watching
	}
	s.state.Lock()
	defer s.state.Unlock()
	st.Latencies, s.state.latencies = s.state.latencies, nil
	st.FirstFailure = s.state.failure
	return st
}

// swarmRound is one change that every node has to see: times since the call began.
type swarmRound struct {
	Answered float64 // the call was answered: the change is committed
	Last     float64 // the last of all nodes had it
	Bytes    int64   // on the watches' connections
}

// roundPatience bounds one round.
const roundPatience = 10 * time.Second

// playRound changes how a service is delivered, which every node's view tells, and
// waits until every speaker has it from one of its watches.
func (s *swarm) playRound(ctx context.Context, host bool) (out swarmRound, err error) {
	ctx, cancel := context.WithTimeout(ctx, roundPatience)
	defer cancel()
	svc := ledgerService("fan")
	svc.GetService().Delivery = logv1.Delivery_DELIVERY_NONE
	if host {
		svc.GetService().Delivery = logv1.Delivery_DELIVERY_HOST
	}
	bytes := s.others.in.Load()
	done := s.round.begin(s.speakers)
	start := time.Now()
	resp, err := adminv1.NewAdminServiceClient(s.admin).Apply(ctx, &adminv1.ApplyRequest{Resources: []*adminv1.Resource{svc}})
	if err != nil {
		return out, err
	}
	out.Answered = time.Since(start).Seconds()
	if got := resp.GetResults()[0].GetResult(); got == "unchanged" {
		return out, errors.New("the round changed nothing")
	}
	s.round.expect(resp.GetRevision(), s.speakers)
	select {
	case <-done:
	case <-ctx.Done():
		return out, fmt.Errorf("revision %d: %w", resp.GetRevision(), ctx.Err())
	}
	out.Last = s.round.lastAt().Sub(start).Seconds()
	out.Bytes = s.others.in.Load() - bytes
	return out, nil
}

// begin starts a round whose revision is not known yet.
func (r *rounds) begin(all []*simSpeaker) <-chan struct{} {
	r.Lock()
	defer r.Unlock()
	r.revision, r.last, r.done = 0, time.Time{}, make(chan struct{})
	r.missing = make(map[*simSpeaker]bool, len(all))
	for _, sp := range all {
		r.missing[sp] = true
	}
	return r.done
}

// expect says which revision the round is about. What came before the call was
// answered counts too.
func (r *rounds) expect(revision uint64, all []*simSpeaker) {
	r.Lock()
	defer r.Unlock()
	r.revision = revision
	for _, sp := range all {
		if at, ok := sp.sawAt(revision); ok {
			r.got(sp, at)
		}
	}
}

// saw notes that a speaker has a revision.
func (r *rounds) saw(sp *simSpeaker, revision uint64, at time.Time) {
	r.Lock()
	defer r.Unlock()
	if r.revision != 0 && revision >= r.revision {
		r.got(sp, at)
	}
}

// got notes it; r is locked.
func (r *rounds) got(sp *simSpeaker, at time.Time) {
	if !r.missing[sp] {
		return
	}
	delete(r.missing, sp)
	if at.After(r.last) {
		r.last = at
	}
	if len(r.missing) == 0 {
		close(r.done)
	}
}

func (r *rounds) lastAt() time.Time {
	r.Lock()
	defer r.Unlock()
	return r.last
}
