// Package client reaches the group: whichever member answers first.
//
// Every call has a deadline. A member that is down, hangs, or cannot serve now
// costs a fraction of a second, because members are dialed side by side and a
// call goes on to the next one. That is safe for writes too: every command of
// the admin API is declarative, so one that was carried out and whose answer was
// lost may be sent again.
//
// Between calls a Client has no goroutine but those of the gRPC connection that it
// keeps until Close. The package must not import raftnode or speakers.
package client
