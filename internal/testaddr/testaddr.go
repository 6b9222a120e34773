// Package testaddr gives tests addresses to listen at that stay theirs while they
// are closed, over restarts of what is tested.
//
// A port of 127.0.0.1 that is found by listening and closed again may be taken by
// any other test of the machine before it is listened at. Here each process has an
// address of its own out of 127.64.0.0/10, and hands each port out once. The ports
// are below those that the kernel gives to whoever does not ask for one.
package testaddr

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"
)

const firstPort, lastPort = 10000, 30000

var next atomic.Int64

// New gives an address, "127.x.y.z:port", at which nobody listens and which this
// process gives to nobody else.
func New(t testing.TB) string {
	t.Helper()
	for {
		port := firstPort + next.Add(1)
		if port > lastPort {
			t.Fatalf("all ports of %s were given to tests", host(os.Getpid()))
		}
		// Somebody may listen at this port of all addresses.
		addr := fmt.Sprintf("%s:%d", host(os.Getpid()), port)
		if ln, err := net.Listen("tcp", addr); err == nil {
			ln.Close()
			return addr
		}
	}
}

// host is the address of a process. A pid has 22 bits at most.
func host(pid int) string {
	return fmt.Sprintf("127.%d.%d.%d", 64|pid>>16&63, pid>>8&255, pid&255)
}
