package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
)

// Switch is a namespace with a bridge, and one port for each plugged host,
// named as the host. It has no address and no spanning tree; it floods
// multicast.
type Switch struct {
	lab  *Lab
	name string
	id   byte // second octet of its interfaces' MACs
	ns   *namespace

	mu       sync.Mutex
	ports    map[string]*port
	bridges  map[string]netlink.Link
	faults   []*Fault
	captures []*Capture
}

type port struct {
	link   netlink.Link // the switch's end
	bridge string
}

const (
	mainBridge = "br0"
	// splitBridge joins the ports of Split.
	splitBridge = "br1"
	// voidBridge begins the name of a bridge with a single, cut port.
	voidBridge = "void-"
)

// NewSwitch makes a switch.
func (l *Lab) NewSwitch(name string) (*Switch, error) {
	ns, err := newNamespace(l.prefix + "-" + name)
	if err != nil {
		return nil, err
	}
	s := &Switch{lab: l, name: name, ns: ns, ports: map[string]*port{}, bridges: map[string]netlink.Link{}}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.switches = append(l.switches, s)
	s.id = byte(len(l.switches))
	_, err = s.bridge(mainBridge)
	return s, err
}

// bridge finds or makes one of the switch's bridges.
func (s *Switch) bridge(name string) (netlink.Link, error) {
	if b, ok := s.bridges[name]; ok {
		return b, nil
	}
	snooping := false
	err := s.ns.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}, MulticastSnooping: &snooping})
	if err != nil {
		return nil, fmt.Errorf("%s: make bridge %s: %w", s.name, name, err)
	}
	b, err := s.ns.nl.LinkByName(name)
	if err != nil {
		return nil, err
	}
	s.bridges[name] = b
	return b, s.ns.nl.LinkSetUp(b)
}

// plug joins the host's namespace by a cable: ifname at the host, a port named
// as the host here.
func (s *Switch) plug(h *Host, p plugging) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	veth := &netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: h.name, TxQLen: 1000},
		PeerName:         p.ifname,
		PeerNamespace:    netlink.NsFd(int(h.ns.fd)),
		PeerHardwareAddr: p.mac[:],
	}
	if err := s.ns.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("plug %s into %s: %w", h.name, s.name, err)
	}
	link, err := s.ns.nl.LinkByName(h.name)
	if err != nil {
		return err
	}
	bridge, err := s.bridge(mainBridge)
	if err != nil {
		return err
	}
	if err := s.ns.nl.LinkSetMaster(link, bridge); err != nil {
		return err
	}
	if err := s.ns.nl.LinkSetUp(link); err != nil {
		return err
	}
	s.ports[h.name] = &port{link: link, bridge: mainBridge}
	return h.configure(p)
}

// unplug removes the cable.
func (s *Switch) unplug(host string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.ports[host]
	if !ok {
		return nil
	}
	delete(s.ports, host)
	return s.ns.nl.LinkDel(p.link)
}

// PortDown takes the host's port down: the host sees its carrier go.
func (s *Switch) PortDown(host string) error { return s.withPort(host, s.ns.nl.LinkSetDown) }

// PortUp is the end of PortDown.
func (s *Switch) PortUp(host string) error { return s.withPort(host, s.ns.nl.LinkSetUp) }

func (s *Switch) withPort(host string, fn func(netlink.Link) error) error {
	s.mu.Lock()
	p, ok := s.ports[host]
	s.mu.Unlock()
	if !ok {
		return fmt.Errorf("%s has no port for %s", s.name, host)
	}
	return fn(p.link)
}

// Cut lets no frame of the hosts through, in either direction, not even among
// them, while their carrier stays: a fault that no interface reports.
func (s *Switch) Cut(hosts ...string) error {
	for _, h := range hosts {
		if err := s.move(h, voidBridge+h); err != nil {
			return err
		}
	}
	return nil
}

// Split gives the hosts a segment of their own: they reach each other, and
// nobody else.
func (s *Switch) Split(hosts ...string) error {
	for _, h := range hosts {
		if err := s.move(h, splitBridge); err != nil {
			return err
		}
	}
	return nil
}

// Heal ends Cut and Split for all hosts.
func (s *Switch) Heal() error {
	s.mu.Lock()
	hosts := make([]string, 0, len(s.ports))
	for h := range s.ports {
		hosts = append(hosts, h)
	}
	s.mu.Unlock()
	slices.Sort(hosts)
	for _, h := range hosts {
		if err := s.move(h, mainBridge); err != nil {
			return err
		}
	}
	return nil
}

func (s *Switch) move(host, bridge string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.ports[host]
	if !ok {
		return fmt.Errorf("%s has no port for %s", s.name, host)
	}
	if p.bridge == bridge {
		return nil
	}
	b, err := s.bridge(bridge)
	if err != nil {
		return err
	}
	if err := s.ns.nl.LinkSetMaster(p.link, b); err != nil {
		return fmt.Errorf("%s: move %s to %s: %w", s.name, host, bridge, err)
	}
	p.bridge = bridge
	return nil
}

func (s *Switch) close() error {
	s.mu.Lock()
	captures := s.captures
	s.mu.Unlock()
	for _, c := range captures {
		c.Close()
	}
	return s.ns.close()
}

// plugging is one cable of a host.
type plugging struct {
	sw     *Switch
	ifname string
	mac    MAC
	addrs  []netip.Prefix
}
