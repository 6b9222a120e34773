package fsm

import (
	"maps"
	"net/netip"
)

// MaxClusterVersion is the newest cluster version that this program understands.
const MaxClusterVersion = 1

// New returns the state of an empty log.
func New() *State {
	return &State{
		Lease:        DefaultLeaseTimes,
		Retention:    DefaultRetention,
		Pools:        map[string]*Pool{},
		Ads:          map[string]*Advertisement{},
		Services:     map[ServiceKey]*Service{},
		Addresses:    map[netip.Addr]*Address{},
		Free:         map[netip.Addr]*Free{},
		Nodes:        map[string]*Node{},
		Namespaces:   map[string]*Namespace{},
		Reservations: map[string]*Reservation{},
		idx:          newIndexes(),
	}
}

// Clone returns a state that changes independently of s. It copies the maps
// and shares the records and the nodes of the index trees. It panics while a
// batch is being decided on s (Begin).
func (s *State) Clone() *State {
	if s.draft != nil {
		panic("fsm: clone of a state with an open draft")
	}
	c := *s
	c.Pools = maps.Clone(s.Pools)
	c.Ads = maps.Clone(s.Ads)
	c.Services = maps.Clone(s.Services)
	c.Addresses = maps.Clone(s.Addresses)
	c.Free = maps.Clone(s.Free)
	c.Nodes = maps.Clone(s.Nodes)
	c.Namespaces = maps.Clone(s.Namespaces)
	c.Reservations = maps.Clone(s.Reservations)
	c.idx = s.idx.clone()
	return &c
}
