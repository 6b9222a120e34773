package task

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// Task is a long-running part of a program.
type Task interface {
	// Run works until ctx is cancelled or something fails that the task cannot
	// mend itself. It returns only after everything that it started has ended.
	// A cancelled ctx is an orderly end: Run then returns nil or ctx's error.
	Run(ctx context.Context) error
	// Ready tells whether the task does its work now. It is called from other
	// goroutines and must not block.
	Ready() bool
	// String names the task in logs and errors.
	String() string
}

// Group is a Task made of others.
type Group struct {
	name  string
	tasks []Task
}

// NewGroup makes a group of tasks. Add may add more until Run is called.
func NewGroup(name string, tasks ...Task) *Group {
	return &Group{name: name, tasks: tasks}
}

// Add adds tasks. It must not be called after Run.
func (g *Group) Add(tasks ...Task) { g.tasks = append(g.tasks, tasks...) }

// Run runs all tasks and waits for all of them. The first that returns an error
// cancels the others, and Run returns that error with the task's name. A task
// that returns nil has finished its work and ends nothing. When ctx is
// cancelled, Run returns nil unless a task fails on its way down.
func (g *Group) Run(ctx context.Context) error {
	eg, gctx := errgroup.WithContext(ctx)
	for _, t := range g.tasks {
		eg.Go(func() error {
			err := t.Run(gctx)
			if err == nil || (errors.Is(err, context.Canceled) && gctx.Err() != nil) {
				return nil
			}
			return fmt.Errorf("%s: %w", t, err)
		})
	}
	return eg.Wait()
}

// Ready tells whether all tasks are.
func (g *Group) Ready() bool { return len(g.NotReady()) == 0 }

// NotReady names the tasks that are not ready, in the order in which they were
// added.
func (g *Group) NotReady() []string {
	var names []string
	for _, t := range g.tasks {
		if inner, ok := t.(*Group); ok {
			names = append(names, inner.NotReady()...)
			continue
		}
		if !t.Ready() {
			names = append(names, t.String())
		}
	}
	return names
}

// String returns the group's name.
func (g *Group) String() string { return g.name }

// Func makes a Task of a function. It is always ready.
func Func(name string, run func(ctx context.Context) error) Task {
	return FuncReady(name, run, func() bool { return true })
}

// FuncReady makes a Task of a function that works and one that tells whether it
// is ready.
func FuncReady(name string, run func(ctx context.Context) error, ready func() bool) Task {
	return funcTask{name: name, run: run, ready: ready}
}

type funcTask struct {
	name  string
	run   func(ctx context.Context) error
	ready func() bool
}

func (f funcTask) Run(ctx context.Context) error { return f.run(ctx) }
func (f funcTask) Ready() bool                   { return f.ready() }
func (f funcTask) String() string                { return f.name }
