package decider

import (
	"net/netip"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
)

// Result is the answer to a command.
type Result struct {
	// Revision at which the command is applied; when it changed nothing, a
	// revision at which the state was already as it asks.
	Revision uint64
	// Changed tells whether the command made any event.
	Changed bool

	// Resources answers Apply, one for each resource, in order.
	Resources []ResourceResult
	// Deleted answers Delete, one for each name: whether it existed.
	Deleted []bool
	// Effects answer a dry run of Apply and Delete, by service.
	Effects []Effect
	// NeedsForce answers a dry run of Delete without force: why it would be refused.
	NeedsForce []FieldError
	// Session answers OpenSession.
	Session *SessionResult
	// Owned answers Drain and Leave: addresses that the node still owns.
	Owned int
	// Soft answers them too: addresses whose old clients the node still answers.
	Soft int
	// From and To answer Move: the owner until now and the one to be.
	From, To string
	// Moves answers Rebalance, Held with the moves that flapping holds back, PerMinute with
	// the pace; 0: nothing is to move.
	Moves     []allocator.BalanceMove
	Held      []allocator.HeldMove
	PerMinute uint32
	// Restored answers RestoreTo.
	Restored *RestoreResult

	// rehearsal is what is left to do for the answer of a dry run.
	rehearsal *rehearsal
}

// Outcome tells what Apply did to a resource.
type Outcome uint8

// Outcomes.
const (
	_ Outcome = iota
	Created
	Configured
	Unchanged
)

var outcomeNames = [...]string{"invalid", "created", "configured", "unchanged"}

// String gives the word that the admin API uses.
func (o Outcome) String() string {
	if int(o) >= len(outcomeNames) {
		o = 0
	}
	return outcomeNames[o]
}

// ResourceResult tells what became of one applied resource.
type ResourceResult struct {
	// Kind is "IPAddressPool", "L2Advertisement" or "VirtualService"; Name is
	// "namespace/name" for services.
	Kind, Name string
	Outcome    Outcome
	// Addresses of a service after the decision.
	Addresses []netip.Addr
	// Pending says why a service has fewer than it asks for, Refusals pool by pool.
	Pending  string
	Refusals []fsm.Refusal
}

// SessionResult is an admitted session.
type SessionResult struct {
	// Session is the id: the revision that opened it.
	Session     uint64
	Incarnation uint64
	ClusterID   [16]byte
	Lease       fsm.LeaseTimes
}

// RestoreResult counts what a revert changed.
type RestoreResult struct {
	FromRevision     uint64
	ServicesChanged  int
	AddressesChanged int
}
