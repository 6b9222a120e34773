package system

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/quorumlb/quorumlb/speakers/internal/nettest"
)

// Links and addresses come by two sockets: an address may be heard before its link.
func TestAddressHeardBeforeItsLink(t *testing.T) {
	host := nettest.NewSegment(t).NewHost("192.0.2.1/24")
	host.Do(func() error {
		n, err := OpenNetwork()
		if err != nil {
			return err
		}
		defer n.Close()
		if err := n.list(); err != nil {
			return err
		}
		host.IP("link", "add", "new0", "type", "bridge")
		host.IP("addr", "add", "198.51.100.1/24", "dev", "new0")
		l, err := n.handle.LinkByName("new0")
		if err != nil {
			return err
		}
		addrs, err := n.handle.AddrList(l, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		index := l.Attrs().Index
		for _, a := range addrs {
			n.addrChanged(netlink.AddrUpdate{LinkAddress: *a.IPNet, LinkIndex: index, Flags: a.Flags, NewAddr: true})
		}
		if _, err := n.linkChanged(index); err != nil {
			return err
		}
		if d := n.devices[index]; d == nil || !slices.Contains(d.Prefixes, netip.MustParsePrefix("198.51.100.1/24")) {
			t.Errorf("device %+v", d)
		}
		return nil
	})
}
