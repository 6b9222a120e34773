package lease

import (
	"fmt"
	"math/bits"
	"time"
)

// The toy Raft: terms, votes by a majority, a replicated log with membership in it,
// commitment by counting. What is written is durable at once. A leader that hears
// no majority for the schedule's patience steps down; with a long patience, leaders that
// do not know better are plenty.

type raftRole uint8

const (
	follower raftRole = iota
	candidate
	raftLeader
)

type entry struct {
	term  uint64
	batch *batch
	// voters is not 0 when the entry is a configuration.
	voters uint8
}

type raft struct {
	// Durable.
	term     uint64
	votedFor int // -1 none
	log      []entry

	role       raftRole
	leader     int
	votes      uint8
	commit     int // entries committed
	match      [simMembers]int
	answered   [simMembers]time.Duration // true time of a follower's last answer
	contact    time.Duration             // true time of the leader's last word
	electionAt time.Duration
	beatAt     time.Duration
	barrier    int // index+1 of the no-op of this term
}

const (
	electionMin = 250 * time.Millisecond
	beatEvery   = 50 * time.Millisecond
)

var firstVoters uint8 = 1<<3 - 1

func majority(set, voters uint8) bool {
	return bits.OnesCount8(set&voters) > bits.OnesCount8(voters)/2
}

// voters is the newest configuration in the log, committed or not.
func (m *mem) voters() uint8 {
	for i := len(m.raft.log) - 1; i >= 0; i-- {
		if v := m.raft.log[i].voters; v != 0 {
			return v
		}
	}
	return firstVoters
}

var voterNames = func() (names [1 << simMembers][]string) {
	for set := range names {
		for i := range simMembers {
			if set>>i&1 == 1 {
				names[set] = append(names[set], memberName(i))
			}
		}
	}
	return names
}()

func memberName(i int) string { return fmt.Sprintf("m%d", i) }

func (m *mem) resetElection() {
	m.raft.electionAt = m.w.now + electionMin + m.w.upTo(electionMin)
}

func (m *mem) toMember(to *mem, fn func()) {
	m.w.send(m.w.link(raftLink, m.id, to.id), false, func() { to.do(fn) })
}

func (m *mem) raftTick() {
	r := &m.raft
	switch {
	case r.role == raftLeader && !m.hasQuorum():
		m.w.logf("m%d steps down", m.id)
		m.lostLeadership()
		r.role, r.leader = follower, -1
		m.resetElection()
	case r.role == raftLeader && m.w.now >= r.beatAt:
		m.replicate()
	case r.role != raftLeader && m.w.now >= r.electionAt && m.voters()>>m.id&1 == 1:
		m.campaign(false)
	}
}

// hasQuorum tells whether a majority has answered the leader within the schedule's patience.
func (m *mem) hasQuorum() bool {
	have := uint8(1) << m.id
	for i, at := range m.raft.answered {
		if m.w.now-at < m.w.patience {
			have |= 1 << i
		}
	}
	return majority(have, m.voters())
}

func (m *mem) campaign(transfer bool) {
	r := &m.raft
	m.setTerm(r.term + 1)
	r.role, r.votedFor, r.votes, r.leader = candidate, m.id, 1<<m.id, -1
	m.resetElection()
	term, last, lastTerm := r.term, len(r.log), m.lastTerm()
	m.w.logf("m%d campaigns in term %d", m.id, term)
	for _, to := range m.w.mems {
		if to != m && m.voters()>>to.id&1 == 1 {
			m.toMember(to, func() { to.onVoteRequest(m, term, last, lastTerm, transfer) })
		}
	}
	m.countVotes()
}

func (m *mem) lastTerm() uint64 {
	if n := len(m.raft.log); n > 0 {
		return m.raft.log[n-1].term
	}
	return 0
}

// setTerm moves to a newer term, as follower.
func (m *mem) setTerm(term uint64) {
	r := &m.raft
	if term <= r.term {
		return
	}
	if r.role == raftLeader {
		m.lostLeadership()
	}
	r.term, r.votedFor, r.role = term, -1, follower
}

func (m *mem) onVoteRequest(from *mem, term uint64, last int, lastTerm uint64, transfer bool) {
	r := &m.raft
	if !transfer && (r.role == raftLeader || r.leader >= 0 && m.w.now-r.contact < electionMin) {
		return // still has a leader
	}
	m.setTerm(term)
	upToDate := lastTerm > m.lastTerm() || lastTerm == m.lastTerm() && last >= len(r.log)
	if term < r.term || !upToDate || r.votedFor >= 0 && r.votedFor != from.id {
		return
	}
	r.votedFor = from.id
	m.resetElection()
	m.toMember(from, func() {
		if from.raft.term == term && from.raft.role == candidate {
			from.raft.votes |= 1 << m.id
			from.countVotes()
		}
	})
}

func (m *mem) countVotes() {
	r := &m.raft
	if !majority(r.votes, m.voters()) {
		return
	}
	m.w.logf("m%d leads term %d", m.id, r.term)
	m.w.stats.leaders++
	r.role, r.leader = raftLeader, m.id
	r.match = [simMembers]int{}
	for i := range r.answered {
		r.answered[i] = m.w.now
	}
	r.barrier = len(r.log) + 1
	m.append(entry{})
}

// append adds an entry to the leader's log and sends it out.
func (m *mem) append(e entry) {
	e.term = m.raft.term
	m.raft.log = append(m.raft.log, e)
	m.replicate()
	m.advanceCommit()
}

func (m *mem) replicate() {
	r := &m.raft
	r.beatAt = m.w.now + beatEvery
	r.match[m.id] = len(r.log)
	for _, to := range m.w.mems {
		if to == m || m.voters()>>to.id&1 == 0 {
			continue
		}
		// What the follower is known to have is left out; the copy is immutable.
		from := r.match[to.id]
		entries := r.log[from:len(r.log):len(r.log)]
		term, commit := r.term, r.commit
		var prevTerm uint64
		if from > 0 {
			prevTerm = r.log[from-1].term
		}
		m.toMember(to, func() { to.onAppend(m, term, from, prevTerm, entries, commit) })
	}
}

func (m *mem) onAppend(from *mem, term uint64, prev int, prevTerm uint64, entries []entry, commit int) {
	r := &m.raft
	if term < r.term {
		newer := r.term
		m.toMember(from, func() { from.setTerm(newer) })
		return
	}
	m.setTerm(term)
	r.role, r.leader, r.contact = follower, from.id, m.w.now
	m.resetElection()
	if prev > len(r.log) || prev > 0 && r.log[prev-1].term != prevTerm {
		return // cannot be: match is what this log is known to hold
	}
	for i, e := range entries {
		at := prev + i
		if at < len(r.log) && r.log[at].term == e.term {
			continue
		}
		r.log = append(r.log[:at:at], entries[i:]...)
		break
	}
	match := prev + len(entries)
	r.commit = max(r.commit, min(commit, match))
	m.apply()
	m.toMember(from, func() {
		if from.raft.role == raftLeader && from.raft.term == term {
			from.raft.match[m.id] = max(from.raft.match[m.id], match)
			from.raft.answered[m.id] = m.w.now
			from.advanceCommit()
		}
	})
}

func (m *mem) advanceCommit() {
	r := &m.raft
	r.match[m.id] = len(r.log)
	for n := len(r.log); n > r.commit && r.log[n-1].term == r.term; n-- {
		var have uint8
		for i, at := range r.match {
			if at >= n {
				have |= 1 << i
			}
		}
		if majority(have, m.voters()) {
			r.commit = n
			m.apply()
			return
		}
	}
}

// changeVoters proposes a configuration one voter away, if the last one is settled.
func (m *mem) changeVoters(voters uint8) {
	r := &m.raft
	if r.role != raftLeader || r.commit < r.barrier || bits.OnesCount8(voters^m.voters()) != 1 || voters>>m.id&1 == 0 {
		return
	}
	for i := len(r.log) - 1; i >= r.commit; i-- {
		if r.log[i].voters != 0 {
			return
		}
	}
	m.w.logf("m%d proposes voters %05b", m.id, voters)
	m.append(entry{voters: voters})
}
