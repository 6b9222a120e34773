package system

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Device is a network interface as the kernel knows it.
type Device struct {
	Index int
	Name  string
	// Kind is the driver's name for virtual devices ("bridge", "bond", "veth").
	Kind string
	MAC  MAC
	// Ethernet is false for tunnels, loopback and the like.
	Ethernet bool
	NoARP    bool
	// Up means administratively up and with carrier.
	Up bool
	// Master is the index of the bridge, bond or VRF that the device is part of;
	// 0 if none.
	Master int
	// Backup: the device is a bond's slave that carries no frames now.
	Backup bool
	// Parent is the index of the device whose frames a VLAN or macvlan takes; 0 if
	// none of this namespace.
	Parent int
	// Prefixes are the addresses that may be used, each with its prefix length.
	Prefixes []netip.Prefix
	// Gateways are the next hops of default routes over the device.
	Gateways []netip.Addr
}

// ErrNetworkLost means that the kernel had more news than the subscription could
// hold, or that it ended. What is known may be old; open a new one.
var ErrNetworkLost = errors.New("subscription to network changes lost")

// netlinkBuffer holds the burst of a node that starts all its pods at once.
const netlinkBuffer = 1 << 20

// Network is a subscription to the network devices of the network namespace of
// the thread that opened it.
type Network struct {
	handle *netlink.Handle
	done   chan struct{}
	links  <-chan netlink.LinkUpdate
	addrs  <-chan netlink.AddrUpdate
	routes <-chan netlink.RouteUpdate

	devices map[int]*Device
}

// OpenNetwork subscribes. Close must be called, whether Watch was or not.
func OpenNetwork() (*Network, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	n := &Network{handle: handle, done: make(chan struct{}), devices: make(map[int]*Device)}
	if err := n.subscribe(); err != nil {
		n.Close()
		return nil, fmt.Errorf("subscribe to network changes: %w", err)
	}
	return n, nil
}

// subscribe starts the library's three readers; each closes its channel when it ends.
func (n *Network) subscribe() error {
	links := make(chan netlink.LinkUpdate)
	err := forcing(func(force bool) error {
		return netlink.LinkSubscribeWithOptions(links, n.done, netlink.LinkSubscribeOptions{
			ReceiveBufferSize: netlinkBuffer, ReceiveBufferForceSize: force})
	})
	if err != nil {
		return err
	}
	n.links = links
	addrs := make(chan netlink.AddrUpdate)
	err = forcing(func(force bool) error {
		return netlink.AddrSubscribeWithOptions(addrs, n.done, netlink.AddrSubscribeOptions{
			ReceiveBufferSize: netlinkBuffer, ReceiveBufferForceSize: force})
	})
	if err != nil {
		return err
	}
	n.addrs = addrs
	routes := make(chan netlink.RouteUpdate)
	err = forcing(func(force bool) error {
		return netlink.RouteSubscribeWithOptions(routes, n.done, netlink.RouteSubscribeOptions{
			ReceiveBufferSize: netlinkBuffer, ReceiveBufferForceSize: force})
	})
	if err != nil {
		return err
	}
	n.routes = routes
	return nil
}

// forcing subscribes with a receive buffer of any size or, where that is not
// allowed (it needs CAP_NET_ADMIN in the first user namespace, which a container
// may lack), with one that net.core.rmem_max clips. A buffer that overflows ends
// the subscription, and everything is read anew.
func forcing(subscribe func(force bool) error) error {
	err := subscribe(true)
	if errors.Is(err, unix.EPERM) {
		return subscribe(false)
	}
	return err
}

// Close ends the subscription.
func (n *Network) Close() {
	close(n.done)
	// The readers may be about to hand over what they have read.
	drain(n.links)
	drain(n.addrs)
	drain(n.routes)
	n.handle.Close()
}

// drain waits for the channel's end; nil was never begun.
func drain[T any](ch <-chan T) {
	if ch == nil {
		return
	}
	for range ch {
	}
}

// Watch calls changed with all devices in order of their index, first with what
// is there and then after every change, until ctx ends (nil) or the
// subscription is lost (ErrNetworkLost). The slice is the callee's to keep.
func (n *Network) Watch(ctx context.Context, changed func([]Device)) error {
	// The subscription is older than this list, so a change while it is read is
	// told again, and what was told last is what is.
	if err := n.list(); err != nil {
		return err
	}
	for {
		changed(n.snapshot())
		if err := n.next(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// next waits for one change that matters and takes it in.
func (n *Network) next(ctx context.Context) error {
	for {
		var relevant bool
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case u, ok := <-n.links:
			if !ok {
				return ErrNetworkLost
			}
			relevant, err = n.linkChanged(int(u.Index))
		case u, ok := <-n.addrs:
			if !ok {
				return ErrNetworkLost
			}
			relevant = n.addrChanged(u)
		case u, ok := <-n.routes:
			if !ok {
				return ErrNetworkLost
			}
			if isDefault(u.Route) {
				relevant, err = true, n.listGateways()
			}
		}
		if err != nil || relevant {
			return err
		}
	}
}

// list reads everything.
func (n *Network) list() error {
	links, err := whole(n.handle.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		d := deviceFrom(l)
		n.devices[d.Index] = d
	}
	if err := n.listAddrs(nil); err != nil {
		return err
	}
	return n.listGateways()
}

// listAddrs reads the addresses of a link, or of all if it is nil.
func (n *Network) listAddrs(of netlink.Link) error {
	addrs, err := whole(func() ([]netlink.Addr, error) { return n.handle.AddrList(of, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		n.addrChanged(netlink.AddrUpdate{LinkAddress: *a.IPNet, LinkIndex: a.LinkIndex, Flags: a.Flags, NewAddr: true})
	}
	return nil
}

// linkChanged asks for the present state of a link, so that it does not matter
// which of several messages of the kernel (a bridge sends its own about its
// ports, also "deleted") was the occasion.
func (n *Network) linkChanged(index int) (bool, error) {
	old := n.devices[index]
	l, err := n.handle.LinkByIndex(index)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		delete(n.devices, index)
		return old != nil, nil
	}
	if err != nil {
		return false, fmt.Errorf("read link %d: %w", index, err)
	}
	d := deviceFrom(l)
	if old == nil {
		n.devices[index] = d
		// Its addresses come by another socket, perhaps before it: those were passed over.
		if err := n.listAddrs(l); err != nil {
			return false, err
		}
		return true, n.listGateways()
	}
	d.Prefixes, d.Gateways = old.Prefixes, old.Gateways
	n.devices[index] = d
	if d.Up != old.Up {
		// The kernel removes IPv4 routes of a dead link without a word.
		return true, n.listGateways()
	}
	same := d.Name == old.Name && d.MAC == old.MAC && d.NoARP == old.NoARP && d.Master == old.Master &&
		d.Backup == old.Backup && d.Parent == old.Parent
	return !same, nil
}

func deviceFrom(l netlink.Link) *Device {
	a := l.Attrs()
	mac, err := MACFrom(a.HardwareAddr)
	const running = unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOWER_UP
	slave, ok := a.Slave.(*netlink.BondSlave)
	return &Device{
		Index:    a.Index,
		Name:     a.Name,
		Kind:     l.Type(),
		MAC:      mac,
		Ethernet: err == nil && a.EncapType == "ether",
		NoARP:    a.RawFlags&unix.IFF_NOARP != 0,
		Up:       a.RawFlags&running == running,
		Master:   a.MasterIndex,
		Backup:   ok && slave.State == netlink.BondStateBackup,
		Parent:   parent(l),
	}
}

func parent(l netlink.Link) int {
	switch l.Type() {
	case "vlan", "macvlan": // elsewhere the index means something else, as of a veth the peer
		if a := l.Attrs(); a.NetNsID < 0 {
			return a.ParentIndex
		}
	}
	return 0
}

// addrChanged takes in an address and reports whether anything changed. One of a link
// that is not known yet is read with the link.
func (n *Network) addrChanged(u netlink.AddrUpdate) bool {
	d := n.devices[u.LinkIndex]
	prefix, ok := prefixFrom(u.LinkAddress)
	if d == nil || !ok {
		return false
	}
	usable := u.NewAddr && u.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0
	at := slices.Index(d.Prefixes, prefix)
	switch {
	case usable && at < 0:
		d.Prefixes = append(slices.Clip(d.Prefixes), prefix)
	case !usable && at >= 0:
		d.Prefixes = slices.Delete(slices.Clone(d.Prefixes), at, at+1)
	default:
		return false
	}
	return true
}

func prefixFrom(n net.IPNet) (netip.Prefix, bool) {
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr.Unmap(), ones), true
}

func isDefault(r netlink.Route) bool {
	if r.Table != unix.RT_TABLE_MAIN {
		return false
	}
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}

// listGateways reads the default routes.
func (n *Network) listGateways() error {
	found := make(map[int][]netip.Addr)
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := whole(func() ([]netlink.Route, error) {
			return n.handle.RouteListFiltered(family,
				&netlink.Route{Dst: nil, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return fmt.Errorf("list default routes: %w", err)
		}
		for _, r := range routes {
			addGateway(found, r.LinkIndex, r.Gw)
			for _, hop := range r.MultiPath {
				addGateway(found, hop.LinkIndex, hop.Gw)
			}
		}
	}
	for index, d := range n.devices {
		d.Gateways = found[index]
	}
	return nil
}

func addGateway(found map[int][]netip.Addr, link int, gw net.IP) {
	addr, ok := netip.AddrFromSlice(gw)
	if addr = addr.Unmap(); ok && link != 0 && !slices.Contains(found[link], addr) {
		found[link] = append(found[link], addr)
	}
}

func (n *Network) snapshot() []Device {
	out := make([]Device, 0, len(n.devices))
	for _, d := range slices.SortedFunc(maps.Values(n.devices), func(a, b *Device) int { return cmp.Compare(a.Index, b.Index) }) {
		out = append(out, *d)
	}
	return out
}
