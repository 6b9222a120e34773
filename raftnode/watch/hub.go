package watch

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// Why a subscription is refused or ends.
var (
	// ErrBehind: this member has not applied the revision that the reader must
	// not go behind. Another member may have.
	ErrBehind = errors.New("this member is behind")
	// ErrNoSession: the node has no such session; open a new one.
	ErrNoSession = errors.New("the node has no such session")
	// ErrReplaced: a newer process of the node has been admitted.
	ErrReplaced = errors.New("a newer process of the node has been admitted")
	// ErrTooSlow: the reader let its queue run full. It starts over.
	ErrTooSlow = errors.New("the reader is too slow")
	// ErrReset: the state was replaced by a snapshot; the reader starts over.
	ErrReset = errors.New("the state was replaced by a snapshot")
	// ErrClosed: the member stops serving.
	ErrClosed = errors.New("the member stops serving")
)

// Source is the committed state.
type Source interface {
	// Read calls f while no batch is being applied. f must not keep the state.
	Read(f func(s *fsm.State))
}

// DefaultQueue is the number of messages that a reader may be behind.
const DefaultQueue = 1024

// Hub makes the messages of all watched nodes.
type Hub struct {
	source Source
	queue  int

	// Lock order: the source's read lock, then mu.
	mu     sync.Mutex
	closed bool
	// revision that the views are at. A reader may come between the moment in
	// which the state advances and Apply: then it is one behind the state.
	revision uint64
	nodes    map[string]*nodeView
	// holder is the one watched node whose view has the address: a is in v.vips if
	// and only if v is its holder.
	holder map[netip.Addr]*nodeView
	// soft is the same for addresses that move softly: the former owner's, in v.softs.
	soft map[netip.Addr]*nodeView
	// hosts are the addresses with local delivery and the specs of the services that
	// ask for it. Kept only while some node is watched.
	hosts map[netip.Addr][]*logv1.Service
	// hostPolicies are what their delivery was last decided by.
	hostPolicies map[netip.Addr]*allocator.Policy
	// checks are the services with a health check, and what their tasks were made of.
	checks map[fsm.ServiceKey]checked
	macs   []*speakerv1.NodeMacs // of all nodes, sorted by name
	lease  fsm.LeaseTimes
	// policies of the addresses, until a pool or an advertisement changes.
	policies allocator.Policies
}

// NewHub makes a hub. queue is the length of each reader's queue; 0 means
// DefaultQueue.
func NewHub(source Source, queue int) *Hub {
	if queue <= 0 {
		queue = DefaultQueue
	}
	return &Hub{
		source: source, queue: queue,
		nodes:  make(map[string]*nodeView),
		holder: make(map[netip.Addr]*nodeView),
		soft:   make(map[netip.Addr]*nodeView),
	}
}

// Subscribe starts a reader of node's view. The first message is the whole
// view, of a revision not less than minRevision and session. The caller must
// call Close.
func (h *Hub) Subscribe(node string, session, minRevision uint64) (*Subscription, error) {
	var sub *Subscription
	var err error
	h.source.Read(func(s *fsm.State) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if err = h.admit(s, node, session, minRevision); err != nil {
			return
		}
		v := h.viewOf(s, node)
		sub = newSubscription(h, v, session, h.revision, h.queue)
		v.subs[sub] = struct{}{}
		sub.queue <- &speakerv1.WatchResponse{
			Revision: h.revision,
			Change:   &speakerv1.WatchResponse_View{View: h.whole(s, v)},
		}
	})
	return sub, err
}

func (h *Hub) admit(s *fsm.State, node string, session, minRevision uint64) error {
	if h.closed {
		return ErrClosed
	}
	have := s.Revision
	if len(h.nodes) > 0 {
		have = h.revision
	}
	if need := max(session, minRevision); have < need {
		return fmt.Errorf("%w: it is at revision %d, asked for %d", ErrBehind, have, need)
	}
	n := s.Nodes[node]
	switch {
	case n == nil || n.Session < session || session == 0:
		return fmt.Errorf("%w: node %q, session %d", ErrNoSession, node, session)
	case n.Session > session:
		return fmt.Errorf("%w: node %q, session %d", ErrReplaced, node, n.Session)
	}
	return nil
}

// Apply makes the messages of one batch, after s has advanced to it. A nil
// batch means that s was replaced as a whole: every reader starts over.
func (h *Hub) Apply(batch *logv1.Batch, ch fsm.Changes, s *fsm.State) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.nodes) == 0 {
		return
	}
	if batch == nil {
		h.endAll(ErrReset)
		return
	}
	h.revision = max(h.revision, batch.GetRevision())
	d := deltas{revision: batch.GetRevision(), of: make(map[*nodeView]*speakerv1.ViewDelta)}
	if ch.All {
		h.policies.Reset()
		for _, v := range h.nodes {
			clear(v.terms)
		}
	}
	h.applyNodes(s, ch, &d)
	if len(h.nodes) == 0 {
		return // the last watched node was forgotten, and with it what is kept for any
	}
	for _, key := range ch.Services {
		h.applyCheck(s, key, &d)
	}
	if ch.All {
		h.applyAll(s, &d)
		h.applyChecks(s, &d, slices.Collect(maps.Values(h.nodes))...)
	} else {
		for _, a := range ch.Addresses {
			h.applyAddress(s, a, &d)
		}
		h.applyServices(s, ch.Services, &d)
	}
	// The decider acks nobody who has not seen this batch: whoever it takes
	// something from gets a message, even one without content.
	for _, name := range ch.Nodes {
		h.mustSee(s, name, &d)
	}
	if ch.All {
		for name := range h.nodes {
			h.mustSee(s, name, &d)
		}
	}
	d.send()
}

// mustSee makes a message for a node that the batch takes something from. So it
// does for one whose view was made of the very state that this batch led to: its
// readers have what the batch gave, in a whole view of the revision before.
func (h *Hub) mustSee(s *fsm.State, name string, d *deltas) {
	if v, n := h.nodes[name], s.Nodes[name]; v != nil && n != nil && (n.TakenAt == d.revision || v.made == d.revision) {
		d.to(v)
	}
}

// Close ends all subscriptions with ErrClosed and refuses new ones.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.endAll(ErrClosed)
}

// Watchers counts the open subscriptions.
func (h *Hub) Watchers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, v := range h.nodes {
		n += len(v.subs)
	}
	return n
}

func (h *Hub) endAll(why error) {
	for _, v := range h.nodes {
		h.endView(v, why)
	}
}

// endView ends all subscriptions of a node and forgets its view.
func (h *Hub) endView(v *nodeView, why error) {
	for sub := range v.subs {
		sub.end(why)
	}
	clear(v.subs)
	h.dropView(v)
}

func (h *Hub) dropView(v *nodeView) {
	for a := range v.vips {
		delete(h.holder, a)
	}
	for a := range v.softs {
		delete(h.soft, a)
	}
	delete(h.nodes, v.name)
	if len(h.nodes) == 0 {
		h.hosts, h.hostPolicies, h.checks, h.macs = nil, nil, nil, nil
		h.policies.Reset()
	}
}

// unsubscribe is called by the reader.
func (h *Hub) unsubscribe(sub *Subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := sub.view
	delete(v.subs, sub)
	if len(v.subs) == 0 && h.nodes[v.name] == v {
		h.dropView(v)
	}
}

// deltas collects what one batch changes for each watched node.
type deltas struct {
	revision uint64
	of       map[*nodeView]*speakerv1.ViewDelta
}

func (d *deltas) to(v *nodeView) *speakerv1.ViewDelta {
	delta := d.of[v]
	if delta == nil {
		delta = &speakerv1.ViewDelta{}
		d.of[v] = delta
	}
	return delta
}

func (d *deltas) send() {
	for v, delta := range d.of {
		msg := &speakerv1.WatchResponse{Revision: d.revision, Change: &speakerv1.WatchResponse_Delta{Delta: delta}}
		for sub := range v.subs {
			if d.revision <= sub.from {
				continue // the whole view had it
			}
			select {
			case sub.queue <- msg:
			default:
				sub.end(ErrTooSlow)
				delete(v.subs, sub)
			}
		}
	}
}

func sortedAddrs[V any](m map[netip.Addr]V) []netip.Addr {
	addrs := make([]netip.Addr, 0, len(m))
	for a := range m {
		addrs = append(addrs, a)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}
