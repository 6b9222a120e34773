package sim

import (
	"math/rand/v2"
	"slices"
	"time"
)

// entry is an entry of the Raft log.
type entry struct {
	term uint64
	kind entryKind
	raw  []byte
	conf []int // voters, by member number
}

type entryKind uint8

const (
	noop entryKind = iota
	batchEntry
	barrierEntry
	confEntry
)

// disk is what a member has stored: it outlives the process. Term and vote are
// durable when they are set; entries are so when they have been synced, and a crash
// loses some of those that are not. World.mu guards it.
type disk struct {
	rng       *rand.Rand
	slowUntil time.Duration

	term     uint64
	votedFor int

	// log holds the entries after base.
	base     uint64
	baseTerm uint64
	baseConf []int
	log      []entry
	synced   uint64

	// snapshot is of the state after the entry snapIndex; nil for none.
	snapshot []byte
	snapIndex,
	snapTerm uint64
	snapConf []int
}

func newDisk(seed uint64, id int) *disk {
	return &disk{rng: rand.New(rand.NewPCG(seed, 0xd15c+uint64(id))), votedFor: -1}
}

// found makes it the disk of a founding member.
func (d *disk) found(voters int) {
	conf := make([]int, voters)
	for i := range conf {
		conf[i] = i
	}
	d.term = 1
	d.log = []entry{{term: 1, kind: confEntry, conf: conf}}
	d.synced = 1
}

func (d *disk) last() uint64 { return d.base + uint64(len(d.log)) }

func (d *disk) at(i uint64) *entry { return &d.log[i-d.base-1] }

// termAt is the term of an entry; false when the log does not hold it (any more).
func (d *disk) termAt(i uint64) (uint64, bool) {
	switch {
	case i == d.base:
		return d.baseTerm, true
	case i < d.base || i > d.last():
		return 0, false
	}
	return d.at(i).term, true
}

// from lists the entries from i on. They are immutable.
func (d *disk) from(i uint64) []entry {
	n := len(d.log)
	return d.log[i-d.base-1 : n : n]
}

// truncate drops the entries from i on.
func (d *disk) truncate(i uint64) {
	d.log = d.log[: i-d.base-1 : i-d.base-1]
	d.synced = min(d.synced, d.last())
}

// confAt is the configuration in force at an entry.
func (d *disk) confAt(i uint64) []int {
	for ; i > d.base; i-- {
		if e := d.at(i); e.kind == confEntry {
			return e.conf
		}
	}
	return d.baseConf
}

// syncTime is how long the next write takes.
func (d *disk) syncTime(now time.Duration) time.Duration {
	t := 100*time.Microsecond + time.Duration(d.rng.Int64N(int64(1500*time.Microsecond)))
	if now < d.slowUntil {
		t += time.Duration(d.rng.Int64N(int64(400 * time.Millisecond)))
	}
	return t
}

// crash loses some of what was not synced. A leader with a slow disk may have committed
// entries that others had synced, and made a snapshot of them: then the log begins there.
func (d *disk) crash() {
	if n := d.last() - d.synced; n > 0 {
		d.truncate(d.synced + 1 + d.rng.Uint64N(n+1))
	}
	if d.last() < d.snapIndex {
		d.base, d.baseTerm, d.baseConf, d.log = d.snapIndex, d.snapTerm, d.snapConf, nil
	}
	d.synced = d.last()
}

// compact keeps a snapshot in place of the entries up to index, but for some.
func (d *disk) compact(index uint64, snapshot []byte, trailing uint64) {
	if index <= d.snapIndex || index <= d.base {
		return
	}
	d.snapTerm, _ = d.termAt(index)
	d.snapConf = slices.Clone(d.confAt(index))
	d.snapshot, d.snapIndex = snapshot, index
	if base := index - min(trailing, index); base > d.base {
		conf := slices.Clone(d.confAt(base))
		term, _ := d.termAt(base)
		d.log = slices.Clone(d.from(base + 1))
		d.base, d.baseTerm, d.baseConf = base, term, conf
		d.synced = max(d.synced, base) // the snapshot has them
	}
}

// install replaces everything by another member's snapshot, but for entries that follow
// it: the snapshot may have been overtaken by them.
func (d *disk) install(s snapshot) {
	var rest []entry
	if term, ok := d.termAt(s.index); ok && term == s.term {
		rest = slices.Clone(d.from(s.index + 1))
	}
	d.base, d.baseTerm, d.baseConf = s.index, s.term, s.conf
	d.log = rest
	d.synced = min(max(d.synced, s.index), d.last())
	d.snapshot, d.snapIndex, d.snapTerm, d.snapConf = s.data, s.index, s.term, s.conf
}

// snapshot is one on its way to another member.
type snapshot struct {
	index, term uint64
	conf        []int
	data        []byte
}
