package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/scenario"
)

// serviceIn is a service that takes an address of a pool, or the one that it asks for.
func serviceIn(name, pool, addr string) string {
	want := ""
	if addr != "" {
		want = "\n  addresses: [\"" + addr + "\"]"
	}
	return fmt.Sprintf(`
---
apiVersion: quorumlb.io/v1
kind: VirtualService
metadata: {name: %s}
spec:
  pool: %s
  ports: [{name: http, protocol: TCP, port: 8080}]%s
  delivery: Host
`, name, pool, want)
}

func poolFor(name string, addresses string) string {
	return fmt.Sprintf(`
---
apiVersion: quorumlb.io/v1
kind: IPAddressPool
metadata: {name: %s}
spec: {addresses: [%q], autoAssign: false}
---
apiVersion: quorumlb.io/v1
kind: L2Advertisement
metadata: {name: %s}
spec: {ipAddressPools: [%s]}
`, name, addresses, name, name)
}

// has waits until the service has an address that fits and an owner of it.
func has(t *testing.T, s *scenario.Stage, service string, fits func(*adminv1.VipStatus) error) *adminv1.VipStatus {
	t.Helper()
	var found *adminv1.VipStatus
	ok(t, lab.Poll(t.Context(), 15*time.Second, func(ctx context.Context) error {
		vips, err := s.VIPs(ctx)
		if err != nil {
			return err
		}
		for _, v := range vips {
			if slices.Contains(v.GetServices(), "default/"+service) && v.GetOwner() != "" {
				found = v
				return fits(v)
			}
		}
		return fmt.Errorf("service %s has no address yet", service)
	}))
	return found
}

// claimsOf are the nodes' unsolicited claims of an address.
func claimsOf(s *scenario.Stage, addr netip.Addr, since time.Time) (out []lab.Frame) {
	for _, f := range s.AtRouter.Frames(since, time.Time{}) {
		a, mac, claims := f.Claim()
		if !claims || a != addr || f.Kind == lab.Advertisement && f.Solicited || f.Kind == lab.ARPReply && f.Target != addr {
			continue
		}
		if slices.ContainsFunc(s.Nodes, func(n *cluster.Node) bool { return n.Host.MAC(cluster.LAN) == mac }) {
			out = append(out, f)
		}
	}
	return out
}

// TestFirstUse has others answer for addresses that nobody has used before: a
// foreign station, a router with proxy ARP, and the kernel of a node.
func TestFirstUse(t *testing.T) {
	s := open(t, scenario.Options{})
	ctx := t.Context()
	t.Run("a foreign station", func(t *testing.T) {
		rogue, err := s.NewHost("rogue")
		ok(t, err)
		ok(t, rogue.Plug(s.LAN, cluster.LAN, "192.0.2.160/24", "2001:db8:1::a0/64"))
		mac := rogue.MAC(cluster.LAN)
		for pool, addresses := range map[string][2]string{
			"taken4": {"192.0.2.160-192.0.2.161", "192.0.2.160"},
			"taken6": {"2001:db8:1::a0-2001:db8:1::a1", "2001:db8:1::a0"},
		} {
			taken := netip.MustParseAddr(addresses[1])
			ok(t, lab.Poll(ctx, 10*time.Second, func(ctx context.Context) error { // a link that has just come up drops frames
				out, _ := s.Ctl(ctx, "probe", taken.String(), "--wait", "200ms")
				if !strings.Contains(out, mac.String()) {
					return fmt.Errorf("the foreign station does not answer:\n%s", out)
				}
				return nil
			}))
			start := time.Now()
			_, err = s.Apply(ctx, poolFor(pool, addresses[0])+serviceIn(pool, pool, ""))
			ok(t, err)
			v := has(t, s, pool, func(v *adminv1.VipStatus) error {
				if v.GetAddress() != taken.Next().String() {
					return fmt.Errorf("it has %s", v.GetAddress())
				}
				return nil
			})
			t.Logf("%s: another address after %v", taken, time.Since(start).Round(time.Millisecond))
			out, err := s.Ctl(ctx, "get", "quarantine", taken.String())
			ok(t, err)
			if !strings.Contains(out, mac.String()) {
				t.Errorf("quarantine does not name the station:\n%s", out)
			}
			if c := claimsOf(s, taken, start); len(c) > 0 {
				t.Errorf("a node claimed it: %v", c[0])
			}
			ok(t, lab.Poll(ctx, 5*time.Second, func(context.Context) error {
				if len(claimsOf(s, netip.MustParseAddr(v.GetAddress()), start)) == 0 {
					return fmt.Errorf("nobody claims %s", v.GetAddress())
				}
				return nil
			}))
			// Whoever asks for it gets it, and a warning.
			_, err = s.Apply(ctx, serviceIn(pool+"-asked", pool, taken.String()))
			ok(t, err)
			has(t, s, pool+"-asked", func(v *adminv1.VipStatus) error {
				if v.GetAddress() != taken.String() || string(v.GetConflictMac()) != string(mac[:]) || v.GetConflict() == "" {
					return fmt.Errorf("it has %s, conflict with %x (%s)", v.GetAddress(), v.GetConflictMac(), v.GetConflict())
				}
				return nil
			})
		}
		_, err = rogue.PowerOff()
		ok(t, err)
	})
	t.Run("a router with proxy ARP", func(t *testing.T) {
		router, err := s.NewHost("proxy")
		ok(t, err)
		ok(t, router.Plug(s.LAN, cluster.LAN, "192.0.2.15/24"))
		p, err := router.AnswerForAll(cluster.LAN, netip.MustParsePrefix("198.51.100.0/24"))
		ok(t, err)
		defer p.Close()
		mac := router.MAC(cluster.LAN)
		ok(t, lab.Poll(ctx, 10*time.Second, func(ctx context.Context) error {
			out, _ := s.Ctl(ctx, "probe", "198.51.100.9", "--wait", "200ms")
			if !strings.Contains(out, mac.String()) {
				return fmt.Errorf("the router does not answer:\n%s", out)
			}
			return nil
		}))
		_, err = s.Apply(ctx, poolFor("routed", "198.51.100.8-198.51.100.15")+serviceIn("routed", "routed", ""))
		ok(t, err)
		v := has(t, s, "routed", func(v *adminv1.VipStatus) error {
			if !strings.Contains(v.GetConflict(), "proxy ARP") || string(v.GetConflictMac()) != string(mac[:]) {
				return fmt.Errorf("conflict with %x (%s)", v.GetConflictMac(), v.GetConflict())
			}
			return nil
		})
		if v.GetAddress() != "198.51.100.8" {
			t.Errorf("it has %s", v.GetAddress())
		}
		if out, err := s.Ctl(ctx, "get", "quarantine", "198.51.100.8"); err == nil {
			t.Errorf("in quarantine:\n%s", out)
		}
	})
	t.Run("the kernel of a node", func(t *testing.T) {
		owners, err := s.Owners(ctx)
		ok(t, err)
		n := s.Node(owners[s.Addrs[0].String()]) // it owns one, so another gets the next
		_, err = n.Host.Run(ctx, "ip", "addr", "add", "192.0.2.170/32", "dev", cluster.LAN)
		ok(t, err)
		want := "KernelAnswers{" + n.Name + "}"
		_, err = s.Apply(ctx, poolFor("left", "192.0.2.170-192.0.2.175")+serviceIn("left", "left", ""))
		ok(t, err)
		v := has(t, s, "left", func(v *adminv1.VipStatus) error {
			if !strings.Contains(v.GetConflict(), want) {
				return fmt.Errorf("owned by %s, conflict with %x (%s), want %s", v.GetOwner(), v.GetConflictMac(), v.GetConflict(), want)
			}
			return nil
		})
		if v.GetAddress() != "192.0.2.170" {
			t.Errorf("it has %s", v.GetAddress())
		}
		out, err := s.Ctl(ctx, "describe", "vip", v.GetAddress())
		ok(t, err)
		if !strings.Contains(out, want) {
			t.Errorf("describe does not say so:\n%s", out)
		}
		_, err = n.Host.Run(ctx, "ip", "addr", "del", "192.0.2.170/32", "dev", cluster.LAN)
		ok(t, err)
	})
}
