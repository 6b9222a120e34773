// Package layer2 makes an Ethernet segment deliver addresses to this node: it
// answers ARP requests and neighbour solicitations for the addresses that the
// node owns, tells the neighbours when an address has moved here, proves that
// they noticed, and hears when another station claims the address.
//
// It guarantees:
//
//   - No reply for an address that the node does not own by the newest view, on
//     no link but those that the view names, and none with a MAC but that of the
//     link it leaves by.
//   - Release: no reply once the confirmation has run out, checked before every
//     single reply. Hold: replies go on, but nothing unsolicited is said, and the
//     first foreign claim silences the address in the very loop that hears it.
//   - When Apply returns, no reply of an older view is still to be sent.
//   - Unsolicited frames never exceed the configured rate on any link, and the
//     first round of every address comes before the second of any.
//
// Two halves meet at the seam Responder: below it, what to answer is one
// immutable Table; above it, Layer2 decides what is in the table. The responder
// here lives in user space on one packet socket per family.
//
// Goroutines: Layer2.Run owns one for each socket and one for timers and events;
// they end with its context. Apply, SetLinks, Confirm, Probe and Statuses may be called from
// any goroutine.
//
// The package must not import the session, raftnode or kube.
package layer2
