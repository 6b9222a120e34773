// Package consensus runs one member's hashicorp/raft and keeps the state that
// its log folds to. It is the only package that touches raft.Raft.
//
// Guarantees:
//   - A committed batch is applied once, in order, or the member stops: a batch
//     that is not understood or is damaged is never skipped, and no snapshot is
//     taken after it. A batch that does not follow the state is refused, which
//     is a value for its proposer and leaves no trace.
//   - Read sees a state between two batches. A subscriber is called after the
//     state has advanced, so it never sees one older than its batch.
//   - Leadership is one level-triggered value.
//   - Every wait has a deadline.
//   - A confirmation of leadership rests on answers to requests that were sent
//     after it was asked for, with this leader's own term; Raft's own check also
//     counts answers that were on their way.
//   - History is read along the hash chain back from the state and stops where
//     the chain breaks.
//
// Goroutines: Raft's own (main loop, apply, snapshots, replication) end with
// Run; Run owns one that follows leadership and one that computes digests. Each
// proposal has one that ends with its future. Subscribers run in the apply
// goroutine and must not block.
//
// The package decides nothing about services, leases or membership.
package consensus
