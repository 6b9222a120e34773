// Package allocator makes the two choices of the cluster: which address a
// service gets and which node owns an address. Both are pure functions of the
// state (and, where they say so, of a time and of options): the same state
// gives the same answer on every member, in whatever order its facts came. The
// log records the answer, not the question, so a later release may choose
// differently without any member ever disagreeing about the past.
//
// The package has no clock, no randomness, no I/O and no goroutine, and nothing
// depends on map order. It must not import gRPC, Raft or Kubernetes.
package allocator
