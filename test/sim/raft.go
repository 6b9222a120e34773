package sim

import (
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/decider"
)

// raft is a model of what Raft promises to those above it, and of how it fails
// them: terms, one vote in each, an election restriction, log matching, commitment
// by a majority of synced logs in the leader's own term, one change of voters
// at a time, leaders that do not know that they are deposed, proposals without
// an answer. World.mu guards everything but the two atomics.
type raft struct {
	w    *World
	m    *member
	p    *proc
	disk *disk

	role       role
	leader     int // -1 none known
	votes      map[int]bool
	prevote    bool
	commit     uint64
	next       [maxMembers]uint64
	match      [maxMembers]uint64
	heard      [maxMembers]time.Duration // last answer of a follower
	round      uint64
	answered   [maxMembers]uint64
	contact    time.Duration // last word of a leader
	electionAt time.Duration
	armed      bool
	beating    bool
	flushing   bool
	started    uint64 // index of this leader's first entry
	// transfer is until when proposals are refused.
	transfer time.Duration
	// trouble is what happens to the next proposal.
	trouble trouble

	futures  map[uint64]*future
	hung     []*future
	verifies []verify
	// install is a snapshot that the state has to be replaced by.
	install *snapshot
	// news has a token when there is something to apply.
	news chan struct{}

	lead Lead

	term    atomic.Uint64
	members atomic.Pointer[[]consensus.Member]
}

type role uint8

const (
	follower role = iota
	candidate
	leading
)

// trouble is a fault of the library's that a proposal meets.
type trouble uint8

const (
	noTrouble   trouble = iota
	notEnqueued         // an error that means: in no log
	lostAnswer          // appended, and an error that leaves the outcome open
	hangs               // appended, and no answer ever
	refusedLate         // in no log, which is told when the next ones may be in it
)

const (
	electionMin = 250 * time.Millisecond
	beatEvery   = 50 * time.Millisecond
	flushAfter  = 5 * time.Millisecond
	refusalTime = 20 * time.Millisecond
)

// Errors as those of Raft.
var (
	errNotLeader   = errors.New("sim: not the leader")
	errLost        = errors.New("sim: leadership lost")
	errNotEnqueued = errors.New("sim: not enqueued in time")
	errTransfer    = errors.New("sim: leadership is being handed over")
	errTimeout     = errors.New("sim: timeout")
)

// future is the outcome of a proposal.
type future struct {
	done     chan struct{}
	ended    bool
	err      error
	response any
}

func newFuture() *future { return &future{done: make(chan struct{})} }

func (f *future) Error() error  { <-f.done; return f.err }
func (f *future) Response() any { <-f.done; return f.response }

// end answers; only the first call counts. World.mu is held.
func (f *future) end(err error, response any) *future {
	if !f.ended {
		f.ended, f.err, f.response = true, err, response
		close(f.done)
	}
	return f
}

type verify struct {
	round uint64
	f     *future
}

// Lead is who leads, as a member knows it.
type Lead struct {
	decider.Leadership
	ID int // -1: unknown
}

// newRaft starts a member's Raft on its disk. World.mu is held.
func newRaft(m *member, p *proc) *raft {
	r := &raft{
		w: m.w, m: m, p: p, disk: m.disk, leader: -1,
		futures: make(map[uint64]*future), news: make(chan struct{}, 1),
		commit: m.disk.snapIndex,
	}
	r.lead = Lead{ID: -1, Leadership: decider.Leadership{Term: r.disk.term, Changed: make(chan struct{})}}
	r.term.Store(r.disk.term)
	r.refreshMembers()
	r.resetElection()
	return r
}

func (r *raft) conf() []int { return r.disk.confAt(r.disk.last()) }

func (r *raft) refreshMembers() {
	conf := r.conf()
	list := make([]consensus.Member, 0, len(conf))
	for _, id := range conf {
		o := r.w.members[id]
		list = append(list, consensus.Member{ID: o.id, Name: o.id, Address: o.addr, Voter: true})
	}
	r.members.Store(&list)
}

func majority(conf []int, has func(id int) bool) bool {
	n := 0
	for _, id := range conf {
		if has(id) {
			n++
		}
	}
	return n > len(conf)/2
}

// tell publishes who leads. World.mu is held.
func (r *raft) tell() {
	now := Lead{ID: r.leader, Leadership: decider.Leadership{Leader: r.role == leading, Term: r.disk.term}}
	if now.Leader {
		now.ID = r.m.num
	}
	old := r.lead
	if now.ID == old.ID && now.Leader == old.Leader && now.Term == old.Term {
		return
	}
	c := make(chan struct{})
	now.Changed = c
	close(r.m.leadChanged)
	r.m.leadChanged = c
	r.lead = now
}

// later runs fn after d in this process, if it is alive, when it runs.
func (r *raft) later(d time.Duration, fn func()) {
	r.w.after(d, func() { r.w.arrive(r.p, fn) })
}

func (r *raft) resetElection() {
	spread := time.Duration(r.disk.rng.Int64N(int64(electionMin)))
	r.electionAt = r.w.now() + electionMin + spread
	if !r.armed {
		r.armed = true
		r.later(r.electionAt-r.w.now(), r.electionTimer)
	}
}

func (r *raft) electionTimer() {
	r.armed = false
	switch {
	case r.role == leading:
		return // becoming a follower arms it again
	case r.w.now() < r.electionAt:
		r.armed = true
		r.later(r.electionAt-r.w.now(), r.electionTimer)
	case slices.Contains(r.conf(), r.m.num):
		r.campaign(false)
	default:
		r.resetElection()
	}
}

// setTerm moves to a newer term, as a follower.
func (r *raft) setTerm(term uint64) {
	if term <= r.disk.term {
		return
	}
	r.stepDown()
	r.disk.term, r.disk.votedFor, r.leader = term, -1, -1
	r.term.Store(term)
	r.tell()
}

// stepDown ends leadership and candidacy; what is in flight has no outcome.
func (r *raft) stepDown() {
	was := r.role
	r.role = follower
	if was != leading {
		return
	}
	r.w.logf("%s leads no more", r.m.id)
	r.leader, r.transfer = -1, 0
	for i, f := range r.futures {
		if i > r.commit {
			f.end(errLost, nil)
			delete(r.futures, i)
		}
	}
	for _, v := range r.verifies {
		v.f.end(errLost, nil)
	}
	r.verifies = nil
	r.resetElection()
	r.tell()
}

// campaign asks for votes: first whether it would get them, unless leadership was
// handed to it. A leader does not.
func (r *raft) campaign(transfer bool) {
	if r.role == leading {
		return
	}
	r.prevote = !transfer
	r.role, r.leader = candidate, -1
	r.votes = map[int]bool{r.m.num: true}
	if !r.prevote {
		r.disk.term++
		r.disk.votedFor = r.m.num
		r.term.Store(r.disk.term)
	}
	r.tell()
	r.resetElection()
	req := voteRequest{from: r, pre: r.prevote, transfer: transfer, last: r.disk.last()}
	req.lastTerm, _ = r.disk.termAt(req.last)
	if req.term = r.disk.term; req.pre {
		req.term++
	}
	for _, id := range r.conf() {
		if to := r.w.members[id]; id != r.m.num && to.raft != nil {
			peer := to.raft
			r.w.datagram(r.p, peer.p, func() { peer.onVote(req) })
		}
	}
	r.countVotes()
}

type voteRequest struct {
	from           *raft
	term           uint64
	pre, transfer  bool
	last, lastTerm uint64
}

func (r *raft) onVote(q voteRequest) {
	if !q.transfer && (r.role == leading || r.leader >= 0 && r.w.now()-r.contact < electionMin) {
		return // there is a leader
	}
	if !q.pre {
		r.setTerm(q.term)
	}
	mine, _ := r.disk.termAt(r.disk.last())
	upToDate := q.lastTerm > mine || q.lastTerm == mine && q.last >= r.disk.last()
	if q.term < r.disk.term {
		// Who asks for a term that is over is told, also with a pre-vote: else those with
		// the newest log would ask for it for ever.
		term, from := r.disk.term, q.from
		r.w.datagram(r.p, from.p, func() { from.setTerm(term) })
		return
	}
	if !upToDate {
		return
	}
	if !q.pre {
		if r.disk.votedFor >= 0 && r.disk.votedFor != q.from.m.num {
			return
		}
		r.disk.votedFor = q.from.m.num
		r.resetElection()
	}
	from := q.from
	r.later(r.disk.syncTime(r.w.now()), func() {
		r.w.datagram(r.p, from.p, func() {
			term := from.disk.term
			if q.pre {
				term++
			}
			if from.role == candidate && from.prevote == q.pre && term == q.term {
				from.votes[r.m.num] = true
				from.countVotes()
			}
		})
	})
}

func (r *raft) countVotes() {
	if !majority(r.conf(), func(id int) bool { return r.votes[id] }) {
		return
	}
	if r.prevote {
		r.campaign(true)
		return
	}
	r.w.logf("%s leads term %d", r.m.id, r.disk.term)
	r.w.Stats.Leaders++
	r.w.elected[r.disk.term] = r.w.now()
	r.role, r.leader = leading, r.m.num
	r.match = [maxMembers]uint64{}
	for i := range r.next {
		r.next[i] = r.disk.last() + 1
		r.heard[i] = r.w.now()
		r.answered[i] = 0
	}
	r.append(entry{kind: noop})
	r.started = r.disk.last()
	r.tell()
	if !r.beating {
		r.beating = true
		r.beat()
	}
}

// beat is the leader's heartbeat.
func (r *raft) beat() {
	if r.role != leading {
		r.beating = false
		return
	}
	if !majority(r.conf(), func(id int) bool { return id == r.m.num || r.w.now()-r.heard[id] < r.w.patience }) {
		r.beating = false
		r.stepDown()
		return
	}
	r.replicate()
	r.later(beatEvery, r.beat)
}
