package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/lab/peers"
	"github.com/quorumlb/quorumlb/test/scenario"
)

const probeEvery = 5 * time.Millisecond

// profile is a set of timers and the keepalived setting that it is measured beside.
type profile struct {
	name   string
	detect time.Duration
	advert time.Duration
}

var profiles = []profile{
	{name: "default", detect: 750 * time.Millisecond, advert: time.Second},
	{name: "fast", detect: 250 * time.Millisecond, advert: 100 * time.Millisecond},
}

// benchOutage measures how long an address is dark when its owner loses power.
func benchOutage(ctx context.Context, o options, r *report) error {
	var errs []error
	medians := map[time.Duration]durations{}
	for _, p := range profiles {
		gaps, err := keepalivedOutage(ctx, o, p.advert)
		if err != nil {
			errs = append(errs, err)
		}
		medians[p.advert] = gaps
	}
	for _, p := range profiles {
		for _, withLeader := range []bool{false, true} {
			gaps, err := ourOutage(ctx, o, r, p, withLeader)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
			}
			if len(gaps) == 0 {
				continue
			}
			peer := medians[p.advert]
			x := row{
				what: "power-off outage, `" + p.name + "`", ours: gaps.spread(),
				peer: fmt.Sprintf("keepalived, advert_int %v: %s", p.advert.Seconds(), peer.spread()),
				aim:  fmt.Sprintf("max <= D + 60 ms = %v", p.detect+60*time.Millisecond),
				met:  gaps.max() <= p.detect+60*time.Millisecond,
			}
			if withLeader {
				x.what += ", Raft leader on the dead node"
				x.aim, x.met = "median below 0.8 s", gaps.median() < 800*time.Millisecond
			}
			if p.name == "fast" && !withLeader {
				x.aim += "; median below keepalived's"
				x.met = x.met && len(peer) > 0 && gaps.median() < peer.median()
			}
			r.add(x)
		}
	}
	return errors.Join(errs...)
}

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

func ourOutage(ctx context.Context, o options, r *report, p profile, withLeader bool) (gaps durations, err error) {
	s, remove, err := openStage(ctx, o, "outage", scenario.Options{
		UDPEvery: probeEvery, TCPEvery: 250 * time.Millisecond, AskEvery: 250 * time.Millisecond,
		Cluster: cluster.Options{Profile: p.name},
	})
	if err != nil {
		return nil, err
	}
	defer remove()
	// A group begins with the default times, which count for a while after the
	// profile's have been set.
	if err := lab.Wait(ctx, 3*time.Second); err != nil {
		return nil, err
	}
	for range o.repeats {
		leader, err := s.Leader(ctx)
		if err != nil {
			return gaps, err
		}
		victim, err := s.OwnerOf(ctx, func(n *cluster.Node) bool { return (n == leader) == withLeader })
		if err != nil {
			return gaps, err
		}
		var limits scenario.Limits
		start := time.Now()
		if err := s.PowerOff(ctx, victim, &limits); err != nil {
			return gaps, err
		}
		end := time.Now()
		var worst time.Duration
		for _, addr := range limits.Dark {
			worst = max(worst, s.UDP[addr].Window(start, end).LongestGap)
		}
		gaps = append(gaps, worst)
		if noise := s.Control.Window(start, end).LongestGap; noise > 50*time.Millisecond {
			fmt.Fprintf(r.progress, "  the machine paused everything for %v during an outage of %v\n", ms(noise), ms(worst))
		}
		if err := s.PowerOnAndWait(ctx, victim); err != nil {
			return gaps, err
		}
		if err := s.WaitAnswered(ctx, 10*time.Second, nil); err != nil {
			return gaps, err
		}
		// What returned has been up for longer than any rule looks back.
		if err := lab.Wait(ctx, 2*time.Second); err != nil {
			return gaps, err
		}
	}
	return gaps, nil
}

// keepalivedOutage measures the same of keepalived on three hosts of the same lab.
func keepalivedOutage(ctx context.Context, o options, advert time.Duration) (gaps durations, err error) {
	if err := peers.HasKeepalived(); err != nil {
		return nil, err
	}
	dir, err := runDir(o, "keepalived")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	l, err := lab.New(lab.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	sw, err := l.NewSwitch("lan")
	if err != nil {
		return nil, err
	}
	vip := netip.MustParsePrefix("192.0.2.100/24")
	var hosts []*lab.Host
	for i, name := range []string{"n1", "n2", "n3", "client"} {
		h, err := l.NewHost(name)
		if err != nil {
			return nil, err
		}
		if err := h.Plug(sw, "eth0", fmt.Sprintf("192.0.2.%d/24", i+1)); err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	client, hosts := hosts[3], hosts[:3]
	boot := func(i int) error {
		if _, err := hosts[i].StartResponder(); err != nil {
			return err
		}
		_, err := peers.StartKeepalived(hosts[i], dir, peers.VRRP{Interface: "eth0", VIP: vip, Priority: 200 - 20*i, Advert: advert})
		return err
	}
	for i := range hosts {
		if err := boot(i); err != nil {
			return nil, err
		}
	}
	probe, err := client.ProbeUDP(vip.Addr(), probeEvery)
	if err != nil {
		return nil, err
	}
	answers := func(node string) func(context.Context) error {
		return func(context.Context) error {
			if x, ok := probe.Last(20 * probeEvery); !ok || x.Node != node {
				return fmt.Errorf("%q answers, want %s", x.Node, node)
			}
			return nil
		}
	}
	for range o.repeats {
		if err := lab.Poll(ctx, 30*time.Second, answers("n1")); err != nil {
			return gaps, err
		}
		// Let the backups hear some advertisements of the master.
		if err := lab.Wait(ctx, 3*advert); err != nil {
			return gaps, err
		}
		start, err := hosts[0].PowerOff()
		if err != nil {
			return gaps, err
		}
		if err := lab.Poll(ctx, 30*time.Second, answers("n2")); err != nil {
			return gaps, err
		}
		gaps = append(gaps, probe.Window(start, time.Now()).LongestGap)
		if err := hosts[0].PowerOn(); err != nil {
			return gaps, err
		}
		if err := boot(0); err != nil {
			return gaps, err
		}
	}
	return gaps, nil
}
