package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
)

const countConfig = `apiVersion: quorumlb.io/v1
kind: IPAddressPool
metadata: {name: many}
spec: {addresses: [192.0.2.20-192.0.2.219]}
---
apiVersion: quorumlb.io/v1
kind: L2Advertisement
metadata: {name: all}
---
apiVersion: quorumlb.io/v1
kind: VirtualService
metadata: {name: wide}
spec:
  addressCount: 3
  ports: [{name: http, port: 8080}, {name: echo, protocol: UDP, port: 7007}]
  delivery: Host
`

// TestOneServiceOnSeveralNodes: a service with addressCount 3 has three owners on distinct
// nodes, and a client reaches all of its addresses; also after an owner has lost power. Those
// that had to share a node, while others were drained, are parted later, and nothing is lost.
func TestOneServiceOnSeveralNodes(t *testing.T) {
	lab.Require(t)
	ctx := t.Context()
	c, err := cluster.New(ctx, cluster.Options{})
	ok(t, err)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("remove the lab: %v", err)
		}
	})
	ok(t, c.Start(ctx))
	_, err = c.Apply(ctx, countConfig)
	ok(t, err)
	probes := map[netip.Addr]*lab.UDPProbe{}
	for i := range 3 {
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(20 + i)})
		probes[addr], err = c.Client.ProbeUDP(addr, 50*time.Millisecond)
		ok(t, err)
	}
	// spread waits until all are answered, by distinct nodes, none of them the dead one.
	spread := func(dead string, within time.Duration) (nodes map[string]bool) {
		t.Helper()
		ok(t, lab.Poll(ctx, within, func(ctx context.Context) error {
			vips, err := c.VIPs(ctx)
			if err != nil {
				return err
			}
			nodes = map[string]bool{}
			for _, v := range vips {
				if v.GetOwner() != "" && v.GetOwner() != dead {
					nodes[v.GetOwner()] = true
				}
			}
			if len(vips) != 3 || len(nodes) != 3 {
				return fmt.Errorf("%d addresses have the owners %v", len(vips), nodes)
			}
			for addr, probe := range probes {
				if _, answered := probe.Last(500 * time.Millisecond); !answered {
					return fmt.Errorf("%s is not answered", addr)
				}
			}
			return nil
		}))
		t.Logf("owners: %v", nodes)
		return nodes
	}
	spread("", 15*time.Second)
	begin := time.Now()
	drained := func(undo bool) {
		t.Helper()
		ok(t, c.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) (err error) {
			for _, n := range c.Nodes[2:] {
				if undo {
					_, err = a.Undrain(ctx, &adminv1.UndrainRequest{Node: n.Name})
				} else {
					_, err = a.Drain(ctx, &adminv1.DrainRequest{Node: n.Name})
				}
				if err != nil {
					return err
				}
			}
			return nil
		}))
	}
	drained(false)
	ok(t, lab.Poll(ctx, 15*time.Second, func(ctx context.Context) error {
		vips, err := c.VIPs(ctx)
		for _, v := range vips {
			if v.GetOwner() != c.Nodes[0].Name && v.GetOwner() != c.Nodes[1].Name {
				return fmt.Errorf("%s is with %q", v.GetAddress(), v.GetOwner())
			}
		}
		return err
	}))
	drained(true)
	before := spread("", 90*time.Second) // when the nodes have been quiet for 30 s
	t.Logf("parted %v after the drain", time.Since(begin).Round(time.Second))
	for addr, probe := range probes {
		if r := probe.Window(begin, time.Now().Add(-lab.Patience)); r.Lost > 0 {
			t.Errorf("%d of %d datagrams to %s were lost", r.Lost, r.Sent, addr)
		}
	}
	for _, n := range c.Nodes {
		if before[n.Name] && !n.IsMember() {
			at, err := n.Host.PowerOff()
			ok(t, err)
			spread(n.Name, 15*time.Second)
			t.Logf("all are answered again %v after the power-off of %s", time.Since(at).Round(time.Millisecond), n.Name)
			return
		}
	}
	// Three members own them: one of those will do as well.
	for _, n := range c.Nodes {
		if before[n.Name] {
			_, err := n.Host.PowerOff()
			ok(t, err)
			spread(n.Name, 15*time.Second)
			return
		}
	}
}
