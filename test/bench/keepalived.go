package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/peers"
)

// keepalivedNodes is how many nodes there are, as with us.
const keepalivedNodes = 5

// peerField is keepalived on five nodes that share one address. The first has the
// highest priority, and so takes the address back whenever it returns.
type peerField struct {
	lab    *lab.Lab
	lan    *lab.Switch
	dir    string
	advert time.Duration
	vip    netip.Prefix
	hosts  []*lab.Host
	procs  []peerProcs
	seats  audience
}

type peerProcs struct{ keepalived, responder *lab.Process }

func openKeepalived(ctx context.Context, o options, advert time.Duration) (field, error) {
	if err := peers.HasKeepalived(); err != nil {
		return nil, err
	}
	dir, err := runDir(o, "keepalived")
	if err != nil {
		return nil, err
	}
	f := &peerField{dir: dir, advert: advert, vip: netip.MustParsePrefix("192.0.2.100/24"), procs: make([]peerProcs, keepalivedNodes)}
	if err := f.open(ctx); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *peerField) open(ctx context.Context) (err error) {
	if f.lab, err = lab.New(lab.Options{Dir: f.dir}); err != nil {
		return err
	}
	if f.lan, err = f.lab.NewSwitch("lan"); err != nil {
		return err
	}
	var all []*lab.Host
	for i, name := range []string{"n1", "n2", "n3", "n4", "n5", "client", "router"} {
		h, err := f.lab.NewHost(name)
		if err != nil {
			return err
		}
		if err := h.Plug(f.lan, "eth0", fmt.Sprintf("192.0.2.%d/24", i+1)); err != nil {
			return err
		}
		all = append(all, h)
	}
	f.hosts = all[:keepalivedNodes]
	client, router := all[keepalivedNodes], all[keepalivedNodes+1]
	for i := range f.hosts {
		if err := f.start(i); err != nil {
			return err
		}
	}
	if _, err := router.StartResponder(); err != nil {
		return err
	}
	if f.seats.atRouter, err = f.lan.Capture("router"); err != nil {
		return err
	}
	asker, err := router.Ask("eth0", askEvery)
	if err != nil {
		return err
	}
	asker.SetAddrs([]netip.Addr{f.vip.Addr()})
	probe, err := client.ProbeUDP(f.vip.Addr(), probeEvery)
	if err != nil {
		return err
	}
	f.seats.probes = map[netip.Addr]*lab.UDPProbe{f.vip.Addr(): probe}
	f.seats.control, err = client.ProbeUDP(router.Addr("eth0", false), probeEvery)
	return err
}

// start starts what does not run on a host.
func (f *peerField) start(i int) (err error) {
	h, p := f.hosts[i], &f.procs[i]
	if !p.responder.Running() {
		if p.responder, err = h.StartResponder(); err != nil {
			return err
		}
	}
	if !p.keepalived.Running() {
		p.keepalived, err = peers.StartKeepalived(h, f.dir, peers.VRRP{Interface: "eth0", VIP: f.vip, Priority: 200 - 20*i, Advert: f.advert})
	}
	return err
}

func (f *peerField) choose(ctx context.Context, w whom) ([]target, []netip.Addr, error) {
	targets := []target{f.target(0)}
	if w == twoOwners { // the owner and the next in line
		targets = append(targets, f.target(1))
	}
	return targets, []netip.Addr{f.vip.Addr()}, f.rested(ctx)
}

func (f *peerField) target(i int) target {
	h, p := f.hosts[i], &f.procs[i]
	return target{
		host: h, lan: f.lan, daemon: p.keepalived, all: []*lab.Process{p.keepalived, p.responder},
		leave: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			return p.keepalived.Stop(ctx)
		},
		stay: func(context.Context) error { return f.start(i) },
		boot: func(context.Context) error {
			if err := h.PowerOn(); err != nil {
				return err
			}
			return f.start(i)
		},
	}
}

// settled waits until some node answers that is none of except.
func (f *peerField) settled(ctx context.Context, except []target) error {
	return lab.Poll(ctx, 30*time.Second, func(context.Context) error {
		x, ok := f.probe().Last(20 * probeEvery)
		named := slices.ContainsFunc(except, func(t target) bool { return t.host.Name() == x.Node })
		if !ok || named {
			return fmt.Errorf("%q answers", x.Node)
		}
		return nil
	})
}

// rested waits until the first node answers, as it does whenever it runs.
func (f *peerField) rested(ctx context.Context) error {
	err := lab.Poll(ctx, 30*time.Second, func(context.Context) error {
		if x, ok := f.probe().Last(20 * probeEvery); !ok || x.Node != f.hosts[0].Name() {
			return fmt.Errorf("%q answers, want %s", x.Node, f.hosts[0].Name())
		}
		return nil
	})
	if err != nil {
		return err
	}
	// Let the backups hear some advertisements of the master.
	return lab.Wait(ctx, max(3*f.advert, time.Second))
}

func (f *peerField) probe() *lab.UDPProbe { return f.seats.probes[f.vip.Addr()] }

func (f *peerField) audience() audience { return f.seats }

func (f *peerField) tails() string { return "" }

func (f *peerField) close() {
	if f.lab != nil {
		_ = f.lab.Close()
	}
	_ = os.RemoveAll(f.dir)
}
