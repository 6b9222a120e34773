// Package session is what a speaker and the members say to each other.
//
// A Session opens the node's session through any member, and again whenever the
// members say that it is over. While it is open, it
//
//   - sends heartbeats to all members, each on a connection of its own, and turns
//     their acks into confirmations (internal/leasetime does the arithmetic);
//   - watches the node's view at two members at once, and applies whichever is newer,
//     so that the death of one member delays nothing; a member that is behind,
//     refuses, or is not heard is exchanged for another;
//   - is attached to all members: what the node really does goes up, member list
//     and questions come down.
//
// Seen, the revision that heartbeats report, moves only after the rest of the
// speaker has put that view in force, and never back within one cluster. A
// heartbeat follows at once when the node has lost an address.
//
// The member list is remembered on disk, together with the addresses that names
// were last resolved to, for a start while names do not resolve.
//
// All goroutines belong to Run and end with it. The package must not import the
// other packages of the speaker but system, nor raftnode or kube.
package session
