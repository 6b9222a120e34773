package allocator

import (
	"net/netip"
	"slices"

	"github.com/quorumlb/quorumlb/fsm"
)

// subnets are those on the interfaces of a node by which a policy announces. That an
// address itself is on an interface says nothing about its subnet.
func subnets(p *Policy, n *fsm.Node) (nets []netip.Prefix) {
	interfaces, _ := p.On(n.Labels)
	for _, l := range n.Links {
		if !l.GetUp() || len(interfaces) > 0 && !slices.Contains(interfaces, l.GetName()) {
			continue
		}
		for _, text := range l.GetPrefixes() {
			if net, err := netip.ParsePrefix(text); err == nil && !net.IsSingleIP() {
				nets = append(nets, net)
			}
		}
	}
	return nets
}

func onLink(nets []netip.Prefix, addr netip.Addr) bool {
	for _, net := range nets {
		if net.Contains(addr) {
			return true
		}
	}
	return false
}

// has tells whether the address's subnet is on an interface of the node.
func (c *Chooser) has(addr netip.Addr, node string) bool {
	at, found := slices.BinarySearch(c.nodes, node)
	return found && onLink(c.choice(addr).nets[at], addr)
}

// OffSubnet tells whether the address's subnet is on no interface of its owner. That
// is normal for a pool that is routed to the nodes: then no node has it.
func (c *Chooser) OffSubnet(addr netip.Addr) bool {
	rec := c.s.Addresses[addr]
	return rec != nil && rec.Owner != "" && !c.has(addr, rec.Owner)
}
