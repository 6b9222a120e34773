package pulse

import (
	"sync/atomic"
	"time"

	"github.com/quorumlb/quorumlb/raftnode/lease"
)

// Stats are counters of what the Keeper did since it was made. They may be read
// at any time.
type Stats struct {
	Heard    atomic.Uint64 // heartbeats received from speakers
	Acked    atomic.Uint64 // acks given as leader
	Refused  [lease.Predecessor + 1]atomic.Uint64
	Expired  atomic.Uint64 // sessions reported for expiry
	Polled   atomic.Uint64 // polls sent as leader
	Reports  atomic.Uint64 // answers received as leader
	Answered atomic.Uint64 // polls answered
	Broken   atomic.Uint64 // streams that broke
}

// Stats returns the Keeper's counters.
func (k *Keeper) Stats() *Stats { return &k.stats }

// View is how the leases stand, for metrics and people.
type View struct {
	// Leading tells whether this member keeps leases as leader.
	Leading bool
	// MassEvent tells that no node is expired because most fell silent at once,
	// as this member hears them, or because it has just started.
	MassEvent bool
	// Stalled is how long this member did not run when it should have.
	Stalled time.Duration
	// Peers are the other members, while this one leads.
	Peers []PeerView
}

// PeerView is another member as the leader sees it.
type PeerView struct {
	ID string
	// Answered is how long ago its last answer came; negative: none yet.
	Answered time.Duration
	// RoundTrip of the last poll that was answered.
	RoundTrip time.Duration
	Status    Status
}

// View tells how the leases stand.
func (k *Keeper) View() View {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock.Now()
	v := View{Leading: k.lead != nil, MassEvent: k.hear.Blocked(now), Stalled: k.hear.Stalled()}
	for id, p := range k.peers {
		pv := PeerView{ID: id, Answered: -1, RoundTrip: p.roundTrip, Status: p.status}
		if p.answered {
			pv.Answered = now - p.answeredAt
		}
		v.Peers = append(v.Peers, pv)
	}
	return v
}
