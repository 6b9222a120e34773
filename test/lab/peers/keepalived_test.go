package peers_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/peers"
)

func TestMain(m *testing.M) { lab.Main(m) }

// TestKeepalivedFailover checks the lab by a program that everybody knows: the
// backup takes the address after three missing advertisements and the skew.
func TestKeepalivedFailover(t *testing.T) {
	lab.Require(t)
	l, err := lab.New(lab.Options{Dir: t.TempDir(), KeepDir: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	const advert = 200 * time.Millisecond
	vip := netip.MustParsePrefix("192.0.2.100/24")
	sw, err := l.NewSwitch("lan")
	if err != nil {
		t.Fatal(err)
	}
	var hosts []*lab.Host
	for i, name := range []string{"n1", "n2", "client"} {
		h, err := l.NewHost(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Plug(sw, "eth0", fmt.Sprintf("192.0.2.%d/24", i+1)); err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, h)
	}
	for i, h := range hosts[:2] {
		if _, err := h.StartResponder(); err != nil {
			t.Fatal(err)
		}
		_, err := peers.StartKeepalived(h, l.Dir(), peers.VRRP{Interface: "eth0", VIP: vip, Priority: 200 - 50*i, Advert: advert})
		if errors.Is(err, peers.ErrMissing) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	probe, err := hosts[2].ProbeUDP(vip.Addr(), 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	answers := func(node string) func(context.Context) error {
		return func(context.Context) error {
			if x, ok := probe.Last(50 * time.Millisecond); !ok || x.Node != node {
				return fmt.Errorf("%q answers, want %s", x.Node, node)
			}
			return nil
		}
	}
	if err := lab.Poll(t.Context(), 10*time.Second, answers("n1")); err != nil {
		t.Fatal(err)
	}
	off, err := hosts[0].PowerOff()
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.Poll(t.Context(), 10*time.Second, answers("n2")); err != nil {
		t.Fatal(err)
	}
	r := probe.Window(off, time.Now())
	// Master_Down_Interval is 3 adverts and (256-150)/256 of one, less the time
	// since the last advertisement; some for a busy machine.
	skew := advert * (256 - 150) / 256
	if low, high := 2*advert+skew, 3*advert+skew+3*time.Second; r.LongestGap < low || r.LongestGap > high {
		t.Errorf("outage %v, want %v to %v", r.LongestGap, low, high)
	}
	t.Logf("outage %v with advertisements every %v", r.LongestGap.Round(time.Millisecond), advert)
}
