// Package fsm folds events into State. It is pure: no clock, no randomness, no
// environment, no goroutine, no I/O but the reader and writer that a snapshot
// is given, and nothing depends on map order; TestPurity reads the source for
// it. The same batches give the same State, and the same State the same Digest,
// on every member and in every release.
//
// A batch goes in as the bytes that Raft carries (Apply), or event by event
// while a leader decides it (Begin, Draft.Add, Draft.Commit): both run the same
// fold. A batch that is not the next one leaves no trace. One that cannot be
// understood or cannot be true (ErrUnknown, ErrCorrupt) breaks the State for
// good: a member stops then, for it must not skip a fact, and a decider throws its
// head away.
//
// Records in State are immutable: evolve replaces them and never writes to one.
// So Clone copies maps and shares records, and a reader may keep a record for
// as long as it likes. Readers, Clone, Digest and WriteSnapshot may run at the
// same time; a writer must be alone.
//
// DESIGN.md says why it is built this way. The package must not import gRPC,
// Raft or Kubernetes.
package fsm
