package lease

import (
	"time"

	"github.com/quorumlb/quorumlb/fsm"
)

// Heartbeat is what a speaker sends to every member.
type Heartbeat struct {
	Node    string
	Session uint64
	// Seq counts the heartbeats of the session, from 1.
	Seq uint64
	// Seen is the newest revision whose view is in force on the node.
	Seen uint64
}

// Silence tells how long a session was not heard.
type Silence struct {
	Node    string
	Session uint64
	Unheard time.Duration
}

// Report is a member's answer to a poll.
type Report struct {
	// Poll that it answers.
	Poll uint64
	// Term is the member's Raft term, read after the poll arrived.
	Term uint64
	// Heard holds the newest heartbeat of each session heard since the last report
	// on the same stream; the first report on a stream has all.
	Heard []Heartbeat
	// Silences holds every session unheard for 2h.
	Silences []Silence
	// Up is how long the member has run, its own stalls left out.
	Up time.Duration
	// Stall is how late the member's own timers were since its last report.
	Stall time.Duration
}

// Refusal says why a heartbeat is not acked.
type Refusal uint8

// Refusals. The zero value is an ack.
const (
	NotRefused Refusal = iota
	// NoSession: the session is not the node's open one.
	NoSession
	// Behind: the node has not seen a revision that takes an address from it.
	Behind
	// Replaced: neither is it, and the node's open one is known to be that of a newer
	// process.
	Replaced
	// Predecessor: the node's former process, on another machine, may still answer.
	Predecessor
)

var refusalNames = [...]string{"none", "no session", "behind", "replaced", "predecessor"}

// String gives the reason in words.
func (r Refusal) String() string {
	if int(r) < len(refusalNames) {
		return refusalNames[r]
	}
	return "unknown"
}

// Ack answers a heartbeat, for better or worse.
type Ack struct {
	Node    string
	Session uint64
	// Seq of the newest heartbeat acked; 0 with a refusal.
	Seq uint64
	// Fence is F: the confirmation lasts from the sending of that heartbeat for F(1-ρ).
	Fence time.Duration
	// Detection is D: the node is not taken for dead before D after the receipt of that
	// heartbeat, whatever the speaker knows of the lease times.
	Detection time.Duration
	// Refusal is not NotRefused when the heartbeat does not count.
	Refusal Refusal
	// Need is a revision that the node has to see and has not seen: with Behind, one that
	// takes an address from it; with an ack, one that gives it an address or changes the
	// lease times. 0 for none.
	Need uint64
	// First tells that the leader acks this session for the first time.
	First bool
}

// Facts are what head says about a node, as far as leases are concerned.
type Facts struct {
	// Session is the newest session's id: the revision that opened it.
	Session uint64
	State   fsm.SessionState
	// TakenAt is the newest revision that took an address from the node.
	TakenAt uint64
	// GivenAt is the newest revision that gave an address to the node.
	GivenAt uint64
	// Process is the random id of the session's speaker process.
	Process [16]byte
	// MACs of this session and of the one before.
	MACs, PriorMACs []fsm.MAC
}

// FactsOf picks the facts out of a node's record; GivenAt is not in it.
func FactsOf(n *fsm.Node) Facts {
	return Facts{
		Session: n.Session, State: n.SessionState, TakenAt: n.TakenAt,
		Process: n.Process, MACs: n.MACs, PriorMACs: n.PriorMACs,
	}
}

// open tells whether the session is the node's open one.
func (f *Facts) open(session uint64) bool {
	return f.State == fsm.SessionOpen && f.Session == session
}

// otherMachine tells whether the session before ran on another machine: both had
// link-layer addresses and none in common.
func (f *Facts) otherMachine() bool {
	for _, mac := range f.MACs {
		for _, prior := range f.PriorMACs {
			if mac == prior {
				return false
			}
		}
	}
	return len(f.PriorMACs) > 0
}

// Expiry names a session to be expired.
type Expiry struct {
	Node    string
	Session uint64
	// Unheard is for how long nobody has heard it.
	Unheard time.Duration
}

// Release is an owner's duty to give an address up, as the state records it.
type Release struct {
	// Node that has to give the address up, and its session at that time.
	Node    string
	Session uint64
	// At is the revision that took the address.
	At uint64
	// Hold: the address is announced with onControlLoss Hold.
	Hold bool
}
