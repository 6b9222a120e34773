package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// maxStatuses bounds what one speaker may report, so that a broken one cannot
// fill the member's memory.
const maxStatuses = 1 << 20

// errAttachReplaced ends a stream when the node's speaker attaches anew.
var errAttachReplaced = errors.New("the node has attached again")

// attachments is what the attached speakers say that they really do. It lives
// in memory only: a speaker says everything again when it attaches.
type attachments struct {
	mu    sync.Mutex
	nodes map[string]*attachment
	// fresh are the nodes that have said something since the last take.
	fresh   map[string]*news
	changed chan struct{} // has a token when fresh is not empty
	probeID uint64
}

// news is what a node has said and the leader has not yet looked at.
type news struct {
	vips   map[netip.Addr]struct{}
	links  bool
	health bool
}

// attachment is one attached speaker. The maps are guarded by attachments.mu;
// statuses and links are replaced, never written to.
type attachment struct {
	node    string
	session uint64
	version string
	vips    map[netip.Addr]*speakerv1.VipStatus
	links   []*logv1.Link
	linked  bool // links were reported
	health  map[fsm.ServiceKey]*speakerv1.HealthStatus
	probes  map[uint64]chan<- *speakerv1.ProbeAnswer
	ask     chan *speakerv1.Probe
	ended   chan struct{} // closed when a newer stream of the node takes over
}

func newAttachments() *attachments {
	return &attachments{
		nodes:   make(map[string]*attachment),
		fresh:   make(map[string]*news),
		changed: make(chan struct{}, 1),
	}
}

// open enters a speaker with the first message of its stream.
func (t *attachments) open(first *speakerv1.AttachRequest) (*attachment, error) {
	hello := first.GetHello()
	a := &attachment{
		node: hello.GetNode(), session: hello.GetSession(), version: hello.GetVersion(),
		vips:   make(map[netip.Addr]*speakerv1.VipStatus),
		health: make(map[fsm.ServiceKey]*speakerv1.HealthStatus),
		probes: make(map[uint64]chan<- *speakerv1.ProbeAnswer),
		ask:    make(chan *speakerv1.Probe, 16),
		ended:  make(chan struct{}),
	}
	t.mu.Lock()
	if old := t.nodes[a.node]; old != nil {
		close(old.ended)
	}
	t.nodes[a.node] = a
	t.mu.Unlock()
	return a, t.update(a, first)
}

// close forgets a speaker whose stream has ended. What it said last is no longer
// known to be so.
func (t *attachments) close(a *attachment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.nodes[a.node] == a {
		delete(t.nodes, a.node)
		delete(t.fresh, a.node)
	}
}

// update takes a message of the speaker.
func (t *attachments) update(a *attachment, m *speakerv1.AttachRequest) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.nodes[a.node] != a {
		return errAttachReplaced
	}
	n := t.fresh[a.node]
	if n == nil {
		n = &news{vips: make(map[netip.Addr]struct{})}
	}
	for i, st := range m.GetVips() {
		addr, ok := netip.AddrFromSlice(st.GetAddress())
		if !ok {
			return status.Errorf(codes.InvalidArgument, "vips[%d].address: %d bytes are no address", i, len(st.GetAddress()))
		}
		a.vips[addr] = st
		n.vips[addr] = struct{}{}
	}
	if len(a.vips) > maxStatuses {
		return status.Errorf(codes.ResourceExhausted, "more than %d addresses reported", maxStatuses)
	}
	for _, raw := range m.GetGoneVips() {
		if addr, ok := netip.AddrFromSlice(raw); ok {
			delete(a.vips, addr)
			n.vips[addr] = struct{}{}
		}
	}
	if m.GetLinks() != nil {
		a.links, a.linked, n.links = m.GetLinks().GetLinks(), true, true
	}
	for _, answer := range m.GetProbeAnswers() {
		if to := a.probes[answer.GetId()]; to != nil {
			delete(a.probes, answer.GetId())
			to <- answer // has room for one
		}
	}
	for _, st := range m.GetHealth() {
		a.health[fsm.KeyOf(st.GetService().GetNamespace(), st.GetService().GetName())] = st
		n.health = true
	}
	if len(a.health) > maxStatuses {
		return status.Errorf(codes.ResourceExhausted, "more than %d health checks reported", maxStatuses)
	}
	for _, gone := range m.GetGoneHealth() {
		delete(a.health, fsm.KeyOf(gone.GetNamespace(), gone.GetName()))
	}
	if n.links || n.health || len(n.vips) > 0 {
		t.fresh[a.node] = n
		select {
		case t.changed <- struct{}{}:
		default:
		}
	}
	return nil
}

// report is what one node says, as far as it was asked for.
type report struct {
	node    string
	session uint64
	vips    map[netip.Addr]*speakerv1.VipStatus // nil status: none any more
	links   []*logv1.Link
	linked  bool
	health  map[fsm.ServiceKey]*speakerv1.HealthStatus // all, if any of them is new
}

// take hands over what was said since the last call.
func (t *attachments) take() []report {
	t.mu.Lock()
	defer t.mu.Unlock()
	reports := make([]report, 0, len(t.fresh))
	for node, n := range t.fresh {
		a := t.nodes[node]
		r := report{node: node, session: a.session, vips: make(map[netip.Addr]*speakerv1.VipStatus, len(n.vips))}
		for addr := range n.vips {
			r.vips[addr] = a.vips[addr]
		}
		if n.health {
			r.health = maps.Clone(a.health)
		}
		if n.links {
			r.links, r.linked = a.links, a.linked
		}
		reports = append(reports, r)
	}
	clear(t.fresh)
	return reports
}

// takeAll hands over everything that the attached speakers say.
func (t *attachments) takeAll() []report {
	t.mu.Lock()
	defer t.mu.Unlock()
	reports := make([]report, 0, len(t.nodes))
	for node, a := range t.nodes {
		reports = append(reports, report{
			node: node, session: a.session, vips: maps.Clone(a.vips), links: a.links, linked: a.linked,
			health: maps.Clone(a.health),
		})
	}
	clear(t.fresh)
	return reports
}

// nodeStatus is what one node says of one address.
type nodeStatus struct {
	node   string
	status *speakerv1.VipStatus
}

// statuses lists what each node says of each address, sorted by node.
func (t *attachments) statuses() map[netip.Addr][]nodeStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make(map[netip.Addr][]nodeStatus)
	for _, node := range slices.Sorted(maps.Keys(t.nodes)) {
		for addr, st := range t.nodes[node].vips {
			all[addr] = append(all[addr], nodeStatus{node, st})
		}
	}
	return all
}

// checks lists what each node says of the health check of a service.
func (t *attachments) checks(key fsm.ServiceKey) map[string]*speakerv1.HealthStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	said := make(map[string]*speakerv1.HealthStatus)
	for node, a := range t.nodes {
		if st := a.health[key]; st != nil {
			said[node] = st
		}
	}
	return said
}

// version is what the node's speaker says of itself; empty when not attached.
func (t *attachments) version(node string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.nodes[node]; a != nil {
		return a.version
	}
	return ""
}

// probeResult is one node's answer to a question, or why there is none.
type probeResult struct {
	node   string
	answer *speakerv1.ProbeAnswer
	err    error
}

// probe has every attached speaker ask the wire who has the address, and waits
// for their answers as long as ctx lets it.
func (t *attachments) probe(ctx context.Context, addr netip.Addr, timeout time.Duration) []probeResult {
	type asked struct {
		a      *attachment
		answer chan *speakerv1.ProbeAnswer
		err    error
	}
	t.mu.Lock()
	t.probeID++
	id := t.probeID
	var all []asked
	for _, node := range slices.Sorted(maps.Keys(t.nodes)) {
		q := asked{a: t.nodes[node], answer: make(chan *speakerv1.ProbeAnswer, 1)}
		select {
		case q.a.ask <- &speakerv1.Probe{Id: id, Address: addr.AsSlice(), TimeoutNanos: int64(timeout)}:
			q.a.probes[id] = q.answer
		default:
			q.err = errors.New("the speaker has too many questions before it")
		}
		all = append(all, q)
	}
	t.mu.Unlock()

	results := make([]probeResult, 0, len(all))
	for _, q := range all {
		r := probeResult{node: q.a.node, err: q.err}
		if r.err == nil {
			select {
			case r.answer = <-q.answer:
			case <-q.a.ended:
				r.err = errAttachReplaced
			case <-ctx.Done():
				r.err = fmt.Errorf("no answer: %w", context.Cause(ctx))
			}
		}
		results = append(results, r)
	}
	t.mu.Lock()
	for _, q := range all {
		delete(q.a.probes, id)
	}
	t.mu.Unlock()
	return results
}

// count is the number of attached speakers.
func (t *attachments) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.nodes)
}
