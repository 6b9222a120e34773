package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/scenario"
)

func TestMain(m *testing.M) { lab.Main(m) }

// number reads a count from the environment.
func number(t *testing.T, key string, preset int) int {
	t.Helper()
	s := os.Getenv(key)
	if s == "" {
		return preset
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return n
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open makes a stage that is removed with the test. A failed test prints the
// ends of the daemons' logs and, with QUORUMLB_E2E_KEEP, leaves all of them and
// the captures behind.
func open(t *testing.T, opts scenario.Options) *scenario.Stage {
	t.Helper()
	lab.Require(t)
	s, err := scenario.Open(t.Context(), opts)
	if s != nil {
		t.Cleanup(func() {
			if t.Failed() {
				t.Log(s.LogTails(25))
				keep(t, s)
			}
			if err := s.Close(); err != nil {
				t.Errorf("remove the lab: %v", err)
			}
		})
	}
	ok(t, err)
	return s
}

func keep(t *testing.T, s *scenario.Stage) {
	if os.Getenv("QUORUMLB_E2E_KEEP") == "" {
		return
	}
	s.KeepDir()
	for name, c := range map[string]*lab.Capture{"client": s.AtClient, "router": s.AtRouter} {
		if c != nil {
			if err := c.WritePcap(filepath.Join(s.Dir(), name+".pcap")); err != nil {
				t.Log(err)
			}
		}
	}
	t.Logf("logs and captures are in %s", s.Dir())
}

// play plays an event; every miss fails the test.
func play(t *testing.T, s *scenario.Stage, e scenario.Event) scenario.Outcome {
	t.Helper()
	out, err := s.Play(t.Context(), e)
	for _, m := range out.Misses {
		t.Errorf("%s: %s", e.Name, m)
	}
	if err != nil {
		t.FailNow()
	}
	t.Logf("%s: %d datagrams lost, %d connections failed, longest gap %v (control %v), both heard for %v, %s", e.Name,
		out.Lost, out.Failed, out.Gap.Round(time.Millisecond), out.Noise.Round(time.Millisecond), out.Overlap.Round(time.Microsecond), out.Answered)
	return out
}

// ownerWithoutMember is a node that owns an address and has no member.
func ownerWithoutMember(t *testing.T, s *scenario.Stage) (*cluster.Node, []netip.Addr) {
	t.Helper()
	n, err := s.OwnerOf(t.Context(), func(n *cluster.Node) bool { return !n.IsMember() })
	ok(t, err)
	owned, err := s.OwnedBy(t.Context(), n)
	ok(t, err)
	return n, owned
}

// movedFrom is a check that none of the addresses is with the node any more.
func movedFrom(s *scenario.Stage, n *cluster.Node, addrs []netip.Addr) func(context.Context) error {
	return func(ctx context.Context) error {
		owners, err := s.Owners(ctx)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if o := owners[a.String()]; o == n.Name || o == "" {
				return fmt.Errorf("%s is owned by %q", a, o)
			}
		}
		return nil
	}
}

// by picks a node's claims for the addresses since a moment.
func by(s *scenario.Stage, n *cluster.Node, addrs []netip.Addr, since time.Time) (claims []lab.Claim) {
	for _, c := range lab.Distinct(lab.Claims(since, time.Time{}, addrs, s.AtClient, s.AtRouter)) {
		if c.MAC == n.Host.MAC(cluster.LAN) {
			claims = append(claims, c)
		}
	}
	return claims
}
