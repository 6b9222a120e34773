package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
)

const (
	manyVIPs   = 200
	routedVIPs = 5
	// sampled is every how many addresses one is probed: the rest is judged by the log.
	sampled = 20
)

// manyConfig is manyVIPs addresses of the segment's subnet, one of them with a health
// check, and routedVIPs of a subnet that only the router knows.
func manyConfig() string {
	var b strings.Builder
	b.WriteString(`apiVersion: quorumlb.io/v1
kind: IPAddressPool
metadata: {name: many}
spec: {addresses: [192.0.2.20-192.0.2.219]}
---
apiVersion: quorumlb.io/v1
kind: IPAddressPool
metadata: {name: routed}
spec: {addresses: [198.51.100.0/24]}
---
apiVersion: quorumlb.io/v1
kind: L2Advertisement
metadata: {name: all}
`)
	declare := func(name, pool, more string) {
		fmt.Fprintf(&b, `---
apiVersion: quorumlb.io/v1
kind: VirtualService
metadata: {name: %s}
spec:
  pool: %s
  ports: [{name: http, port: 8080}, {name: echo, protocol: UDP, port: 7007}]
  delivery: Host
%s`, name, pool, more)
	}
	for i := range manyVIPs {
		more := ""
		if i == 0 {
			more = "  healthCheck: {tcp: {}, interval: 200ms, timeout: 200ms, rise: 2, fall: 2}\n"
		}
		declare(fmt.Sprintf("s%03d", i), "many", more)
	}
	for i := range routedVIPs {
		declare(fmt.Sprintf("r%d", i), "routed", "")
	}
	return b.String()
}

// placed is a cluster with many addresses, watched by the log and by some probes.
type placed struct {
	*testing.T
	*cluster.Cluster
	probes map[netip.Addr]*lab.UDPProbe
	since  uint64
	from   time.Time
}

// begin starts a chapter.
func (p *placed) begin() {
	facts, err := p.Facts(p.T.Context(), p.since)
	ok(p.T, err)
	if len(facts) > 0 {
		p.since = facts[len(facts)-1].GetRevision() + 1
	}
	p.from = time.Now()
}

// end tells what a chapter has cost: moves by address, the spread over the nodes that
// count, and with planned set that no probe lost anything.
func (p *placed) end(name string, planned bool, without ...string) (most, spread int) {
	p.Helper()
	ok(p.T, lab.Wait(p.T.Context(), 300*time.Millisecond))
	to := time.Now()
	facts, err := p.Facts(p.T.Context(), p.since)
	ok(p.T, err)
	moves, why := map[string]int{}, map[string]int{}
	for _, f := range facts {
		if a := f.GetEvent().GetOwnerAssigned(); a != nil {
			moves[string(a.GetAddress())]++
			why[strings.TrimPrefix(a.GetReason().String(), "OWNER_REASON_")]++
		}
		if r := f.GetEvent().GetOwnerReleased(); r.GetReason() == logv1.OwnerReason_OWNER_REASON_OFF_SUBNET {
			p.Errorf("%s: an address whose subnet no node has was moved for it", name)
		}
	}
	total := 0
	for _, n := range moves {
		total, most = total+n, max(most, n)
	}
	owned := p.owned(without...)
	spread = slices.Max(slices.Collect(maps.Values(owned))) - slices.Min(slices.Collect(maps.Values(owned)))
	ok(p.T, lab.Wait(p.T.Context(), lab.Patience))
	lost, gap := 0, time.Duration(0)
	for addr, probe := range p.probes {
		w := probe.Window(p.from, to)
		lost, gap = lost+w.Lost, max(gap, w.LongestGap)
		if planned && w.Lost > 0 {
			p.Errorf("%s: %s lost %d of %d datagrams", name, addr, w.Lost, w.Sent)
		}
	}
	p.Logf("%s, %v: %d moves %v, at most %d for one address, owned %v, spread %d; %d datagrams of %d probes lost, longest gap %v",
		name, to.Sub(p.from).Round(100*time.Millisecond), total, why, most, owned, spread, lost, len(p.probes), gap.Round(time.Millisecond))
	return most, spread
}

func (p *placed) owned(without ...string) map[string]int {
	p.Helper()
	vips, err := p.VIPs(p.T.Context())
	ok(p.T, err)
	owned := map[string]int{}
	for _, n := range p.Nodes {
		if !slices.Contains(without, n.Name) {
			owned[n.Name] = 0
		}
	}
	for _, v := range vips {
		if _, counts := owned[v.GetOwner()]; !counts {
			p.Errorf("%s is owned by %q", v.GetAddress(), v.GetOwner())
			continue
		}
		owned[v.GetOwner()]++
	}
	return owned
}

// rest waits until every address is announced by its owner alone.
func (p *placed) rest() {
	p.Helper()
	_, err := p.WaitAnnounced(p.T.Context(), manyVIPs+routedVIPs, 20*time.Second)
	ok(p.T, err)
}

func (p *placed) rebalance() {
	p.Helper()
	ctx := p.T.Context()
	ok(p.T, p.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
		_, err := a.Rebalance(ctx, &adminv1.RebalanceRequest{PerMinute: 600})
		return err
	}))
	ok(p.T, lab.Poll(ctx, 30*time.Second, func(ctx context.Context) error {
		return p.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
			s, err := a.Status(ctx, &adminv1.StatusRequest{})
			if err == nil && s.GetRebalancePerMinute() != 0 {
				err = fmt.Errorf("the rebalance goes on")
			}
			return err
		})
	}))
	p.rest()
}

// route makes the client reach the routed pool by way of the router, which has it on
// the nodes' segment.
func (p *placed) route() {
	p.Helper()
	for _, c := range []struct {
		host *lab.Host
		argv []string
	}{
		{p.Router, []string{"sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf." + cluster.LAN + ".send_redirects=0"}},
		{p.Router, []string{"ip", "route", "add", "198.51.100.0/24", "dev", cluster.LAN}},
		{p.Client, []string{"ip", "route", "add", "198.51.100.0/24", "via", p.Router.Addr(cluster.LAN, false).String()}},
	} {
		if out, err := c.host.Run(p.T.Context(), c.argv...); err != nil {
			p.Fatalf("%v: %v: %s", c.argv, err, out)
		}
	}
}

// TestPlacementOfManyAddresses plays what happens to 205 addresses on five nodes, five
// of them of a subnet that no node has: how often each moves, how they are spread after
// it, and that nothing is lost where the move was planned.
func TestPlacementOfManyAddresses(t *testing.T) {
	lab.Require(t)
	c, err := cluster.New(t.Context(), cluster.Options{})
	ok(t, err)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("remove the lab: %v", err)
		}
	})
	p := &placed{T: t, Cluster: c, probes: map[netip.Addr]*lab.UDPProbe{}, from: time.Now()}
	ctx := t.Context()
	ok(t, c.Start(ctx))
	p.route()
	_, err = c.Apply(ctx, manyConfig())
	ok(t, err)
	p.rest()
	if _, err := c.Router.StartResponder(); err != nil {
		t.Fatal(err)
	}
	vips, err := c.VIPs(ctx)
	ok(t, err)
	for i, v := range vips {
		addr := netip.MustParseAddr(v.GetAddress())
		if i%sampled == 0 || v.GetPool() == "routed" {
			p.probes[addr], err = c.Client.ProbeUDP(addr, 50*time.Millisecond)
			ok(t, err)
		}
	}
	ok(t, lab.Poll(ctx, 10*time.Second, func(context.Context) error {
		for addr, probe := range p.probes {
			if _, answered := probe.Last(time.Second); !answered {
				return fmt.Errorf("%s is not answered", addr)
			}
		}
		return nil
	}))
	if _, spread := p.end("start", false); spread > 1 {
		t.Errorf("spread %d at the start", spread)
	}

	// Every speaker is restarted in turn, and then the addresses are spread again.
	p.begin()
	for _, n := range c.Nodes {
		ok(t, n.StopSpeaker(ctx))
		ok(t, n.StartSpeaker())
		ok(t, c.WaitNodes(ctx, 10*time.Second))
	}
	p.rest()
	p.Logf("after the restarts, before the rebalance: %v", p.owned())
	p.rebalance()
	if most, spread := p.end("rolling restart and rebalance", true); most > 2 || spread > 1 {
		t.Errorf("%d moves of one address, want 2 at most; spread %d, want 1 at most", most, spread)
	}

	victim := c.Nodes[4]
	p.begin()
	_, err = victim.Host.PowerOff()
	ok(t, err)
	ok(t, lab.Poll(ctx, 10*time.Second, func(ctx context.Context) error {
		owners, err := c.Owners(ctx)
		for addr, owner := range owners {
			if owner == victim.Name {
				return fmt.Errorf("%s is still owned by %s", addr, owner)
			}
		}
		return err
	}))
	if most, spread := p.end("kill", false, victim.Name); most > 1 || spread > 1 {
		t.Errorf("%d moves of one address, spread %d", most, spread)
	}

	p.begin()
	ok(t, victim.PowerOn())
	ok(t, c.WaitNodes(ctx, 15*time.Second))
	if most, _ := p.end("return", true); most > 0 {
		t.Errorf("the return moved something")
	}

	drained := c.Nodes[3]
	p.begin()
	ok(t, c.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
		_, err := a.Drain(ctx, &adminv1.DrainRequest{Node: drained.Name})
		return err
	}))
	ok(t, lab.Poll(ctx, 10*time.Second, func(ctx context.Context) error {
		got, err := c.Get(ctx, false, "nodes")
		for _, n := range got.GetNodes() {
			if n.GetName() == drained.Name && n.GetOwned() > 0 {
				return fmt.Errorf("it still owns %d addresses", n.GetOwned())
			}
		}
		return err
	}))
	p.rest()
	if most, spread := p.end("drain", true, drained.Name); most > 1 || spread > 1 {
		t.Errorf("%d moves of one address, spread %d", most, spread)
	}

	p.begin()
	ok(t, c.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
		_, err := a.Undrain(ctx, &adminv1.UndrainRequest{Node: drained.Name})
		return err
	}))
	p.rebalance()
	if most, spread := p.end("undrain and rebalance", true); most > 1 || spread > 1 {
		t.Errorf("%d moves of one address, spread %d", most, spread)
	}

	p.softly(c.Nodes[1])
	p.gradually()
	p.unhealthy()
}

// softly drains a node with a grace time, while 100 connections lead to one of its
// addresses.
func (p *placed) softly(n *cluster.Node) {
	p.Helper()
	ctx := p.T.Context()
	owners, err := p.Owners(ctx)
	ok(p.T, err)
	var addr netip.Addr
	for a := range p.probes {
		if owners[a.String()] == n.Name {
			addr = a
		}
	}
	live, err := p.Client.Live(ctx, addr, 100, 200*time.Millisecond)
	ok(p.T, err)
	defer live.Close()
	p.begin()
	ok(p.T, p.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
		_, err := a.Drain(ctx, &adminv1.DrainRequest{Node: n.Name, GraceNanos: int64(8 * time.Second)})
		return err
	}))
	soft := func(ctx context.Context) (owned, soft uint32, err error) {
		got, err := p.Get(ctx, false, "nodes")
		for _, st := range got.GetNodes() {
			if st.GetName() == n.Name {
				owned, soft = st.GetOwned(), st.GetSoft()
			}
		}
		return owned, soft, err
	}
	ok(p.T, lab.Poll(ctx, 7*time.Second, func(ctx context.Context) error {
		owned, soft, err := soft(ctx)
		if err == nil && (owned > 0 || soft == 0) {
			err = fmt.Errorf("%s owns %d addresses, %d move softly", n.Name, owned, soft)
		}
		return err
	}))
	ok(p.T, lab.Wait(ctx, 2*time.Second))
	if b := live.Broken(); len(b) > 0 {
		p.Errorf("%d of 100 live connections broke: %v", len(b), b[0])
	}
	if _, still, err := soft(ctx); err != nil || still == 0 {
		p.Errorf("no address moves softly any more (%v): it is over too soon to show anything", err)
	}
	live.Close()
	ok(p.T, lab.Poll(ctx, 20*time.Second, func(ctx context.Context) error {
		_, soft, err := soft(ctx)
		if err == nil && soft > 0 {
			err = fmt.Errorf("%d addresses still move softly", soft)
		}
		return err
	}))
	p.rest()
	if most, spread := p.end("soft drain", true, n.Name); most > 1 || spread > 1 {
		p.Errorf("%d moves of one address, spread %d", most, spread)
	}
	ok(p.T, p.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
		_, err := a.Undrain(ctx, &adminv1.UndrainRequest{Node: n.Name})
		return err
	}))
}

// gradually has the addresses spread without being told to, once nodes neither come nor go.
func (p *placed) gradually() {
	p.Helper()
	ctx := p.T.Context()
	p.begin()
	_, err := p.Apply(ctx, `apiVersion: quorumlb.io/v1
kind: L2Advertisement
metadata: {name: all}
spec: {rebalance: Gradual, rebalancePerMinute: 600}
`)
	ok(p.T, err)
	ok(p.T, lab.Poll(ctx, 90*time.Second, func(ctx context.Context) error {
		got, err := p.Get(ctx, false, "nodes")
		var owned []uint32
		for _, n := range got.GetNodes() {
			owned = append(owned, n.GetOwned())
		}
		if err == nil && slices.Max(owned)-slices.Min(owned) > 1 {
			err = fmt.Errorf("they own %v", owned)
		}
		return err
	}))
	p.rest()
	if most, spread := p.end("gradual rebalance", true); most > 1 || spread > 1 {
		p.Errorf("%d moves of one address, spread %d", most, spread)
	}
}

// unhealthy stops what serves on the owner of the address with a health check.
func (p *placed) unhealthy() {
	p.Helper()
	ctx := p.T.Context()
	of := func(ctx context.Context) (*adminv1.VipStatus, error) {
		vips, err := p.VIPs(ctx)
		i := slices.IndexFunc(vips, func(v *adminv1.VipStatus) bool { return slices.Contains(v.GetServices(), "default/s000") })
		if err != nil || i < 0 {
			return nil, fmt.Errorf("no address of s000: %w", err)
		}
		return vips[i], nil
	}
	before, err := of(ctx)
	ok(p.T, err)
	ok(p.T, p.Node(before.GetOwner()).Responder().Kill())
	began := time.Now()
	ok(p.T, lab.Poll(ctx, 10*time.Second, func(ctx context.Context) error {
		now, err := of(ctx)
		if err != nil {
			return err
		}
		if now.GetOwner() == before.GetOwner() || now.GetOwner() == "" {
			return fmt.Errorf("%s is owned by %q, where its service is dead", now.GetAddress(), now.GetOwner())
		}
		if now.GetReason() != logv1.OwnerReason_OWNER_REASON_NOT_SERVING {
			return fmt.Errorf("it moved for another reason: %v", now.GetReason())
		}
		return nil
	}))
	p.Logf("health check: the address left %s %v after its service had died", before.GetOwner(), time.Since(began).Round(time.Millisecond))
}
