package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Capture records every ARP and neighbour discovery frame that passes one port
// of a switch, in both directions.
type Capture struct {
	port string
	file *os.File

	mu     sync.Mutex
	frames []Frame
	raw    [][]byte
	drops  int

	once sync.Once
	wg   sync.WaitGroup
}

// Capture starts a capture at the host's port of the switch: what the host's
// cable carries.
func (s *Switch) Capture(host string) (*Capture, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.ports[host]
	if !ok {
		return nil, fmt.Errorf("%s has no port for %s", s.name, host)
	}
	c := &Capture{port: host}
	err := s.ns.do(func() (err error) {
		c.file, err = packetSocket(p.link.Attrs().Index, neighbourFilter)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("capture at %s port %s: %w", s.name, host, err)
	}
	c.wg.Go(c.receive)
	s.captures = append(s.captures, c)
	return c, nil
}

// neighbourFilter passes ARP, and ICMPv6 of type 135 and 136.
var neighbourFilter = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 12, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherARP, SkipTrue: 6},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: etherIPv6, SkipTrue: 6},
	bpf.LoadAbsolute{Off: etherLen + 6, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: icmpv6, SkipTrue: 4},
	bpf.LoadAbsolute{Off: etherLen + ipv6Len, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeNS, SkipTrue: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: typeNA, SkipTrue: 1},
	bpf.RetConstant{Val: 0xffff},
	bpf.RetConstant{Val: 0},
}

// packetSocket opens an AF_PACKET socket on the link in the thread's namespace,
// with kernel timestamps; filter first, then bind, so that nothing else gets in.
func packetSocket(ifindex int, filter []bpf.Instruction) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<20) // clipped to rmem_max
	}
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: hostToNet16(unix.ETH_P_ALL), Ifindex: ifindex}))
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "packet"), nil
}

func hostToNet16(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func (c *Capture) receive() {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return
	}
	buf, oob := make([]byte, 2048), make([]byte, 256)
	for {
		var n, oobn int
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, oobn, _, _, failed = unix.Recvmsg(int(fd), buf, oob, 0)
			return !errors.Is(failed, unix.EAGAIN)
		})
		if err != nil {
			return // closed
		}
		if failed != nil {
			continue // the port is down; it may come back
		}
		f, ok := decode(buf[:n])
		if !ok {
			continue
		}
		f.At, f.Port = kernelTime(oob[:oobn]), c.port
		c.mu.Lock()
		c.frames = append(c.frames, f)
		c.raw = append(c.raw, slices.Clone(buf[:n]))
		c.mu.Unlock()
	}
}

func kernelTime(oob []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err == nil {
		for _, m := range messages {
			if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
				return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
			}
		}
	}
	return time.Now()
}

// Frames copies what was seen in [from, to); the zero time is no bound.
func (c *Capture) Frames(from, to time.Time) []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Frame
	for _, f := range c.frames {
		if !f.At.Before(from) && (to.IsZero() || f.At.Before(to)) {
			out = append(out, f)
		}
	}
	return out
}

// Forget drops the frames from before the moment: a capture that runs for hours
// keeps what is still to be judged.
func (c *Capture) Forget(before time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for n < len(c.frames) && c.frames[n].At.Before(before) {
		n++
	}
	c.frames, c.raw = slices.Clone(c.frames[n:]), slices.Clone(c.raw[n:])
}

// Drops is the number of frames that the kernel threw away because the capture
// was too slow. A proof that rests on the capture needs it to be zero.
func (c *Capture) Drops() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	raw, err := c.file.SyscallConn()
	if err != nil {
		return c.drops
	}
	_ = raw.Control(func(fd uintptr) {
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			c.drops += int(st.Drops) // reading resets the kernel's count
		}
	})
	return c.drops
}

// Close ends the capture. Its frames stay.
func (c *Capture) Close() {
	c.once.Do(func() {
		c.Drops()
		_ = c.file.Close()
	})
	c.wg.Wait()
}

// WritePcap writes everything for tcpdump and Wireshark (nanosecond pcap).
func (c *Capture) WritePcap(path string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b23c4d)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0)
	for i, f := range c.frames {
		b = binary.LittleEndian.AppendUint32(b, uint32(f.At.Unix()))
		b = binary.LittleEndian.AppendUint32(b, uint32(f.At.Nanosecond()))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(c.raw[i])))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(c.raw[i])))
		b = append(b, c.raw[i]...)
	}
	return os.WriteFile(path, b, 0o644)
}
