package watch

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"github.com/quorumlb/quorumlb/fsm"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// MACs are the link-layer addresses that a node may speak from, sorted: those of
// its session and those of its links as they are now, for a link may change its
// address (a bond takes that of a port) while the session goes on. Who asks whether
// two sessions are of one machine wants those of the session alone.
func MACs(n *fsm.Node) []fsm.MAC {
	macs := slices.Clone(n.MACs)
	for _, l := range n.Links {
		if len(l.GetMac()) == len(fsm.MAC{}) && fsm.MAC(l.GetMac()) != (fsm.MAC{}) {
			macs = append(macs, fsm.MAC(l.GetMac()))
		}
	}
	slices.SortFunc(macs, func(a, b fsm.MAC) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(macs)
}

// setMacs records a node's addresses and tells whether they changed.
func (h *Hub) setMacs(name string, n *fsm.Node) bool {
	i, found := slices.BinarySearchFunc(h.macs, name, compareMacs)
	if n == nil {
		if found {
			h.macs = slices.Delete(slices.Clone(h.macs), i, i+1)
		}
		return found
	}
	msg := macsMessage(n)
	if found {
		if slices.EqualFunc(h.macs[i].GetMacs(), msg.GetMacs(), slices.Equal[[]byte]) {
			return false
		}
		h.macs = slices.Clone(h.macs)
		h.macs[i] = msg
		return true
	}
	h.macs = slices.Insert(slices.Clone(h.macs), i, msg)
	return true
}

// otherMacs lists the addresses of all nodes but one.
func (h *Hub) otherMacs(name string) []*speakerv1.NodeMacs {
	others := make([]*speakerv1.NodeMacs, 0, len(h.macs))
	for _, m := range h.macs {
		if m.GetNode() != name {
			others = append(others, m)
		}
	}
	return others
}

func allMacs(s *fsm.State) []*speakerv1.NodeMacs {
	all := make([]*speakerv1.NodeMacs, 0, len(s.Nodes))
	for _, name := range slices.Sorted(maps.Keys(s.Nodes)) {
		all = append(all, macsMessage(s.Nodes[name]))
	}
	return all
}

func macsMessage(n *fsm.Node) *speakerv1.NodeMacs {
	m := &speakerv1.NodeMacs{Node: n.Name}
	for _, mac := range MACs(n) {
		m.Macs = append(m.Macs, slices.Clone(mac[:]))
	}
	return m
}

func compareMacs(a *speakerv1.NodeMacs, node string) int { return cmp.Compare(a.GetNode(), node) }
