// Package decider turns commands (wishes) into events (facts) on the leader.
//
// One goroutine, the one that calls [Decider.Run], takes commands in order and
// decides each against a head of its own: the committed state plus the batches
// in flight. It does not wait for a commit before it decides the next. Commands
// that wait together become one batch, one Raft entry, one disk write, and are
// answered when it has been applied.
//
// What it guarantees:
//
//   - A command is all or nothing, and a refused one leaves no trace.
//   - An answer without error means: applied by a majority, for ever. An error
//     other than [ErrUnknownOutcome] means: not applied, and it never will be.
//   - Commands are idempotent, so that whoever got ErrUnknownOutcome may repeat
//     them; an upsert that carries a generation never overwrites a newer one of
//     its source.
//   - Nothing reaches the log before it has been folded into head. A command
//     whose events do not fold (a bug) is answered with [ErrInternal]; the
//     others go on.
//   - The leases learn of every batch before it is proposed ([Leases.Decided]).
//   - After each group of commands, and when a deadline of the leases passes,
//     what follows is decided too: addresses for the services that lack them, and
//     every transition of ownership (architecture, "Ownership"). That costs
//     what the change touches, not what the state holds.
//
// Goroutines: Run owns the loop; every batch in flight has one that waits for
// its future and ends with it. Submit may be called from any goroutine.
//
// Beside the generated messages the package imports neither gRPC nor Raft nor a
// metrics library, and it must not import speakers. It reads the wall
// clock in one place only (stamp.go). DESIGN.md says why it is as it is.
package decider
