// Package leasetime holds what the two sides of a lease share: the drift bound
// and the holder's arithmetic. The members' side is raftnode/lease; speakers use
// [Holder] and import nothing of raftnode.
//
// A lease of length F is safe because the holder counts F shortened by the drift
// bound from the moment before its heartbeat left ([Shorten]), and whoever waits for
// the lease to end counts F lengthened by the same bound from a moment after that
// heartbeat arrived ([Lengthen]). No two machines' clocks are compared; each may run up
// to 1 % fast or slow. All times are CLOCK_BOOTTIME (package clock), which goes on
// while a machine is suspended.
//
// The package has no goroutine, asks no clock and does no I/O.
package leasetime
