// Package pulse runs the lease rules of package lease on a member: it feeds them
// with heartbeats, applied and decided batches and the clock, keeps one stream to
// every other member while this one leads, and passes acks on to the speakers.
//
// What it guarantees:
//
//   - Everything that the rules are told, and everything that they answer, is
//     serialized by one mutex, which is never held over I/O: the decider's news
//     are in force when its call returns, and no ack that was judged on an older head
//     is given after that.
//   - The own term and the voters are read after all that was received before an
//     ack is judged.
//   - When the decider ends a term (Follow), or Raft's term has moved on, the
//     Leader is dropped at once and nothing is acked after it.
//   - A heartbeat costs a few map lookups and touches neither Raft nor the disk.
//
// Goroutines: Keeper.Run owns all: one ticks, one keeps connections and streams in
// step with leadership and membership, two serve each stream, and one carries each
// expiry to the decider. Heard, Applied, the Leases methods and the server side of Pulse
// run on their callers' goroutines.
//
// The package must not import raftnode/service or speakers.
package pulse
