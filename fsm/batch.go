package fsm

import (
	"crypto/sha256"
	"fmt"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// EncodeBatch gives the bytes that go into the log.
func EncodeBatch(b *logv1.Batch) []byte {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(b)
	if err != nil {
		// Only a string that is not UTF-8 gets here; decoded requests hold none.
		panic("fsm: encode batch: " + err.Error())
	}
	return raw
}

// DecodeBatch reads a batch. It is strict: an unknown event, field or enum
// value anywhere wraps ErrUnknown; damage wraps ErrCorrupt.
func DecodeBatch(raw []byte) (*logv1.Batch, error) {
	if err := batchSchema.check(raw, 0); err != nil {
		return nil, err
	}
	b := new(logv1.Batch)
	if err := proto.Unmarshal(raw, b); err != nil {
		return nil, corruptf("batch: %v", err)
	}
	if len(b.GetPrev()) != len(Hash{}) {
		return nil, corruptf("batch %d: prev of %d bytes", b.GetRevision(), len(b.GetPrev()))
	}
	for i, ev := range b.GetEvents() {
		if ev.GetFact() == nil {
			return nil, corruptf("batch %d: event %d holds no fact", b.GetRevision(), i)
		}
		if int(ev.GetActor()) >= len(b.GetActors()) {
			return nil, corruptf("batch %d: event %d has actor %d of %d", b.GetRevision(), i, ev.GetActor(), len(b.GetActors()))
		}
	}
	return b, nil
}

// NextBatch makes the batch that follows s, decided at unixNano or, when that
// is earlier, at the time of the newest batch. Each Event.Actor is an index into actors.
func (s *State) NextBatch(unixNano int64, actors []string, events []*logv1.Event) *logv1.Batch {
	return &logv1.Batch{
		Revision:     s.Revision + 1,
		Prev:         s.Chain[:],
		TimeUnixNano: max(s.Time, unixNano),
		Actors:       actors,
		Events:       events,
	}
}

// NextChain is the chain after a batch of these bytes.
func (h Hash) NextChain(raw []byte) Hash {
	d := sha256.New()
	d.Write(h[:])
	d.Write(raw)
	var next Hash
	d.Sum(next[:0])
	return next
}

// Apply folds an encoded batch into s. A batch that is not the next one is
// refused with ErrRevision or ErrChain and leaves no trace. After any other
// error, ErrUnknown or ErrCorrupt, s must not be used any more: it may be half
// changed, and every further Apply fails.
func (s *State) Apply(raw []byte) (*logv1.Batch, Changes, error) {
	if s.broken != nil {
		return nil, Changes{}, s.broken
	}
	if s.draft != nil {
		panic("fsm: apply to a state with an open draft")
	}
	b, err := DecodeBatch(raw)
	if err != nil {
		return nil, Changes{}, s.fail(fmt.Errorf("after revision %d: %w", s.Revision, err))
	}
	if b.GetRevision() != s.Revision+1 {
		return nil, Changes{}, fmt.Errorf("%w: batch %d, state %d", ErrRevision, b.GetRevision(), s.Revision)
	}
	if Hash(b.GetPrev()) != s.Chain {
		return nil, Changes{}, fmt.Errorf("%w: at revision %d: %.8x, state %.8x", ErrChain, b.GetRevision(), b.GetPrev(), s.Chain)
	}
	if b.GetTimeUnixNano() < s.Time {
		return nil, Changes{}, s.fail(corruptf("revision %d is %d ns earlier than the one before", b.GetRevision(), s.Time-b.GetTimeUnixNano()))
	}
	f := s.begin(b.GetTimeUnixNano())
	f.nodes = map[string]*Node{}
	for i, ev := range b.GetEvents() {
		if err := f.fold(ev); err != nil {
			return nil, Changes{}, s.fail(fmt.Errorf("revision %d, event %d: %w", f.revision, i, err))
		}
	}
	if err := f.finish(); err != nil {
		return nil, Changes{}, s.fail(fmt.Errorf("revision %d: %w", f.revision, err))
	}
	s.Revision = f.revision
	s.Chain = s.Chain.NextChain(raw)
	return b, f.changes, nil
}

func (s *State) fail(err error) error {
	s.broken = err
	return err
}
