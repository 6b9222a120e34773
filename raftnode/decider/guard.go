package decider

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// guard runs f and turns a panic into ErrInternal. Decisions are made of
// operators' input; a fault in one must not take the leader down.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{value: p, stack: debug.Stack()}
		}
	}()
	return f()
}

// panicError is a panic of a decision. Callers get its value, the log the stack.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("%v: panic: %v", ErrInternal, e.value) }

func (e *panicError) Unwrap() error { return ErrInternal }

// logFault logs a fault in this program.
func (d *Decider) logFault(msg string, err error, args ...any) {
	args = append(args, "error", err)
	if p := (*panicError)(nil); errors.As(err, &p) {
		args = append(args, "stack", string(p.stack))
	}
	d.logger.Error(msg, args...)
}
