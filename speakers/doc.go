// Package speakers is one speaker: it keeps a session with the members, learns
// from them which addresses this node owns, and makes the network deliver
// these addresses here.
//
// Below it, each in a package of its own:
//
//	system   sockets, netlink and sysctls: all touching of the operating system
//	links    which links may announce, and what changes on them
//	layer2   ARP and NDP: answers, claims, proofs, conflicts
//	host     local delivery of addresses on the loopback interface
//	health   checks whether this node can serve
//	session  what a speaker and the members say to each other
//
// The package must not import raftnode or kube.
package speakers
