package fsm

import (
	"fmt"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Draft is a batch in the making on a decider's head. Each event is folded as
// it is added, so that the next decision sees it; Commit gives the bytes to
// propose. This is the same fold as Apply's and saves the decider to decode
// what it has just encoded.
//
// The state keeps parts of the events: they must not be changed afterwards.
type Draft struct {
	s       *State
	f       folding
	actors  []string
	actorOf map[string]uint32
	events  []*logv1.Event
}

// Begin starts the batch that follows s, decided at unixNano or, when that is
// earlier, at the time of the newest batch; s.Time is that time from now on. It
// panics when a draft is open or the state is broken.
func (s *State) Begin(unixNano int64) *Draft {
	if s.draft != nil || s.broken != nil {
		panic("fsm: begin on a state that is not whole")
	}
	d := &Draft{s: s, actorOf: map[string]uint32{}}
	d.f = s.begin(max(s.Time, unixNano))
	s.draft = d
	return d
}

// Revision is the revision that the batch will have.
func (d *Draft) Revision() uint64 { return d.f.revision }

// Len is the number of events so far.
func (d *Draft) Len() int { return len(d.events) }

// Events are those added so far, in order.
func (d *Draft) Events() []*logv1.Event { return d.events }

// Add folds an event, caused by actor, into the state. It sets Event.Actor. An
// error means that the event cannot be and was not added; the state is as before.
func (d *Draft) Add(actor string, ev *logv1.Event) error {
	if err := d.f.fold(ev); err != nil {
		return fmt.Errorf("revision %d, event %d: %w", d.f.revision, len(d.events), err)
	}
	at, ok := d.actorOf[actor]
	if !ok {
		at = uint32(len(d.actors))
		d.actorOf[actor] = at
		d.actors = append(d.actors, actor)
	}
	ev.Actor = at
	d.events = append(d.events, ev)
	return nil
}

// Commit ends the draft: s is now the state after the batch. A draft without
// events gives nil bytes and a nil batch, and takes no revision. After an error
// (the batch as a whole leaves something impossible, such as an address
// in use outside every pool) s must be thrown away.
func (d *Draft) Commit() (raw []byte, b *logv1.Batch, changes Changes, err error) {
	s := d.s
	s.draft = nil
	if len(d.events) == 0 {
		return nil, nil, Changes{}, nil
	}
	if err := d.f.finish(); err != nil {
		return nil, nil, Changes{}, s.fail(fmt.Errorf("revision %d: %w", d.f.revision, err))
	}
	b = s.NextBatch(s.Time, d.actors, d.events)
	raw = EncodeBatch(b)
	s.Revision = d.f.revision
	s.Chain = s.Chain.NextChain(raw)
	return raw, b, d.f.changes, nil
}
