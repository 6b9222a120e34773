package sim

import (
	"slices"
	"time"
)

// append adds an entry to the leader's log, and sends it.
func (r *raft) append(e entry) uint64 {
	e.term = r.disk.term
	r.disk.log = append(r.disk.log, e)
	if e.kind == confEntry {
		r.refreshMembers()
	}
	r.sync(r.advance)
	r.replicate()
	return r.disk.last()
}

// sync makes what is in the log durable, after a while, and then calls done.
func (r *raft) sync(done func()) {
	last := r.disk.last()
	term, _ := r.disk.termAt(last)
	r.later(r.disk.syncTime(r.w.now()), func() {
		if t, ok := r.disk.termAt(last); ok && t == term {
			r.disk.synced = max(r.disk.synced, last)
		}
		done()
	})
}

// replicate sends every follower what it lacks.
func (r *raft) replicate() {
	r.round++
	conf := r.conf()
	for _, id := range conf {
		if id != r.m.num {
			r.replicateTo(id)
		}
	}
	// A member that is being removed has to learn of it.
	if prev := r.disk.confAt(r.confIndex() - 1); r.confIndex() > r.commit {
		for _, id := range prev {
			if id != r.m.num && !slices.Contains(conf, id) {
				r.replicateTo(id)
			}
		}
	}
}

// confIndex is where the newest configuration stands, at least the log's base.
func (r *raft) confIndex() uint64 {
	for i := r.disk.last(); i > r.disk.base; i-- {
		if r.disk.at(i).kind == confEntry {
			return i
		}
	}
	return r.disk.base
}

type appendRequest struct {
	from           *raft
	term           uint64
	prev, prevTerm uint64
	entries        []entry
	commit         uint64
	round          uint64
	snapshot       *snapshot
}

func (r *raft) replicateTo(id int) {
	to := r.w.members[id].raft
	if to == nil {
		return // it does not run
	}
	q := appendRequest{from: r, term: r.disk.term, commit: r.commit, round: r.round, prev: r.next[id] - 1}
	if term, ok := r.disk.termAt(q.prev); ok {
		q.prevTerm = term
		q.entries = r.disk.from(r.next[id])
	} else {
		q.snapshot = &snapshot{r.disk.snapIndex, r.disk.snapTerm, r.disk.snapConf, r.disk.snapshot}
	}
	r.w.datagram(r.p, to.p, func() { to.onAppend(q) })
}

func (r *raft) onAppend(q appendRequest) {
	if q.term < r.disk.term {
		term, from := r.disk.term, q.from
		r.w.datagram(r.p, from.p, func() { from.setTerm(term) })
		return
	}
	r.setTerm(q.term)
	if r.role == candidate {
		r.role = follower
	}
	r.leader, r.contact = q.from.m.num, r.w.now()
	r.tell()
	r.resetElection()
	if q.snapshot != nil {
		r.takeSnapshot(q)
		return
	}
	if q.prev < r.disk.base {
		skip := r.disk.base - q.prev
		if uint64(len(q.entries)) < skip {
			r.respond(q, true, r.commit)
			return
		}
		q.prevTerm, q.entries, q.prev = r.disk.baseTerm, q.entries[skip:], r.disk.base
	}
	if term, ok := r.disk.termAt(q.prev); !ok || term != q.prevTerm {
		r.respond(q, false, min(r.disk.last(), q.prev-1))
		return
	}
	changed := false
	for i, e := range q.entries {
		at := q.prev + 1 + uint64(i)
		if term, ok := r.disk.termAt(at); ok && term == e.term {
			continue
		}
		if at <= r.commit {
			r.w.check.fail("%s is told to drop entry %d, which is committed: the model is wrong", r.m.id, at)
			return
		}
		r.disk.truncate(at)
		r.disk.log = append(r.disk.log, q.entries[i:]...)
		r.refreshMembers()
		changed = true
		break
	}
	match := q.prev + uint64(len(q.entries))
	r.commitTo(min(q.commit, match))
	if changed {
		r.sync(func() { r.respond(q, true, min(match, r.disk.synced)) })
		return
	}
	r.respond(q, true, min(match, r.disk.synced))
}

func (r *raft) takeSnapshot(q appendRequest) {
	if s := q.snapshot; s.index > r.commit {
		r.w.logf("%s takes a snapshot up to entry %d", r.m.id, s.index)
		r.disk.install(*s)
		r.commit, r.install = s.index, s
		r.refreshMembers()
		token(r.news)
	}
	r.respond(q, true, q.snapshot.index)
}

func (r *raft) respond(q appendRequest, ok bool, match uint64) {
	if r.disk.term != q.term {
		return
	}
	from := q.from
	r.w.datagram(r.p, from.p, func() { from.onAnswer(q, r.m.num, ok, match) })
}

func (r *raft) onAnswer(q appendRequest, id int, ok bool, match uint64) {
	if r.role != leading || r.disk.term != q.term {
		return
	}
	r.heard[id] = r.w.now()
	r.answered[id] = max(r.answered[id], q.round)
	r.settleVerifies()
	if !ok {
		if match+1 < r.next[id] && match >= r.match[id] {
			r.next[id] = match + 1
			r.replicateTo(id)
		}
		return
	}
	r.match[id] = max(r.match[id], match)
	r.next[id] = max(r.next[id], r.match[id]+1)
	r.advance()
}

// advance commits what a majority holds, of this leader's own term.
func (r *raft) advance() {
	if r.role != leading {
		return
	}
	r.match[r.m.num] = r.disk.synced
	for n := r.disk.last(); n > r.commit; n-- {
		if term, ok := r.disk.termAt(n); !ok || term != r.disk.term {
			return
		}
		if majority(r.conf(), func(id int) bool { return r.match[id] >= n }) {
			r.commitTo(n)
			r.flushSoon()
			return
		}
	}
}

// flushSoon tells followers of a commit.
func (r *raft) flushSoon() {
	if r.flushing {
		return
	}
	r.flushing = true
	r.later(flushAfter, func() {
		r.flushing = false
		if r.role == leading {
			r.replicate()
		}
	})
}

func (r *raft) commitTo(n uint64) {
	if n <= r.commit {
		return
	}
	r.commit = n
	token(r.news)
	if r.role == leading && !slices.Contains(r.conf(), r.m.num) {
		r.stepDown() // it has removed itself
	}
}

func (r *raft) settleVerifies() {
	kept := r.verifies[:0]
	for _, v := range r.verifies {
		if majority(r.conf(), func(id int) bool { return id == r.m.num || r.answered[id] >= v.round }) {
			v.f.end(nil, nil)
			continue
		}
		kept = append(kept, v)
	}
	clear(r.verifies[len(kept):])
	r.verifies = kept
}

// changeVoters proposes voters that differ by one, if the last change is settled.
func (r *raft) changeVoters(conf []int) bool {
	if r.role != leading || r.commit < r.started || r.confIndex() > r.commit {
		return false
	}
	r.w.logf("%s proposes voters %v", r.m.id, conf)
	r.append(entry{kind: confEntry, conf: conf})
	return true
}

// handOver gives leadership to a member that has everything.
func (r *raft) handOver(id int) {
	to := r.w.members[id].raft
	if r.role != leading || id == r.m.num || to == nil || r.match[id] != r.disk.last() {
		return
	}
	r.transfer = r.w.now() + 500*time.Millisecond
	r.w.datagram(r.p, to.p, func() {
		if slices.Contains(to.conf(), id) {
			to.campaign(true)
		}
	})
}

func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
