package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/test/lab"
)

// WaitMembers waits until every running member says that it is ready.
func (c *Cluster) WaitMembers(ctx context.Context, deadline time.Duration) error {
	return lab.Poll(ctx, deadline, func(ctx context.Context) error {
		for _, n := range c.Members() {
			if n.Member() == nil || !n.Host.On() {
				continue
			}
			if !n.Member().Running() {
				return fmt.Errorf("%s has ended: %w", n.MemberName, n.Member().Wait(ctx))
			}
			if err := n.MemberReady(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// WaitNodes waits until every node whose speaker runs is Ready (or Drained).
func (c *Cluster) WaitNodes(ctx context.Context, deadline time.Duration) error {
	return lab.Poll(ctx, deadline, func(ctx context.Context) error {
		resp, err := c.Get(ctx, false, "nodes")
		if err != nil {
			return err
		}
		for _, n := range c.Nodes {
			if !n.Speaker().Running() {
				continue
			}
			i := slices.IndexFunc(resp.GetNodes(), func(s *adminv1.NodeStatus) bool { return s.GetName() == n.Name })
			if i < 0 {
				return fmt.Errorf("%s has no session", n.Name)
			}
			if s := resp.GetNodes()[i].GetState(); s != "Ready" && s != "Drained" {
				return fmt.Errorf("%s is %s", n.Name, s)
			}
		}
		return nil
	})
}

// WaitAnnounced waits until there are want addresses and each is announced by its
// owner and by nobody else.
func (c *Cluster) WaitAnnounced(ctx context.Context, want int, deadline time.Duration) ([]*adminv1.VipStatus, error) {
	var vips []*adminv1.VipStatus
	err := lab.Poll(ctx, deadline, func(ctx context.Context) (err error) {
		if vips, err = c.VIPs(ctx); err != nil {
			return err
		}
		if len(vips) != want {
			return fmt.Errorf("%d addresses, want %d", len(vips), want)
		}
		for _, v := range vips {
			if err := announced(v); err != nil {
				return err
			}
		}
		return nil
	})
	return vips, err
}

func announced(v *adminv1.VipStatus) error {
	if v.GetOwner() == "" {
		return fmt.Errorf("%s has no owner: %s", v.GetAddress(), v.GetWaiting())
	}
	found := false
	for _, a := range v.GetAnnounced() {
		switch s := a.GetStatus(); s.GetAnnounced() {
		case speakerv1.Announced_ANNOUNCED_UNPROVEN, speakerv1.Announced_ANNOUNCED_PROVEN:
			if a.GetNode() != v.GetOwner() {
				return fmt.Errorf("%s is announced by %s, owned by %s", v.GetAddress(), a.GetNode(), v.GetOwner())
			}
			found = true
		default:
			if a.GetNode() == v.GetOwner() {
				return fmt.Errorf("%s: its owner %s says %v: %s", v.GetAddress(), v.GetOwner(), s.GetAnnounced(), s.GetReason())
			}
		}
	}
	if !found {
		return fmt.Errorf("%s is not announced by its owner %s", v.GetAddress(), v.GetOwner())
	}
	return nil
}
