// Package window sets gRPC's flow control for connections that carry many small
// messages: windows of a fixed size, on both sides.
//
// By default gRPC measures the path to find a good size: whatever data arrives is
// answered by a ping, and the ping by its answer. Between a speaker and a member
// that is as much again as the heartbeats and acks themselves, in system calls,
// records and frames.
//
// It has no state and starts no goroutine.
package window

import "google.golang.org/grpc"

// Size of every window, in bytes. It bounds what one side may have sent and the
// other not yet read: enough for the whole views and the backups that pass over
// a local network, and little enough to hold for every connection.
const Size = 1 << 20

// Server fixes the windows of a server.
func Server() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.StaticStreamWindowSize(Size), grpc.StaticConnWindowSize(Size)}
}

// Dial fixes the windows of a client.
func Dial() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithStaticStreamWindowSize(Size), grpc.WithStaticConnWindowSize(Size)}
}
