package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/scenario"
)

const (
	// perApply is how many services one call declares.
	perApply = 500
	// snapshotEvery is the members' own setting: how many log entries make a snapshot.
	snapshotEvery = 25_000
	// tailEntries is how many are written after the snapshot, to be replayed.
	tailEntries = 10_000
	// updaters write one by one, so that the log has many entries.
	updaters = 4
	// coldStarts bounds the restarts: they differ little.
	coldStarts = 5
)

// benchColdStart measures how long three members need that were all killed, with a
// snapshot of many services and a log behind it.
func benchColdStart(ctx context.Context, r *recorder) error {
	r.clear()
	dir, err := runDir(r.o, "coldstart")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := cluster.New(ctx, cluster.Options{Nodes: 3, LogLevel: "info", Lab: lab.Options{Dir: dir}, MemberArgs: profileArgs(r)})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Start(ctx); err != nil {
		return err
	}
	if _, err := c.Apply(ctx, ledgerPool); err != nil {
		return err
	}
	if err := fillMembers(ctx, r, c); err != nil {
		return err
	}
	for i := range min(r.o.repeats, coldStarts) {
		if err := scenario.KillMembers(c.Members()...); err != nil {
			return err
		}
		start := time.Now()
		for _, n := range c.Members() {
			if err := n.StartMember(); err != nil {
				return err
			}
		}
		if i == 0 {
			stop := startProfile(ctx, r, c.Nodes[0], "member", "start", 3*time.Second)
			defer stop()
		}
		if err := c.WaitMembers(ctx, time.Minute); err != nil {
			return err
		}
		ready := time.Since(start)
		// And a write is answered.
		if err := c.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
			_, err := a.Apply(ctx, &adminv1.ApplyRequest{Resources: []*adminv1.Resource{ledgerService(fmt.Sprintf("after-%d", i))}})
			return err
		}); err != nil {
			return err
		}
		rss, err := memory(c.Nodes[0].Member().PID(), "VmRSS")
		if err != nil {
			return err
		}
		r.say("ready after %v", ready.Round(time.Millisecond))
		if err := r.add(map[string]float64{
			"ready": ready.Seconds(), "writes": time.Since(start).Seconds(), "rss": float64(rss),
		}); err != nil {
			return err
		}
	}
	return nil
}

// fillMembers declares the services, and writes until a snapshot holds them and a log is
// behind it.
func fillMembers(ctx context.Context, r *recorder, c *cluster.Cluster) error {
	start := time.Now()
	g, filling := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for from := 0; from < r.o.services; from += perApply {
		g.Go(func() error {
			req := &adminv1.ApplyRequest{}
			for i := from; i < min(from+perApply, r.o.services); i++ {
				req.Resources = append(req.Resources, ledgerService(fmt.Sprintf("cold-%06d", i)))
			}
			return c.Do(filling, func(ctx context.Context, a adminv1.AdminServiceClient) error {
				_, err := a.Apply(ctx, req)
				return err
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	r.say("%d services declared in %v", r.o.services, time.Since(start).Round(time.Second))
	r.Samples["services"] = []float64{float64(r.o.services)}
	r.Samples["declared"] = []float64{time.Since(start).Seconds()}
	if err := writeEntries(ctx, c, snapshotEvery+1000); err != nil {
		return err
	}
	if err := lab.Poll(ctx, 2*time.Minute, func(context.Context) error { return haveSnapshots(c) }); err != nil {
		return err
	}
	if err := writeEntries(ctx, c, tailEntries); err != nil {
		return err
	}
	r.say("snapshot and log written after %v", time.Since(start).Round(time.Second))
	r.Samples["tail"] = []float64{tailEntries}
	return r.save()
}

// haveSnapshots fails while a member has none.
func haveSnapshots(c *cluster.Cluster) error {
	for _, n := range c.Members() {
		if found, _ := filepath.Glob(filepath.Join(n.DataDir(), "snapshots", "*[^p]", "meta.json")); len(found) == 0 {
			return errors.New(n.MemberName + " has no snapshot yet") // *.tmp is one under way
		}
	}
	return nil
}

// writeEntries changes services one by one until the log has so many more batches.
func writeEntries(ctx context.Context, c *cluster.Cluster, batches uint64) error {
	var first, newest atomic.Uint64
	g, writing := errgroup.WithContext(ctx)
	for w := range updaters {
		g.Go(func() error {
			svc := ledgerService(fmt.Sprintf("cold-%06d", w))
			for port := uint32(1); ; port++ {
				svc.GetService().Ports = []*logv1.Port{{Name: "x", Protocol: logv1.Protocol_PROTOCOL_TCP, Port: 1 + port%60_000}}
				var revision uint64
				err := c.Do(writing, func(ctx context.Context, a adminv1.AdminServiceClient) error {
					resp, err := a.Apply(ctx, &adminv1.ApplyRequest{Resources: []*adminv1.Resource{svc}})
					revision = resp.GetRevision()
					return err
				})
				if err != nil {
					return err
				}
				first.CompareAndSwap(0, revision)
				newest.Store(revision)
				if newest.Load() >= first.Load()+batches {
					return nil
				}
			}
		})
	}
	return g.Wait()
}
