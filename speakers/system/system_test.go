package system_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/speakers/internal/nettest"
	"github.com/quorumlb/quorumlb/speakers/system"
)

// More groups than one socket may hold need another one.
func TestGroupsBeyondOneSocket(t *testing.T) {
	h := nettest.NewSegment(t).NewHost("2001:db8::1/64")
	h.Do(func() error {
		groups, err := system.NewGroups()
		if err != nil {
			return err
		}
		defer groups.Close()
		var all []netip.Addr
		for g := netip.MustParseAddr("ff02::1:ff00:1"); len(all) < 3000; g = g.Next() {
			all = append(all, g)
		}
		for range 2 { // the second time is no error and no change
			for _, g := range all {
				if err := groups.Join(h.Link, g); err != nil {
					return err
				}
			}
		}
		if n := memberships(h); n < len(all) {
			t.Errorf("%d memberships, want %d", n, len(all))
		}
		for _, g := range all[1:] {
			groups.Leave(h.Link, g)
			groups.Leave(h.Link, g)
		}
		if n := memberships(h); n > 10 {
			t.Errorf("%d memberships after leaving", n)
		}
		if err := groups.Join(4711, all[0]); err == nil {
			t.Error("joined on a link that does not exist")
		}
		return nil
	})
	nettest.Eventually(t, "closing leaves the rest", func() bool { return memberships(h) < 10 })
}

func memberships(h *nettest.Host) int {
	return strings.Count(h.IP("-6", "maddr", "show", "dev", "eth0"), "ff02::1:ff00:")
}

func TestPacketConnEndsWithClose(t *testing.T) {
	h := nettest.NewSegment(t).NewHost()
	for _, p := range []system.Protocol{system.ARP, system.NDP} {
		var conn *system.PacketConn
		h.Do(func() (err error) { conn, err = system.Listen(p); return err })
		ended := make(chan error, 1)
		go func() {
			_, err := conn.Receive()
			ended <- err
		}()
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%v: Receive returned %v", p, err)
			}
		case <-time.After(nettest.Patience):
			t.Fatalf("%v: Receive goes on after Close", p)
		}
		if err := conn.Send(h.Link, make([]byte, 60)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v: Send returned %v", p, err)
		}
	}
}

func TestReplaceFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a", "b")
	for _, content := range []string{"one", "two"} {
		if err := system.ReplaceFile(name, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(name); err != nil || string(b) != content {
			t.Errorf("%q, %v", b, err)
		}
	}
	if list, err := os.ReadDir(filepath.Dir(name)); err != nil || len(list) != 1 {
		t.Errorf("left behind: %v, %v", list, err)
	}
	if err := system.ReplaceFile(name+"/x", nil); err == nil {
		t.Error("wrote below a file")
	}
}
