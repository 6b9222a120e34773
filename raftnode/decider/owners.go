package decider

import (
	"net/netip"
	"time"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// sweepLimit bounds the addresses of a sweep that are looked at in one batch, so
// that a failover never waits for one.
const sweepLimit = 4096

// reconcile decides what follows from the newest events and from time: addresses
// for services, and every transition of ownership.
func (r *reign) reconcile(t *tx) error {
	now := r.d.cfg.Clock.Now()
	if now < r.pauseUntil {
		return nil
	}
	w := r.work
	t.by = t.self
	w.settleNodes(t.s)
	w.settleTimes(now)
	w.settleSweep(t.s)
	if err := r.allocate(t, false); err != nil {
		return err
	}
	o := r.newOwners(t, now)
	limit := r.d.cfg.MaxBatchBytes
	// A dead node's addresses are worth a larger entry: the batch that expires it
	// shall hold them all.
	for w.dead.len() > 0 && t.size < 4*limit {
		if err := r.lookAt(o, w.dead.pop()); err != nil {
			return err
		}
	}
	swept := 0
	for t.size < limit {
		var next netip.Addr
		switch {
		case w.dirty.len() > 0:
			next = w.dirty.pop()
		case len(w.sweep) > 0 && swept < sweepLimit:
			next, swept = w.popSweep(), swept+1
		}
		if !next.IsValid() {
			break
		}
		if err := r.lookAt(o, next); err != nil {
			return err
		}
	}
	if err := guard(func() error { r.rebalance(o); return o.err }); err != nil {
		return err
	}
	r.pause = 0
	r.d.stats.Unowned.Store(int64(len(w.idle)))
	r.d.stats.Waiting.Store(int64(w.parkedLen()))
	return nil
}

// faultPause is how long an address is left alone after a fault.
const faultPause = time.Minute

// lookAt decides about one address. A fault there concerns only this address: it
// is left alone for a while, or until something else touches it.
func (r *reign) lookAt(o *owners, addr netip.Addr) error {
	m := o.mark()
	err := guard(func() error { o.look(addr); return o.err })
	if err == nil {
		return nil
	}
	r.d.logFault("the owner of an address could not be decided", err, "vip", addr)
	r.d.stats.Internal.Add(1)
	r.work.retries.add(o.boot+faultPause, addr)
	return r.rollback(o.tx, m, true)
}

// owners decides about addresses within one batch, on one set of answers from
// the leases.
type owners struct {
	*tx
	d    *Decider
	w    *work
	boot time.Duration

	heard  map[string]bool
	waits  map[Release]answerAt
	fences map[string]answerAt

	// policy is that of the address at hand, preferred the nodes heard lately; nil
	// when that is no difference.
	policy    *allocator.Policy
	preferred func(node string) bool
}

func (r *reign) newOwners(t *tx, now time.Duration) *owners {
	o := &owners{
		tx: t, d: r.d, w: r.work, boot: now,
		heard: map[string]bool{}, waits: map[Release]answerAt{}, fences: map[string]answerAt{},
	}
	for name, n := range t.s.Nodes {
		if n.SessionState == fsm.SessionOpen && !o.isHeard(name) {
			o.preferred = o.isHeard
			break
		}
	}
	return o
}

// look decides about one address, whatever brought it here.
func (o *owners) look(addr netip.Addr) {
	rec := o.s.Addresses[addr]
	if rec == nil {
		o.w.forget(addr)
		o.d.targets.drop(addr)
		return
	}
	if o.policy = o.choose().Policy(addr); o.policy.Placement == logv1.Placement_PLACEMENT_IDEAL {
		o.w.ideal[addr] = struct{}{}
	} else {
		delete(o.w.ideal, addr)
	}
	rec = o.settleSoft(rec)
	switch owner := o.s.Nodes[rec.Owner]; {
	case rec.Owner == "":
		o.assign(rec)
	case owner.SessionState != fsm.SessionOpen:
		o.succeed(rec, owner)
	default:
		o.mayStay(rec)
	}
}

// mayStay decides about an address whose owner is alive. It leaves in two
// batches: this one takes it, a later one gives it to the successor.
func (o *owners) mayStay(rec *fsm.Address) {
	why, move := o.shouldMove(rec)
	if move {
		delete(o.w.idle, rec.Addr)
		ev := ownerReleased(rec, why)
		ev.GetOwnerReleased().Soft = o.softly(rec, why)
		o.emit(ev)
		return // the event makes it dirty: assign comes next
	}
	if r := o.choose().Eligible(rec.Addr, rec.Owner, o.now); r != allocator.OK {
		// It does badly, and no other node can do better.
		o.w.idle[rec.Addr] = struct{}{}
		o.retryFailures(rec)
		return
	}
	o.mayDoBetter(rec, rec.Owner)
	o.noteForeign(rec.Addr)
	o.noteCrowded(rec.Addr, rec.Owner)
}

// noteForeign has all addresses looked at with every node that changes for the better, if
// the owner of this one has not its subnet: no event says that another node has it.
func (o *owners) noteForeign(addr netip.Addr) {
	if o.choose().OffSubnet(addr) {
		o.w.foreign = true
	}
}

// noteCrowded has the address parted from others of its service, once the nodes are quiet.
func (o *owners) noteCrowded(addr netip.Addr, owner string) {
	if o.choose().Crowded(addr, owner) {
		o.w.crowded[addr] = struct{}{}
	}
}

// mayDoBetter has the address looked at with every node that changes if its owner
// will only do until another can take it.
func (o *owners) mayDoBetter(rec *fsm.Address, owner string) {
	if o.choose().Makeshift(rec.Addr, owner, o.now) {
		o.w.idle[rec.Addr] = struct{}{}
		o.retryFailures(rec)
	} else {
		delete(o.w.idle, rec.Addr)
	}
}

// shouldMove tells whether the address leaves its living owner, and why.
func (o *owners) shouldMove(rec *fsm.Address) (logv1.OwnerReason, bool) {
	if to, wanted := o.d.targets.get(rec.Addr); wanted {
		if to != rec.Owner && o.choose().Eligible(rec.Addr, to, o.now) == allocator.OK {
			return logv1.OwnerReason_OWNER_REASON_MOVE, true
		}
		o.d.targets.drop(rec.Addr)
	}
	why, move := o.choose().ShouldMove(rec.Addr, allocator.Options{Now: o.now})
	if !move || !allocator.Voluntary(why) {
		return why, move
	}
	if rec.SoftNode != "" {
		return 0, false // its end makes the address dirty
	}
	if left := time.Duration(allocator.DampedUntil(rec) - o.now); left > 0 {
		o.w.retries.add(o.boot+left+minAgain, rec.Addr)
		return 0, false
	}
	// The hash winner must be alive now, or the address would only travel.
	ideal, ok := o.choose().ChooseOwner(rec.Addr, allocator.Options{Now: o.now})
	if !ok || !o.isHeard(ideal) {
		o.w.retries.add(o.boot+time.Second, rec.Addr)
		return 0, false
	}
	return why, true
}

// succeed decides about an address whose owner's session has ended. The owner
// keeps it, in name, until a successor may have it.
func (o *owners) succeed(rec *fsm.Address, owner *fsm.Node) {
	switch rel, seen := o.policySeen(rec, owner.Name, owner.Session, rec.Epoch); {
	case !o.hold():
		if a := o.fencePassed(owner.Name); !a.yes {
			park(o.w.fences, owner.Name, rec.Addr, a.again)
			return
		}
	case !seen.yes:
		park(o.w.waits, rel, rec.Addr, seen.again)
		return
	}
	why := logv1.OwnerReason_OWNER_REASON_OWNER_EXPIRED
	if owner.SessionState == fsm.SessionClosed {
		why = logv1.OwnerReason_OWNER_REASON_LEAVE
	}
	o.give(rec, owner.Name, &logv1.OwnerAssigned{Reason: why})
}

// assign gives an address without owner to the best node, once the one that
// had it before can no longer answer.
func (o *owners) assign(rec *fsm.Address) {
	exclude := ""
	if rec.Prior != "" {
		_, seen := o.policySeen(rec, rec.Prior, rec.PriorSession, rec.PriorEpoch)
		rel := Release{Node: rec.Prior, Session: rec.PriorSession, At: rec.PriorAt, Hold: o.hold() && seen.yes}
		if a := o.releaseWait(rel); !a.yes {
			park(o.w.waits, rel, rec.Addr, a.again)
			return
		}
		switch rec.OwnerWhy {
		case logv1.OwnerReason_OWNER_REASON_MOVE, logv1.OwnerReason_OWNER_REASON_UNPROVEN:
			exclude = rec.Prior
		}
	}
	as := &logv1.OwnerAssigned{Reason: rec.OwnerWhy, Predecessor: o.predecessor(rec)}
	if as.Reason == logv1.OwnerReason_OWNER_REASON_UNSPECIFIED {
		as.Reason, as.FirstUse = logv1.OwnerReason_OWNER_REASON_NEW_ADDRESS, o.firstUse(rec)
	}
	// That it was unproven has to stay: once is enough.
	if _, waited := o.w.idle[rec.Addr]; waited && rec.OwnerWhy != logv1.OwnerReason_OWNER_REASON_UNPROVEN {
		as.Reason = logv1.OwnerReason_OWNER_REASON_NODE_AVAILABLE
	}
	o.give(rec, exclude, as)
}

// give assigns the address, as the rest of the event says, to where Move wants
// it, or to the allocator's choice; when nobody is eligible it waits for a node.
func (o *owners) give(rec *fsm.Address, exclude string, as *logv1.OwnerAssigned) {
	c := o.choose()
	to, ok := o.d.targets.get(rec.Addr)
	if ok && c.Eligible(rec.Addr, to, o.now) != allocator.OK {
		ok = false
	}
	opt := allocator.Options{Preferred: o.preferred, Exclude: exclude, Now: o.now}
	if !ok {
		to, ok = c.ChooseOwner(rec.Addr, opt)
	}
	if !ok && exclude != "" && rec.Owner == "" {
		opt.Exclude = ""
		to, ok = c.ChooseOwner(rec.Addr, opt)
	}
	if !ok {
		o.w.idle[rec.Addr] = struct{}{}
		o.retryFailures(rec)
		return
	}
	o.mayDoBetter(rec, to)
	addr := rec.Addr
	if as.Predecessor == to {
		as.Predecessor = "" // undrained: it returns
	}
	as.Address, as.Node, as.OnLink = fsm.FromAddr(addr), to, c.OnLink(addr, to)
	o.emit(&logv1.Event{Fact: &logv1.Event_OwnerAssigned{OwnerAssigned: as}})
	o.noteForeign(addr)
	o.noteCrowded(addr, to)
	o.d.targets.drop(addr)
}

// retryFailures has the address looked at again when the first of the nodes
// that could not announce it may be tried again.
func (o *owners) retryFailures(rec *fsm.Address) {
	var first time.Duration
	for _, f := range rec.Failures {
		if left := time.Duration(f.Time-o.now) + allocator.Backoff(f.Count); left > 0 && (first == 0 || left < first) {
			first = left
		}
	}
	if first > 0 {
		o.w.retries.add(o.boot+first+minAgain, rec.Addr)
	}
}

func (o *owners) choose() *allocator.Chooser { return o.w.choose(o.s) }

// hold tells whether the address at hand stays with an owner that lost contact.
func (o *owners) hold() bool {
	return o.policy.ControlLoss != logv1.ControlLoss_CONTROL_LOSS_RELEASE
}

// policySeen tells whether the node that owned the address since epoch follows
// the policy of now. One that was cut off before a change from Release to Hold does not
// yield, and goes by its confirmation: its address must wait as with Release.
func (o *owners) policySeen(rec *fsm.Address, node string, session, epoch uint64) (Release, answerAt) {
	rel := Release{Node: node, Session: session, At: max(o.s.PolicyAt, rec.PolicyAt)}
	if rel.At <= epoch {
		return rel, answerAt{yes: true}
	}
	return rel, o.releaseWait(rel)
}

func (o *owners) isHeard(node string) bool {
	heard, ok := o.heard[node]
	if !ok {
		heard = o.d.leases.HeardLately(node)
		o.heard[node] = heard
	}
	return heard
}

func (o *owners) releaseWait(rel Release) answerAt {
	a, ok := o.waits[rel]
	if !ok {
		// Released in this very batch: the leases cannot know of it yet.
		if rel.At >= o.rev {
			a = answerAt{again: o.boot + minAgain}
		} else {
			a = o.w.askRelease(o.boot, rel)
		}
		o.waits[rel] = a
	}
	return a
}

func (o *owners) fencePassed(node string) answerAt {
	a, ok := o.fences[node]
	if !ok {
		// Ended in this very batch: the leases cannot know of it yet.
		if o.s.Nodes[node].EndedAt >= o.rev {
			a = answerAt{again: o.boot + minAgain}
		} else {
			a = o.w.askFence(o.boot, node)
		}
		o.fences[node] = a
	}
	return a
}

// targets are where Move wants addresses to go.
type targets struct{ to map[netip.Addr]string }

func newTargets() *targets { return &targets{to: map[netip.Addr]string{}} }

func (t *targets) get(a netip.Addr) (string, bool) { to, ok := t.to[a]; return to, ok }
func (t *targets) set(a netip.Addr, node string)   { t.to[a] = node }
func (t *targets) drop(a netip.Addr)               { delete(t.to, a) }
