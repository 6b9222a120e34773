package service

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/obs"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
)

// quarantineInterval is how often the addresses in quarantine are looked at.
const quarantineInterval = time.Second

// reprobesAtOnce bounds the addresses that are asked for at a time.
const reprobesAtOnce = 8

// warden asks the wire again for addresses whose quarantine time is over. It runs
// on the leader only.
type warden struct {
	state    State
	decider  Decider
	attached *attachments
	now      func() time.Time
	log      *slog.Logger
}

// run works until ctx is cancelled, which is when leadership is lost.
func (w *warden) run(ctx context.Context) error {
	tick := time.NewTicker(quarantineInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			w.look(ctx)
		}
	}
}

// look asks for those whose time is over, a few at once.
func (w *warden) look(ctx context.Context) {
	var due []*fsm.Free
	now := w.now().UnixNano()
	w.state.Read(func(s *fsm.State) {
		for f := range s.Quarantined() {
			if f.QuarantineUntil <= now && len(due) < reprobesAtOnce {
				due = append(due, f)
			}
		}
	})
	for _, f := range due {
		err := w.ask(ctx, f)
		if err != nil && ctx.Err() == nil && !errors.Is(err, decider.ErrNotLeader) {
			w.log.Warn("an address in quarantine could not be asked for; it is tried again", "vip", f.Addr, obs.KeyError, err)
		}
	}
}

// ask asks the wire. The quarantine goes on while the station that caused it
// answers; without a speaker that can ask, it goes on as it is.
func (w *warden) ask(ctx context.Context, f *fsm.Free) error {
	ctx, cancel := context.WithTimeout(ctx, defaultProbe+probeGrace+observeTimeout)
	defer cancel()
	probing, stop := context.WithTimeout(ctx, defaultProbe+probeGrace)
	defer stop()
	// The node that heard it is on its segment; others may not be, and their silence
	// counts only when that one is not attached.
	results := w.attached.probe(probing, f.Addr, defaultProbe)
	attached := slices.ContainsFunc(results, func(r probeResult) bool { return r.node == f.ConflictNode })
	asked := false
	for _, r := range results {
		if r.err != nil || r.answer.GetError() != "" {
			continue
		}
		asked = asked || r.node == f.ConflictNode || !attached
		for _, hit := range r.answer.GetHits() {
			if macOf(hit.GetMac()) == f.Conflict {
				_, err := w.decider.Submit(ctx, &decider.QuarantineSeen{Address: f.Addr, Node: r.node})
				return err
			}
		}
	}
	if !asked {
		return nil
	}
	_, err := w.decider.Submit(ctx, &decider.EndQuarantine{Address: f.Addr})
	return err
}

// EndQuarantine gives an address back that a foreign station had. It runs on the
// leader.
func (s *Services) EndQuarantine(ctx context.Context, req *adminv1.EndQuarantineRequest) (*adminv1.EndQuarantineResponse, error) {
	addr, err := netip.ParseAddr(req.GetAddress())
	if err != nil {
		return nil, invalidField("address", "%v", err)
	}
	res, err := s.submit(ctx, &decider.EndQuarantine{Address: addr.Unmap(), Actor: callerOf(ctx).actor()})
	if err != nil {
		return nil, err
	}
	return &adminv1.EndQuarantineResponse{Revision: res.Revision}, nil
}

// quarantine lists the addresses that foreign stations have.
func (v *view) quarantine(resp *adminv1.GetResponse) {
	for f := range v.s.Quarantined() {
		if v.wants(f.Addr.String()) {
			resp.Quarantine = append(resp.Quarantine, &adminv1.QuarantineStatus{
				Address: f.Addr.String(), Pool: f.Pool, Mac: slices.Clone(f.Conflict[:]), Node: f.ConflictNode,
				SinceUnixNano: f.QuarantineSince, UntilUnixNano: f.QuarantineUntil,
			})
		}
	}
}
