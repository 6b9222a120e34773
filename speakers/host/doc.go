// Package host delivers addresses locally, for use without Kubernetes: each is
// put on the loopback device of every node that may come to own it, so that a
// takeover needs nothing but the announcement.
//
// It guarantees that a node never answers ARP for an address only because it is
// on the loopback device: net.ipv4.conf.all.arp_ignore and arp_announce are set
// before the first IPv4 address is added, looked at every second, and set back
// after the last one is removed. For IPv6 nothing need be set: the kernel
// answers a neighbour solicitation only for addresses of the link that it came
// in on (measured: Linux 6.18, also with forwarding and with the group joined).
//
// Only what this package added is ever removed, also after a crash: a file says
// what that is, and is written first. A stop is no restart: when Run ends,
// everything stays in place, since frames still arrive while the neighbours
// learn of the next owner, and a new process takes over from the file. Cleanup
// removes it all.
//
// Run's goroutines end with its context. Apply may be called from any
// goroutine. The package must not import anything of this project but
// speakers/system.
package host
