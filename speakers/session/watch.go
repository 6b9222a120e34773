package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/speakers/system"
)

// avoidTime is how long a member that refused or failed is not watched again if
// there is another.
const avoidTime = time.Second

// slot is one watch, at whichever member.
type slot struct {
	number int

	mu sync.Mutex
	// view is what this watch has told, nil before the first message.
	view   *viewState
	member *member
	// cancel ends the present stream.
	cancel context.CancelCauseFunc
}

// viewState is a view as one watch has told it, message by message.
type viewState struct {
	revision uint64
	cluster  string
	drained  bool
	vips     map[netip.Addr]Vip
	softs    map[netip.Addr]Vip
	hosts    map[netip.Addr]struct{}
	nodes    map[string][][]byte // the others' MACs
	peers    map[system.MAC]string
	checks   map[ServiceKey]*speakerv1.HealthTask
	times    times
}

var (
	errRotate   = errors.New("watching another member instead")
	errProtocol = errors.New("the member breaks the protocol")
)

// watch keeps a slot at a member until ctx ends.
func (l *live) watch(ctx context.Context, w *slot) error {
	avoid := make(map[*member]time.Duration)
	for {
		m, changed := l.choose(w, avoid)
		if m == nil {
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			case <-time.After(avoidTime):
			}
			continue
		}
		err := l.watchAt(ctx, w, m)
		if ctx.Err() != nil {
			return nil
		}
		if fatal(err) {
			return err
		}
		l.s.log.Info("watch ended, watching elsewhere", "member", m.address, "error", err)
		l.s.counters.watches.Add(1)
		avoid[m] = l.s.cfg.Clock.Now() + avoidTime
		if !sleep(ctx, min(l.s.times.Load().heartbeat, 100*time.Millisecond)) {
			return nil
		}
	}
}

// choose picks a member for a slot: one that no other slot is at, that is heard,
// and that has not just failed, as far as there is one.
func (l *live) choose(w *slot, avoid map[*member]time.Duration) (*member, <-chan struct{}) {
	l.choosing.Lock()
	defer l.choosing.Unlock()
	members, changed := l.s.roster.get()
	now := l.s.cfg.Clock.Now()
	for _, o := range l.slots {
		if o != w {
			o.mu.Lock()
			members = slices.DeleteFunc(members, func(m *member) bool { return m == o.member })
			o.mu.Unlock()
		}
	}
	members = byHeard(members, l.s.cfg.Node)
	// Each class of members is better than none of the class before it.
	for _, bad := range []func(*member) bool{
		func(m *member) bool { return avoid[m] > now || l.silent(m) },
		func(m *member) bool { return avoid[m] > now },
		func(*member) bool { return false },
	} {
		for _, m := range members {
			if !bad(m) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.member = m
				return m, changed
			}
		}
	}
	return nil, changed
}

// watchAt watches at one member until the stream ends.
func (l *live) watchAt(ctx context.Context, w *slot, m *member) error {
	ctx, cancel := context.WithCancelCause(ctx)
	w.mu.Lock()
	w.cancel, w.view = cancel, nil
	w.mu.Unlock()
	defer func() {
		cancel(nil)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.cancel, w.member = nil, nil
	}()
	l.s.mu.Lock()
	from := max(l.from, l.s.seen)
	l.s.mu.Unlock()
	stream, err := m.client().Watch(ctx, &speakerv1.WatchRequest{Node: l.s.cfg.Node, Session: l.id, MinRevision: from})
	for err == nil {
		var msg *speakerv1.WatchResponse
		if msg, err = stream.Recv(); err == nil {
			err = l.take(w, msg)
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if reason(err) == reasonReplaced {
		return fmt.Errorf("%w: %w", ErrReplaced, err)
	}
	return err
}

// take merges a message into the slot's view and has it applied.
func (l *live) take(w *slot, msg *speakerv1.WatchResponse) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if whole := msg.GetView(); whole != nil {
		w.view = newViewState(whole)
		if w.view.cluster != l.cluster {
			return fmt.Errorf("%w: a view of another cluster", errProtocol)
		}
	} else if w.view == nil {
		return fmt.Errorf("%w: no whole view first", errProtocol)
	}
	if err := w.view.merge(msg); err != nil {
		return err
	}
	select {
	case l.fresh <- struct{}{}:
	default:
	}
	return nil
}

func newViewState(v *speakerv1.View) *viewState {
	return &viewState{
		cluster: string(v.GetClusterId()), vips: make(map[netip.Addr]Vip), softs: make(map[netip.Addr]Vip),
		hosts: make(map[netip.Addr]struct{}), nodes: make(map[string][][]byte), checks: make(map[ServiceKey]*speakerv1.HealthTask),
	}
}

// merge takes in a message. A whole view is merged into an empty one.
func (v *viewState) merge(msg *speakerv1.WatchResponse) error {
	if msg.GetRevision() < v.revision {
		return fmt.Errorf("%w: revision %d after %d", errProtocol, msg.GetRevision(), v.revision)
	}
	whole, delta := msg.GetView(), msg.GetDelta()
	if whole != nil {
		drained := whole.GetDrained()
		delta = &speakerv1.ViewDelta{
			Vips: whole.GetVips(), SoftVips: whole.GetSoftVips(), HostAddresses: whole.GetHostAddresses(), LeaseTimes: whole.GetLeaseTimes(),
			Nodes: &speakerv1.NodeMacsList{Nodes: whole.GetNodes()}, Drained: &drained,
			HealthTasks: whole.GetHealthTasks(),
		}
	}
	if err := mergeVips(v.vips, delta.GetGoneVips(), delta.GetVips()); err != nil {
		return err
	}
	if err := mergeVips(v.softs, delta.GetGoneSoftVips(), delta.GetSoftVips()); err != nil {
		return err
	}
	for _, raw := range delta.GetGoneHostAddresses() {
		a, err := address(raw)
		if err != nil {
			return err
		}
		delete(v.hosts, a)
	}
	for _, raw := range delta.GetHostAddresses() {
		a, err := address(raw)
		if err != nil {
			return err
		}
		v.hosts[a] = struct{}{}
	}
	for _, gone := range delta.GetGoneHealthTasks() {
		delete(v.checks, ServiceKey{gone.GetNamespace(), gone.GetName()})
	}
	for _, task := range delta.GetHealthTasks() {
		v.checks[ServiceKey{task.GetService().GetNamespace(), task.GetService().GetName()}] = task
	}
	if delta.GetLeaseTimes() != nil {
		v.times = timesFrom(delta.GetLeaseTimes())
	}
	if delta.GetNodes() != nil {
		clear(v.nodes)
		v.setNodes(delta.GetNodes().GetNodes(), nil)
	}
	if len(delta.GetChangedNodes())+len(delta.GetGoneNodes()) > 0 {
		v.setNodes(delta.GetChangedNodes(), delta.GetGoneNodes())
	}
	if delta != nil && delta.Drained != nil {
		v.drained = delta.GetDrained()
	}
	v.revision = msg.GetRevision()
	return nil
}

func mergeVips(into map[netip.Addr]Vip, gone [][]byte, changed []*speakerv1.Vip) error {
	for _, raw := range gone {
		a, err := address(raw)
		if err != nil {
			return err
		}
		delete(into, a)
	}
	for _, vip := range changed {
		a, err := address(vip.GetAddress())
		if err != nil {
			return err
		}
		into[a] = Vip{
			Addr: a, Epoch: vip.GetEpoch(), OnControlLoss: vip.GetOnControlLoss(), Interfaces: vip.GetInterfaces(),
			Predecessor: vip.GetPredecessor(), FirstUse: vip.GetFirstUse(), FirstUseConflict: vip.GetFirstUseConflict(),
		}
	}
	return nil
}

func address(raw []byte) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(raw)
	if !ok {
		return a, fmt.Errorf("%w: an address of %d bytes", errProtocol, len(raw))
	}
	return a, nil
}

// setNodes takes what is told of other nodes. The peers are made anew, because the old
// ones are in use elsewhere; of two nodes with one MAC the last by name has it.
func (v *viewState) setNodes(changed []*speakerv1.NodeMacs, gone []string) {
	for _, n := range changed {
		v.nodes[n.GetNode()] = n.GetMacs()
	}
	for _, name := range gone {
		delete(v.nodes, name)
	}
	v.peers = make(map[system.MAC]string, len(v.nodes))
	for _, name := range slices.Sorted(maps.Keys(v.nodes)) {
		for _, raw := range v.nodes[name] {
			if mac, err := system.MACFrom(raw); err == nil {
				v.peers[mac] = name
			}
		}
	}
}

// snapshot makes the View that the rest of the speaker is given.
func (v *viewState) snapshot(session uint64) View {
	byAddr := func(a, b Vip) int { return a.Addr.Compare(b.Addr) }
	return View{
		Cluster: v.cluster, Session: session, Revision: v.revision, Drained: v.drained,
		Vips:          slices.SortedFunc(maps.Values(v.vips), byAddr),
		Soft:          slices.SortedFunc(maps.Values(v.softs), byAddr),
		HostAddresses: slices.SortedFunc(maps.Keys(v.hosts), netip.Addr.Compare),
		Peers:         v.peers,
		Checks:        maps.Clone(v.checks),
	}
}

// apply puts the newest view of any slot in force, whenever there is one.
func (l *live) apply(ctx context.Context) error {
	inForce := make(map[netip.Addr]uint64) // epochs, by this session
	softs := 0
	first := true
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.fresh:
		}
		view, t, ok := l.newestView(first)
		if !ok {
			continue
		}
		l.s.node.Apply(view)
		l.s.times.Store(&t)
		lost := first
		for addr, epoch := range inForce {
			if i, ok := slices.BinarySearchFunc(view.Vips, addr, func(v Vip, a netip.Addr) int { return v.Addr.Compare(a) }); !ok || view.Vips[i].Epoch != epoch {
				lost = true
				break
			}
		}
		clear(inForce)
		for _, v := range view.Vips {
			inForce[v.Addr] = v.Epoch
		}
		lost = lost || len(view.Soft) < softs
		softs = len(view.Soft)
		first = false
		l.inForce(view)
		if lost {
			l.beatNow()
		}
	}
}

// newestView returns the newest view that a slot has if it is newer than the
// one in force, or if it is the session's first.
func (l *live) newestView(first bool) (View, times, bool) {
	l.s.mu.Lock()
	seen := l.s.seen
	l.s.mu.Unlock()
	var best *slot
	var revision uint64
	for _, w := range l.slots {
		w.mu.Lock()
		if w.view != nil && (best == nil || w.view.revision > revision) {
			best, revision = w, w.view.revision
		}
		w.mu.Unlock()
	}
	if best == nil || revision < seen || revision == seen && !first {
		return View{}, times{}, false
	}
	best.mu.Lock()
	defer best.mu.Unlock()
	if best.view == nil { // its stream has begun anew in this very moment
		return View{}, times{}, false
	}
	return best.view.snapshot(l.id), best.view.times, true
}

// inForce notes that a view is in force, for heartbeats and for Leave.
func (l *live) inForce(view View) {
	l.s.mu.Lock()
	l.s.seen, l.s.owned = max(l.s.seen, view.Revision), len(view.Vips)+len(view.Soft)
	seen := l.s.seen
	l.s.tell()
	l.s.mu.Unlock()
	l.behind.Lock()
	caughtUp := l.behind.need != 0 && seen >= l.behind.need
	if caughtUp {
		l.behind.need, l.behind.since, l.behind.patience = 0, 0, 0
	}
	l.behind.Unlock()
	if caughtUp {
		l.beatNow()
	}
}

// maxPatience is how many h a member has at most to bring what the node has to see.
const maxPatience = 16

// lookAtSlots takes watches away from members that are silent, or behind what
// the members say the node has to see, for more than h. Each next member has twice the
// time of the one before: over a long line no view comes within h.
func (l *live) lookAtSlots() {
	l.behind.Lock()
	need, h := l.behind.need, l.s.times.Load().heartbeat
	patience := max(l.behind.patience, h)
	late := l.behind.since != 0 && l.s.cfg.Clock.Now()-l.behind.since > patience
	if late {
		l.behind.since, l.behind.patience = l.s.cfg.Clock.Now(), min(2*patience, maxPatience*h)
	}
	l.behind.Unlock()
	for _, w := range l.slots {
		w.mu.Lock()
		if w.cancel != nil {
			behind := late && (w.view == nil || w.view.revision < need)
			if behind || l.silent(w.member) && l.othersHeard(w.member) {
				w.cancel(errRotate)
			}
		}
		w.mu.Unlock()
	}
}

// othersHeard reports whether there is a member to go to.
func (l *live) othersHeard(than *member) bool {
	members, _ := l.s.roster.get()
	return slices.ContainsFunc(members, func(m *member) bool { return m != than && !l.silent(m) })
}
