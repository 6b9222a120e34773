package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/speakers/internal/nettest"
)

var (
	vip4 = netip.MustParseAddr("192.0.2.100")
	vip6 = netip.MustParseAddr("2001:db8::100")
	own4 = netip.MustParseAddr("198.51.100.1")

	ignore   = settings[0].key
	announce = settings[1].key
)

// inside is the kernel's System of a test's namespace.
type inside struct {
	Kernel
	host *nettest.Host
}

func (k inside) Sysctl(key string) (v string, err error) {
	err = k.host.Try(func() error { v, err = k.Kernel.Sysctl(key); return err })
	return v, err
}

func (k inside) SetSysctl(key, value string) error {
	return k.host.Try(func() error { return k.Kernel.SetSysctl(key, value) })
}

// fake is a System in memory.
type fake struct {
	mu      sync.Mutex
	addrs   map[netip.Addr]bool
	sysctls map[string]string
	locked  error // of SetSysctl
	refuse  map[netip.Addr]error
	adds    int
	list    error // of Addresses
	watches chan func() error
}

func newFake() *fake {
	return &fake{addrs: map[netip.Addr]bool{}, sysctls: map[string]string{ignore: "0", announce: "0"}, refuse: map[netip.Addr]error{}}
}

func (f *fake) Add(a netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.adds++
	if err := f.refuse[a]; err != nil {
		return err
	}
	f.addrs[a] = true
	return nil
}

func (f *fake) Remove(a netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.addrs, a)
	return nil
}

func (f *fake) Addresses() ([]netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.addrs)), f.list
}

func (f *fake) Sysctl(key string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sysctls[key], nil
}

func (f *fake) SetSysctl(key, value string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.locked != nil {
		return f.locked
	}
	f.sysctls[key] = value
	return nil
}

func (f *fake) WatchRemoved(ctx context.Context, removed func()) error {
	removed()
	select {
	case <-ctx.Done():
		return nil
	case end := <-f.watches:
		return end()
	}
}

// systems runs a test against memory and against a kernel.
func systems(t *testing.T, body func(t *testing.T, sys System)) {
	t.Run("fake", func(t *testing.T) { body(t, newFake()) })
	t.Run("kernel", func(t *testing.T) {
		sys, _ := openInside(t, nettest.NewSegment(t).NewHost("192.0.2.1/24"))
		body(t, sys)
	})
}

func openInside(t *testing.T, h *nettest.Host) (System, *nettest.Host) {
	k := inside{host: h}
	h.Do(func() (err error) {
		k.Kernel, err = OpenKernel()
		return err
	})
	t.Cleanup(k.Close)
	return k, h
}

func newHost(t *testing.T, sys System, file string) *Host {
	t.Helper()
	h, err := New(sys, file, "boot-1", nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h.linger = 0
	return h
}

func run(t *testing.T, h *Host) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func there(t *testing.T, sys System) string {
	t.Helper()
	list, err := sys.Addresses()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range list {
		if !a.IsLoopback() {
			out = append(out, a.String())
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func sysctls(t *testing.T, sys System) string {
	t.Helper()
	a, err1 := sys.Sysctl(ignore)
	b, err2 := sys.Sysctl(announce)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return a + " " + b
}

func TestApplyAddsRemovesAndSetsBack(t *testing.T) {
	systems(t, func(t *testing.T, sys System) {
		if err := sys.Add(own4); err != nil { // somebody else's
			t.Fatal(err)
		}
		before := sysctls(t, sys)
		h := newHost(t, sys, filepath.Join(t.TempDir(), "host.json"))
		h.Apply([]netip.Addr{vip4, vip6, own4})
		h.Apply([]netip.Addr{vip4, vip6, own4})
		if got, want := there(t, sys), "192.0.2.100 198.51.100.1 2001:db8::100"; got != want {
			t.Errorf("addresses %q, want %q", got, want)
		}
		if got := sysctls(t, sys); got != "1 2" {
			t.Errorf("sysctls %q", got)
		}
		h.Apply([]netip.Addr{vip6})
		if got, want := there(t, sys), "198.51.100.1 2001:db8::100"; got != want {
			t.Errorf("addresses %q, want %q: what we did not add stays", got, want)
		}
		h.Apply(nil)
		if got, want := there(t, sys), "198.51.100.1"; got != want {
			t.Errorf("addresses %q, want %q", got, want)
		}
		if got := sysctls(t, sys); got != before {
			t.Errorf("sysctls %q, want %q as before", got, before)
		}
	})
}

func TestRestartTakesOver(t *testing.T) {
	systems(t, func(t *testing.T, sys System) {
		before := sysctls(t, sys)
		file := filepath.Join(t.TempDir(), "host.json")
		first := newHost(t, sys, file)
		stop := run(t, first)
		first.Apply([]netip.Addr{vip4, vip6})
		stop()
		if got, want := there(t, sys), "192.0.2.100 2001:db8::100"; got != want {
			t.Fatalf("after a stop %q, want %q", got, want)
		}
		second := newHost(t, sys, file)
		stop = run(t, second)
		if err := sys.SetSysctl(ignore, "0"); err != nil {
			t.Fatal(err)
		}
		nettest.Eventually(t, "quiet although the members were not heard yet", func() bool { return sysctls(t, sys) == "1 2" })
		if got, want := there(t, sys), "192.0.2.100 2001:db8::100"; got != want {
			t.Errorf("before the first view %q, want %q", got, want)
		}
		second.Apply([]netip.Addr{vip6})
		if got, want := there(t, sys), "2001:db8::100"; got != want {
			t.Errorf("addresses %q, want %q", got, want)
		}
		stop()
		third := newHost(t, sys, file)
		if err := third.Cleanup(); err != nil {
			t.Fatal(err)
		}
		if got := there(t, sys); got != "" {
			t.Errorf("after Cleanup %q", got)
		}
		if got := sysctls(t, sys); got != before {
			t.Errorf("sysctls %q, want %q as before", got, before)
		}
	})
}

func TestMendsWhatOthersChange(t *testing.T) {
	seg := nettest.NewSegment(t)
	sys, ns := openInside(t, seg.NewHost("192.0.2.1/24"))
	h := newHost(t, sys, filepath.Join(t.TempDir(), "host.json"))
	run(t, h)
	h.Apply([]netip.Addr{vip4, vip6})
	ns.IP("addr", "del", vip4.String()+"/32", "dev", "lo")
	ns.IP("addr", "del", vip6.String()+"/128", "dev", "lo")
	start := time.Now()
	nettest.Eventually(t, "back", func() bool { return there(t, sys) == "192.0.2.100 2001:db8::100" })
	t.Logf("addresses back after %v", time.Since(start))
	ns.Sysctl(ignore, "0")
	ns.Sysctl(announce, "0")
	nettest.Eventually(t, "sysctls back", func() bool { return sysctls(t, sys) == "1 2" })
}

// Without the sysctl the kernel would answer for an address that another node owns.
func TestNoAddressWithoutSilence(t *testing.T) {
	sys := newFake()
	sys.locked = errors.New("read-only file system")
	h := newHost(t, sys, filepath.Join(t.TempDir(), "host.json"))
	told := make(chan struct{}, 10)
	h.changed = func() { told <- struct{}{} }
	h.Apply([]netip.Addr{vip4, vip6})
	if got, want := there(t, sys), "2001:db8::100"; got != want {
		t.Errorf("addresses %q, want %q", got, want)
	}
	if failed := h.Failed(); len(failed) != 1 || failed[vip4] == nil || !strings.Contains(failed[vip4].Error(), "arp_ignore") {
		t.Errorf("failed %v", failed)
	}
	sys.mu.Lock()
	sys.locked = nil
	sys.mu.Unlock()
	run(t, h)
	select {
	case <-told:
	case <-time.After(nettest.Patience):
		t.Fatal("not told that it works now")
	}
	if len(h.Failed()) != 0 || there(t, sys) != "192.0.2.100 2001:db8::100" {
		t.Errorf("failed %v, addresses %q", h.Failed(), there(t, sys))
	}
	// Taken away later: the address goes rather than be answered by the kernel.
	sys.mu.Lock()
	sys.locked = errors.New("read-only file system")
	sys.sysctls[ignore] = "0"
	sys.mu.Unlock()
	nettest.Eventually(t, "withdrawn", func() bool { return there(t, sys) == "2001:db8::100" })
}

func TestStricterSettingsAreLeftAlone(t *testing.T) {
	sys := newFake()
	sys.sysctls[ignore], sys.sysctls[announce] = "2", "2"
	h := newHost(t, sys, filepath.Join(t.TempDir(), "host.json"))
	h.Apply([]netip.Addr{vip4})
	h.Apply(nil)
	if got := sysctls(t, sys); got != "2 2" {
		t.Errorf("sysctls %q", got)
	}
	// Changed by somebody after us: not ours to set back.
	sys.sysctls[ignore], sys.sysctls[announce] = "0", "1"
	h.Apply([]netip.Addr{vip4, vip6})
	h.Apply([]netip.Addr{vip6})
	sys.sysctls[announce] = "0"
	h.Apply(nil)
	if got := sysctls(t, sys); got != "0 0" {
		t.Errorf("sysctls %q", got)
	}
}

func TestUnwantedAddressLingers(t *testing.T) {
	sys := newFake()
	h := newHost(t, sys, filepath.Join(t.TempDir(), "host.json"))
	h.linger = 300 * time.Millisecond
	run(t, h)
	h.Apply([]netip.Addr{vip4})
	h.Apply(nil)
	if got := there(t, sys); got != "192.0.2.100" {
		t.Errorf("removed while frames still arrive: %q", got)
	}
	h.Apply([]netip.Addr{vip4})
	h.Apply(nil)
	nettest.Eventually(t, "removed", func() bool { return there(t, sys) == "" && sysctls(t, sys) == "0 0" })
}

func TestStateOfAnEarlierBootIsVoid(t *testing.T) {
	sys := newFake()
	file := filepath.Join(t.TempDir(), "host.json")
	newHost(t, sys, file).Apply([]netip.Addr{vip4})
	h, err := New(sys, file, "boot-2", nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h.Apply(nil)
	if got := there(t, sys); got != "192.0.2.100" {
		t.Errorf("removed what is not known to be ours: %q", got)
	}
}

func TestBrokenStateFileIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "host.json")
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(newFake(), file, "b", nil, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("error %v does not name the file", err)
	}
}

func TestAddFailureIsToldAndTriedAgain(t *testing.T) {
	sys := newFake()
	sys.refuse[vip6] = errors.New("IPv6 is disabled")
	h := newHost(t, sys, filepath.Join(t.TempDir(), "host.json"))
	run(t, h)
	h.Apply([]netip.Addr{vip4, vip6})
	if err := h.Failed()[vip6]; err == nil || err.Error() != "IPv6 is disabled" {
		t.Errorf("failed %v", h.Failed())
	}
	sys.mu.Lock()
	delete(sys.refuse, vip6)
	sys.mu.Unlock()
	nettest.Eventually(t, "added", func() bool { return there(t, sys) == "192.0.2.100 2001:db8::100" && len(h.Failed()) == 0 })
}

// While the device cannot be looked at, what was delivered is taken for delivered
// still; only of what is new nothing is known.
func TestFailureToLookChangesNothing(t *testing.T) {
	sys := newFake()
	refused, added := errors.New("IPv6 is disabled"), netip.MustParseAddr("192.0.2.101")
	sys.refuse[vip6] = refused
	h := newHost(t, sys, filepath.Join(t.TempDir(), "host.json"))
	h.Apply([]netip.Addr{vip4, vip6})
	broken := errors.New("dump interrupted")
	sys.mu.Lock()
	sys.list = broken
	delete(sys.refuse, vip6)
	sys.mu.Unlock()
	h.check(true)
	if failed := h.Failed(); len(failed) != 1 || failed[vip6] != refused {
		t.Errorf("failed %v", failed)
	}
	h.Apply([]netip.Addr{vip4, vip6, added})
	if failed := h.Failed(); len(failed) != 2 || failed[vip6] != refused || failed[added] != broken {
		t.Errorf("failed %v", failed)
	}
	sys.mu.Lock()
	sys.list = nil
	delete(sys.addrs, vip4) // meanwhile
	sys.mu.Unlock()
	h.check(false)
	if got, want := there(t, sys), "192.0.2.100 192.0.2.101 2001:db8::100"; got != want || len(h.Failed()) != 0 {
		t.Errorf("addresses %q, want %q; failed %v", got, want, h.Failed())
	}
}

// A subscription that is lost is opened again, and what went meanwhile comes back.
func TestLostWatchIsOpenedAgain(t *testing.T) {
	sys := newFake()
	sys.watches = make(chan func() error)
	h := newHost(t, sys, filepath.Join(t.TempDir(), "host.json"))
	run(t, h)
	h.Apply([]netip.Addr{vip4})
	sys.watches <- func() error {
		sys.mu.Lock()
		defer sys.mu.Unlock()
		delete(sys.addrs, vip4)
		return errors.New("no buffer space")
	}
	nettest.Eventually(t, "back", func() bool { return there(t, sys) == "192.0.2.100" })
}

// What fails can be asked while the disk stalls: the addresses that the node has lost
// must not wait for it.
func TestFailedDoesNotWait(t *testing.T) {
	h := newHost(t, newFake(), filepath.Join(t.TempDir(), "host.json"))
	h.Apply([]netip.Addr{vip4})
	h.mu.Lock()
	defer h.mu.Unlock()
	told := make(chan struct{})
	go func() {
		defer close(told)
		h.Failed()
	}()
	select {
	case <-told:
	case <-time.After(nettest.Patience):
		t.Error("it waits")
	}
}

// What the wire shows: the kernel of a node that has the addresses on its
// loopback device is silent about them, and yet delivers what is sent to its MAC.
func TestWireNonOwnerIsSilentAndDelivers(t *testing.T) {
	seg := nettest.NewSegment(t)
	client := seg.NewHost("192.0.2.2/24", "2001:db8::2/64")
	sys, ns := openInside(t, seg.NewHost("192.0.2.1/24", "2001:db8::1/64"))
	ns.Sysctl("net/ipv6/conf/all/forwarding", "1")
	ns.Sysctl("net/ipv6/conf/all/proxy_ndp", "1")
	h := newHost(t, sys, filepath.Join(t.TempDir(), "host.json"))
	capture := client.Capture("eth0")
	h.Apply([]netip.Addr{vip4, vip6})

	// The group is joined, as by a speaker that owned the address a moment ago.
	ns.Do(func() error {
		c, err := net.ListenMulticastUDP("udp6", &net.Interface{Index: ns.Link, Name: "eth0"}, &net.UDPAddr{IP: net.ParseIP("ff02::1:ff00:100"), Port: 9})
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return err
	})
	for _, vip := range []netip.Addr{vip4, vip6} {
		_ = dial(client, vip, 100*time.Millisecond) // makes the kernel ask all
		client.IP("neigh", "replace", vip.String(), "lladdr", ns.MAC.String(), "dev", "eth0", "nud", "probe")
	}
	nettest.Eventually(t, "asked to all and to its MAC, in both families, three times", func() bool {
		return len(capture.Packets(nettest.From(client.MAC))) >= 8
	})
	for _, vip := range []netip.Addr{vip4, vip6} {
		if got := capture.Packets(nettest.From(ns.MAC), nettest.Claims(vip)); len(got) > 0 {
			t.Errorf("a node that does not own %v said %v", vip, got)
		}
	}

	// The owner's announcement would lead the client to this MAC.
	for _, vip := range []netip.Addr{vip4, vip6} {
		serveEcho(t, ns, vip)
		client.IP("neigh", "replace", vip.String(), "lladdr", ns.MAC.String(), "dev", "eth0", "nud", "permanent")
		if err := dial(client, vip, nettest.Patience); err != nil {
			t.Errorf("%v: %v", vip, err)
		}
	}
	// The host does not speak as the address on its own account.
	for _, dst := range []string{"192.0.2.2", "2001:db8::2"} {
		if out := ns.IP("route", "get", dst); strings.Contains(out, "src "+vip4.String()+" ") || strings.Contains(out, "src "+vip6.String()+" ") {
			t.Errorf("to %s: %s", dst, out)
		}
	}
}

// serveEcho echoes UDP and accepts TCP at port 7 of the address.
func serveEcho(t *testing.T, h *nettest.Host, addr netip.Addr) {
	t.Helper()
	at := netip.AddrPortFrom(addr, 7).String()
	h.Do(func() error {
		udp, err := net.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		tcp, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		t.Cleanup(func() { udp.Close(); tcp.Close() })
		go func() {
			buf := make([]byte, 100)
			for {
				n, from, err := udp.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = udp.WriteTo(buf[:n], from)
			}
		}()
		return nil
	})
}

// dial sends a datagram to port 7 that must come back, and opens a TCP connection.
func dial(h *nettest.Host, addr netip.Addr, limit time.Duration) error {
	return h.Try(func() error {
		at := netip.AddrPortFrom(addr, 7).String()
		udp, err := net.Dial("udp", at)
		if err != nil {
			return err
		}
		defer udp.Close()
		_ = udp.SetDeadline(time.Now().Add(limit))
		buf := make([]byte, 10)
		if _, err := udp.Write([]byte("x")); err != nil {
			return err
		}
		if _, err := udp.Read(buf); err != nil {
			return fmt.Errorf("no echo: %w", err)
		}
		tcp, err := net.DialTimeout("tcp", at, limit)
		if err != nil {
			return err
		}
		return tcp.Close()
	})
}

// The file is written once for any number of addresses.
func TestManyAddresses(t *testing.T) {
	sys := newFake()
	h := newHost(t, sys, filepath.Join(t.TempDir(), "host.json"))
	var many []netip.Addr
	for a := netip.MustParseAddr("10.0.0.0"); len(many) < 20000; a = a.Next() {
		many = append(many, a)
	}
	start := time.Now()
	h.Apply(many)
	if d := time.Since(start); d > 5*time.Second || sys.adds != len(many) {
		t.Errorf("%d addresses took %v", sys.adds, d)
	}
	start = time.Now()
	h.Apply(nil)
	if d := time.Since(start); d > 5*time.Second || there(t, sys) != "" {
		t.Errorf("removal took %v", d)
	}
}
