package links

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/quorumlb/quorumlb/speakers/system"
)

// Source tells what devices there are.
type Source interface {
	// Watch calls changed with all devices, first and after every change, until
	// ctx ends (nil) or it can tell no more.
	Watch(ctx context.Context, changed func([]system.Device)) error
	Close()
}

// OpenSystem opens the kernel's own source for the network namespace of the
// calling thread.
func OpenSystem() (Source, error) { return system.OpenNetwork() }

// retry is how long to wait before a lost source is opened again.
const retry = 250 * time.Millisecond

// Monitor is the task that follows the links.
type Monitor struct {
	open     func() (Source, error)
	selector *Selector
	changed  func(Set)
	log      *slog.Logger
	current  atomic.Pointer[Set]
}

// NewMonitor follows the links of the source that open opens. It calls changed,
// from the goroutine of Run, with what is there first and after every change
// that matters; changed must not block for long.
func NewMonitor(open func() (Source, error), selector *Selector, changed func(Set), log *slog.Logger) *Monitor {
	return &Monitor{open: open, selector: selector, changed: changed, log: log}
}

// Run follows the links until ctx ends.
func (m *Monitor) Run(ctx context.Context) error {
	for {
		err := m.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		m.log.Warn("lost sight of the links, looking again", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retry):
		}
	}
}

func (m *Monitor) follow(ctx context.Context) error {
	source, err := m.open()
	if err != nil {
		return err
	}
	defer source.Close()
	if err := source.Watch(ctx, m.update); err != nil {
		return err
	}
	return errors.New("the source ended")
}

func (m *Monitor) update(devices []system.Device) {
	set := m.selector.Select(devices)
	if old := m.current.Load(); old != nil && old.equal(set) {
		return
	}
	m.report(set)
	m.current.Store(&set)
	m.changed(set)
}

// report logs what an operator wants to know of a change.
func (m *Monitor) report(set Set) {
	var old Set
	if p := m.current.Load(); p != nil {
		old = *p
	}
	before := make(map[int]Link, len(old.Links))
	for _, l := range old.Links {
		before[l.Index] = l
	}
	for _, l := range set.Links {
		was, known := before[l.Index]
		delete(before, l.Index)
		if !known || was.Up != l.Up || was.MAC != l.MAC || was.Name != l.Name || was.Path != l.Path {
			m.log.Info("link", "interface", l.Name, "mac", l.MAC, "up", l.Up, "path", l.Path)
		}
	}
	for _, l := range before {
		m.log.Info("link gone", "interface", l.Name)
	}
}

// Ready reports whether the links are known.
func (m *Monitor) Ready() bool { return m.current.Load() != nil }

// String names the task.
func (m *Monitor) String() string { return "links" }

func (s *Set) equal(o Set) bool {
	if len(s.Links) != len(o.Links) || len(s.Own) != len(o.Own) {
		return false
	}
	for i := range s.Links {
		if !s.Links[i].Equal(o.Links[i]) {
			return false
		}
	}
	for mac := range s.Own {
		if _, ok := o.Own[mac]; !ok {
			return false
		}
	}
	return true
}
