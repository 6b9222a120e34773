package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is a named network namespace and one thread that lives in it.
type namespace struct {
	name string
	fd   netns.NsHandle
	nl   *netlink.Handle
	jobs chan func()
	quit chan struct{} // closed to end the thread
	done chan struct{} // closed when the thread has ended
}

// newNamespace makes /run/netns/name.
func newNamespace(name string) (*namespace, error) {
	n := &namespace{name: name, fd: netns.None(), jobs: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
	ready := make(chan error)
	go n.live(ready)
	if err := <-ready; err != nil {
		<-n.done
		return nil, fmt.Errorf("make namespace %s: %w", name, err)
	}
	return n, nil
}

// live is the namespace's thread. It is never unlocked, so it ends with the
// goroutine, and with it (by their death signal) whatever it has started.
func (n *namespace) live(ready chan<- error) {
	runtime.LockOSThread()
	defer close(n.done)
	if err := n.enter(); err != nil {
		ready <- err
		return
	}
	ready <- nil
	for {
		select {
		case job := <-n.jobs:
			job()
		case <-n.quit:
			return
		}
	}
}

func (n *namespace) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	path := n.path()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	_ = f.Close()
	self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	if err := unix.Mount(self, path, "", unix.MS_BIND, ""); err != nil {
		_ = os.Remove(path)
		return fmt.Errorf("bind %s: %w", path, err)
	}
	if n.fd, err = netns.GetFromPath(path); err != nil {
		return err
	}
	if n.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	if err := quietIPv6(); err != nil {
		return err
	}
	lo, err := n.nl.LinkByName("lo")
	if err != nil {
		return err
	}
	return n.nl.LinkSetUp(lo)
}

// quietIPv6 makes new links use their IPv6 addresses at once: no duplicate
// address detection, no router solicitations. /proc/sys/net shows the namespace
// of the thread that opens it.
func quietIPv6() error {
	for _, scope := range []string{"all", "default"} {
		for key, value := range map[string]string{
			"accept_dad": "0", "dad_transmits": "0", "accept_ra": "0", "router_solicitations": "0",
		} {
			path := filepath.Join("/proc/sys/net/ipv6/conf", scope, key)
			if err := os.WriteFile(path, []byte(value), 0); err != nil {
				return fmt.Errorf("sysctl: %w", err)
			}
		}
	}
	return nil
}

func (n *namespace) path() string { return filepath.Join(netnsDir, n.name) }

// do runs fn on the namespace's thread; sockets and processes that fn makes
// belong to the namespace. fn must not block.
func (n *namespace) do(fn func() error) error {
	result := make(chan error, 1)
	select {
	case <-n.done:
		return fmt.Errorf("namespace %s: %w", n.name, net.ErrClosed)
	case n.jobs <- func() { result <- fn() }:
		return <-result
	}
}

// visit runs fn on a thread of its own inside the namespace; fn may block.
func (n *namespace) visit(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Setns(int(n.fd), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter %s: %w", n.name, err)
			return
		}
		result <- fn()
	}()
	return <-result
}

// dial connects from inside the namespace. The address must hold an IP, no name.
func (n *namespace) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = n.visit(func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// close ends the thread and removes the name. The kernel removes the namespace
// when the last process and socket in it are gone.
func (n *namespace) close() error {
	close(n.quit)
	<-n.done
	if n.nl != nil {
		n.nl.Close()
	}
	if n.fd.IsOpen() {
		_ = n.fd.Close()
	}
	return removeNamespace(n.path())
}

func removeNamespace(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}
