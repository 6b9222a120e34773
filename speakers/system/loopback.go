package system

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Loopback holds addresses on the loopback device of the network namespace of
// the thread that opened it. It needs CAP_NET_ADMIN to change any.
type Loopback struct {
	ns     netns.NsHandle
	handle *netlink.Handle
	link   netlink.Link
}

// OpenLoopback finds the loopback device.
func OpenLoopback() (*Loopback, error) {
	ns, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("find the network namespace: %w", err)
	}
	l := &Loopback{ns: ns}
	if l.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err == nil {
		l.link, err = l.handle.LinkByName("lo")
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("find the loopback device: %w", err)
	}
	return l, nil
}

// Close ends the use of the device. Addresses stay.
func (l *Loopback) Close() {
	if l.handle != nil {
		l.handle.Close()
	}
	l.ns.Close()
}

// Add puts an address on the device, without duplicate address detection. The
// host does not choose it as the source of what it sends on its own account: an
// IPv4 address has scope host, an IPv6 address is deprecated. To add one that is there
// is no error.
func (l *Loopback) Add(addr netip.Addr) error {
	a := address(addr)
	if addr.Is6() {
		a.Flags = unix.IFA_F_NODAD
		a.ValidLft, a.PreferedLft = math.MaxUint32, 0
	} else {
		a.Scope = unix.RT_SCOPE_HOST
	}
	if err := l.handle.AddrAdd(l.link, a); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add %v to lo: %w", addr, err)
	}
	return nil
}

// Remove takes an address off the device. To remove one that is not there is no
// error.
func (l *Loopback) Remove(addr netip.Addr) error {
	if err := l.handle.AddrDel(l.link, address(addr)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove %v from lo: %w", addr, err)
	}
	return nil
}

func address(addr netip.Addr) *netlink.Addr {
	bits := addr.BitLen()
	return &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, bits)}}
}

// Addresses lists the host addresses (/32 and /128) on the device.
func (l *Loopback) Addresses() ([]netip.Addr, error) {
	list, err := whole(func() ([]netlink.Addr, error) { return l.handle.AddrList(l.link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the addresses of lo: %w", err)
	}
	var out []netip.Addr
	for _, a := range list {
		if p, ok := prefixFrom(*a.IPNet); ok && p.IsSingleIP() {
			out = append(out, p.Addr())
		}
	}
	return out, nil
}

// WatchRemoved calls removed once it would notice, and then whenever an address has
// gone from the device, until ctx ends (nil) or the subscription is lost (ErrNetworkLost).
func (l *Loopback) WatchRemoved(ctx context.Context, removed func()) error {
	done := make(chan struct{})
	addrs := make(chan netlink.AddrUpdate)
	err := forcing(func(force bool) error {
		return netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{
			Namespace: &l.ns, ReceiveBufferSize: netlinkBuffer, ReceiveBufferForceSize: force})
	})
	if err != nil {
		return fmt.Errorf("subscribe to addresses: %w", err)
	}
	defer func() {
		close(done)
		drain(addrs)
	}()
	removed()
	for {
		select {
		case <-ctx.Done():
			return nil
		case u, ok := <-addrs:
			if !ok {
				return ErrNetworkLost
			}
			if !u.NewAddr && u.LinkIndex == l.link.Attrs().Index {
				removed()
			}
		}
	}
}

// ReadSysctl reads a value of the network namespace of the calling thread, for
// example of "net/ipv4/conf/all/arp_ignore".
func ReadSysctl(key string) (string, error) {
	b, err := os.ReadFile(filepath.Join("/proc/sys", key))
	if err != nil {
		return "", fmt.Errorf("read sysctl: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// WriteSysctl sets a value.
func WriteSysctl(key, value string) error {
	if err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl to %s: %w", value, err)
	}
	return nil
}
