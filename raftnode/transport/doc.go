// Package transport is a member's one network port. A listener ends TLS, looks
// at the protocol that ALPN chose, and hands the connection to Raft
// ("qlb-raft/1") or to gRPC ("h2").
//
// Guarantees:
//   - Every connection is TLS 1.3 with a certificate of the cluster on both
//     sides. Raft is spoken with members only, and both sides make sure that the
//     id that was dialed is the one that answers: two ids that resolve to one
//     machine can never count as two votes, and a member with a new disk never
//     answers for the id that it had before.
//   - A handshake has a deadline and a bounded number of neighbours; a slow
//     peer costs one slot for that long.
//   - Close ends every connection that was handed on, whatever it is doing.
//   - Raft's pre-vote and its heartbeat fast path stay on: the wrapper embeds
//     *raft.NetworkTransport.
//
// Goroutines: Mux.Run owns the accept loop and the handshakes; each end by
// Close or their deadline. raft.NetworkTransport has its own, which end with
// Raft.Close. The package must not import the fsm.
package transport
