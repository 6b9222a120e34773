package decider

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrNotLeader says that this member does not lead, or no longer does. The
	// command is known not to have been applied and may go to the leader.
	ErrNotLeader = errors.New("this member is not the leader")

	// ErrUnknownOutcome says that leadership was lost, or the caller gave up,
	// while the command was on its way: it may or may not be applied. Commands
	// are idempotent, so repeating it is safe.
	ErrUnknownOutcome = errors.New("the outcome is unknown: the change may or may not have been applied")

	// ErrInternal says that deciding the command failed because of a fault in this
	// program. Nothing has changed.
	ErrInternal = errors.New("internal error while deciding")

	// ErrClockJump says that the leader's wall clock is far ahead of where it
	// should be, so that nothing is decided by it. Nothing has changed.
	ErrClockJump = errors.New("the leader's wall clock has jumped ahead")

	// ErrTooLarge says that the command's events exceed what one log entry may hold.
	ErrTooLarge = errors.New("the change is too large for one log entry")

	// ErrNotFounded says that the group's first event is not in the log yet.
	ErrNotFounded = errors.New("the cluster has not been founded yet")

	// ErrReplaced says that a newer process of the node has been admitted; the
	// asking one must exit.
	ErrReplaced = errors.New("a newer process of this node has been admitted")

	// ErrSessionClosed says that the process has said good-bye and cannot come back.
	ErrSessionClosed = errors.New("the session of this process has been closed")

	// ErrNoSession says that the session named is not the node's open one.
	ErrNoSession = errors.New("the session is not the node's open one")

	// ErrStopped says that the decider has ended with its process. The command
	// has not been applied.
	ErrStopped = fmt.Errorf("%w: it is shutting down", ErrNotLeader)
)

// FieldError is a fault in one field of a command.
type FieldError struct {
	// Path names the field, for example "resources[2].pool.addresses[0]".
	Path    string
	Message string
}

func (e FieldError) String() string { return e.Path + ": " + e.Message }

// InvalidError lists what is wrong with a command. Nothing has changed.
type InvalidError struct{ Fields []FieldError }

func (e *InvalidError) Error() string { return "invalid: " + joinFields(e.Fields) }

// InUseError refuses a change that would take addresses from services and was
// not forced. Nothing has changed.
type InUseError struct{ Fields []FieldError }

func (e *InUseError) Error() string {
	return "addresses are in use (force takes them from their services): " + joinFields(e.Fields)
}

// StaleError refuses an upsert older than what its source declared before.
type StaleError struct{ Fields []FieldError }

func (e *StaleError) Error() string { return "a newer generation is applied: " + joinFields(e.Fields) }

// NotFoundError says that a command names something that does not exist.
type NotFoundError struct {
	// Kind is "node", "address", ...
	Kind, Name string
}

func (e *NotFoundError) Error() string { return fmt.Sprintf("%s %q does not exist", e.Kind, e.Name) }

// PreconditionError says that the state does not allow the command.
type PreconditionError struct{ Reason string }

func (e *PreconditionError) Error() string { return e.Reason }

func joinFields(fields []FieldError) string {
	parts := make([]string, 0, len(fields))
	for _, f := range fields {
		parts = append(parts, f.String())
	}
	return strings.Join(parts, "; ")
}

// faults collects the field errors of one command.
type faults []FieldError

func (f *faults) add(path, format string, args ...any) {
	*f = append(*f, FieldError{Path: path, Message: fmt.Sprintf(format, args...)})
}

// err gives the faults as one error, nil when there are none.
func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return &InvalidError{Fields: f}
}

// errNextBatch asks for a batch of its own: the command cannot share one with
// those decided before it.
var errNextBatch = errors.New("must be decided in the next batch")
