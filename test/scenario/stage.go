package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
)

// Config is two pools and four services, each with one address.
const Config = `
apiVersion: quorumlb.io/v1
kind: IPAddressPool
metadata: {name: public-v4}
spec:
  addresses: [192.0.2.100-192.0.2.149]
---
apiVersion: quorumlb.io/v1
kind: IPAddressPool
metadata: {name: public-v6}
spec:
  addresses: ["2001:db8:1::100-2001:db8:1::1ff"]
---
apiVersion: quorumlb.io/v1
kind: L2Advertisement
metadata: {name: public}
spec:
  ipAddressPools: [public-v4, public-v6]
---
apiVersion: quorumlb.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  ports: [{name: http, protocol: TCP, port: 8080}, {name: echo, protocol: UDP, port: 7007}]
  ipFamilies: [IPv4]
  delivery: Host
---
apiVersion: quorumlb.io/v1
kind: VirtualService
metadata: {name: mail}
spec:
  ports: [{name: http, protocol: TCP, port: 8080}, {name: echo, protocol: UDP, port: 7007}]
  ipFamilies: [IPv4]
  delivery: Host
---
apiVersion: quorumlb.io/v1
kind: VirtualService
metadata: {name: api}
spec:
  ports: [{name: http, protocol: TCP, port: 8080}, {name: echo, protocol: UDP, port: 7007}]
  ipFamilies: [IPv6]
  delivery: Host
---
apiVersion: quorumlb.io/v1
kind: VirtualService
metadata: {name: dns}
spec:
  ports: [{name: http, protocol: TCP, port: 8080}, {name: echo, protocol: UDP, port: 7007}]
  ipFamilies: [IPv6]
  delivery: Host
`

// ConfigVIPs is how many addresses Config asks for.
const ConfigVIPs = 4

// Options of a stage. The zero value is good.
type Options struct {
	Cluster cluster.Options
	// Config is applied instead of the package's; it asks for so many addresses.
	Config string
	VIPs   int
	// UDPEvery and TCPEvery are the probes' intervals for each address: 10 and 20 ms.
	UDPEvery, TCPEvery time.Duration
	// AskEvery is the interval of the asker for each address: 25 ms.
	AskEvery time.Duration
}

// Stage is a running cluster with its audience.
type Stage struct {
	*cluster.Cluster
	Addrs []netip.Addr // sorted
	UDP   map[netip.Addr]*lab.UDPProbe
	TCP   map[netip.Addr]*lab.TCPProbe
	// AtClient and AtRouter capture at the two hosts' ports.
	AtClient, AtRouter *lab.Capture
	Asker              *lab.Asker
	// Control probes the router's own address, which no event touches: what it
	// misses is this machine's doing.
	Control *lab.UDPProbe

	opts Options
}

// Open makes a cluster, starts it, applies the config, seats the audience and
// waits until every probe is answered. The caller closes the stage, also after
// an error that comes with a stage.
func Open(ctx context.Context, opts Options) (*Stage, error) {
	if opts.Config == "" {
		opts.Config, opts.VIPs = Config, ConfigVIPs
	}
	if opts.UDPEvery == 0 {
		opts.UDPEvery = 10 * time.Millisecond
	}
	if opts.TCPEvery == 0 {
		opts.TCPEvery = 20 * time.Millisecond
	}
	if opts.AskEvery == 0 {
		opts.AskEvery = 25 * time.Millisecond
	}
	c, err := cluster.New(ctx, opts.Cluster)
	if err != nil {
		return nil, err
	}
	s := &Stage{Cluster: c, opts: opts, UDP: map[netip.Addr]*lab.UDPProbe{}, TCP: map[netip.Addr]*lab.TCPProbe{}}
	return s, s.open(ctx)
}

func (s *Stage) open(ctx context.Context) (err error) {
	if err := s.Start(ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if _, err := s.Apply(ctx, s.opts.Config); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	vips, err := s.WaitAnnounced(ctx, s.opts.VIPs, 15*time.Second)
	if err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	for _, v := range vips {
		addr, err := netip.ParseAddr(v.GetAddress())
		if err != nil {
			return err
		}
		s.Addrs = append(s.Addrs, addr)
	}
	slices.SortFunc(s.Addrs, netip.Addr.Compare)
	return s.seat(ctx)
}

func (s *Stage) seat(ctx context.Context) (err error) {
	if s.AtClient, err = s.LAN.Capture("client"); err != nil {
		return err
	}
	if s.AtRouter, err = s.LAN.Capture("router"); err != nil {
		return err
	}
	if s.Asker, err = s.Router.Ask(cluster.LAN, s.opts.AskEvery); err != nil {
		return err
	}
	s.Asker.SetAddrs(s.Addrs)
	if _, err := s.Router.StartResponder(); err != nil {
		return err
	}
	if s.Control, err = s.Client.ProbeUDP(s.Router.Addr(cluster.LAN, false), s.opts.UDPEvery); err != nil {
		return err
	}
	for _, addr := range s.Addrs {
		if s.UDP[addr], err = s.Client.ProbeUDP(addr, s.opts.UDPEvery); err != nil {
			return err
		}
		if s.TCP[addr], err = s.Client.ProbeTCP(addr, s.opts.TCPEvery); err != nil {
			return err
		}
	}
	return s.WaitAnswered(ctx, 10*time.Second, nil)
}

// WaitAnswered waits until every address is answered by its owner in the log, to
// both probes; not by any of the nodes in except.
func (s *Stage) WaitAnswered(ctx context.Context, deadline time.Duration, except []string) error {
	return lab.Poll(ctx, deadline, func(ctx context.Context) error {
		owners, err := s.Owners(ctx)
		if err != nil {
			return err
		}
		for _, addr := range s.Addrs {
			owner := owners[addr.String()]
			if owner == "" || slices.Contains(except, owner) {
				return fmt.Errorf("%s is owned by %q", addr, owner)
			}
			if x, ok := s.UDP[addr].Last(100 * time.Millisecond); !ok || x.Node != owner {
				return fmt.Errorf("%s: UDP is answered by %q, owned by %s", addr, x.Node, owner)
			}
			if x, ok := s.TCP[addr].Last(100 * time.Millisecond); !ok || x.Node != owner {
				return fmt.Errorf("%s: TCP is answered by %q, owned by %s", addr, x.Node, owner)
			}
		}
		return nil
	})
}

// OwnerOf is the node that owns the most addresses among those that fit. One
// that owns none is given one.
func (s *Stage) OwnerOf(ctx context.Context, fits func(*cluster.Node) bool) (*cluster.Node, error) {
	owners, err := s.Owners(ctx)
	if err != nil {
		return nil, err
	}
	count := map[string]int{}
	for _, owner := range owners {
		count[owner]++
	}
	var best *cluster.Node
	for _, n := range s.Nodes {
		if fits(n) && (best == nil || count[n.Name] > count[best.Name]) {
			best = n
		}
	}
	if best == nil {
		return nil, errors.New("no node fits")
	}
	if count[best.Name] > 0 {
		return best, nil
	}
	return best, s.MoveTo(ctx, s.Addrs[0], best)
}

// MoveTo makes a planned move of an address and waits until it is answered there.
func (s *Stage) MoveTo(ctx context.Context, addr netip.Addr, n *cluster.Node) error {
	err := s.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
		_, err := a.Move(ctx, &adminv1.MoveRequest{Address: addr.String(), ToNode: n.Name})
		return err
	})
	if err != nil {
		return fmt.Errorf("move %s to %s: %w", addr, n.Name, err)
	}
	err = lab.Poll(ctx, 10*time.Second, func(ctx context.Context) error {
		owners, err := s.Owners(ctx)
		if err == nil && owners[addr.String()] != n.Name {
			err = fmt.Errorf("%s is with %q", addr, owners[addr.String()])
		}
		return err
	})
	return errors.Join(err, s.WaitAnswered(ctx, 10*time.Second, nil))
}

// OwnedBy lists the addresses of a node, by the log.
func (s *Stage) OwnedBy(ctx context.Context, n *cluster.Node) ([]netip.Addr, error) {
	owners, err := s.Owners(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(s.Addrs), func(a netip.Addr) bool { return owners[a.String()] != n.Name }), nil
}
