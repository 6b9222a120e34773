package decider

import (
	"github.com/quorumlb/quorumlb/fsm"
)

// Command is a wish. The types in this package that implement it are all
// there are; a command must not be changed after it was submitted.
type Command interface {
	// kind names the command in logs and metrics.
	kind() string
	// actor is who asks, as the log records it; "" for this member.
	actor() string
	// decide makes the command's events by way of t, or refuses it. A refusal
	// after the first event costs a rebuild of head, so checks come first.
	decide(t *tx) (answer, error)
}

// answer fills in the result once everything of the batch has been decided. head
// is the state then. A nil answer leaves Result as it is.
type answer func(head *fsm.State, r *Result)

// urgent commands overtake those that wait: they shorten an outage.
type urgent interface{ urgent() }

// observed commands report facts. A wall clock that cannot be trusted refuses
// wishes, but must not hold up a failover.
type observed interface{ observed() }

// founding commands are decided before the cluster has been founded.
type founding interface{ founding() }
