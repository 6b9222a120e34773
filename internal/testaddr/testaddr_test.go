package testaddr

import (
	"net"
	"net/netip"
	"testing"
)

func TestEachAddressIsGivenOnce(t *testing.T) {
	seen := make(map[string]bool)
	for range 100 {
		addr := New(t)
		if seen[addr] {
			t.Fatalf("%s twice", addr)
		}
		seen[addr] = true
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
	}
}

func TestProcessesHaveDifferentHosts(t *testing.T) {
	seen := make(map[string]int)
	for _, pid := range []int{1, 255, 256, 65535, 65536, 1 << 20, 1<<22 - 1} {
		h := host(pid)
		if other, ok := seen[h]; ok {
			t.Errorf("%d and %d share %s", pid, other, h)
		}
		seen[h] = pid
		if a := netip.MustParseAddr(h); !netip.MustParsePrefix("127.64.0.0/10").Contains(a) {
			t.Errorf("%d has %s", pid, h)
		}
	}
}
