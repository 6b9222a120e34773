package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
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
// long, and returns its answers per second. Questions go out and answers come
// in by the window, a system call for each, so that the asking costs little.
func (h *Host) FloodARP(ctx context.Context, ifname string, to MAC, addr netip.Addr, d time.Duration) (perSecond float64, err error) {
	question := arpRequest(h.MAC(ifname), h.Addr(ifname, false), addr)
	copy(question, to[:]) // to that station only
	ns, err := h.namespace()
	if err != nil {
		return 0, err
	}
	answered, start := 0, time.Now()
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
		fd := file.Fd() // blocking from here on
		if err := unix.SetsockoptTimeval(int(fd), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}); err != nil {
			return err
		}
		questions, answers := newBatch(question), newBatch(make([]byte, 64))
		for start = time.Now(); time.Since(start) < d && ctx.Err() == nil; {
			sent, err := questions.do(unix.SYS_SENDMMSG, fd)
			if err != nil {
				return err
			}
			for sent > 0 {
				n, err := answers[:sent].do(unix.SYS_RECVMMSG, fd)
				if errors.Is(err, unix.EAGAIN) {
					break // the rest is lost
				}
				if err != nil {
					return err
				}
				sent -= n
				answered += n
			}
		}
		return nil
	})
	if err == nil && answered == 0 {
		err = fmt.Errorf("nobody at %s answers for %s", to, addr)
	}
	return float64(answered) / time.Since(start).Seconds(), err
}

// batch is the kernel's struct mmsghdr, a window of them.
type batch []struct {
	header unix.Msghdr
	len    uint32
	_      [4]byte
}

// newBatch is a window of messages that all use buf.
func newBatch(buf []byte) batch {
	iov := unix.Iovec{Base: &buf[0]}
	iov.SetLen(len(buf))
	b := make(batch, floodWindow)
	for i := range b {
		b[i].header.Iov = &iov
		b[i].header.SetIovlen(1)
	}
	return b
}

// do sends or receives all messages, or as many as go at once.
func (b batch) do(call, fd uintptr) (int, error) {
	for {
		flags := uintptr(0)
		if call == unix.SYS_RECVMMSG {
			flags = unix.MSG_WAITFORONE
		}
		n, _, errno := unix.Syscall6(call, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), flags, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return 0, errno
		default:
			return int(n), nil
		}
	}
}
