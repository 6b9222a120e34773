// Package lease holds the members' side of the lease rules (docs/architecture.md,
// "Liveness and leases"): who is dead, whose heartbeat is acked, and when an old
// owner can no longer answer.
//
// There are two state machines. Every member has one [Hearing] for as long as
// its process runs: what it heard itself, which revisions it knew when, and
// whether so many nodes fell silent at once that the fault is likely its own. The
// leader has a [Leader] for one term of leadership, from its barrier on; it is
// thrown away when the term ends.
//
// What the package guarantees, if its inputs are what they claim to be:
//
//   - A heartbeat is acked only if no later leader can have been elected before
//     it was received, its session is the node's open one, and the node knows of every
//     address that it has lost.
//   - After [Leader.FencePassed] says so, no process of that node, as it was, is
//     confirmed; after [Leader.ReleaseWait] says so, the old owner no longer
//     answers for the address.
//   - A node is never taken for dead because one member cannot hear it.
//
// Both are pure: no goroutine, no lock, no clock, no I/O. Every call is given the time
// (boot time of this machine, package clock), which must not run backwards
// from one call to the next. One owner (raftnode/pulse.Keeper) serializes the
// calls. The package imports neither gRPC nor Raft.
package lease
