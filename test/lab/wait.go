package lab

import (
	"context"
	"fmt"
	"time"
)

// Poll calls check every 10 ms until it returns nil, and fails with its last
// error when that takes longer than the deadline.
func Poll(ctx context.Context, deadline time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // what the end itself broke off tells nothing
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", deadline, last)
		case <-t.C:
		}
	}
}

// Wait lets d pass, or ends with ctx.
func Wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
