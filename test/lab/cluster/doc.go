// Package cluster runs QuorumLB in the network lab: five nodes with a speaker
// and a responder each, members on the first three of them, a client and a
// router on the nodes' segment, an operator on the management network.
//
//	            lan 192.0.2.0/24, 2001:db8:1::/64
//	──┬──────┬──────┬──────┬──────┬───────┬────────┬──
//	  n1     n2     n3     n4     n5    client   router
//	  m1     m2     m3
//	──┴──────┴──────┴──────┴──────┴───────┬───────────
//	            mgmt 10.0.1.0/24        admin
//
// The daemons are the real ones, built from this tree and started by the command
// lines that an operator would write. The package starts no goroutine of its own.
package cluster
