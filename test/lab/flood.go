package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// floodWindow is how many questions a flood keeps unanswered at most.
const floodWindow = 64

// repliesOnly passes ARP replies.
var repliesOnly = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 12, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: etherARP, SkipTrue: 3},
	bpf.LoadAbsolute{Off: etherLen + 6, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 2, SkipTrue: 1},
	bpf.RetConstant{Val: 64},
	bpf.RetConstant{Val: 0},
}

// FloodARP asks one station for an IPv4 address as fast as it answers, for so
// long, and returns its answers per second.
func (h *Host) FloodARP(ctx context.Context, ifname string, to MAC, addr netip.Addr, d time.Duration) (perSecond float64, err error) {
	question := arpRequest(h.MAC(ifname), h.Addr(ifname, false), addr)
	copy(question, to[:]) // to that station only
	ns, err := h.namespace()
	if err != nil {
		return 0, err
	}
	var sent, answered atomic.Int64
	err = ns.visit(func() error {
		link, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		file, err := packetSocket(link.Index, repliesOnly)
		if err != nil {
			return err
		}
		defer file.Close()
		fd := int(file.Fd()) // blocking from here on
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}); err != nil {
			return err
		}
		flooding, cancel := context.WithTimeout(ctx, d)
		defer cancel()
		g, flooding := errgroup.WithContext(flooding)
		g.Go(func() error { return flood(flooding, fd, question, &sent, &answered) })
		g.Go(func() error { return count(flooding, fd, &sent, &answered) })
		return g.Wait()
	})
	if err == nil && answered.Load() == 0 {
		err = fmt.Errorf("nobody at %s answers for %s", to, addr)
	}
	return float64(answered.Load()) / d.Seconds(), err
}

func flood(ctx context.Context, fd int, question []byte, sent, answered *atomic.Int64) error {
	for ctx.Err() == nil {
		if sent.Load()-answered.Load() >= floodWindow {
			runtime.Gosched() // let the other side run
			continue
		}
		if _, err := unix.Write(fd, question); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		sent.Add(1)
	}
	return nil
}

func count(ctx context.Context, fd int, sent, answered *atomic.Int64) error {
	buf := make([]byte, 128)
	for ctx.Err() == nil {
		switch _, err := unix.Read(fd, buf); {
		case err == nil:
			answered.Add(1)
		case errors.Is(err, unix.EAGAIN): // silence: what was asked is lost
			sent.Store(answered.Load())
		case !errors.Is(err, unix.EINTR):
			return err
		}
	}
	return nil
}
