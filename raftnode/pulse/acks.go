package pulse

import (
	"slices"
	"time"

	"github.com/quorumlb/quorumlb/raftnode/lease"
)

// subscription is one stream of a speaker that wants the answers to its heartbeats.
type subscription struct{ acks chan lease.Ack }

// ackBuffer is how many answers wait for a slow stream: newer ones push out the
// oldest, which they make worthless.
const ackBuffer = 4

// Acks gives the answers to a node's heartbeats until stop is called. A reader that
// falls behind gets the newest only.
func (k *Keeper) Acks(node string) (acks <-chan lease.Ack, stop func()) {
	s := &subscription{acks: make(chan lease.Ack, ackBuffer)}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.subs[node] = append(k.subs[node], s)
	return s.acks, func() { k.unsubscribe(node, s) }
}

func (k *Keeper) unsubscribe(node string, s *subscription) {
	k.mu.Lock()
	defer k.mu.Unlock()
	subs := slices.DeleteFunc(k.subs[node], func(other *subscription) bool { return other == s })
	if len(subs) == 0 {
		delete(k.subs, node)
		return
	}
	k.subs[node] = subs
}

// deliver hands an answer to the node's streams to this member.
func (k *Keeper) deliver(a lease.Ack) {
	for _, s := range k.subs[a.Node] {
		select {
		case s.acks <- a:
			continue
		default:
		}
		select {
		case <-s.acks:
		default: // it was read just now
		}
		s.acks <- a // there is room: only this goroutine, which holds the lock, sends
	}
}

// passAcks judges what a majority covers by now and sends the answers over every
// path. The own term and the voters are read here, after all that was received.
func (k *Keeper) passAcks(now time.Duration) {
	acks := k.lead.Acks(now, k.cfg.Group.Term(), k.voters())
	if k.lead.Over() {
		k.follow()
		return
	}
	if len(acks) == 0 {
		return
	}
	urgent := false
	for _, a := range acks {
		if a.Refusal == lease.NotRefused {
			k.stats.Acked.Add(1)
		} else {
			k.stats.Refused[a.Refusal].Add(1)
		}
		urgent = urgent || a.First || a.Refusal != lease.NotRefused
		k.deliver(a)
		for _, p := range k.peers {
			p.outbox[ackKey{a.Node, a.Session}] = a
		}
	}
	if urgent {
		for _, p := range k.peers {
			p.kick()
		}
	}
}

// ackKey names what only the newest answer matters of.
type ackKey struct {
	node    string
	session uint64
}
