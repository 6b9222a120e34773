package decider

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// work is what reconciliation has to look at: what the newest events touched,
// and what waits for a time, for the leases, or for a node. It is made anew with
// every head and belongs to the decider's goroutine. All of it may name
// addresses that are gone or have moved on: they are looked at and passed over.
type work struct {
	d *Decider

	// dead, dirty and sweep are addresses to look at, in this order of urgency: of
	// nodes whose session ended; touched by an event; and all after a change of
	// pools or advertisements, or for a new head. sweepAll starts a sweep anew.
	dead, dirty addrQueue
	sweep       []netip.Addr
	sweepAll    bool

	// nodes are the records that reconciliation knows, suspects the names of
	// those that an event has touched since.
	nodes    map[string]*fsm.Node
	suspects map[string]struct{}

	// waits are addresses that wait for their old owner, fences those with
	// onControlLoss Release that wait for the fence time of a dead owner.
	waits  map[Release]*parked
	fences map[string]*parked
	// ask: the leases may answer differently than before; askNext: they will once
	// they know of the batch that is being decided.
	ask, askNext bool

	// idle addresses have no owner, or a bad one, because no node is eligible, or one
	// that will do only until another is.
	// ideal ones follow the hash, so any node may concern them.
	idle, ideal map[netip.Addr]struct{}
	// crowded addresses share their owner with another of their service, or did.
	crowded map[netip.Addr]struct{}
	// foreign: some owner has not the subnet of its address, so a node that changes may
	// have it: then all are looked at.
	foreign bool
	// retries are addresses to look at again at a boot time.
	retries timeQueue
	// keptEnd is when an address that is kept for a deleted service falls free, or a
	// reservation ends, as long as a service waits; 0: never. keptTime is the same in
	// the time of the log, nanoseconds since 1970 UTC.
	keptEnd  time.Duration
	keptTime int64

	// services need an address, in the order in which they were declared. hope is
	// for those that wait.
	services []fsm.ServiceKey
	hope     hope
	// faulty services have run into a fault of this program.
	faulty map[fsm.ServiceKey]struct{}

	balance balance

	// chooser is valid for chooserOf until an event about nodes, pools or
	// advertisements.
	chooser   *allocator.Chooser
	chooserOf *fsm.State
}

// parked are addresses that wait for one thing.
type parked struct {
	addrs map[netip.Addr]struct{}
	// again is when to ask for it without being woken, boot time.
	again time.Duration
}

func newWork(d *Decider, head *fsm.State) *work {
	w := &work{
		d:        d,
		nodes:    maps.Clone(head.Nodes),
		suspects: map[string]struct{}{},
		waits:    map[Release]*parked{},
		fences:   map[string]*parked{},
		idle:     map[netip.Addr]struct{}{},
		ideal:    map[netip.Addr]struct{}{},
		crowded:  map[netip.Addr]struct{}{},
		faulty:   map[fsm.ServiceKey]struct{}{},
		hope:     hope{all: true},
		sweepAll: true,
		balance:  balance{stirred: true},
	}
	for _, name := range slices.Sorted(maps.Keys(head.Nodes)) {
		if head.Nodes[name].SessionState != fsm.SessionOpen {
			w.pushOwned(&w.dead, head, name)
			w.pushSoft(&w.dead, head, name)
		}
	}
	w.pushOwned(&w.dirty, head, "")
	w.queueUnserved(head)
	return w
}

func (w *work) pushOwned(q *addrQueue, s *fsm.State, node string) {
	for rec := range s.OwnedBy(node) {
		q.push(rec.Addr)
	}
}

// pushSoft queues the addresses that move away from a node softly.
func (w *work) pushSoft(q *addrQueue, s *fsm.State, node string) {
	for rec := range s.SoftAt(node) {
		q.push(rec.Addr)
	}
}

// settleSweep lists what a sweep that is due has to look at.
func (w *work) settleSweep(s *fsm.State) {
	if !w.sweepAll {
		return
	}
	w.sweepAll = false
	w.sweep = make([]netip.Addr, 0, len(s.Addresses))
	for a := range s.Addresses {
		w.sweep = append(w.sweep, a)
	}
}

// popSweep takes the next address of the sweep.
func (w *work) popSweep() netip.Addr {
	a := w.sweep[0]
	if w.sweep = w.sweep[1:]; len(w.sweep) == 0 {
		w.sweep = nil
	}
	return a
}

// askLeases has the next reconciliation ask the leases about all that waits.
func (w *work) askLeases() { w.ask = true }

// due tells whether there is something to do at the boot time now.
func (w *work) due(now time.Duration) bool {
	if w.dead.len()+w.dirty.len()+len(w.sweep) > 0 || w.sweepAll || len(w.suspects) > 0 ||
		len(w.services) > 0 || w.hope.any() || w.balance.due(now) || w.ask && len(w.waits)+len(w.fences) > 0 {
		return true
	}
	at, ok := w.deadline()
	return ok && now >= at
}

// deadline is the first time at which there will be something to do.
func (w *work) deadline() (first time.Duration, ok bool) {
	see := func(at time.Duration) {
		if !ok || at < first {
			first, ok = at, true
		}
	}
	for _, p := range w.waits {
		see(p.again)
	}
	for _, p := range w.fences {
		see(p.again)
	}
	if w.retries.len() > 0 {
		see(w.retries.first())
	}
	if w.keptEnd > 0 {
		see(w.keptEnd)
	}
	if !w.balance.settled {
		see(w.balance.at)
	}
	return first, ok
}

// note takes down what an event, just folded into s, concerns.
func (w *work) note(s *fsm.State, ev *logv1.Event) {
	w.balance.settled = false
	switch f := ev.GetFact().(type) {
	case *logv1.Event_PoolDefined:
		w.hope.noteDefined(f.PoolDefined.GetPool().GetName())
		w.noteUsers(s, f.PoolDefined.GetPool().GetName())
		w.sweepAll, w.chooser = true, nil
	case *logv1.Event_PoolDeleted:
		w.hope.noteDefined(f.PoolDeleted.GetName())
		w.sweepAll, w.chooser = true, nil
	case *logv1.Event_NamespaceDefined:
		markIn(&w.hope.namespaces, f.NamespaceDefined.GetNamespace().GetName())
		w.noteNamespace(s, f.NamespaceDefined.GetNamespace().GetName())
	case *logv1.Event_NamespaceDeleted:
		markIn(&w.hope.namespaces, f.NamespaceDeleted.GetName())
		w.noteNamespace(s, f.NamespaceDeleted.GetName())
	case *logv1.Event_ReservationDefined:
		r := f.ReservationDefined.GetReservation()
		w.hope.anyPool, w.hope.held = true, true
		markIn(&w.hope.promised, fsm.KeyOf(r.GetServiceNamespace(), r.GetServiceName()))
	case *logv1.Event_ReservationDeleted:
		w.hope.anyPool, w.hope.held = true, true
	case *logv1.Event_AdvertisementDefined, *logv1.Event_AdvertisementDeleted:
		w.sweepAll, w.chooser = true, nil
	case *logv1.Event_ServiceDeclared:
		key := fsm.KeyOf(f.ServiceDeclared.GetService().GetNamespace(), f.ServiceDeclared.GetService().GetName())
		w.services = append(w.services, key)
		delete(w.faulty, key)
		for _, a := range s.Services[key].Addresses {
			w.dirty.push(a)
			w.hope.noteChanged(s, a, key)
		}
	case *logv1.Event_AddressAllocated:
		w.pushBytes(f.AddressAllocated.GetAddress())
		w.pushIdeal(s, fsm.KeyOf(f.AddressAllocated.GetNamespace(), f.AddressAllocated.GetName()))
		w.hope.noteShares(s, fsm.KeyOf(f.AddressAllocated.GetNamespace(), f.AddressAllocated.GetName()))
	case *logv1.Event_AddressReleased:
		key := fsm.KeyOf(f.AddressReleased.GetNamespace(), f.AddressReleased.GetName())
		if a, err := fsm.ToAddr(f.AddressReleased.GetAddress()); err == nil { // it was folded, so it is one
			w.hope.noteReleased(s, a, key)
			w.dirty.push(a)
		}
		w.pushIdeal(s, key)
		w.services = append(w.services, key)
	case *logv1.Event_EndpointsObserved:
		w.pushService(s, f.EndpointsObserved.GetNamespace(), f.EndpointsObserved.GetName())
	case *logv1.Event_HealthChanged:
		w.pushService(s, f.HealthChanged.GetNamespace(), f.HealthChanged.GetName())
	case *logv1.Event_QuarantineEnded:
		if a, err := fsm.ToAddr(f.QuarantineEnded.GetAddress()); err == nil {
			w.hope.noteFree(s, a)
		}
	case *logv1.Event_OwnerReleased:
		w.pushBytes(f.OwnerReleased.GetAddress())
	case *logv1.Event_SoftMoveEnded:
		w.pushBytes(f.SoftMoveEnded.GetAddress())
	case *logv1.Event_AnnounceFailed:
		w.pushBytes(f.AnnounceFailed.GetAddress())
	case *logv1.Event_AnnounceRecovered:
		w.pushBytes(f.AnnounceRecovered.GetAddress())
	default:
		w.noteNode(ev)
	}
}

// noteUsers takes down the services whose addresses a pool may want to replace.
func (w *work) noteUsers(s *fsm.State, pool string) {
	def := s.Pools[pool].Spec
	if !def.GetReallocate() {
		return
	}
	for rec := range s.InPool(pool) {
		for _, key := range rec.Services {
			if s.Leaving(rec.Addr) || !s.PoolSelects(def, s.Services[key].Spec) {
				w.services = append(w.services, key)
			}
		}
	}
}

// noteNamespace does so after a change of a namespace's labels.
func (w *work) noteNamespace(s *fsm.State, namespace string) {
	for _, pool := range s.PoolNames() {
		if s.NamespaceUse(pool, namespace) > 0 {
			w.noteUsers(s, pool)
		}
	}
}

// noteNode takes down which node an event about nodes concerns.
func (w *work) noteNode(ev *logv1.Event) {
	var node string
	switch f := ev.GetFact().(type) {
	case *logv1.Event_SessionOpened:
		node = f.SessionOpened.GetNode()
	case *logv1.Event_SessionClosed:
		node = f.SessionClosed.GetNode()
	case *logv1.Event_SessionExpired:
		node = f.SessionExpired.GetNode()
	case *logv1.Event_NodeLinksChanged:
		node = f.NodeLinksChanged.GetNode()
	case *logv1.Event_NodeDrained:
		node = f.NodeDrained.GetNode()
	case *logv1.Event_NodeUndrained:
		node = f.NodeUndrained.GetNode()
	case *logv1.Event_NodeForgotten:
		node = f.NodeForgotten.GetNode()
	default:
		return
	}
	w.suspects[node] = struct{}{}
	w.chooser = nil
}

func (w *work) pushBytes(addr []byte) {
	if a, err := fsm.ToAddr(addr); err == nil { // it was folded, so it is one
		w.dirty.push(a)
	}
}

// pushIdeal queues the addresses of a service that are to be where the others of it are not.
func (w *work) pushIdeal(s *fsm.State, key fsm.ServiceKey) {
	for _, a := range s.Services[key].Addresses {
		if _, ideal := w.ideal[a]; ideal {
			w.dirty.push(a)
		}
	}
}

func (w *work) pushService(s *fsm.State, namespace, name string) {
	for _, a := range s.Services[fsm.KeyOf(namespace, name)].Addresses {
		w.dirty.push(a)
	}
}

// settleNodes compares the suspects with what was known of them, and queues the
// addresses that a change concerns.
func (w *work) settleNodes(s *fsm.State) {
	for _, name := range slices.Sorted(maps.Keys(w.suspects)) {
		old, node := w.nodes[name], s.Nodes[name]
		if node == nil {
			delete(w.nodes, name)
			continue
		}
		w.nodes[name] = node
		if old != nil && sameForOwners(old, node) {
			continue
		}
		w.askNext, w.balance.stirred = true, true
		if node.SessionState != fsm.SessionOpen {
			w.pushOwned(&w.dead, s, name)
			w.pushSoft(&w.dead, s, name)
		} else {
			w.pushOwned(&w.dirty, s, name)
			w.pushSoft(&w.dirty, s, name)
		}
		// Also when it may own less: with its ready endpoints out of reach, nodes that
		// have only terminating ones may do.
		w.pushSet(w.idle)
		if node.SessionState == fsm.SessionOpen && node.Drained == logv1.DrainReason_DRAIN_REASON_UNSPECIFIED {
			w.pushSet(w.ideal)
			if w.foreign {
				w.sweepAll, w.foreign = true, false
			}
		}
	}
	clear(w.suspects)
}

// sameForOwners tells whether two records of a node make no difference to what
// it may own.
func sameForOwners(a, b *fsm.Node) bool {
	return a.Session == b.Session && a.SessionState == b.SessionState && a.Drained == b.Drained &&
		a.GraceUntil == b.GraceUntil && maps.Equal(a.Labels, b.Labels) &&
		slices.EqualFunc(a.Links, b.Links, func(x, y *logv1.Link) bool { return x == y || proto.Equal(x, y) })
}

func (w *work) pushSet(set map[netip.Addr]struct{}) {
	for _, a := range slices.SortedFunc(maps.Keys(set), netip.Addr.Compare) {
		w.dirty.push(a)
	}
}

// settleTimes queues what has waited long enough: retries whose time has come,
// and addresses whose old or dead owner can no longer answer.
func (w *work) settleTimes(now time.Duration) {
	for w.retries.len() > 0 && now >= w.retries.first() {
		w.dirty.push(w.retries.pop())
	}
	if w.keptEnd > 0 && now >= w.keptEnd {
		w.endKept()
	}
	for rel, p := range w.waits {
		if !w.ask && now < p.again {
			continue
		}
		if a := w.askRelease(now, rel); a.yes {
			delete(w.waits, rel)
			w.pushSet(p.addrs)
		} else {
			p.again = a.again
		}
	}
	for node, p := range w.fences {
		if !w.ask && now < p.again {
			continue
		}
		if a := w.askFence(now, node); a.yes {
			delete(w.fences, node)
			for a := range p.addrs {
				w.dead.push(a)
			}
		} else {
			p.again = a.again
		}
	}
	w.ask, w.askNext = w.askNext, false
}

// minAgain keeps a careless answer from making the decider spin.
const minAgain = time.Millisecond

// answerAt is what the leases answered, and when to ask again after a no.
type answerAt struct {
	yes   bool
	again time.Duration
}

func (w *work) askRelease(now time.Duration, rel Release) answerAt {
	return w.d.askGuarded(now, func() (bool, time.Duration) { return w.d.leases.ReleaseWait(rel) })
}

func (w *work) askFence(now time.Duration, node string) answerAt {
	return w.d.askGuarded(now, func() (bool, time.Duration) { return w.d.leases.FencePassed(node) })
}

// askGuarded takes a fault in the leases for a no.
func (d *Decider) askGuarded(now time.Duration, ask func() (bool, time.Duration)) (a answerAt) {
	if err := guard(func() error { a.yes, a.again = ask(); return nil }); err != nil {
		d.logFault("the leases could not answer", err)
		return answerAt{again: now + faultPause}
	}
	a.again = max(a.again, now+minAgain)
	return a
}

// park has addr wait for what key stands for.
func park[K comparable](in map[K]*parked, key K, addr netip.Addr, again time.Duration) {
	p := in[key]
	if p == nil {
		p = &parked{addrs: map[netip.Addr]struct{}{}, again: again}
		in[key] = p
	}
	p.addrs[addr] = struct{}{}
}

// choose gives the chooser for s.
func (w *work) choose(s *fsm.State) *allocator.Chooser {
	if w.chooser == nil || w.chooserOf != s {
		w.chooser, w.chooserOf = allocator.NewChooser(s), s
	}
	return w.chooser
}

// forget drops what is remembered of an address that is no longer in use.
func (w *work) forget(a netip.Addr) {
	delete(w.idle, a)
	delete(w.ideal, a)
	delete(w.crowded, a)
}

// parkedLen counts the addresses that wait for an old or dead owner.
func (w *work) parkedLen() int {
	n := 0
	for _, p := range w.waits {
		n += len(p.addrs)
	}
	for _, p := range w.fences {
		n += len(p.addrs)
	}
	return n
}
