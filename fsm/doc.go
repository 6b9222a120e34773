// Package fsm folds events into State. It is pure: no clock, no randomness, no
// environment, no goroutine, no I/O but the reader and writer that a snapshot
// is given, and nothing depends on map order. The same batches give the same
// State, and the same State the same Digest, on every member and in every
// release.
//
// Records in State are immutable: evolve replaces them and never writes to one.
// So Clone copies maps and shares records, and a reader may keep a record for
// as long as it likes.
//
// The package must not import gRPC, Raft or Kubernetes.
package fsm
