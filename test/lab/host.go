package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrOff is the answer of a host that has no power.
var ErrOff = errors.New("lab: the host is off")

// Host is a namespace with interfaces plugged into switches, and the processes
// that run in it.
type Host struct {
	lab  *Lab
	name string
	id   byte // last octet of its interfaces' MACs

	mu    sync.Mutex
	ns    *namespace // nil while off
	plugs []plugging
	procs []*Process
	tools []closer // probes and askers
}

type closer interface{ Close() }

// NewHost makes a host without any interface but lo. At most 255 hosts.
func (l *Lab) NewHost(name string) (*Host, error) {
	ns, err := newNamespace(l.prefix + "-" + name)
	if err != nil {
		return nil, err
	}
	h := &Host{lab: l, name: name, ns: ns}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hosts = append(l.hosts, h)
	h.id = byte(len(l.hosts))
	return h, nil
}

// Name is the host's, as given to NewHost.
func (h *Host) Name() string { return h.name }

// Namespace is the name for "ip netns exec".
func (h *Host) Namespace() string { return h.lab.prefix + "-" + h.name }

// Plug connects a new interface to the switch and gives it the addresses
// ("192.0.2.1/24"). The interface's MAC is 02:51:00:00:<switch>:<host>, counted
// from 1 in the order of making.
func (h *Host) Plug(s *Switch, ifname string, addrs ...string) error {
	p := plugging{sw: s, ifname: ifname, mac: MAC{0x02, 0x51, 0, 0, s.id, h.id}}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a)
		if err != nil {
			return err
		}
		p.addrs = append(p.addrs, prefix)
	}
	h.lab.mu.Lock()
	h.lab.names[p.mac] = h.name
	h.lab.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.plugs = append(h.plugs, p)
	return s.plug(h, p)
}

// MAC is the link-layer address of the interface; zero when there is none.
func (h *Host) MAC(ifname string) MAC {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.plugs {
		if p.ifname == ifname {
			return p.mac
		}
	}
	return MAC{}
}

// Addr is the first address of the family on the interface.
func (h *Host) Addr(ifname string, ipv6 bool) netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.plugs {
		for _, a := range p.addrs {
			if p.ifname == ifname && a.Addr().Is6() == ipv6 {
				return a.Addr()
			}
		}
	}
	return netip.Addr{}
}

// configure brings the host's end of a cable up.
func (h *Host) configure(p plugging) error {
	link, err := h.ns.nl.LinkByName(p.ifname)
	if err != nil {
		return err
	}
	for _, a := range p.addrs {
		addr := &netlink.Addr{IPNet: &net.IPNet{
			IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen()),
		}}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.ns.nl.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("%s: add %s to %s: %w", h.name, a, p.ifname, err)
		}
	}
	return h.ns.nl.LinkSetUp(link)
}

// Do runs fn on a thread inside the namespace: sockets that fn makes are the
// host's. fn must not block.
func (h *Host) Do(fn func() error) error {
	ns, err := h.namespace()
	if err != nil {
		return err
	}
	return ns.do(fn)
}

// Dial connects from the host. The address must hold an IP, no name.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	ns, err := h.namespace()
	if err != nil {
		return nil, err
	}
	return ns.dial(ctx, network, address)
}

// HTTP is a client whose connections start at the host.
func (h *Host) HTTP() *http.Client {
	return &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DialContext: h.Dial, DisableKeepAlives: true,
	}}
}

func (h *Host) namespace() (*namespace, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ns == nil {
		return nil, fmt.Errorf("%s: %w", h.name, ErrOff)
	}
	return h.ns, nil
}

// On says whether the host has power.
func (h *Host) On() bool {
	_, err := h.namespace()
	return err == nil
}

// PowerOff takes the host's ports down at all switches and kills all its
// processes, in that order and without a pause, so that nothing of its death
// reaches the wire. It returns the time at which the first port went. The
// host's files stay.
func (h *Host) PowerOff() (time.Time, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ns == nil {
		return time.Time{}, fmt.Errorf("%s: %w", h.name, ErrOff)
	}
	at := time.Now()
	var errs []error
	for _, p := range h.plugs {
		errs = append(errs, p.sw.PortDown(h.name))
	}
	for _, p := range h.procs {
		_ = p.Signal(unix.SIGKILL)
	}
	h.lab.log.Info("power off", "node", h.name)
	return at, errors.Join(append(errs, h.clear())...)
}

// PowerOn gives the host a fresh kernel: its interfaces with their MACs and
// addresses, and no process.
func (h *Host) PowerOn() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ns != nil {
		return nil
	}
	ns, err := newNamespace(h.Namespace())
	if err != nil {
		return err
	}
	h.ns = ns
	h.lab.log.Info("power on", "node", h.name)
	for _, p := range h.plugs {
		if err := p.sw.plug(h, p); err != nil {
			return err
		}
	}
	return nil
}

// clear kills and reaps all processes, pulls the cables, drops the namespace.
// h.mu is held.
func (h *Host) clear() error {
	var errs []error
	for _, t := range h.tools {
		t.Close()
	}
	for _, p := range h.procs {
		_ = p.Signal(unix.SIGKILL)
	}
	for _, p := range h.procs {
		<-p.done
	}
	for killInNamespace(h.ns.path()) > 0 { // children that left their process group
		time.Sleep(time.Millisecond)
	}
	for _, p := range h.plugs {
		errs = append(errs, p.sw.unplug(h.name))
	}
	errs = append(errs, h.ns.close())
	h.ns, h.procs, h.tools = nil, nil, nil
	return errors.Join(errs...)
}

func (h *Host) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ns == nil {
		return nil
	}
	return h.clear()
}

// own makes the host close the tool when the host goes.
func (h *Host) own(t closer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tools = append(h.tools, t)
}

// Neighbour is what the host's kernel believes about an address on a link: the
// MAC of its entry, and false when it has no usable one.
func (h *Host) Neighbour(addr netip.Addr) (MAC, bool) {
	ns, err := h.namespace()
	if err != nil {
		return MAC{}, false
	}
	family := netlink.FAMILY_V4
	if addr.Is6() {
		family = netlink.FAMILY_V6
	}
	list, err := ns.nl.NeighList(0, family)
	if err != nil {
		return MAC{}, false
	}
	i := slices.IndexFunc(list, func(n netlink.Neigh) bool {
		ip, _ := netip.AddrFromSlice(n.IP)
		return ip.Unmap() == addr && len(n.HardwareAddr) == 6 && n.State&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE) == 0
	})
	if i < 0 {
		return MAC{}, false
	}
	return MAC(list[i].HardwareAddr), true
}
