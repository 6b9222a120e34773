package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/scenario"
)

// Light churn while memory is watched: what a group with a few deployments a
// minute and some trouble does.
const (
	rssSamples  = 240
	rssEvery    = 15 * time.Second // at most: short runs look more often
	churnWrite  = 250 * time.Millisecond
	churnMove   = 10 * time.Second
	churnDrain  = time.Minute
	churnNames  = 500 // services that come and go
	warmUpShare = 4   // the first quarter is not counted in the slope
)

// benchRSS watches the memory of members and speakers under light churn.
func benchRSS(ctx context.Context, r *recorder) error {
	r.clear()
	s, remove, err := openStage(ctx, r.o, "rss", quiet(scenario.Options{}))
	if err != nil {
		return err
	}
	defer remove()
	if _, err := s.Apply(ctx, ledgerPool); err != nil {
		return err
	}
	r.Samples["watched"] = []float64{r.o.rss.Seconds()}
	churning, stop := context.WithCancel(ctx)
	g, gctx := errgroup.WithContext(churning)
	g.Go(func() error { return churn(gctx, s) })
	g.Go(func() error {
		defer stop()
		return watchMemory(gctx, r, s)
	})
	if err := g.Wait(); err != nil {
		return err
	}
	for name, points := range r.Curves {
		late := points[len(points)/warmUpShare:]
		r.Samples[name] = []float64{points[0][1], points[len(points)-1][1], slope(late) * time.Hour.Seconds()}
	}
	return r.save()
}

// watchMemory samples every daemon until the time is over.
func watchMemory(ctx context.Context, r *recorder, s *scenario.Stage) error {
	start := time.Now()
	for time.Since(start) < r.o.rss {
		for _, n := range s.Nodes {
			for name, p := range map[string]*lab.Process{"member " + n.MemberName: n.Member(), "speaker " + n.Name: n.Speaker()} {
				if p == nil {
					continue
				}
				rss, err := memory(p.PID(), "VmRSS")
				if err != nil {
					return fmt.Errorf("%s: %w; it ended:\n%s", name, err, s.LogTails(40))
				}
				r.curve(name, time.Since(start).Seconds(), float64(rss))
			}
		}
		if err := r.save(); err != nil {
			return err
		}
		if err := lab.Wait(ctx, min(rssEvery, r.o.rss/rssSamples)); err != nil {
			return err
		}
	}
	return nil
}

// churn declares and deletes services, moves an address and drains a node now and
// then, until ctx ends.
func churn(ctx context.Context, s *scenario.Stage) error {
	var moved, drained time.Time
	for i := 0; ctx.Err() == nil; i++ {
		err := s.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error { return churnService(ctx, a, i) })
		if err == nil && time.Since(moved) > churnMove {
			moved = time.Now()
			err = s.MoveTo(ctx, s.Addrs[0], s.Nodes[i%len(s.Nodes)])
		}
		if err == nil && time.Since(drained) > churnDrain {
			drained = time.Now()
			err = drainAndBack(ctx, s, s.Nodes[i%len(s.Nodes)])
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("churn: %w", err)
		}
		_ = lab.Wait(ctx, churnWrite)
	}
	return nil
}

// churnService declares the i-th service and deletes the one of half a round before.
func churnService(ctx context.Context, a adminv1.AdminServiceClient, i int) error {
	name := func(i int) string { return fmt.Sprintf("churn-%03d", i%churnNames) }
	_, err := a.Apply(ctx, &adminv1.ApplyRequest{Resources: []*adminv1.Resource{ledgerService(name(i))}})
	if err != nil || i < churnNames/2 {
		return err
	}
	_, err = a.Delete(ctx, &adminv1.DeleteRequest{Names: []*adminv1.ResourceName{
		{Kind: "VirtualService", Namespace: "ledger", Name: name(i + churnNames/2)},
	}})
	return err
}

func drainAndBack(ctx context.Context, s *scenario.Stage, n *cluster.Node) error {
	err := s.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
		_, err := a.Drain(ctx, &adminv1.DrainRequest{Node: n.Name})
		return err
	})
	if err != nil {
		return err
	}
	if err := s.WaitAnswered(ctx, 20*time.Second, []string{n.Name}); err != nil {
		return err
	}
	return s.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
		_, err := a.Undrain(ctx, &adminv1.UndrainRequest{Node: n.Name})
		return err
	})
}
