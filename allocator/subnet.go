package allocator

import (
	"net/netip"
	"slices"

	"github.com/quorumlb/quorumlb/fsm"
)

// subnets are those on the interfaces of a node by which a policy announces and that are
// up, or down. That an address itself is on an interface says nothing about its subnet.
func subnets(p *Policy, n *fsm.Node, up bool) (nets []netip.Prefix, links int) {
	interfaces, _ := p.On(n.Labels)
	for _, l := range n.Links {
		if l.GetUp() != up || len(interfaces) > 0 && !slices.Contains(interfaces, l.GetName()) {
			continue
		}
		links++
		for _, text := range l.GetPrefixes() {
			if net, err := netip.ParsePrefix(text); err == nil && !net.IsSingleIP() {
				nets = append(nets, net)
			}
		}
	}
	return nets, links
}

func onLink(nets []netip.Prefix, addr netip.Addr) bool {
	for _, net := range nets {
		if net.Contains(addr) {
			return true
		}
	}
	return false
}

// OnLink tells whether the address's subnet is on an interface of the node to announce on,
// which is up.
func (c *Chooser) OnLink(addr netip.Addr, node string) bool {
	at, found := slices.BinarySearch(c.nodes, node)
	return found && onLink(c.choice(addr).nets[at], addr)
}

// OffSubnet tells whether the address's subnet is on no interface of its owner. That
// is normal for a pool that is routed to the nodes: then no node has it.
func (c *Chooser) OffSubnet(addr netip.Addr) bool {
	rec := c.s.Addresses[addr]
	return rec != nil && rec.Owner != "" && !c.OnLink(addr, rec.Owner)
}

// lostLink tells whether the address's subnet went with a link of its owner: one to
// announce on is down, and has it, or the owner had it when it was chosen (whoever
// configures a link may take its addresses away with the carrier).
func (c *Chooser) lostLink(rec *fsm.Address) bool {
	nets, down := subnets(c.Policy(rec.Addr), c.s.Nodes[rec.Owner], false)
	return down > 0 && (rec.OnLink || onLink(nets, rec.Addr))
}
