package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// TCPProbe makes new connections to an address and notes which were made, how
// fast, and by which node.
type TCPProbe struct {
	series
	Addr   netip.Addr
	ns     *namespace
	ctx    context.Context
	cancel context.CancelFunc
	once   sync.Once
	wg     sync.WaitGroup
}

// ProbeTCP starts a probe on the host: a new connection to the address's
// GreeterPort at every interval. It has failed when it is not made within
// Patience. Many are under way at once while the address is dark.
func (h *Host) ProbeTCP(addr netip.Addr, every time.Duration) (*TCPProbe, error) {
	ns, err := h.namespace()
	if err != nil {
		return nil, err
	}
	p := &TCPProbe{Addr: addr, ns: ns}
	p.ctx, p.cancel = context.WithCancel(context.Background()) // ended by Close
	p.wg.Go(func() { ticker(every, p.ctx.Done(), p.attempt) })
	h.own(p)
	return p, nil
}

// attempt begins a connection and leaves the waiting to a goroutine that ends
// after two times Patience at the latest.
func (p *TCPProbe) attempt() {
	start := time.Now()
	i := p.add(Sample{Sent: start})
	var file *os.File
	err := p.ns.do(func() (err error) {
		file, err = connectStart(netip.AddrPortFrom(p.Addr, GreeterPort))
		return err
	})
	if err != nil {
		p.update(i, func(s *Sample) { s.Err = err.Error() })
		return
	}
	p.wg.Go(func() {
		stop := context.AfterFunc(p.ctx, func() { _ = file.SetDeadline(time.Unix(1, 0)) })
		defer stop()
		defer file.Close()
		_ = file.SetDeadline(start.Add(Patience))
		p.finish(i, file)
	})
}

func (p *TCPProbe) finish(i int, file *os.File) {
	if err := connectFinish(file); err != nil {
		p.update(i, func(s *Sample) { s.Err = err.Error() })
		return
	}
	made := time.Now()
	_ = file.SetDeadline(made.Add(Patience))
	buf := make([]byte, 64)
	n, err := file.Read(buf)
	p.update(i, func(s *Sample) {
		s.Answered = made
		s.Node = string(bytes.TrimSpace(buf[:n]))
		s.Reset = n == 0
		if err != nil {
			s.Err = err.Error()
		}
	})
}

// Close ends the probe. Its samples stay.
func (p *TCPProbe) Close() {
	p.once.Do(p.cancel)
	p.wg.Wait()
}

// connectStart makes a socket in the thread's namespace and begins to connect.
// Closing it resets the connection, so that neither side keeps any state.
func connectStart(to netip.AddrPort) (*os.File, error) {
	family := unix.AF_INET6
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	if to.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	if err == nil {
		err = unix.Connect(fd, sa)
	}
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), to.String()), nil
}

// connectFinish waits until the connection is made or has failed.
func connectFinish(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			failed = err
		case errno != 0:
			failed = unix.Errno(errno)
		default:
			_, err := unix.Getpeername(int(fd))
			return err == nil // not connected yet: wait
		}
		return true
	})
	if failed != nil {
		return fmt.Errorf("connect: %w", failed)
	}
	return err
}
