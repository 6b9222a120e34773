package service

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/obs"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
)

// Decider takes commands on the leader.
type Decider interface {
	// Submit answers when the command is applied or refused. ErrNotLeader on a
	// member that does not lead.
	Submit(ctx context.Context, cmd decider.Command) (decider.Result, error)
}

// State is the committed state of this member.
type State interface {
	// Read calls f while no batch is being applied. f must not keep the state.
	Read(f func(s *fsm.State))
}

// Times of the observer.
const (
	// observeInterval is how often everything is compared again: a report that
	// could not be submitted, or that became true only when the state changed, is
	// not lost.
	observeInterval = time.Second
	// observeTimeout bounds one round of commands.
	observeTimeout = 5 * time.Second
	// observeParallel commands are on their way at once; the decider puts those
	// that wait into one batch.
	observeParallel = 64
)

// observer compares what the speakers say with the state, and tells the decider
// where they differ. It runs on the leader only.
type observer struct {
	state    State
	decider  Decider
	attached *attachments
	now      func() time.Time
	log      *slog.Logger
	// proofs belong to run's goroutine.
	proofs proofs
}

// run works until ctx is cancelled, which is when leadership is lost.
func (o *observer) run(ctx context.Context) error {
	tick := time.NewTicker(observeInterval)
	defer tick.Stop()
	o.proofs = make(proofs)
	o.round(ctx, o.attached.takeAll(), true)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-o.attached.changed:
			o.round(ctx, o.attached.take(), false)
		case <-tick.C:
			o.round(ctx, o.attached.takeAll(), true)
		}
	}
}

func (o *observer) round(ctx context.Context, reports []report, full bool) {
	var cmds []decider.Command
	now := o.now().UnixNano()
	o.state.Read(func(s *fsm.State) {
		now = max(now, s.Time) // the log may be ahead of the clock
		for _, r := range reports {
			cmds = append(cmds, differences(s, r, now)...)
			o.proofs.note(s, r)
		}
		if full {
			for _, r := range reports {
				cmds = append(cmds, o.proofs.unproven(s, r, now)...)
			}
			o.proofs.settle(s, now)
			cmds = append(cmds, staleConflicts(s)...)
		}
	})
	if len(cmds) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	var eg errgroup.Group
	eg.SetLimit(observeParallel)
	for _, cmd := range cmds {
		eg.Go(func() error {
			_, err := o.decider.Submit(ctx, cmd)
			return err
		})
	}
	if err := eg.Wait(); err != nil && ctx.Err() == nil && !errors.Is(err, decider.ErrNotLeader) {
		o.log.Warn("what a speaker reported could not be recorded; it is tried again", obs.KeyError, err)
	}
}

// differences lists the commands that bring the state to what a node reports.
// Reports of another session than the open one say nothing: the process behind
// them has been replaced.
func differences(s *fsm.State, r report, now int64) []decider.Command {
	n := s.Nodes[r.node]
	if n == nil || n.Session != r.session || n.SessionState != fsm.SessionOpen {
		return nil
	}
	var cmds []decider.Command
	if r.linked && !slices.EqualFunc(n.Links, r.links, func(a, b *logv1.Link) bool { return proto.Equal(a, b) }) {
		cmds = append(cmds, &decider.LinksChanged{Node: r.node, Session: r.session, Links: r.links})
	}
	if results := healthResults(s, r); len(results) > 0 {
		cmds = append(cmds, &decider.HealthObserved{Node: r.node, Session: r.session, Results: results})
	}
	for addr, st := range r.vips {
		if rec := s.Addresses[addr]; rec != nil {
			cmds = append(cmds, addressDifferences(s, rec, r.node, st, now)...)
		}
	}
	return cmds
}

// healthResults are the results of health checks that the state does not have.
func healthResults(s *fsm.State, r report) (results []decider.HealthResult) {
	for _, key := range slices.SortedFunc(maps.Keys(r.health), fsm.ServiceKey.Compare) {
		st := r.health[key]
		result := decider.HealthResult{
			Service: key, Reason: st.GetReason(), Healthy: st.GetState() == speakerv1.HealthState_HEALTH_STATE_HEALTHY,
		}
		known := result.Healthy || st.GetState() == speakerv1.HealthState_HEALTH_STATE_UNHEALTHY
		if known && decider.HealthDiffers(s, r.node, result) {
			results = append(results, result)
		}
	}
	return results
}

func addressDifferences(s *fsm.State, rec *fsm.Address, node string, st *speakerv1.VipStatus, now int64) []decider.Command {
	var cmds []decider.Command
	addr := rec.Addr
	current := st != nil && rec.Owner == node && rec.Epoch == st.GetEpoch()
	_, failed := rec.Failures[node]
	switch st.GetAnnounced() {
	case speakerv1.Announced_ANNOUNCED_FAILED:
		if current && !decider.FailureStands(rec, node, now) {
			cmds = append(cmds, &decider.AnnounceFailed{Node: node, Address: addr, Epoch: st.GetEpoch(), Reason: st.GetReason()})
		}
	case speakerv1.Announced_ANNOUNCED_UNPROVEN, speakerv1.Announced_ANNOUNCED_PROVEN, speakerv1.Announced_ANNOUNCED_UNCONFIRMED:
		if current && failed {
			cmds = append(cmds, &decider.AnnounceRecovered{Node: node, Address: addr})
		}
	}
	if idle := st.GetAnnounced() == speakerv1.Announced_ANNOUNCED_SOFT && st.Connections != nil && st.GetConnections() == 0; idle &&
		rec.SoftNode == node && rec.SoftEpoch == st.GetEpoch() && rec.Owner != "" {
		cmds = append(cmds, &decider.SoftIdle{Node: node, Address: addr, Epoch: st.GetEpoch()})
	}
	return append(cmds, conflictDifferences(s, rec, node, st, current)...)
}

// staleConflicts clears conflicts that were seen by a node that no longer owns
// the address: whoever owns it now reports its own.
func staleConflicts(s *fsm.State) []decider.Command {
	var cmds []decider.Command
	for addr, rec := range s.Addresses {
		if rec.Conflict != (fsm.MAC{}) && rec.ConflictNode != rec.Owner {
			cmds = append(cmds, &decider.ConflictCleared{Node: rec.ConflictNode, Address: addr})
		}
	}
	return cmds
}
