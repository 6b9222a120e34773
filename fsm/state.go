package fsm

import (
	"net/netip"
	"time"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// MAC is a 48-bit link-layer address.
type MAC [6]byte

// ServiceKey names a service.
type ServiceKey struct {
	Namespace string
	Name      string
}

// String gives "namespace/name".
func (k ServiceKey) String() string { return k.Namespace + "/" + k.Name }

// Hash is a link of the chain over all batches: SHA-256(previous hash || raw batch).
type Hash [32]byte

// State is all facts folded; New gives that of an empty log. Reading, Clone,
// Digest and WriteSnapshot are safe together, Apply and Begin only alone. The
// maps and records are for reading: only events change them.
type State struct {
	// Revision of the newest batch folded, 0 for none.
	Revision uint64
	// Chain is the hash over all batches up to Revision.
	Chain Hash
	// Time of the newest batch, nanoseconds since 1970 UTC.
	Time int64

	ClusterID      [16]byte
	ClusterVersion uint32
	Lease          LeaseTimes
	// PriorLease holds the lease times before the newest change; zero when they
	// never changed. A member that restarted needs them while leases granted by them run.
	PriorLease LeaseTimes
	// Retention is how long a deleted service's address is kept for its name.
	Retention time.Duration
	// PolicyAt is the newest revision that changed a pool or an advertisement, or
	// deleted one: an owner that has not seen it may follow other rules.
	PolicyAt uint64
	// RebalancePerMinute is the pace of the rebalance that an administrator has
	// started; 0: none.
	RebalancePerMinute uint32

	Pools    map[string]*Pool
	Ads      map[string]*Advertisement
	Services map[ServiceKey]*Service
	// Addresses holds every address in use.
	Addresses map[netip.Addr]*Address
	// Free remembers addresses that were used before and are free now.
	Free  map[netip.Addr]*Free
	Nodes map[string]*Node
	// Namespaces are those that were declared, for their labels.
	Namespaces map[string]*Namespace
	// Reservations are kept when their time is over, until somebody deletes them.
	Reservations map[string]*Reservation

	// Indexes, derived from the maps above and rebuilt by a restore.
	idx indexes
	// broken is the error after which the state is not to be trusted.
	broken error
	// draft is the batch being decided on this state, nil for none.
	draft *Draft
}

// LeaseTimes are the times of detection, in force from a revision on.
type LeaseTimes struct {
	Detection time.Duration // D
	Heartbeat time.Duration // h
	Settle    time.Duration
}

// Fence is F = max(2D, 1.5 s).
func (t LeaseTimes) Fence() time.Duration { return max(2*t.Detection, 1500*time.Millisecond) }

// DefaultLeaseTimes is the profile of a new cluster.
var DefaultLeaseTimes = LeaseTimes{Detection: 750 * time.Millisecond, Heartbeat: 150 * time.Millisecond, Settle: 10 * time.Second}

// DefaultRetention keeps a deleted service's address for a day.
const DefaultRetention = 24 * time.Hour

// Range is an inclusive range of addresses of one family.
type Range struct {
	First, Last netip.Addr
}

// Pool is a declared address pool.
type Pool struct {
	Spec   *logv1.Pool
	Ranges []Range // in declared order
	// DefinedAt is the revision of the newest definition.
	DefinedAt uint64
}

// Advertisement is a declared L2Advertisement.
type Advertisement struct {
	Spec      *logv1.L2Advertisement
	DefinedAt uint64
}

// Service is a declared service with what it has been given.
type Service struct {
	Key  ServiceKey
	Spec *logv1.Service
	// Source and Generation of the newest declaration.
	Source     string
	Generation uint64
	// CreatedAt and DeclaredAt are revisions, DeclaredTime the newest declaration's time.
	CreatedAt, DeclaredAt uint64
	DeclaredTime          int64
	// Addresses that the service has, IPv4 first, those of one family in the order in which
	// they were given.
	Addresses []netip.Addr
	// Pending says why it has fewer than it asks for; empty when it has all.
	Pending string
	// Refusals say the same pool by pool, or what it would take as well.
	Refusals []Refusal
	// Endpoints are where it has some, nil when that is not known.
	Endpoints *Endpoints
	// Health is what the checks of the nodes say, by node; a node without an entry has
	// not said anything yet.
	Health map[string]Health
}

// Refusal is why a pool gives nothing to a service, or why an address that it
// asks for cannot be had.
type Refusal struct {
	Pool   string
	Reason logv1.RefusalReason
	Family logv1.IPFamily
	// Addr is the address asked for; invalid when it is about a pool.
	Addr netip.Addr
	// Until is when the first of the pool's addresses has rested, nanoseconds since 1970
	// UTC, with REFUSAL_REASON_RESTING; else 0.
	Until int64
}

// Endpoints are the nodes where a service has endpoints, each list sorted.
type Endpoints struct {
	// Ready nodes have a ready one, Terminating ones only such as are on their way out.
	Ready, Terminating []string
	// Time of the observation.
	Time int64
}

// Health is what a node's check of a service says.
type Health struct {
	Healthy bool
	// Time since when.
	Time   int64
	Reason string
}

// Address is an address in use.
type Address struct {
	Addr netip.Addr
	Pool string
	// Services that have it, sorted by key; never empty.
	Services []ServiceKey
	Reason   logv1.AllocationReason
	// Owner in the log; empty when nobody. Epoch is the revision that assigned
	// it, 0 without an owner. OwnerTime and OwnerWhy say when and why the owner
	// got it, or why there is none; both are zero before the first.
	Owner     string
	Epoch     uint64
	OwnerTime int64
	OwnerWhy  logv1.OwnerReason
	// Prior is the node that had to give the address up and may not know yet;
	// empty when it was never owned. PriorAt is the revision that took it,
	// PriorSession the session that the node had then, PriorEpoch the epoch it had.
	// They stay set while another owns it.
	Prior        string
	PriorAt      uint64
	PriorSession uint64
	PriorEpoch   uint64
	// Failures counts the nodes and tries that could not announce it, by node.
	Failures map[string]Failure
	// Conflict is the MAC of another station that has the address, seen by
	// ConflictNode; zero for none. ConflictKind tells how that was found, and
	// ConflictHolder is the node whose kernel it is.
	Conflict       MAC
	ConflictNode   string
	ConflictKind   logv1.ConflictKind
	ConflictHolder string
	// FirstUse: nobody owned the address before its owner, who asks the wire for
	// foreign stations.
	FirstUse bool
	// OnLink: its subnet was on an interface of the owner when that was chosen.
	OnLink bool
	// SoftNode is a former owner that goes on answering those who ask it alone;
	// empty for none. SoftEpoch is the epoch that it had.
	SoftNode  string
	SoftEpoch uint64
	// PolicyAt is the newest revision after which other advertisements may be for
	// the address, because its services changed; see State.PolicyAt.
	PolicyAt uint64
	// Flaps counts the moves that something going wrong has forced, and FlapTime is
	// the newest of them; see FlapsAt.
	Flaps    uint32
	FlapTime int64
}

// Failure is a node that could not announce an address.
type Failure struct {
	Count  uint32
	Time   int64
	Reason string
}

// Free is an address that is not in use but was.
type Free struct {
	Addr netip.Addr
	// Pool that has it; empty when none has: it is remembered only because its
	// old owner may still answer.
	Pool string
	// FreedAt is the revision that freed it: least recently used comes first.
	FreedAt uint64
	// Key is the service that had it last; kept for it until KeptUntil.
	// Services with SharingKey, which it had, may have it too.
	Key        ServiceKey
	KeptUntil  int64
	SharingKey string
	// RestsUntil: no other service may have it before, not even on request.
	RestsUntil int64
	// Prior* as in Address: an address that is allocated again waits for its old owner.
	Prior        string
	PriorAt      uint64
	PriorSession uint64
	PriorEpoch   uint64
	// Conflict is the MAC of a foreign station that has the address, seen by
	// ConflictNode, while the address is in quarantine: since QuarantineSince, and
	// until the wire is asked again at QuarantineUntil. Both are 0 when it is not.
	Conflict                         MAC
	ConflictNode                     string
	QuarantineSince, QuarantineUntil int64
}

// Rests tells whether it is its pool's quarantine that keeps the address until
// KeptUntil, and not the retention, which may be shorter.
func (f *Free) Rests() bool { return f.KeptUntil != 0 && f.RestsUntil >= f.KeptUntil }

// Quarantined tells whether a foreign station has the address.
func (f *Free) Quarantined() bool { return f.QuarantineUntil != 0 }

// SessionState tells what became of a node's newest session.
type SessionState uint8

// Session states.
const (
	SessionNone SessionState = iota
	SessionOpen
	SessionClosed
	SessionExpired
)

// Node is a node whose speaker has opened a session at some time.
type Node struct {
	Name string
	// Session is the id of the newest session: the revision that opened it.
	Session      uint64
	SessionState SessionState
	// EndedAt is the revision that closed or expired the session, 0 while open.
	EndedAt     uint64
	Process     [16]byte
	Incarnation uint64
	MACs        []MAC
	// PriorMACs are those of the session before; they tell a restarted speaker
	// from a cloned machine.
	PriorMACs []MAC
	Labels    map[string]string
	Links     []*logv1.Link
	Version   string
	Drained   logv1.DrainReason // zero: not drained
	// GraceUntil is until when the node may go on answering the clients that know it
	// for addresses that a soft drain moves away; 0: not at all.
	GraceUntil int64
	// TakenAt is the newest revision that took an address from this node or
	// narrowed what it may do with one; it is not acked before it has seen it.
	TakenAt uint64
	// Owned counts the addresses whose Owner is this node.
	Owned int
}
