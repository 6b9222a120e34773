package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/internal/pki"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/test/lab"
)

// simSpeaker is one speaker of a swarm. As a real one it keeps two connections to
// every member: one for heartbeats alone, one for its watch and its reports.
type simSpeaker struct {
	swarm   *swarm
	number  int
	node    string
	files   pki.Files
	process [16]byte

	beats, others []*grpc.ClientConn // one for each member
	// lost is told of a session that the members do not know any more.
	lost chan uint64

	mu      sync.Mutex
	session uint64
	// incarnation is the members' number for this process, 0 at first.
	incarnation uint64
	every       time.Duration
	seq         uint64
	seen        uint64
	saw         [8]sight         // the newest revisions, by their number
	sent        [64]time.Time    // of the newest heartbeats, by their number
	acked       uint64           // the newest acked heartbeat
	until       time.Time        // the confirmation's end
	changed     chan struct{}    // closed for every heartbeat
	watching    map[int]struct{} // members that have told the whole view
}

// sight is when a revision came.
type sight struct {
	revision uint64
	at       time.Time
}

// sampleEvery is the share of the acks whose time is kept.
const sampleEvery = 16

func (sp *simSpeaker) open(ctx context.Context) error {
	for _, addr := range sp.swarm.cfg.Members {
		for _, c := range []struct {
			list *[]*grpc.ClientConn
			m    *meter
		}{{&sp.beats, &sp.swarm.beats}, {&sp.others, &sp.swarm.others}} {
			conn, err := sp.swarm.dial(addr, sp.files, c.m)
			if err != nil {
				return err
			}
			*c.list = append(*c.list, conn)
		}
	}
	sp.lost = make(chan uint64, 1)
	return sp.openSession(ctx)
}

// openSession opens the first session, or another after the members have closed one.
func (sp *simSpeaker) openSession(ctx context.Context) error {
	mac := []byte{2, 0x52, 0, 0, byte(sp.number >> 8), byte(sp.number)}
	return lab.Poll(ctx, 60*time.Second, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		resp, err := speakerv1.NewSpeakerServiceClient(sp.others[sp.number%len(sp.others)]).OpenSession(ctx, &speakerv1.OpenSessionRequest{
			Node: sp.node, Process: sp.process[:], Incarnation: sp.incarnation, Macs: [][]byte{mac}, Version: "bench",
			Links: []*logv1.Link{{Name: "eth0", Mac: mac, Up: true}},
		})
		if err != nil {
			return err
		}
		sp.mu.Lock()
		defer sp.mu.Unlock()
		sp.session, sp.incarnation, sp.seen = resp.GetSession(), resp.GetIncarnation(), resp.GetRevision()
		sp.every = time.Duration(resp.GetLeaseTimes().GetHeartbeatNanos())
		if sp.watching == nil {
			sp.watching = make(map[int]struct{})
		}
		return nil
	})
}

// run keeps the speaker's streams until ctx ends.
func (sp *simSpeaker) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	keep := func(stream func(context.Context, int) error, member int) {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := stream(ctx, member); err != nil && ctx.Err() == nil {
					sp.swarm.broken.Add(1)
					sp.swarm.fail(err)
				}
				_ = lab.Wait(ctx, 100*time.Millisecond)
			}
		})
	}
	for i := range sp.swarm.cfg.Members {
		keep(sp.heartbeats, i)
		keep(sp.attach, i)
	}
	for i := range sp.swarm.cfg.Watches {
		keep(sp.watch, (sp.number+i)%len(sp.others))
	}
	// Not all speakers beat at the same time.
	_ = lab.Wait(ctx, rand.N(sp.every))
	tick := time.NewTicker(sp.every)
	defer tick.Stop()
	for {
		sp.beat()
		select {
		case <-tick.C:
		case session := <-sp.lost:
			if session == sp.session { // only this goroutine sets it from here on
				sp.swarm.reopened.Add(1)
				if err := sp.openSession(ctx); err != nil {
					sp.swarm.fail(err)
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

func (sp *simSpeaker) beat() {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.seq++
	sp.sent[sp.seq%uint64(len(sp.sent))] = time.Now()
	close(sp.changed)
	sp.changed = make(chan struct{})
}

func (sp *simSpeaker) heartbeats(ctx context.Context, member int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := speakerv1.NewSpeakerServiceClient(sp.beats[member]).Heartbeat(ctx)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			sp.answered(m)
		}
	}()
	var sent uint64
	for {
		sp.mu.Lock()
		m := &speakerv1.HeartbeatRequest{Node: sp.node, Session: sp.session, Seq: sp.seq, Seen: sp.seen}
		next := sp.changed
		sp.mu.Unlock()
		if m.GetSeq() != sent {
			sent = m.GetSeq()
			sp.swarm.heartbeats.Add(1)
			if err := stream.Send(m); err != nil {
				cancel()
				return <-failed
			}
		}
		select {
		case <-next:
		case err := <-failed:
			return err
		}
	}
}

func (sp *simSpeaker) answered(m *speakerv1.HeartbeatResponse) {
	if m.GetRefusal() != 0 {
		sp.swarm.refusals.Add(1)
		if m.GetRefusal() == speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_NO_SESSION {
			select {
			case sp.lost <- m.GetSession():
			default:
			}
		}
		return
	}
	now := time.Now()
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if m.GetSession() != sp.session || m.GetAckedSeq() <= sp.acked || sp.seq-m.GetAckedSeq() >= uint64(len(sp.sent)) {
		return
	}
	sp.acked = m.GetAckedSeq()
	sent := sp.sent[sp.acked%uint64(len(sp.sent))]
	sp.until = sent.Add(time.Duration(m.GetFenceNanos()))
	if (sp.acked+uint64(sp.number))%sampleEvery == 0 {
		sp.swarm.state.Lock()
		sp.swarm.state.latencies = append(sp.swarm.state.latencies, now.Sub(sent).Seconds())
		sp.swarm.state.Unlock()
	}
}

func (sp *simSpeaker) attach(ctx context.Context, member int) error {
	stream, err := speakerv1.NewSpeakerServiceClient(sp.others[member]).Attach(ctx)
	if err != nil {
		return err
	}
	sp.mu.Lock()
	hello := &speakerv1.AttachHello{Node: sp.node, Session: sp.session, Version: "bench"}
	sp.mu.Unlock()
	if err := stream.Send(&speakerv1.AttachRequest{Hello: hello}); err != nil {
		return err
	}
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
}

func (sp *simSpeaker) watch(ctx context.Context, member int) error {
	sp.mu.Lock()
	req := &speakerv1.WatchRequest{Node: sp.node, Session: sp.session, MinRevision: sp.seen}
	sp.mu.Unlock()
	stream, err := speakerv1.NewSpeakerServiceClient(sp.others[member]).Watch(ctx, req)
	if err != nil {
		return err
	}
	defer func() {
		sp.mu.Lock()
		defer sp.mu.Unlock()
		delete(sp.watching, member)
	}()
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		now := time.Now()
		sp.swarm.watchMsgs.Add(1)
		sp.swarm.watchBytes.Add(int64(proto.Size(m)))
		sp.mu.Lock()
		if m.GetView() != nil {
			sp.watching[member] = struct{}{}
		}
		sp.seen = max(sp.seen, m.GetRevision())
		s := &sp.saw[m.GetRevision()%uint64(len(sp.saw))]
		if s.revision != m.GetRevision() {
			*s = sight{m.GetRevision(), now}
		}
		sp.mu.Unlock()
		sp.swarm.round.saw(sp, m.GetRevision(), now)
	}
}

// sawAt is when the revision, or a newer one, came first.
func (sp *simSpeaker) sawAt(revision uint64) (at time.Time, ok bool) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	for _, s := range sp.saw {
		if s.revision >= revision && (!ok || s.at.Before(at)) {
			at, ok = s.at, true
		}
	}
	return at, ok
}

func (sp *simSpeaker) well() (open, confirmed bool, watching int) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.session != 0, time.Now().Before(sp.until), len(sp.watching)
}
