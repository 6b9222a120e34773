// Package service is what a member says to speakers, operators and other
// members: the gRPC services, who may call them, and the way of a call to the
// leader.
//
// What it guarantees:
//
//   - A call is admitted by one table of methods and roles, and refused if it is
//     not in it. A speaker speaks for its own node only, in every message of a
//     stream. Only a member may speak in somebody else's name, and what it
//     forwards is checked against the table again.
//   - A write goes to the leader from any member. While nobody leads it is held
//     for a bounded time. It is tried again only while it is certain that
//     nothing was done; otherwise the caller is told that the outcome is
//     unknown. A call is forwarded once at most.
//   - A read is linearizable unless it asks for a stale one, and is answered by
//     the member that was asked.
//   - What speakers report is kept in memory, and becomes a command on the leader
//     only, where it differs from the state; the comparison is repeated, so a
//     report that was lost with a leader is not lost.
//   - Nothing here holds up the apply goroutine: answers are built from a clone.
//   - Errors say what the operator can do, and carry google.rpc.BadRequest with
//     the path of each field, or google.rpc.ErrorInfo with a reason for programs.
//
// Goroutines: those of the gRPC server, which end with it; a stream's second one
// ends with its stream. Run and Observe belong to their callers.
//
// The package decides nothing and must not import hashicorp/raft.
package service
