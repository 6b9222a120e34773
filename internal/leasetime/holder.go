package leasetime

import (
	"sync"
	"sync/atomic"
	"time"
)

// maxInFlight bounds the heartbeats whose send time is remembered. An ack of an
// older one is ignored, which only ends a confirmation early.
const maxInFlight = 256

// Ack is a member's answer that heartbeat Seq of Session counts, for Fence (F).
type Ack struct {
	Session uint64
	Seq     uint64
	Fence   time.Duration
}

// Holder is a speaker's side of the lease of one session: it numbers the
// heartbeats and knows until when the speaker is confirmed, that is, alive and
// informed of every address that it has lost. A new session needs a new Holder. All
// methods are safe for concurrent use; [Holder.Confirmed] and [Holder.Deadline] take no lock, since
// they are asked before every single reply on the wire.
type Holder struct {
	session uint64
	// deadline is the end of the confirmation, in nanoseconds of boot time.
	deadline atomic.Int64

	mu    sync.Mutex
	seq   uint64                     // newest heartbeat sent
	acked uint64                     // newest heartbeat acked
	sent  [maxInFlight]time.Duration // by seq modulo maxInFlight
}

// NewHolder returns the unconfirmed holder of a session.
func NewHolder(session uint64) *Holder {
	return &Holder{session: session}
}

// Session returns the session's id.
func (h *Holder) Session() uint64 { return h.session }

// Send numbers the next heartbeat, from 1. Now must be read before any byte of the
// heartbeat is handed to the network; the same number goes to every member.
func (h *Holder) Send(now time.Duration) (seq uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	h.sent[h.seq%maxInFlight] = now
	return h.seq
}

// Acked takes an ack and reports whether it is news. The confirmation then lasts
// until the acked heartbeat's send time + F(1-ρ), with the F that the ack names; when the ack
// arrived does not matter. Nothing changes on an ack of another session, of a heartbeat never sent or
// sent too long ago, or of an older heartbeat than the newest acked: acks travel over several
// members and overtake each other.
func (h *Holder) Acked(ack Ack) (news bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ack.Session != h.session || ack.Fence <= 0 || ack.Seq <= h.acked ||
		ack.Seq > h.seq || h.seq-ack.Seq >= maxInFlight {
		return false
	}
	h.acked = ack.Seq
	h.deadline.Store(int64(h.sent[ack.Seq%maxInFlight] + Shorten(ack.Fence)))
	return true
}

// Confirmed tells whether the confirmation lasts at now.
func (h *Holder) Confirmed(now time.Duration) bool {
	return int64(now) < h.deadline.Load()
}

// Deadline returns the end of the confirmation in boot time: from then on, that
// instant included, the speaker is unconfirmed. 0 before the first ack.
func (h *Holder) Deadline() time.Duration {
	return time.Duration(h.deadline.Load())
}

// Newest returns the newest heartbeat sent and the newest acked, 0 for none.
func (h *Holder) Newest() (sent, acked uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seq, h.acked
}
