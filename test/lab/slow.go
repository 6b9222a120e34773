package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// slowQueue bounds the frames under way in one direction; more are lost, as on a
// real line.
const slowQueue = 4096

// SlowLine makes a host's cable long: every frame takes a while, in each
// direction, and frames keep their order.
type SlowLine struct {
	sw     *Switch
	host   string
	spare  netlink.Link // the end that is in the bridge meanwhile
	port   *os.File     // at the host's own port
	inner  *os.File
	delay  time.Duration
	jitter time.Duration
	stop   chan struct{}
	wg     sync.WaitGroup
}

// frameAt is a frame, with its virtio-net header, and when it arrives.
type frameAt struct {
	at   time.Time
	data []byte
}

// Slow gives the host's port a delay in each direction, and up to so much more at
// random, until Clear. The port leaves the bridge; a relay in this process carries
// its frames to another port that takes its place. Drop rules that name the host do
// not match meanwhile.
func (s *Switch) Slow(host string, delay, jitter time.Duration) (_ *SlowLine, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.ports[host]
	if !ok {
		return nil, fmt.Errorf("%s has no port for %s", s.name, host)
	}
	l := &SlowLine{sw: s, host: host, delay: delay, jitter: jitter, stop: make(chan struct{})}
	outer, inner := "out-"+host, "in-"+host
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: outer, TxQLen: 1000}, PeerName: inner}
	if err := s.ns.nl.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("%s: slow line of %s: %w", s.name, host, err)
	}
	defer func() {
		if err != nil {
			_ = s.ns.nl.LinkDel(veth)
		}
	}()
	if l.spare, err = s.ns.nl.LinkByName(outer); err != nil {
		return nil, err
	}
	in, err := s.ns.nl.LinkByName(inner)
	if err != nil {
		return nil, err
	}
	bridge, err := s.bridge(p.bridge)
	if err != nil {
		return nil, err
	}
	err = errors.Join(s.ns.nl.LinkSetMaster(l.spare, bridge), s.ns.nl.LinkSetUp(l.spare), s.ns.nl.LinkSetUp(in), s.ns.do(func() (err error) {
		if l.inner, err = relaySocket(in.Attrs().Index); err != nil {
			return err
		}
		l.port, err = relaySocket(p.link.Attrs().Index)
		return err
	}))
	if err == nil {
		err = s.ns.nl.LinkSetNoMaster(p.link)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: slow line of %s: %w", s.name, host, err), l.closeSockets())
	}
	l.start(l.port, l.inner)
	l.start(l.inner, l.port)
	return l, nil
}

// Clear puts the host's port back. Frames under way are lost.
func (l *SlowLine) Clear() error {
	close(l.stop)
	err := l.closeSockets()
	l.wg.Wait()
	s := l.sw
	s.mu.Lock()
	defer s.mu.Unlock()
	err = errors.Join(err, s.ns.nl.LinkDel(l.spare))
	p, ok := s.ports[l.host]
	if !ok {
		return err // unplugged meanwhile
	}
	bridge, missing := s.bridge(p.bridge)
	if missing != nil {
		return errors.Join(err, missing)
	}
	return errors.Join(err, s.ns.nl.LinkSetMaster(p.link, bridge))
}

func (l *SlowLine) closeSockets() (err error) {
	for _, f := range []*os.File{l.port, l.inner} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// start carries frames in one direction: one goroutine receives, one sends.
func (l *SlowLine) start(from, to *os.File) {
	line := make(chan frameAt, slowQueue)
	l.wg.Go(func() {
		defer close(line)
		last := time.Time{}
		buf := make([]byte, 1<<17)
		for {
			n, err := from.Read(buf)
			if errors.Is(err, os.ErrClosed) {
				return
			}
			if err != nil {
				continue // the port is down; it may come back
			}
			at := time.Now().Add(l.delay)
			if l.jitter > 0 {
				at = at.Add(rand.N(l.jitter))
			}
			if at.Before(last) {
				at = last
			}
			last = at
			select {
			case line <- frameAt{at, append([]byte(nil), buf[:n]...)}:
			default: // lost
			}
		}
	})
	l.wg.Go(func() {
		for f := range line {
			t := time.NewTimer(time.Until(f.at))
			select {
			case <-t.C:
				_, _ = to.Write(f.data) // a full queue loses it, as on a real line
			case <-l.stop:
				t.Stop()
			}
		}
	})
}

// relaySocket sees what comes in at the link and sends out of it. Frames have a
// virtio-net header, so that what the kernel left to a network card (checksums,
// segmentation) goes on as it came.
func relaySocket(ifindex int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: hostToNet16(unix.ETH_P_ALL), Ifindex: ifindex}))
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "relay"), nil
}
