package decider

import (
	"sync/atomic"
	"time"
)

// Stats are counters of what the decider did since it was made. They may be
// read at any time.
type Stats struct {
	Commands   atomic.Uint64 // decided, refused ones included
	Refused    atomic.Uint64 // answered with a refusal
	Internal   atomic.Uint64 // answered with ErrInternal
	Batches    atomic.Uint64 // proposed
	Events     atomic.Uint64 // proposed
	Bytes      atomic.Uint64 // proposed
	Recoveries atomic.Uint64 // times that head was thrown away
	Rebuilds   atomic.Uint64 // times that head was built again to drop one command's events
	Redecided  atomic.Uint64 // commands decided again after a recovery
	Unknown    atomic.Uint64 // commands answered with ErrUnknownOutcome
	InFlight   atomic.Int64  // batches proposed and not yet applied

	Term    atomic.Uint64 // in which it decides; 0: it does not, or not yet
	Unowned atomic.Int64  // addresses that no node is eligible for
	Waiting atomic.Int64  // addresses that wait for an old owner
	Retries atomic.Uint64 // tries for services that wait for an address
	Asked   atomic.Uint64 // of those that wait, how many were looked at for it
}

// Observer is told what the decider does, for histograms. Its functions must
// not block; a nil one is not called.
type Observer struct {
	// Decided: a group of commands was decided in took; queued is the time that
	// the first of them waited, waiting how many still wait.
	Decided func(commands int, queued, took time.Duration, waiting int)
	// Proposed: a batch goes to the log.
	Proposed func(events, bytes int)
	// Committed: a batch was applied here, took after it was proposed.
	Committed func(took time.Duration)
	// Command: a command of the kind was answered, took after Submit.
	Command func(kind string, took time.Duration, err error)
}

func (o *Observer) decided(commands int, queued, took time.Duration, waiting int) {
	if o.Decided != nil {
		o.Decided(commands, queued, took, waiting)
	}
}

func (o *Observer) proposed(events, bytes int) {
	if o.Proposed != nil {
		o.Proposed(events, bytes)
	}
}

func (o *Observer) committed(took time.Duration) {
	if o.Committed != nil {
		o.Committed(took)
	}
}

func (o *Observer) command(kind string, took time.Duration, err error) {
	if o.Command != nil {
		o.Command(kind, took, err)
	}
}
