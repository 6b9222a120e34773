package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/scenario"
)

// runDir makes a directory for one cluster, which the caller removes.
func runDir(o options, name string) (string, error) {
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return "", err
	}
	return os.MkdirTemp(o.dir, name+"-")
}

func openStage(ctx context.Context, o options, name string, opts scenario.Options) (*scenario.Stage, func(), error) {
	dir, err := runDir(o, name)
	if err != nil {
		return nil, nil, err
	}
	opts.Cluster.Lab.Dir = dir
	s, err := scenario.Open(ctx, opts)
	remove := func() {
		if s != nil {
			_ = s.Close()
		}
		_ = os.RemoveAll(dir)
	}
	if err != nil {
		remove()
		return nil, nil, err
	}
	return s, remove, nil
}

// quiet makes the audience cost little.
func quiet(opts scenario.Options) scenario.Options {
	opts.UDPEvery, opts.TCPEvery, opts.AskEvery = time.Second, time.Second, time.Second
	return opts
}

// ourField is QuorumLB on five nodes.
type ourField struct {
	*scenario.Stage
	remove func()
}

func openOurs(ctx context.Context, r *recorder, p profile) (field, error) {
	s, remove, err := openStage(ctx, r.o, "outage", scenario.Options{
		UDPEvery: probeEvery, TCPEvery: 250 * time.Millisecond, AskEvery: askEvery,
		Cluster: cluster.Options{Profile: p.name},
	})
	if err != nil {
		return nil, err
	}
	// A group begins with the default times, which count for a while after the
	// profile's have been set.
	if err := lab.Wait(ctx, 3*time.Second); err != nil {
		remove()
		return nil, err
	}
	return &ourField{s, remove}, nil
}

func (f *ourField) choose(ctx context.Context, w whom) (targets []target, addrs []netip.Addr, err error) {
	leader, err := f.Leader(ctx)
	if err != nil {
		return nil, nil, err
	}
	first, err := f.OwnerOf(ctx, func(n *cluster.Node) bool { return (n == leader) == (w == theLeader) })
	if err != nil {
		return nil, nil, err
	}
	nodes := []*cluster.Node{first}
	if w == twoOwners {
		// A majority of the members stays.
		second, err := f.OwnerOf(ctx, func(n *cluster.Node) bool {
			return n != first && n != leader && !(first.IsMember() && n.IsMember())
		})
		if err != nil {
			return nil, nil, err
		}
		nodes = append(nodes, second)
	}
	for _, n := range nodes {
		owned, err := f.OwnedBy(ctx, n)
		if err != nil {
			return nil, nil, err
		}
		addrs = append(addrs, owned...)
		targets = append(targets, f.target(n))
	}
	return targets, addrs, nil
}

func (f *ourField) target(n *cluster.Node) target {
	t := target{
		host: n.Host, lan: f.LAN, daemon: n.Speaker(), all: []*lab.Process{n.Speaker(), n.Responder()},
		boot: func(context.Context) error { return n.PowerOn() },
		leave: func(ctx context.Context) error {
			return f.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
				_, err := a.Drain(ctx, &adminv1.DrainRequest{Node: n.Name})
				return err
			})
		},
		stay: func(ctx context.Context) error {
			return f.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
				_, err := a.Undrain(ctx, &adminv1.UndrainRequest{Node: n.Name})
				return err
			})
		},
	}
	if n.IsMember() {
		t.all = append(t.all, n.Member())
	}
	return t
}

func (f *ourField) settled(ctx context.Context, except []target) error {
	var names []string
	for _, t := range except {
		names = append(names, t.host.Name())
	}
	return f.WaitAnswered(ctx, 30*time.Second, names)
}

func (f *ourField) rested(ctx context.Context) error {
	err := errors.Join(f.WaitMembers(ctx, 20*time.Second), f.WaitNodes(ctx, 20*time.Second), f.WaitAnswered(ctx, 15*time.Second, nil))
	if err != nil {
		return err
	}
	// What returned has been up for longer than any rule looks back.
	return lab.Wait(ctx, 2*time.Second)
}

func (f *ourField) audience() audience {
	return audience{probes: f.UDP, atRouter: f.AtRouter, control: f.Control}
}

func (f *ourField) tails() string { return f.LogTails(60) }

func (f *ourField) close() { f.remove() }
