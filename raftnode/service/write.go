package service

import (
	"context"
	"net/netip"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/obs"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
)

// The methods in this file run on the leader: the forwarder takes calls there.

// submit has a command decided.
func (s *Services) submit(ctx context.Context, cmd decider.Command) (decider.Result, error) {
	res, err := s.cfg.Decider.Submit(ctx, cmd)
	return res, fromDecider(err)
}

// Apply declares resources.
func (s *Services) Apply(ctx context.Context, req *adminv1.ApplyRequest) (*adminv1.ApplyResponse, error) {
	res, err := s.submit(ctx, &decider.Apply{
		Resources: req.GetResources(), DryRun: req.GetDryRun(), Force: req.GetForce(),
		Source: req.GetSource(), Generation: req.GetGeneration(), Actor: callerOf(ctx).actor(),
	})
	if err != nil {
		return nil, err
	}
	resp := &adminv1.ApplyResponse{Revision: res.Revision}
	for _, r := range res.Resources {
		result := &adminv1.ApplyResult{Kind: r.Kind, Name: r.Name, Result: r.Outcome.String(), Pending: r.Pending}
		for _, a := range r.Addresses {
			result.Addresses = append(result.Addresses, a.String())
		}
		for _, no := range r.Refusals {
			result.Refusals = append(result.Refusals, no.Proto())
		}
		resp.Results = append(resp.Results, result)
	}
	resp.Effects, resp.EffectsLeftOut = effectMessages(res.Effects, maxEffects)
	return resp, nil
}

// Delete removes resources.
func (s *Services) Delete(ctx context.Context, req *adminv1.DeleteRequest) (*adminv1.DeleteResponse, error) {
	res, err := s.submit(ctx, &decider.Delete{Names: req.GetNames(), Force: req.GetForce(), DryRun: req.GetDryRun(), Actor: callerOf(ctx).actor()})
	if err != nil {
		return nil, err
	}
	resp := &adminv1.DeleteResponse{Revision: res.Revision, Existed: res.Deleted}
	resp.Effects, resp.EffectsLeftOut = effectMessages(res.Effects, maxEffects)
	for _, no := range res.NeedsForce {
		resp.NeedsForce = append(resp.NeedsForce, no.Message)
	}
	return resp, nil
}

// maxEffects bounds the effects of an answer, in bytes, so that it is a message with all
// else that it holds: some 200,000 services.
const maxEffects = MaxMessage / 2

// effectMessages gives as many effects as have room, and counts the others.
func effectMessages(list []decider.Effect, room int) (out []*adminv1.Effect, left uint64) {
	texts := func(addrs []netip.Addr) (out []string) {
		for _, a := range addrs {
			out = append(out, a.String())
		}
		return out
	}
	for i, e := range list {
		one := &adminv1.Effect{
			Service: e.Service.String(), Deleted: e.Deleted,
			Taken: texts(e.Taken), Given: texts(e.Given), Leaving: texts(e.Leaving), Unselected: texts(e.Unselected), Pending: e.Pending,
		}
		for _, o := range e.Owners {
			one.Owners = append(one.Owners, &adminv1.OwnerEffect{Address: o.Addr.String(), FromNode: o.From, ToNode: o.To, Why: o.Why})
		}
		if room -= proto.Size(one) + 9; room < 0 {
			return out, uint64(len(list) - i)
		}
		out = append(out, one)
	}
	return out, 0
}

// Drain moves everything away from a node.
func (s *Services) Drain(ctx context.Context, req *adminv1.DrainRequest) (*adminv1.DrainResponse, error) {
	res, err := s.submit(ctx, &decider.Drain{
		Node: req.GetNode(), Grace: time.Duration(req.GetGraceNanos()), Actor: callerOf(ctx).actor(),
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.DrainResponse{Revision: res.Revision, Owned: uint32(res.Owned), Soft: uint32(res.Soft)}, nil
}

// Undrain lets a node own addresses again.
func (s *Services) Undrain(ctx context.Context, req *adminv1.UndrainRequest) (*adminv1.UndrainResponse, error) {
	res, err := s.submit(ctx, &decider.Undrain{Node: req.GetNode(), Actor: callerOf(ctx).actor()})
	if err != nil {
		return nil, err
	}
	return &adminv1.UndrainResponse{Revision: res.Revision}, nil
}

// Move makes a planned move of one address.
func (s *Services) Move(ctx context.Context, req *adminv1.MoveRequest) (*adminv1.MoveResponse, error) {
	addr, err := netip.ParseAddr(req.GetAddress())
	if err != nil {
		return nil, invalidField("address", "%v", err)
	}
	res, err := s.submit(ctx, &decider.Move{Address: addr.Unmap(), To: req.GetToNode(), Actor: callerOf(ctx).actor()})
	if err != nil {
		return nil, err
	}
	return &adminv1.MoveResponse{Revision: res.Revision, FromNode: res.From, ToNode: res.To}, nil
}

// Rebalance spreads addresses evenly over the nodes.
func (s *Services) Rebalance(ctx context.Context, req *adminv1.RebalanceRequest) (*adminv1.RebalanceResponse, error) {
	res, err := s.submit(ctx, &decider.Rebalance{
		DryRun: req.GetDryRun(), PerMinute: req.GetPerMinute(), Stop: req.GetStop(), Actor: callerOf(ctx).actor(),
	})
	if err != nil {
		return nil, err
	}
	resp := &adminv1.RebalanceResponse{Revision: res.Revision, PerMinute: res.PerMinute}
	for _, m := range res.Moves {
		resp.Moves = append(resp.Moves, &adminv1.BalanceMove{Address: m.Addr.String(), FromNode: m.From, ToNode: m.To})
	}
	for _, m := range res.Held {
		resp.Held = append(resp.Held, &adminv1.BalanceMove{Address: m.Addr.String(), FromNode: m.From, ToNode: m.To, HeldUntilUnixNano: m.Until})
	}
	return resp, nil
}

// ForgetNode removes a node that will not return.
func (s *Services) ForgetNode(ctx context.Context, req *adminv1.ForgetNodeRequest) (*adminv1.ForgetNodeResponse, error) {
	res, err := s.submit(ctx, &decider.ForgetNode{Node: req.GetNode(), Actor: callerOf(ctx).actor()})
	if err != nil {
		return nil, err
	}
	return &adminv1.ForgetNodeResponse{Revision: res.Revision}, nil
}

// SetLeaseTimes changes the times of detection.
func (s *Services) SetLeaseTimes(ctx context.Context, req *adminv1.SetLeaseTimesRequest) (*adminv1.SetLeaseTimesResponse, error) {
	t := req.GetTimes()
	if t == nil {
		return nil, invalidField("times", "must be set")
	}
	res, err := s.submit(ctx, &decider.SetLeaseTimes{Actor: callerOf(ctx).actor(), Times: fsm.LeaseTimes{
		Detection: time.Duration(t.GetDetectionNanos()), Heartbeat: time.Duration(t.GetHeartbeatNanos()), Settle: time.Duration(t.GetSettleNanos()),
	}})
	if err != nil {
		return nil, err
	}
	return &adminv1.SetLeaseTimesResponse{Revision: res.Revision}, nil
}

// SetRetention changes how long the address of a deleted service is kept.
func (s *Services) SetRetention(ctx context.Context, req *adminv1.SetRetentionRequest) (*adminv1.SetRetentionResponse, error) {
	res, err := s.submit(ctx, &decider.SetRetention{Retention: time.Duration(req.GetRetentionNanos()), Actor: callerOf(ctx).actor()})
	if err != nil {
		return nil, err
	}
	return &adminv1.SetRetentionResponse{Revision: res.Revision}, nil
}

// AddMember takes a member in.
func (s *Services) AddMember(ctx context.Context, req *adminv1.AddMemberRequest) (*adminv1.AddMemberResponse, error) {
	if req.GetId() == "" {
		return nil, invalidField("id", "must be set")
	}
	if !isHostPort(req.GetAddress()) {
		return nil, invalidField("address", "%q is not host:port", req.GetAddress())
	}
	if err := s.cfg.Membership.Add(ctx, req.GetId(), req.GetAddress()); err != nil {
		return nil, fromMembership(err)
	}
	s.log.Info("member added", obs.KeyMember, req.GetId(), "address", req.GetAddress(), "actor", callerOf(ctx).actor())
	return &adminv1.AddMemberResponse{}, nil
}

// RemoveMember takes a member out.
func (s *Services) RemoveMember(ctx context.Context, req *adminv1.RemoveMemberRequest) (*adminv1.RemoveMemberResponse, error) {
	if req.GetId() == "" {
		return nil, invalidField("id", "must be set")
	}
	if err := s.cfg.Membership.Remove(ctx, req.GetId()); err != nil {
		return nil, fromMembership(err)
	}
	s.log.Info("member removed", obs.KeyMember, req.GetId(), "actor", callerOf(ctx).actor())
	return &adminv1.RemoveMemberResponse{}, nil
}

// TransferLeadership hands leadership to another member, and tells to whom.
func (s *Services) TransferLeadership(ctx context.Context, req *adminv1.TransferLeadershipRequest) (*adminv1.TransferLeadershipResponse, error) {
	if req.GetTo() == s.cfg.ID {
		return &adminv1.TransferLeadershipResponse{Leader: s.cfg.ID}, nil
	}
	if err := s.cfg.Membership.Transfer(ctx, req.GetTo()); err != nil {
		return nil, fromMembership(err)
	}
	s.log.Info("leadership transferred", "to", req.GetTo(), "actor", callerOf(ctx).actor())
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Hold)
	defer cancel()
	for {
		l := s.cfg.Group.Leadership()
		if l.ID != "" && l.ID != s.cfg.ID {
			return &adminv1.TransferLeadershipResponse{Leader: l.ID}, nil
		}
		select {
		case <-l.Changed:
		case <-ctx.Done():
			return &adminv1.TransferLeadershipResponse{}, nil
		}
	}
}
