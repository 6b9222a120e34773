package pulse

import (
	"iter"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/raftnode/decider"
	"github.com/quorumlb/quorumlb/raftnode/lease"
)

var _ decider.Leases = (*Keeper)(nil)

// Lead starts a term of leadership at its barrier; in a term that it leads already
// it takes the head anew and lets waits go on.
func (k *Keeper) Lead(term uint64, head *fsm.State) {
	given := make(map[string]uint64)
	for _, a := range head.Addresses {
		if a.Owner != "" {
			given[a.Owner] = max(given[a.Owner], a.Epoch)
		}
	}
	h := lease.Head{Revision: head.Revision, Times: head.Lease, Nodes: facts(head, given)}

	k.mu.Lock()
	defer k.mu.Unlock()
	k.given = given
	now := k.clock.Now()
	if k.lead != nil && k.lead.Term() == term && !k.lead.Over() {
		k.lead.Rebase(now, h)
		return
	}
	k.lead = lease.NewLeader(k.hear, now, term, h)
	k.awaited = make(map[string]struct{})
	k.log.Info("keeping leases as leader", "term", term, "revision", head.Revision, "nodes", len(head.Nodes))
	k.leadershipChanged()
}

// facts are those of all nodes of head.
func facts(head *fsm.State, given map[string]uint64) iter.Seq2[string, lease.Facts] {
	return func(yield func(string, lease.Facts) bool) {
		for name, n := range head.Nodes {
			f := lease.FactsOf(n)
			f.GivenAt = given[name]
			if !yield(name, f) {
				return
			}
		}
	}
}

// Decided takes the head after a batch that is about to be proposed.
func (k *Keeper) Decided(head *fsm.State, ch fsm.Changes) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lead == nil {
		return
	}
	now := k.clock.Now()
	k.lead.Decided(now, head.Revision, head.Lease)
	for _, addr := range ch.Addresses {
		if a := head.Addresses[addr]; a != nil && a.Owner != "" && a.Epoch == head.Revision {
			k.given[a.Owner] = a.Epoch
		}
	}
	for _, name := range ch.Nodes {
		n := head.Nodes[name]
		if n == nil {
			k.lead.NodeForgotten(now, name)
			delete(k.given, name)
			continue
		}
		f := lease.FactsOf(n)
		f.GivenAt = k.given[name]
		k.lead.NodeDecided(now, name, f)
	}
}

// Follow ends the term of leadership: from its return on nothing is acked.
func (k *Keeper) Follow() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.follow()
}

func (k *Keeper) follow() {
	if k.lead == nil {
		return
	}
	k.log.Info("no longer keeping leases as leader", "term", k.lead.Term())
	k.lead, k.given, k.awaited = nil, nil, nil
	clear(k.peers)
	k.leadershipChanged()
}

func (k *Keeper) leadershipChanged() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// never is a time to ask again that a new term will come before.
const never = time.Minute

// ReleaseWait tells whether the wait for an old owner is over.
func (k *Keeper) ReleaseWait(r decider.Release) (over bool, again time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock.Now()
	if k.lead == nil {
		return false, now + never
	}
	over, again = k.lead.ReleaseWait(now, r)
	if !over {
		k.awaited[r.Node] = struct{}{}
	}
	return over, again
}

// HasSeen tells whether the node has reported that the revision is in force there.
func (k *Keeper) HasSeen(node string, session, revision uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lead != nil && k.lead.HasSeen(k.clock.Now(), node, session, revision)
}

// FencePassed tells whether the fence time of the node has passed.
func (k *Keeper) FencePassed(node string) (passed bool, again time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock.Now()
	if k.lead == nil {
		return false, now + never
	}
	return k.lead.FencePassed(now, node)
}

// HeardLately tells whether the node was heard within 2h.
func (k *Keeper) HeardLately(node string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lead != nil && k.lead.HeardLately(k.clock.Now(), node)
}

// StillSilent tells whether the session is the node's open one in head, and no member
// has heard it for the detection time.
func (k *Keeper) StillSilent(node string, session uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lead != nil && k.lead.StillSilent(k.clock.Now(), lease.Expiry{Node: node, Session: session})
}

// LeaseChange tells until which boot time waits still count with lease times older
// than those in force; 0 when they do not.
func (k *Keeper) LeaseChange() (until time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lead == nil {
		return 0
	}
	return k.lead.LeaseChange(k.clock.Now())
}
