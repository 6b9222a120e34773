package pulse

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/quorumlb/quorumlb/internal/obs"
	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/lease"
)

const (
	// membersInterval is how often the connections are compared with the members.
	membersInterval = 250 * time.Millisecond
	// earlyPause is the shortest time between two polls of one member.
	earlyPause = 5 * time.Millisecond
	// answerPatience is how long a stream may be without any answer. The
	// connection is then replaced: it may be half open.
	answerPatience = time.Second
	// maxOutstanding bounds the polls that wait for an answer on one stream.
	maxOutstanding = 64
)

// peer is another member during one term of leadership. Its fields belong to the
// Keeper's lock.
type peer struct {
	outbox     map[ackKey]lease.Ack
	kicked     chan struct{}
	answered   bool
	answeredAt time.Duration
	roundTrip  time.Duration
	status     Status
}

// kick has the next poll sent sooner.
func (p *peer) kick() {
	select {
	case p.kicked <- struct{}{}:
	default:
	}
}

// member is a connection to another member, and the stream on it while this one
// leads. It belongs to the goroutine of streamsUntil.
type member struct {
	addr string
	conn Conn
	// lead is the term that the stream serves, nil without one.
	lead *lease.Leader
	stop context.CancelFunc
	done chan struct{}
}

// streamsUntil keeps a connection to every other member, so that a new leader need
// not wait for one, and a stream on each while this member leads.
func (k *Keeper) streamsUntil(ctx context.Context) {
	members := make(map[string]*member)
	defer func() {
		for _, m := range members {
			m.close()
		}
	}()
	ticker := time.NewTicker(membersInterval)
	defer ticker.Stop()
	for {
		k.connect(ctx, members)
		select {
		case <-ctx.Done():
			return
		case <-k.changed:
		case <-ticker.C:
		}
	}
}

// connect brings connections and streams in step with members and leadership.
func (k *Keeper) connect(ctx context.Context, members map[string]*member) {
	now := make(map[string]consensus.Member)
	for _, m := range k.cfg.Group.Members() {
		if m.ID != k.cfg.ID {
			now[m.ID] = m
		}
	}
	k.mu.Lock()
	lead := k.lead
	k.mu.Unlock()
	for id, m := range members {
		switch is, ok := now[id]; {
		case !ok || is.Address != m.addr:
			// Last, because a close may wait for the network.
			defer m.close()
			delete(members, id)
		case m.lead != lead:
			m.stopStream()
		}
	}
	for id, is := range now {
		m := members[id]
		if m == nil {
			m = &member{addr: is.Address}
			members[id] = m
		}
		if m.conn == nil && !m.dial(k) {
			continue
		}
		if lead != nil && m.lead == nil {
			m.startStream(ctx, k, id, lead)
		}
	}
}

func (m *member) dial(k *Keeper) bool {
	conn, err := k.cfg.Dial(m.addr)
	if err != nil {
		k.log.Warn("member cannot be dialed", "address", m.addr, obs.KeyError, err)
		return false
	}
	m.conn = conn
	conn.Connect()
	return true
}

func (m *member) startStream(ctx context.Context, k *Keeper, id string, lead *lease.Leader) {
	ctx, m.stop = context.WithCancel(ctx)
	m.lead, m.done = lead, make(chan struct{})
	done := m.done
	go func() {
		defer close(done)
		(&caller{k: k, id: id, addr: m.addr, conn: m.conn, lead: lead}).run(ctx)
	}()
}

// stopStream ends the stream and waits for it.
func (m *member) stopStream() {
	if m.lead != nil {
		m.stop()
		<-m.done
		m.lead = nil
		// The caller may have replaced the connection and has closed its own.
		m.conn = nil
	}
}

func (m *member) close() {
	m.stopStream()
	if m.conn != nil {
		_ = m.conn.Close() // nothing is lost with it
		m.conn = nil
	}
}

// caller polls one member during one term.
type caller struct {
	k    *Keeper
	id   string
	addr string
	conn Conn
	lead *lease.Leader
}

// run opens the stream again and again until ctx ends. It closes the connection.
func (c *caller) run(ctx context.Context) {
	defer func() {
		if c.conn != nil {
			_ = c.conn.Close() // nothing is lost with it
		}
	}()
	pause := 5 * time.Millisecond
	for ctx.Err() == nil {
		begin := time.Now()
		err := c.stream(ctx)
		if ctx.Err() != nil {
			return
		}
		c.k.stats.Broken.Add(1)
		c.k.log.Debug("pulse broke", obs.KeyMember, c.id, obs.KeyError, err)
		if errors.Is(err, errNoAnswer) {
			_ = c.conn.Close() // it does not work
			c.conn = nil
		}
		if time.Since(begin) > answerPatience {
			pause = 5 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, maxBackoff)
	}
}

var errNoAnswer = errors.New("no answer to polls")

// stream polls on one stream until it breaks.
func (c *caller) stream(ctx context.Context) error {
	if c.conn == nil {
		conn, err := c.k.cfg.Dial(c.addr)
		if err != nil {
			return err
		}
		c.conn = conn
	}
	eg, ctx := errgroup.WithContext(ctx)
	stream, err := memberv1.NewMemberServiceClient(c.conn).Pulse(ctx)
	if err != nil {
		return fmt.Errorf("open pulse: %w", err)
	}
	p := c.k.join(c.id, c.lead)
	if p == nil {
		return nil
	}
	s := &pulse{caller: c, peer: p, stream: stream, sent: make(chan sent, maxOutstanding), alive: make(chan struct{}, 1)}
	eg.Go(func() error { return s.receive() })
	eg.Go(func() error { return s.send(ctx) })
	return eg.Wait()
}

// join makes the peer's record for the term; nil when the term is over.
func (k *Keeper) join(id string, lead *lease.Leader) *peer {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lead != lead {
		return nil
	}
	p := k.peers[id]
	if p == nil {
		p = &peer{outbox: make(map[ackKey]lease.Ack), kicked: make(chan struct{}, 1)}
		k.peers[id] = p
	}
	return p
}

type pulseStream = grpc.BidiStreamingClient[memberv1.PulseRequest, memberv1.PulseResponse]

// pulse is one stream of polls and answers.
type pulse struct {
	*caller
	peer   *peer
	stream pulseStream
	// sent are the polls without an answer, in order.
	sent chan sent
	// alive has a token when an answer came.
	alive chan struct{}
}

type sent struct {
	poll uint64
	at   time.Duration
}

// send polls every Pulse, or sooner when it is kicked, and gives up when no
// answer comes.
func (s *pulse) send(ctx context.Context) error {
	ticker := time.NewTicker(s.k.cfg.Pulse)
	defer ticker.Stop()
	patience := time.NewTimer(answerPatience)
	defer patience.Stop()
	pause := time.NewTimer(earlyPause)
	defer pause.Stop()
	for {
		if len(s.sent) < maxOutstanding {
			if err := s.poll(); err != nil {
				return err
			}
		}
		pause.Reset(earlyPause)
		var early <-chan struct{} // nil until the pause is over
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-s.alive:
				patience.Reset(answerPatience)
			case <-patience.C:
				return errNoAnswer
			case <-pause.C:
				early = s.peer.kicked
			case <-ticker.C:
				waiting = false
			case <-early:
				waiting = false
			}
		}
	}
}

// poll sends one poll with the acks that wait. It is numbered before a byte of it
// leaves.
func (s *pulse) poll() error {
	k := s.k
	k.mu.Lock()
	if k.lead != s.lead {
		k.mu.Unlock()
		return context.Canceled
	}
	now := k.clock.Now()
	req := &memberv1.PulseRequest{Term: s.lead.Term(), Poll: s.lead.Poll(now, s.id)}
	if n := len(s.peer.outbox); n > 0 {
		req.Acks = make([]*memberv1.SpeakerAck, 0, n)
		for _, a := range s.peer.outbox {
			req.Acks = append(req.Acks, ackTo(a))
		}
		clear(s.peer.outbox)
	}
	k.mu.Unlock()
	s.sent <- sent{req.GetPoll(), now} // send sees to the room
	k.stats.Polled.Add(1)
	return s.stream.Send(req)
}

// receive takes the answers.
func (s *pulse) receive() error {
	for {
		resp, err := s.stream.Recv()
		if err != nil {
			return err
		}
		if resp.GetId() != s.id {
			return fmt.Errorf("member %q answers at the address of %q", resp.GetId(), s.id)
		}
		var first sent
		select {
		case first = <-s.sent:
		default:
		}
		if first.poll != resp.GetPoll() {
			return fmt.Errorf("poll %d is answered as %d", first.poll, resp.GetPoll())
		}
		select {
		case s.alive <- struct{}{}:
		default:
		}
		if !s.k.reportOf(s, resp, first.at) {
			return context.Canceled
		}
	}
}

// reportOf takes an answer to the rules; false when the term is over.
func (k *Keeper) reportOf(s *pulse, resp *memberv1.PulseResponse, polled time.Duration) bool {
	r := reportFrom(resp)
	k.stats.Reports.Add(1)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lead != s.lead {
		return false
	}
	now := k.clock.Now()
	s.peer.answered, s.peer.answeredAt, s.peer.roundTrip = true, now, now-polled
	s.peer.status = Status{
		Revision:          resp.GetRevision(),
		MaxClusterVersion: resp.GetMaxClusterVersion(),
		SlowestAppend:     time.Duration(resp.GetSlowestAppendNanos()),
	}
	for _, node := range k.lead.Answer(now, s.id, r) {
		k.reported(node)
	}
	k.passAcks(now)
	return k.lead == s.lead
}
