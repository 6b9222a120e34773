package system

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Groups keeps memberships in IPv6 multicast groups, which makes the kernel
// report them by MLD, so that a switch that snoops forwards their frames here.
// It is safe for concurrent use.
//
// A socket holds only so many memberships (net.core.optmem_max: 2340 at 128 KiB),
// so another is opened when one is full.
type Groups struct {
	mu      sync.Mutex
	sockets []int
	members map[membership]int // the socket that holds it
	closed  bool
}

type membership struct {
	link  int
	group netip.Addr
}

// NewGroups returns a holder of no memberships in the network namespace of the
// calling thread. (A socket that is opened later, when the first is full, belongs
// to the namespace of the thread that joins.)
func NewGroups() (*Groups, error) {
	g := &Groups{members: make(map[membership]int)}
	return g, g.open()
}

func (g *Groups) open() error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil // without IPv6 nobody will join
	}
	if err != nil {
		return fmt.Errorf("open a socket for multicast groups: %w", err)
	}
	g.sockets = append(g.sockets, fd)
	return nil
}

// Join joins a group on a link. To join again is no error and changes nothing.
func (g *Groups) Join(link int, group netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return os.ErrClosed
	}
	m := membership{link, group}
	if _, ok := g.members[m]; ok {
		return nil
	}
	// The newest socket is the one with room, if any has.
	err := g.join(m)
	if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM) {
		if err = g.open(); err == nil {
			err = g.join(m)
		}
	}
	if err != nil {
		return fmt.Errorf("join %v: %w", group, err)
	}
	return nil
}

// join joins with the newest socket.
func (g *Groups) join(m membership) error {
	if len(g.sockets) == 0 {
		return unix.EAFNOSUPPORT
	}
	fd := g.sockets[len(g.sockets)-1]
	mreq := unix.IPv6Mreq{Multiaddr: m.group.As16(), Interface: uint32(m.link)}
	if err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &mreq); err != nil {
		return err
	}
	g.members[m] = fd
	return nil
}

// Leave ends a membership. One that does not exist, or ended with its link, is
// no error.
func (g *Groups) Leave(link int, group netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := membership{link, group}
	fd, ok := g.members[m]
	if !ok {
		return
	}
	delete(g.members, m)
	mreq := unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(link)}
	// It fails when the link has gone, and the membership with it.
	_ = unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_LEAVE_GROUP, &mreq)
}

// Close ends all memberships.
func (g *Groups) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, fd := range g.sockets {
		unix.Close(fd)
	}
	g.sockets, g.closed = nil, true
	clear(g.members)
}
