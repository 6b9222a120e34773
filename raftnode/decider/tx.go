package decider

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// tx is the batch in the making as one command, or a step of reconciliation,
// sees it. What it emits is folded into head at once, so that the next decision
// sees it.
type tx struct {
	// s is the head, this batch's events included.
	s *fsm.State
	// rev and now are the revision and the time of the batch.
	rev uint64
	now int64

	draft   *fsm.Draft
	work    *work
	targets *targets
	heard   func(node string) bool
	silent  func(node string, session uint64) bool
	// changing is for how long yet waits count with older lease times.
	changing func() time.Duration
	self     string // actor of this member
	by       string // actor of what is being decided
	// actors are those of the events so far.
	actors []string
	// size is the encoded size of the events so far, in bytes.
	size int
	// err is the first event that did not fold: a fault in this program. Nothing
	// is emitted after it.
	err error
	// then are run when the command stands.
	then []func()
	// leaseSet: this batch changes the lease times.
	leaseSet bool
	// dry: the command's events will be taken back, whatever becomes of it.
	dry bool
	// before is the state that a dry run began with; nil in earnest.
	before *fsm.State
}

// emit states a fact.
func (t *tx) emit(ev *logv1.Event) {
	if t.err != nil {
		return
	}
	if err := t.draft.Add(t.by, ev); err != nil {
		t.err = fmt.Errorf("%w: %s: %w", ErrInternal, fsm.EventName(ev), err)
		return
	}
	// Tag, length and actor index take up to 9 bytes more.
	t.size += proto.Size(ev) + 9
	t.actors = append(t.actors, t.by)
	t.work.note(t.s, ev)
}

// whenDecided runs f once the command stands: it is not refused, and not a dry run.
func (t *tx) whenDecided(f func()) { t.then = append(t.then, f) }

// mark is a place in the batch to return to.
type mark struct {
	events int
	size   int
}

func (t *tx) mark() mark { return mark{events: t.draft.Len(), size: t.size} }

// asMember runs f with this member as the actor: what follows from a command is
// the member's doing.
func (t *tx) asMember(f func()) {
	by := t.by
	t.by = t.self
	defer func() { t.by = by }()
	f()
}
