// Package nettest makes segments of real network namespaces for the tests of
// the packages of a speaker: hosts with a veth each on one bridge, and captures
// of what passes at a host's port.
//
// A test that cannot have them (no root) is skipped with the reason. All that is
// made bears the prefix "qlb-<pid>-" and goes with the test, or with the next one
// if this is killed.
package nettest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

var serial atomic.Int32

// Segment is one Ethernet broadcast domain.
type Segment struct {
	t      testing.TB
	bridge *Host
	ports  int
}

// Host is a network namespace with one link, eth0, on the segment.
type Host struct {
	t    testing.TB
	seg  *Segment
	Name string // of the network namespace
	ns   netns.NsHandle
	port string // name of the switch's end
	MAC  net.HardwareAddr
	// Link is the index of eth0.
	Link int
}

// NewSegment makes a bridge without ports.
func NewSegment(t testing.TB) *Segment {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	sweep(t)
	s := &Segment{t: t}
	s.bridge = newNamespace(t, "sw")
	s.bridge.Do(func() error {
		la := netlink.NewLinkAttrs()
		la.Name = "br0"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: la}); err != nil {
			return fmt.Errorf("bridge: %w", err)
		}
		return setUp("br0")
	})
	return s
}

// sweep removes what a test program left that was killed.
var sweep = func() func(testing.TB) {
	var once sync.Once
	return func(t testing.TB) {
		once.Do(func() {
			names, err := filepath.Glob("/run/netns/qlb-*-*")
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				var pid int
				base := filepath.Base(name)
				if n, _ := fmt.Sscanf(base, "qlb-%d-", &pid); n != 1 || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
					continue
				}
				if err := netns.DeleteNamed(base); err != nil {
					t.Logf("remove the leftover %s: %v", base, err)
				}
			}
		})
	}
}()

func newNamespace(t testing.TB, role string) *Host {
	t.Helper()
	h := &Host{t: t, Name: fmt.Sprintf("qlb-%d-%s%d", os.Getpid(), role, serial.Add(1))}
	err := onThread(func() error {
		ns, err := netns.NewNamed(h.Name) // also enters it
		h.ns = ns
		return err
	})
	if err != nil {
		t.Fatalf("make namespace %s: %v", h.Name, err)
	}
	t.Cleanup(func() {
		h.ns.Close()
		if err := netns.DeleteNamed(h.Name); err != nil {
			t.Errorf("remove namespace %s: %v", h.Name, err)
		}
	})
	// Addresses are usable at once, and nothing but the test speaks IPv6.
	h.Sysctl("net/ipv6/conf/all/accept_dad", "0")
	h.Sysctl("net/ipv6/conf/default/accept_dad", "0")
	h.Sysctl("net/ipv6/conf/default/router_solicitations", "0")
	h.Do(func() error { return setUp("lo") })
	return h
}

// onThread runs f on a thread of its own, which ends with it, so that no other
// goroutine ever runs in the wrong network namespace.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// Try runs f in the host's network namespace. Sockets opened there stay there.
func (h *Host) Try(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(h.ns); err != nil {
			return fmt.Errorf("enter %s: %w", h.Name, err)
		}
		return f()
	})
}

// Do is Try that must succeed.
func (h *Host) Do(f func() error) {
	h.t.Helper()
	if err := h.Try(f); err != nil {
		h.t.Fatalf("%s: %v", h.Name, err)
	}
}

// Sysctl sets a value, for example of "net/ipv4/ip_forward".
func (h *Host) Sysctl(key, value string) {
	h.t.Helper()
	h.Do(func() error { return os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0) })
}

// ReadSysctl reads a value.
func (h *Host) ReadSysctl(key string) string {
	h.t.Helper()
	var b []byte
	h.Do(func() (err error) {
		b, err = os.ReadFile(filepath.Join("/proc/sys", key))
		return err
	})
	return strings.TrimSpace(string(b))
}

// Run runs a program in the namespace and returns what it printed.
func (h *Host) Run(name string, args ...string) (string, error) {
	cmd := h.Command(name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s in %s: %w: %s", strings.Join(cmd.Args[4:], " "), h.Name, err, out)
	}
	return string(out), err
}

// IP runs ip(8), which must succeed.
func (h *Host) IP(args ...string) string {
	h.t.Helper()
	out, err := h.Run("ip", args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// Command prepares a program to be run in the namespace.
func (h *Host) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", h.Name, name}, args...)...)
}

func setUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// NewHost adds a host with eth0 on the segment, up, with the addresses.
func (s *Segment) NewHost(addrs ...string) *Host {
	s.t.Helper()
	h := newNamespace(s.t, "h")
	h.seg = s
	h.port = s.attach(h, "eth0")
	h.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		h.MAC, h.Link = l.Attrs().HardwareAddr, l.Attrs().Index
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a)
			if err != nil {
				return err
			}
			n := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
			if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: n, Flags: unix.IFA_F_NODAD}); err != nil {
				return fmt.Errorf("add %s: %w", a, err)
			}
		}
		return nil
	})
	return h
}

// Attach gives the host one more link on a segment, down, and returns the name
// of the switch's port.
func (s *Segment) Attach(h *Host, name string) string {
	s.t.Helper()
	return s.attach(h, name)
}

func (s *Segment) attach(h *Host, name string) string {
	s.t.Helper()
	s.ports++
	port := fmt.Sprintf("p%d", s.ports)
	s.bridge.Do(func() error {
		la := netlink.NewLinkAttrs()
		la.Name = port
		veth := &netlink.Veth{LinkAttrs: la, PeerName: name, PeerNamespace: netlink.NsFd(int(h.ns))}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("veth: %w", err)
		}
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		l, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(l, br); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	})
	return port
}

// SetPort takes the host's switch port up or down: the host sees its carrier go.
func (h *Host) SetPort(up bool) { h.seg.SetPort(h.port, up) }

// SetPort takes a port of the switch up or down.
func (s *Segment) SetPort(port string, up bool) {
	s.t.Helper()
	s.bridge.Do(func() error {
		l, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		if up {
			return netlink.LinkSetUp(l)
		}
		return netlink.LinkSetDown(l)
	})
}

// Switch returns the namespace of the bridge br0.
func (s *Segment) Switch() *Host { return s.bridge }

// Lacks ends a test for which the machine lacks something: it is skipped with the
// reason. Where CI is set it fails, for there everything has to be proven.
func Lacks(t testing.TB, reason any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("CI is set and this machine cannot run the test: %v", reason)
	}
	t.Skip(reason)
}

// Patience is how long a test waits for what has to come: longer than a busy
// machine takes. It costs nothing where the thing comes.
const Patience = 30 * time.Second

// Eventually polls until ok returns true and fails the test after Patience.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("after %v still not: %s", Patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
