package decider

import (
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/raftnode/lease"
)

// Future is the outcome of a proposal that is still on its way.
type Future interface {
	// Error blocks until the entry was applied here, or failed.
	Error() error
	// Response is what the state machine answered: nil, or the error with which
	// the guard refused the batch. Valid once Error returned nil.
	Response() any
}

// Leadership is one level of who leads, and a channel that closes when it changes.
type Leadership struct {
	Leader  bool
	Term    uint64
	Changed <-chan struct{}
}

// Log is the replicated log as the decider needs it.
type Log interface {
	// Propose appends raw to the log. It may block for as long as it takes to
	// enqueue, which must be bounded.
	Propose(raw []byte) Future
	// Barrier returns once everything appended before it has been applied here, in
	// a term in which this member leads.
	Barrier(timeout time.Duration) error
	// Verify returns a future that ends without error when this member was the
	// leader at some moment after the call.
	Verify() Future
	// Read calls f with the committed state, which f must neither keep nor change.
	Read(f func(*fsm.State))
	// Leadership tells who leads now.
	Leadership() Leadership
	// NotAppended tells of an error of Propose's future whether it means that the
	// entry is in no log and never will be.
	NotAppended(error) bool
}

// Release is an owner's duty to give an address up, as the state records it.
type Release = lease.Release

// Leases is what the lease rules tell the decider, and what they need to be
// told. All methods are called by the decider's goroutine; none may block.
type Leases interface {
	// Lead starts a term of leadership, or starts it over after a recovery, with
	// the head as it is after the barrier. A wait that counts from "since it was
	// decided here" counts from now for everything that head holds; a second call
	// in one term leaves waits alone that count already.
	Lead(term uint64, head *fsm.State)
	// Decided hands over the head after each batch and before it is proposed, so
	// that no ack is given on an older one. head is valid during the call; its
	// records are immutable.
	Decided(head *fsm.State, ch fsm.Changes)
	// Follow ends the term of leadership.
	Follow()

	// ReleaseWait tells whether the wait for an old owner is over, and if not, at
	// which boot time it is worth asking again without a Wake.
	ReleaseWait(r Release) (over bool, again time.Duration)
	// HasSeen tells whether the node has reported, in the session or a later one that
	// counts already, that the revision is in force there.
	HasSeen(node string, session, revision uint64) bool
	// FencePassed tells whether the fence time of the node has passed, so that no
	// process of it, as it was, is confirmed any more; again is as above.
	FencePassed(node string) (passed bool, again time.Duration)
	// HeardLately tells whether the node was heard within 2h.
	HeardLately(node string) bool
	// StillSilent tells whether the session is the node's open one and was not heard
	// for the detection time.
	StillSilent(node string, session uint64) bool
	// LeaseChange tells until which boot time waits still count with lease times
	// older than those in force; 0 when they do not.
	LeaseChange() (until time.Duration)
}
