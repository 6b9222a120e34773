package health

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/internal/obs"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/speakers/session"
)

// Runner runs the health checks of a node.
type Runner struct {
	dir string
	log *slog.Logger
	// wake has a token when wanted has changed.
	wake chan struct{}

	mu sync.Mutex
	// wanted are the checks of the newest view, running those that run.
	wanted  map[session.ServiceKey]*speakerv1.HealthTask
	running map[session.ServiceKey]*check
	// gone are checks that ended, with the change number.
	gone map[session.ServiceKey]uint64
	seq  uint64
	news chan struct{} // closed with the next change
}

// check is one that runs. Its fields are guarded by Runner.mu.
type check struct {
	task   *speakerv1.HealthTask
	cancel context.CancelFunc
	status *speakerv1.HealthStatus // replaced, never written to
	seq    uint64
	// streak counts results of one kind in a row: successes up, failures down.
	streak int
}

// New makes a runner. dir is the directory of scripts; empty for none.
func New(dir string, log *slog.Logger) *Runner {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Runner{
		dir: dir, log: log, wake: make(chan struct{}, 1), news: make(chan struct{}),
		running: map[session.ServiceKey]*check{}, gone: map[session.ServiceKey]uint64{},
	}
}

// String names the task.
func (r *Runner) String() string { return "health checks" }

// Ready is always true: a check that fails is no fault of the speaker.
func (r *Runner) Ready() bool { return true }

// Apply takes the checks that the node has to run.
func (r *Runner) Apply(tasks map[session.ServiceKey]*speakerv1.HealthTask) {
	r.mu.Lock()
	r.wanted = tasks
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run runs the checks until ctx ends.
func (r *Runner) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		for _, c := range r.change(ctx) {
			all.Go(c)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		}
	}
}

// change ends the checks that are not wanted any more, and gives those to start. One
// that is changed goes on from what it knows: its result is better than none.
func (r *Runner) change(ctx context.Context) (start []func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, c := range r.running {
		task := r.wanted[key]
		if task != nil && proto.Equal(task, c.task) {
			continue
		}
		c.cancel()
		if task == nil {
			delete(r.running, key)
			r.gone[key] = r.changed()
		}
	}
	for key, task := range r.wanted {
		c := r.running[key]
		if c != nil && proto.Equal(task, c.task) {
			continue
		}
		next := &check{task: task, status: &speakerv1.HealthStatus{
			Service: task.GetService(), State: speakerv1.HealthState_HEALTH_STATE_UNKNOWN, SinceUnixNano: time.Now().UnixNano(),
		}}
		if c != nil {
			next.status = c.status
		}
		next.seq = r.changed()
		delete(r.gone, key)
		r.running[key] = next
		inner, cancel := context.WithCancel(ctx)
		next.cancel = cancel
		start = append(start, func() { defer cancel(); r.repeat(inner, key, next) })
	}
	return start
}

// changed counts a change and tells who waits for one.
func (r *Runner) changed() uint64 {
	r.seq++
	close(r.news)
	r.news = make(chan struct{})
	return r.seq
}

// repeat runs one check over and over.
func (r *Runner) repeat(ctx context.Context, key session.ServiceKey, c *check) {
	tick := time.NewTicker(time.Duration(max(c.task.GetCheck().GetIntervalNanos(), int64(time.Millisecond))))
	defer tick.Stop()
	for {
		once, cancel := context.WithTimeout(ctx, time.Duration(c.task.GetCheck().GetTimeoutNanos()))
		reason, err := r.try(once, key, c.task)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			reason = err.Error()
		}
		r.result(key, c, err == nil, reason)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// result takes a result in: the state changes after rise or fall of a kind in a row.
func (r *Runner) result(key session.ServiceKey, c *check, ok bool, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running[key] != c {
		return
	}
	if ok {
		c.streak = max(c.streak, 0) + 1
	} else {
		c.streak = min(c.streak, 0) - 1
	}
	state := c.status.GetState()
	switch {
	case c.streak >= int(c.task.GetCheck().GetRise()):
		state = speakerv1.HealthState_HEALTH_STATE_HEALTHY
	case -c.streak >= int(c.task.GetCheck().GetFall()):
		state = speakerv1.HealthState_HEALTH_STATE_UNHEALTHY
	}
	if state == c.status.GetState() && reason == c.status.GetReason() {
		return
	}
	status := &speakerv1.HealthStatus{Service: c.task.GetService(), State: state, Reason: reason, SinceUnixNano: c.status.GetSinceUnixNano()}
	if state != c.status.GetState() {
		status.SinceUnixNano = time.Now().UnixNano()
		r.log.Info("health check", "service", key.Namespace+"/"+key.Name, "state", stateWord(state), obs.KeyError, reason)
	}
	c.status, c.seq = status, r.changed()
}

func stateWord(s speakerv1.HealthState) string {
	switch s {
	case speakerv1.HealthState_HEALTH_STATE_HEALTHY:
		return "healthy"
	case speakerv1.HealthState_HEALTH_STATE_UNHEALTHY:
		return "unhealthy"
	}
	return "unknown"
}

// Statuses tells what changed after since; see session.Health.
func (r *Runner) Statuses(since uint64) (changed []*speakerv1.HealthStatus, gone []*speakerv1.ServiceName, next uint64, more <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	byName := func(a, b session.ServiceKey) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	}
	for _, key := range slices.SortedFunc(maps.Keys(r.running), byName) {
		if c := r.running[key]; c.seq > since {
			changed = append(changed, c.status)
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(r.gone), byName) {
		if since > 0 && r.gone[key] > since {
			gone = append(gone, &speakerv1.ServiceName{Namespace: key.Namespace, Name: key.Name})
		}
	}
	return changed, gone, r.seq, r.news
}
