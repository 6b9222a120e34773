package raftnode

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// stage is a group of goroutines that start and end together. It is not ended
// by the context that it is made from, but by stop: stages end in order.
type stage struct {
	ctx    context.Context // ends when one of them fails or stop is called
	cancel context.CancelFunc
	group  *errgroup.Group
}

func newStage(ctx context.Context) *stage {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	group, ctx := errgroup.WithContext(ctx)
	return &stage{ctx: ctx, cancel: cancel, group: group}
}

// run starts one of them. Its end without an error before stop is no failure.
func (s *stage) run(name string, f func(ctx context.Context) error) {
	s.group.Go(func() error {
		err := f(s.ctx)
		if err == nil || errors.Is(err, context.Canceled) && s.ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("%s: %w", name, err)
	})
}

// failed is closed when one of them has failed, or after stop.
func (s *stage) failed() <-chan struct{} { return s.ctx.Done() }

// stop ends them all and returns the first failure.
func (s *stage) stop() error {
	s.cancel()
	return s.group.Wait()
}
