package speakers

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/speakers/health"
	"github.com/quorumlb/quorumlb/speakers/host"
	"github.com/quorumlb/quorumlb/speakers/layer2"
	"github.com/quorumlb/quorumlb/speakers/links"
	"github.com/quorumlb/quorumlb/speakers/session"
	"github.com/quorumlb/quorumlb/speakers/system"
)

// node is what a session steers: links, layer 2 and local delivery together.
type node struct {
	layer2 *layer2.Layer2
	host   *host.Host
	memory *memory
	health *health.Runner
	// tracked counts connections to addresses that move away softly.
	tracked *tracker
	log     *slog.Logger
	// linked is closed when the links are known for the first time.
	linked chan struct{}

	mu           sync.Mutex
	links        links.Set
	linksChanged chan struct{}

	applying sync.Mutex
	// view is the one in force; valid once there was any.
	view  session.View
	valid bool
}

var _ session.Node = (*node)(nil)

func newNode(l2 *layer2.Layer2, log *slog.Logger) *node {
	return &node{layer2: l2, log: log, linked: make(chan struct{}), linksChanged: make(chan struct{})}
}

// setLinks takes the links that may announce.
func (n *node) setLinks(set links.Set) {
	n.layer2.SetLinks(set)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links = set
	close(n.linksChanged)
	n.linksChanged = make(chan struct{})
	select {
	case <-n.linked:
	default:
		close(n.linked)
	}
	n.memory.changed()
}

// announcing returns the links' MACs, and whether addresses are announced by them
// at present. See memory.
func (n *node) announcing() ([]system.MAC, bool) {
	n.mu.Lock()
	macs := n.links.MACs()
	n.mu.Unlock()
	n.applying.Lock()
	defer n.applying.Unlock()
	return macs, n.valid && n.layer2.Confirmed() > 0
}

// Links tells the session what there is; see session.Node.
func (n *node) Links() ([]*logv1.Link, [][]byte, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]*logv1.Link, 0, len(n.links.Links))
	for _, l := range n.links.Links {
		m := &logv1.Link{Name: l.Name, Mac: slices.Clone(l.MAC[:]), Up: l.Up}
		for _, p := range l.Prefixes {
			if p = p.Masked(); !slices.Contains(m.Prefixes, p.String()) {
				m.Prefixes = append(m.Prefixes, p.String())
			}
		}
		slices.Sort(m.Prefixes)
		out = append(out, m)
	}
	var macs [][]byte
	for _, mac := range n.links.MACs() {
		macs = append(macs, slices.Clone(mac[:]))
	}
	return out, macs, n.linksChanged
}

// Apply puts a view in force: first what is lost, for which the next owner
// waits; then local delivery, so that no address is announced before it is
// accepted; then what is gained.
func (n *node) Apply(view session.View) {
	n.applying.Lock()
	defer n.applying.Unlock()
	epochs := make(map[netip.Addr]uint64, len(n.view.Vips))
	for _, v := range n.view.Vips {
		epochs[v.Addr] = v.Epoch
	}
	kept := slices.DeleteFunc(slices.Clone(view.Vips), func(v session.Vip) bool { return epochs[v.Addr] != v.Epoch })
	if n.valid && len(kept) < len(n.view.Vips) {
		n.announce(view, kept)
	}
	if !n.valid || !slices.Equal(view.HostAddresses, n.view.HostAddresses) {
		n.host.Apply(view.HostAddresses)
	}
	n.announce(view, view.Vips)
	n.view, n.valid = view, true
	n.memory.setQuiet(slices.ContainsFunc(view.Vips, func(v session.Vip) bool { return v.Predecessor != "" }))
	n.health.Apply(view.Checks)
}

// again applies the view once more after local delivery has failed or recovered.
func (n *node) again() {
	n.applying.Lock()
	defer n.applying.Unlock()
	if n.valid {
		n.announce(n.view, n.view.Vips)
	}
}

// announce gives layer 2 some of a view's addresses.
func (n *node) announce(view session.View, vips []session.Vip) {
	n.mu.Lock()
	known := n.memory.knows(n.links.MACs())
	n.mu.Unlock()
	undelivered := n.host.Failed()
	out := layer2.View{Cluster: view.Cluster, Peers: view.Peers, Vips: make([]layer2.Vip, 0, len(vips))}
	for _, v := range vips {
		vip := layer2.Vip{
			Addr: v.Addr, Epoch: v.Epoch, Mode: layer2.Hold, Interfaces: v.Interfaces,
			// Who owned it when the session began owns it as the process before did, if
			// that had the same MACs.
			Inherited: known && v.Epoch < view.Session,
		}
		if v.OnControlLoss == logv1.ControlLoss_CONTROL_LOSS_RELEASE {
			vip.Mode = layer2.Release
		}
		if err := undelivered[v.Addr]; err != nil {
			vip.Hindered = fmt.Sprintf("cannot be delivered locally: %v", err)
		}
		vip.Predecessor = v.Predecessor
		// A process that was started since asks only what was in doubt before.
		vip.Check = v.FirstUse && v.Epoch >= view.Session || v.FirstUseConflict
		out.Vips = append(out.Vips, vip)
	}
	for _, v := range view.Soft {
		// What still reaches the node is delivered: that does not depend on owning it.
		out.Vips = append(out.Vips, layer2.Vip{
			Addr: v.Addr, Epoch: v.Epoch, Mode: layer2.Release, Interfaces: v.Interfaces, Soft: true,
		})
	}
	n.layer2.Apply(out)
	n.tracked.changed(len(view.Soft) > 0)
}

// Confirm passes a confirmation on; see session.Node.
func (n *node) Confirm(c session.Confirmation) {
	n.layer2.Confirm(layer2.Confirmation{Sent: c.Sent, Until: c.Until, Fresh: c.Fresh})
}

// announced are layer 2's states in the words of the contract.
var announced = map[layer2.State]speakerv1.Announced{
	layer2.Unproven: speakerv1.Announced_ANNOUNCED_UNPROVEN,
	layer2.Proven:   speakerv1.Announced_ANNOUNCED_PROVEN,
	layer2.Held:     speakerv1.Announced_ANNOUNCED_UNCONFIRMED,
	layer2.Released: speakerv1.Announced_ANNOUNCED_RELEASED,
	layer2.Silenced: speakerv1.Announced_ANNOUNCED_YIELDED,
	layer2.Failed:   speakerv1.Announced_ANNOUNCED_FAILED,
	layer2.Softly:   speakerv1.Announced_ANNOUNCED_SOFT,
}

// firstUses are what layer 2 finds before the first use, in the words of the contract.
var firstUses = map[layer2.Finding]speakerv1.FirstUse{
	layer2.Clear:   speakerv1.FirstUse_FIRST_USE_CLEAR,
	layer2.Foreign: speakerv1.FirstUse_FIRST_USE_FOREIGN,
	layer2.Proxy:   speakerv1.FirstUse_FIRST_USE_PROXY,
	layer2.Kernel:  speakerv1.FirstUse_FIRST_USE_KERNEL,
}

// Statuses tells what the node really does; see session.Node.
func (n *node) Statuses(since uint64) ([]*speakerv1.VipStatus, []netip.Addr, uint64, <-chan struct{}) {
	changed, gone, next, more := n.layer2.Statuses(since)
	out := make([]*speakerv1.VipStatus, 0, len(changed))
	for _, s := range changed {
		m := &speakerv1.VipStatus{
			Address: s.Addr.AsSlice(), Epoch: s.Epoch, Announced: announced[s.State], Reason: s.Reason,
			Interfaces: s.Interfaces, ForeignNode: s.ForeignNode,
		}
		for _, a := range s.ProvenBy {
			m.ProvenBy = append(m.ProvenBy, a.AsSlice())
		}
		if s.Foreign != (system.MAC{}) {
			m.ForeignMac = s.Foreign[:]
		}
		m.FirstUse, m.FirstUseNode = firstUses[s.Check.Finding], s.Check.Node
		if s.Check.MAC != (system.MAC{}) {
			m.FirstUseMac = s.Check.MAC[:]
		}
		if s.State == layer2.Softly && s.Connections >= 0 {
			m.Connections = proto.Uint32(uint32(s.Connections))
		}
		out = append(out, m)
	}
	return out, gone, next, more
}

// Probe asks on the wire who has an address; see session.Node.
func (n *node) Probe(ctx context.Context, addr netip.Addr, timeout time.Duration) ([]*speakerv1.ProbeHit, error) {
	hits, err := n.layer2.Probe(ctx, addr, timeout)
	if err != nil {
		return nil, err
	}
	out := make([]*speakerv1.ProbeHit, 0, len(hits))
	for _, h := range hits {
		out = append(out, &speakerv1.ProbeHit{Mac: h.MAC[:], Interface: h.Interface})
	}
	return out, nil
}
