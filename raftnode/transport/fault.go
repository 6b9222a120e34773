package transport

import (
	"errors"
	"sync"

	"github.com/hashicorp/raft"
)

// Op is a kind of Raft request.
type Op uint8

// Kinds of requests. The zero Op is invalid.
const (
	OpInvalid Op = iota
	OpHeartbeat
	OpAppendEntries
	OpRequestVote
	OpRequestPreVote
	OpInstallSnapshot
	OpTimeoutNow
)

var opNames = [...]string{
	OpInvalid: "invalid", OpHeartbeat: "Heartbeat", OpAppendEntries: "AppendEntries", OpRequestVote: "RequestVote",
	OpRequestPreVote: "RequestPreVote", OpInstallSnapshot: "InstallSnapshot", OpTimeoutNow: "TimeoutNow",
}

func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return opNames[OpInvalid]
}

// appendOp tells a heartbeat from entries as the receiver does: a heartbeat
// says nothing about the log.
func appendOp(args *raft.AppendEntriesRequest) Op {
	if len(args.Entries) == 0 && args.PrevLogEntry == 0 && args.PrevLogTerm == 0 && args.LeaderCommitIndex == 0 {
		return OpHeartbeat
	}
	return OpAppendEntries
}

// Fault lets a test interfere with a member's requests. Its methods run in the
// goroutine that makes the request: blocking delays or holds the message, an
// error loses it.
type Fault interface {
	// BeforeSend is called before a request leaves.
	BeforeSend(op Op, to raft.ServerID) error
	// BeforeAnswer is called when the answer is there, before Raft sees it.
	BeforeAnswer(op Op, from raft.ServerID) error
}

// ErrLost is what a request ends with that Faults lost.
var ErrLost = errors.New("lost by a fault")

// Faults is a Fault with switches, for tests. The zero value lets everything
// pass. It is safe for concurrent use.
type Faults struct {
	mu    sync.Mutex
	rules []*rule
}

type rule struct {
	op      Op            // OpInvalid: every kind
	peer    raft.ServerID // empty: every peer
	answers bool
	gate    chan struct{} // held until closed; nil: lost
	hit     chan struct{} // closed by the first message that it meets
	once    sync.Once
}

// Drop loses requests of a kind to a peer until the returned function is
// called. OpInvalid stands for every kind, an empty peer for everyone.
func (f *Faults) Drop(op Op, peer raft.ServerID) (heal func()) {
	_, heal = f.add(&rule{op: op, peer: peer})
	return heal
}

// DropAnswers loses answers.
func (f *Faults) DropAnswers(op Op, peer raft.ServerID) (heal func()) {
	_, heal = f.add(&rule{op: op, peer: peer, answers: true})
	return heal
}

// Hold keeps requests back until released. The channel is closed when the first
// one is held.
func (f *Faults) Hold(op Op, peer raft.ServerID) (held <-chan struct{}, release func()) {
	return f.add(&rule{op: op, peer: peer, gate: make(chan struct{})})
}

// HoldAnswers keeps answers back until released.
func (f *Faults) HoldAnswers(op Op, peer raft.ServerID) (held <-chan struct{}, release func()) {
	return f.add(&rule{op: op, peer: peer, answers: true, gate: make(chan struct{})})
}

func (f *Faults) add(r *rule) (<-chan struct{}, func()) {
	r.hit = make(chan struct{})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, r)
	var once sync.Once
	return r.hit, func() {
		once.Do(func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			for i, other := range f.rules {
				if other == r {
					f.rules = append(f.rules[:i:i], f.rules[i+1:]...)
					break
				}
			}
			if r.gate != nil {
				close(r.gate)
			}
		})
	}
}

// BeforeSend implements Fault.
func (f *Faults) BeforeSend(op Op, to raft.ServerID) error { return f.pass(op, to, false) }

// BeforeAnswer implements Fault.
func (f *Faults) BeforeAnswer(op Op, from raft.ServerID) error { return f.pass(op, from, true) }

func (f *Faults) pass(op Op, peer raft.ServerID, answer bool) error {
	f.mu.Lock()
	var met *rule
	for _, r := range f.rules {
		if r.answers == answer && (r.op == OpInvalid || r.op == op) && (r.peer == "" || r.peer == peer) {
			met = r
			break
		}
	}
	f.mu.Unlock()
	if met == nil {
		return nil
	}
	met.once.Do(func() { close(met.hit) })
	if met.gate == nil {
		return ErrLost
	}
	<-met.gate
	return nil
}

// faultyPipeline puts the fault points into a pipeline.
type faultyPipeline struct {
	raft.AppendPipeline
	id    raft.ServerID
	fault Fault
	out   chan raft.AppendFuture
	done  chan struct{}
	once  sync.Once
}

func newFaultyPipeline(p raft.AppendPipeline, id raft.ServerID, fault Fault) *faultyPipeline {
	f := &faultyPipeline{AppendPipeline: p, id: id, fault: fault, out: make(chan raft.AppendFuture), done: make(chan struct{})}
	go f.answers() // ends with Close
	return f
}

func (f *faultyPipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if err := f.fault.BeforeSend(appendOp(args), f.id); err != nil {
		return nil, err
	}
	return f.AppendPipeline.AppendEntries(args, resp)
}

func (f *faultyPipeline) answers() {
	for {
		var next raft.AppendFuture
		select {
		case next = <-f.AppendPipeline.Consumer():
		case <-f.done:
			return
		}
		if err := f.fault.BeforeAnswer(appendOp(next.Request()), f.id); err != nil {
			next = lostAnswer{next, err}
		}
		select {
		case f.out <- next:
		case <-f.done:
			return
		}
	}
}

func (f *faultyPipeline) Consumer() <-chan raft.AppendFuture { return f.out }

func (f *faultyPipeline) Close() error {
	f.once.Do(func() { close(f.done) })
	return f.AppendPipeline.Close()
}

// lostAnswer is an answer that did not arrive. Raft looks at the response
// without asking for the error, as with a broken connection.
type lostAnswer struct {
	raft.AppendFuture
	err error
}

func (l lostAnswer) Error() error                          { return l.err }
func (l lostAnswer) Response() *raft.AppendEntriesResponse { return &raft.AppendEntriesResponse{} }
