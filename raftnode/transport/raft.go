package transport

import (
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/raftnode/raftlog"
	"github.com/quorumlb/quorumlb/raftnode/storage"
)

// RaftConfig configures Raft's transport.
type RaftConfig struct {
	// Timeout of a dial and of an answer; 0 means 1 s. Snapshots get more by size.
	Timeout time.Duration
	// Peers gives the addresses of the configured members by name. One is tried
	// when a member cannot be reached at the address that the group knows, so a
	// group survives that all addresses change at once.
	Peers map[string]string
	// Fault is for tests; nil in a real member.
	Fault Fault
	// Clock for Answered; nil means clock.Boottime.
	Clock clock.Clock
}

// Raft is a raft.Transport over a Mux. It embeds the network transport, so that
// pre-vote and the heartbeat fast path stay visible to Raft.
type Raft struct {
	*raft.NetworkTransport
	mux    *Mux
	stream *stream
	cfg    RaftConfig

	mu       sync.Mutex
	answered map[raft.ServerID]Answer
}

var (
	_ raft.WithPreVote = (*Raft)(nil)
	_ raft.WithClose   = (*Raft)(nil)
)

// Answer tells of the newest request of a leader that a member has answered in
// the leader's term.
type Answer struct {
	// Sent is when the request was sent, by the clock of RaftConfig.
	Sent time.Duration
	// Term of the request and of the answer.
	Term uint64
}

// NewRaft makes the transport. The Mux must Run and SetID be called for it to
// be heard.
func NewRaft(m *Mux, cfg RaftConfig) *Raft {
	if cfg.Timeout <= 0 {
		cfg.Timeout = time.Second
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Boottime
	}
	s := newStream(m)
	return &Raft{
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream:  s,
			MaxPool: 3,
			Timeout: cfg.Timeout,
			Logger:  raftlog.New(m.log, "raft-net"),
		}),
		mux: m, stream: s, cfg: cfg, answered: make(map[raft.ServerID]Answer),
	}
}

// SetID says which id this member has in the group; before, and with another,
// nobody is answered. consensus.Open calls it.
func (t *Raft) SetID(id string) { t.mux.raftID.Store(&id) }

// Advertised is the address that other members know this one by.
func (t *Raft) Advertised() string { return t.mux.Advertised() }

// Answered gives the newest answer of a member to this leader; the zero Answer
// for none. An answer counts only if its term is the request's: then the member
// had, after Sent, given no vote for a later term.
func (t *Raft) Answered(id raft.ServerID) Answer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.answered[id]
}

func (t *Raft) note(id raft.ServerID, a Answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.answered[id]; a.Term > old.Term || a.Term == old.Term && a.Sent > old.Sent {
		t.answered[id] = a
	}
}

// Close ends all Raft connections and the transport's goroutines. The Mux goes
// on with gRPC.
func (t *Raft) Close() error {
	err := t.NetworkTransport.Close()
	t.CloseStreams()
	t.mux.abortRaft()
	return err
}

// abortRaft ends connections that speak Raft. One of them may be in the middle
// of a request whose answer never comes.
func (m *Mux) abortRaft() {
	m.mu.Lock()
	var ends []*conn
	for c := range m.conns {
		if c.raft.Load() {
			ends = append(ends, c)
		}
	}
	m.mu.Unlock()
	for _, c := range ends {
		c.abort()
	}
}

// to gives the address to dial for a member: the configured one if that of the
// group just failed.
func (t *Raft) to(id raft.ServerID, addr raft.ServerAddress) raft.ServerAddress {
	other := t.cfg.Peers[storage.MemberName(string(id))]
	if other != "" && other != string(addr) && t.stream.unreachable(string(addr)) {
		return target(string(id), other)
	}
	return target(string(id), string(addr))
}

// call makes a request between the two fault points.
func (t *Raft) call(op Op, id raft.ServerID, request func() error) error {
	if t.cfg.Fault == nil {
		return request()
	}
	if err := t.cfg.Fault.BeforeSend(op, id); err != nil {
		return err
	}
	if err := request(); err != nil {
		return err
	}
	return t.cfg.Fault.BeforeAnswer(op, id)
}

// AppendEntries sends entries or a heartbeat.
func (t *Raft) AppendEntries(id raft.ServerID, addr raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	sent := t.cfg.Clock.Now()
	err := t.call(appendOp(args), id, func() error {
		return t.NetworkTransport.AppendEntries(id, t.to(id, addr), args, resp)
	})
	if err == nil && resp.Term == args.Term {
		t.note(id, Answer{Sent: sent, Term: args.Term})
	}
	return err
}

// AppendEntriesPipeline opens a pipeline to a member.
func (t *Raft) AppendEntriesPipeline(id raft.ServerID, addr raft.ServerAddress) (raft.AppendPipeline, error) {
	p, err := t.NetworkTransport.AppendEntriesPipeline(id, t.to(id, addr))
	if err != nil {
		return nil, err
	}
	p = newRelay(p)
	if t.cfg.Fault != nil {
		p = newFaultyPipeline(p, id, t.cfg.Fault)
	}
	return p, nil
}

// RequestVote asks for a vote.
func (t *Raft) RequestVote(id raft.ServerID, addr raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return t.call(OpRequestVote, id, func() error {
		return t.NetworkTransport.RequestVote(id, t.to(id, addr), args, resp)
	})
}

// RequestPreVote asks whether a vote would be given.
func (t *Raft) RequestPreVote(id raft.ServerID, addr raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.call(OpRequestPreVote, id, func() error {
		return t.NetworkTransport.RequestPreVote(id, t.to(id, addr), args, resp)
	})
}

// InstallSnapshot sends a snapshot.
func (t *Raft) InstallSnapshot(id raft.ServerID, addr raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return t.call(OpInstallSnapshot, id, func() error {
		return t.NetworkTransport.InstallSnapshot(id, t.to(id, addr), args, resp, data)
	})
}

// TimeoutNow tells a member to take over.
func (t *Raft) TimeoutNow(id raft.ServerID, addr raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.call(OpTimeoutNow, id, func() error {
		return t.NetworkTransport.TimeoutNow(id, t.to(id, addr), args, resp)
	})
}
