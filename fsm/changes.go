package fsm

import (
	"cmp"
	"net/netip"
	"slices"
)

// Changes tells what a batch touched, each list sorted and without doubles. A
// reader that keeps views recomputes those of the named addresses, nodes and
// services; with All it recomputes everything.
type Changes struct {
	// Addresses allocated, released, or whose owner, failures or conflict changed.
	Addresses []netip.Addr
	// Nodes whose record changed: session, links, drain, or an address won or lost.
	Nodes []string
	// Services declared, deleted, or whose addresses or pending reason changed.
	Services []ServiceKey
	// All: settings, pools or advertisements changed, so any view may have.
	All bool
}

func (c *Changes) settle() {
	slices.SortFunc(c.Addresses, netip.Addr.Compare)
	c.Addresses = slices.Compact(c.Addresses)
	slices.Sort(c.Nodes)
	c.Nodes = slices.Compact(c.Nodes)
	slices.SortFunc(c.Services, ServiceKey.Compare)
	c.Services = slices.Compact(c.Services)
}

// Compare orders keys by namespace, then name.
func (k ServiceKey) Compare(o ServiceKey) int {
	if c := cmp.Compare(k.Namespace, o.Namespace); c != 0 {
		return c
	}
	return cmp.Compare(k.Name, o.Name)
}

// KeyOf is the key of a declared service.
func KeyOf(namespace, name string) ServiceKey { return ServiceKey{Namespace: namespace, Name: name} }
