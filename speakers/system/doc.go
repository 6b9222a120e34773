// Package system is all that a speaker touches of the operating system: packet
// sockets, multicast memberships, netlink and sysctls. The packages that use it
// see it through small interfaces of their own, so that their rules are tested
// without a kernel and their frames with one.
//
// Whatever is opened here belongs to the network namespace of the thread that
// opened it. No function starts a goroutine, with the exception of Watch, whose
// goroutines end with its context.
package system
