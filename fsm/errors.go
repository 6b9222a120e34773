package fsm

import (
	"errors"
	"fmt"
)

// Errors of decoding and folding a batch. ErrRevision and ErrChain refuse a
// batch that does not follow the state: nothing has changed and the state goes
// on. ErrUnknown and ErrCorrupt mean that this member cannot hold the facts of
// the log: the state may be half changed, refuses everything from then on, and
// the member must stop (or, for a decider's head, the head be thrown away).
var (
	// ErrRevision says that the batch is not the next one.
	ErrRevision = errors.New("fsm: batch does not follow the state's revision")
	// ErrChain says that the batch follows another history.
	ErrChain = errors.New("fsm: batch does not follow the state's hash chain")
	// ErrUnknown says that the batch or snapshot holds an event, field, value or
	// record that this program does not understand. A newer one may.
	ErrUnknown = errors.New("fsm: not understood by this version")
	// ErrCorrupt says that the batch or snapshot is damaged, or states a fact
	// that cannot be.
	ErrCorrupt = errors.New("fsm: corrupt")
)

func corruptf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

func unknownf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnknown, fmt.Sprintf(format, args...))
}
