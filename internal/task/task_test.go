package task_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/quorumlb/quorumlb/internal/task"
)

func untilDone(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestGroupEndsAllWhenOneFails(t *testing.T) {
	boom := errors.New("boom")
	var ended atomic.Int32
	wait := func(ctx context.Context) error {
		defer ended.Add(1)
		return untilDone(ctx)
	}
	g := task.NewGroup("outer",
		task.Func("a", wait),
		task.NewGroup("inner", task.Func("b", wait), task.Func("c", func(context.Context) error { return boom })),
	)
	err := g.Run(t.Context())
	if !errors.Is(err, boom) {
		t.Fatalf("Run() = %v, want boom", err)
	}
	if want := "inner: c: "; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %q does not name the task %q", err, want)
	}
	if n := ended.Load(); n != 2 {
		t.Errorf("%d of 2 tasks had ended when Run returned", n)
	}
}

func TestGroupCancelledIsOrderly(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := task.NewGroup("g", task.Func("a", untilDone)).Run(ctx); err != nil {
		t.Errorf("Run() after cancel = %v, want nil", err)
	}
}

func TestGroupFinishedTaskEndsNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	g := task.NewGroup("g",
		task.Func("once", func(context.Context) error { close(done); return nil }),
		task.Func("long", func(ctx context.Context) error {
			<-done
			if ctx.Err() != nil {
				t.Error("cancelled by a task that finished its work")
			}
			cancel()
			return untilDone(ctx)
		}),
	)
	if err := g.Run(ctx); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

func TestGroupReadyNamesTheInnermost(t *testing.T) {
	var ready atomic.Bool
	g := task.NewGroup("outer", task.NewGroup("inner", task.FuncReady("slow", untilDone, ready.Load)))
	if g.Ready() {
		t.Error("ready before its task")
	}
	if got := g.NotReady(); len(got) != 1 || got[0] != "slow" {
		t.Errorf("NotReady() = %v, want [slow]", got)
	}
	ready.Store(true)
	if !g.Ready() {
		t.Error("not ready although its task is")
	}
}
