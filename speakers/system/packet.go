package system

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Protocol is what a packet socket is for.
type Protocol int

const (
	_ Protocol = iota
	// ARP carries requests and replies for IPv4.
	ARP
	// NDP carries neighbour solicitations and advertisements for IPv6.
	NDP
)

// String returns the protocol's name.
func (p Protocol) String() string {
	switch p {
	case ARP:
		return "arp"
	case NDP:
		return "ndp"
	default:
		return fmt.Sprintf("Protocol(%d)", int(p))
	}
}

// Packet types as in struct sockaddr_ll: to whom a frame was sent.
const (
	ToHost      = unix.PACKET_HOST
	ToAll       = unix.PACKET_BROADCAST
	ToGroup     = unix.PACKET_MULTICAST
	ToOtherHost = unix.PACKET_OTHERHOST
)

// receiveBatch is how many frames one system call takes at most.
const receiveBatch = 32

// receiveBuffer is asked for; it holds a few seconds of a resolution storm.
const receiveBuffer = 4 << 20

// Frame is one received Ethernet frame. It is valid until the next Receive.
type Frame struct {
	// Data begins at the destination address and is cut at 512 bytes. Its
	// capacity is at least 512, so that an answer can be built in place.
	Data []byte
	// Link is the index of the link that the frame came in on.
	Link int
	// Type is ToHost, ToAll, ToGroup or ToOtherHost.
	Type uint8
	// Time is the wall time at which the kernel took the frame in, in
	// nanoseconds since 1970; 0 if unknown.
	Time int64
}

// PacketConn is one AF_PACKET socket for all links of a network namespace. One
// goroutine may receive; any may send.
type PacketConn struct {
	file *os.File
	raw  syscall.RawConn
	poll func(fd uintptr) bool

	sending sync.RWMutex // held to write while fd is being closed
	fd      int          // -1 when closed

	// Receiver's own.
	count   int
	errno   syscall.Errno
	headers [receiveBatch]mmsghdr
	vectors [receiveBatch]unix.Iovec
	names   [receiveBatch]unix.RawSockaddrLinklayer
	control [receiveBatch][controlLength]byte
	buffers [receiveBatch][snapLength]byte
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// controlLength has room for one SCM_TIMESTAMPNS.
const controlLength = 64

// Listen opens a packet socket with a kernel filter for the protocol. It needs
// CAP_NET_RAW.
func Listen(p Protocol) (*PacketConn, error) {
	conn, err := listen(p)
	if err != nil {
		return nil, fmt.Errorf("open the %v socket: %w", p, err)
	}
	return conn, nil
}

func listen(p Protocol) (*PacketConn, error) {
	var program []bpf.Instruction
	var etherType uint16
	switch p {
	case ARP:
		program, etherType = arpFilter(), unix.ETH_P_ARP
	case NDP:
		program, etherType = ndpFilter(), unix.ETH_P_IPV6
	default:
		return nil, errors.New("unknown protocol")
	}
	// Protocol 0 receives nothing until the bind, when the filter is on.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := prepare(fd, program, etherType); err != nil {
		unix.Close(fd)
		return nil, err
	}
	c := &PacketConn{fd: fd, file: os.NewFile(uintptr(fd), "packet:"+p.String())}
	if c.raw, err = c.file.SyscallConn(); err != nil {
		c.file.Close()
		return nil, err
	}
	c.poll = c.receive // bound once: a method value would be allocated anew for each call
	for i := range c.headers {
		c.vectors[i] = unix.Iovec{Base: &c.buffers[i][0], Len: snapLength}
	}
	return c, nil
}

// prepare sets options and binds to all links.
func prepare(fd int, program []bpf.Instruction, etherType uint16) error {
	if err := attachFilter(fd, program); err != nil {
		return err
	}
	// The forced form needs CAP_NET_ADMIN; the plain one is cut at rmem_max.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer); err != nil {
			return fmt.Errorf("set the receive buffer: %w", err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return fmt.Errorf("ask for receive times: %w", err)
	}
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(etherType)})
}

func networkOrder(v uint16) uint16 { return v<<8 | v>>8 }

// Receive waits for frames and returns how many there are; Frame tells each.
// It fails with an error that wraps net.ErrClosed after Close. It allocates
// nothing.
func (c *PacketConn) Receive() (int, error) {
	if err := c.raw.Read(c.poll); err != nil {
		// The runtime's own error for this cannot be named outside of it.
		if c.closed() {
			err = net.ErrClosed
		}
		return 0, err
	}
	if c.errno != 0 {
		return 0, os.NewSyscallError("recvmmsg", c.errno)
	}
	return c.count, nil
}

// receive takes what is there and reports whether it was anything.
func (c *PacketConn) receive(fd uintptr) bool {
	for i := range c.headers {
		h := &c.headers[i].hdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&c.names[i])), unix.SizeofSockaddrLinklayer
		h.Iov, h.Iovlen = &c.vectors[i], 1
		h.Control, h.Controllen = &c.control[i][0], controlLength
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd,
		uintptr(unsafe.Pointer(&c.headers[0])), receiveBatch, unix.MSG_DONTWAIT, 0, 0)
	switch errno {
	case 0:
		c.count, c.errno = int(n), 0
	case unix.EAGAIN, unix.EINTR:
		return false
	case unix.ENETDOWN:
		// A link went down; the socket stays good for the others.
		c.count, c.errno = 0, 0
	default:
		c.count, c.errno = 0, errno
	}
	return true
}

// Frame returns the i-th frame of the last Receive.
func (c *PacketConn) Frame(i int) Frame {
	length := min(int(c.headers[i].len), snapLength)
	return Frame{
		Data: c.buffers[i][:length],
		Link: int(c.names[i].Ifindex),
		Type: c.names[i].Pkttype,
		Time: timestamp(c.control[i][:c.headers[i].hdr.Controllen]),
	}
}

// timestamp reads the one control message that was asked for.
func timestamp(control []byte) int64 {
	const header = unix.SizeofCmsghdr
	if len(control) < header+int(unsafe.Sizeof(unix.Timespec{})) {
		return 0
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	if h.Level != unix.SOL_SOCKET || h.Type != unix.SO_TIMESTAMPNS {
		return 0
	}
	return (*unix.Timespec)(unsafe.Pointer(&control[header])).Nano()
}

// Send puts one Ethernet frame on a link. It does not wait: a full queue is an
// error that wraps unix.EAGAIN or unix.ENOBUFS. It allocates nothing when it
// succeeds.
func (c *PacketConn) Send(link int, frame []byte) error {
	if len(frame) == 0 {
		return os.NewSyscallError("sendto", unix.EINVAL)
	}
	to := unix.RawSockaddrLinklayer{
		Family:   unix.AF_PACKET,
		Protocol: networkOrder(uint16(frame[offEtherType])<<8 | uint16(frame[offEtherType+1])),
		Ifindex:  int32(link),
		Halen:    6,
	}
	copy(to.Addr[:6], frame)
	c.sending.RLock()
	defer c.sending.RUnlock()
	if c.fd < 0 {
		return net.ErrClosed
	}
	for {
		_, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(c.fd),
			uintptr(unsafe.Pointer(&frame[0])), uintptr(len(frame)), unix.MSG_DONTWAIT,
			uintptr(unsafe.Pointer(&to)), unix.SizeofSockaddrLinklayer)
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return os.NewSyscallError("sendto", errno)
		}
	}
}

// Lost returns how many frames the kernel has dropped since the last call,
// because the receiver was too slow.
func (c *PacketConn) Lost() (uint32, error) {
	c.sending.RLock()
	defer c.sending.RUnlock()
	if c.fd < 0 {
		return 0, net.ErrClosed
	}
	stats, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, os.NewSyscallError("getsockopt", err)
	}
	return stats.Drops, nil
}

func (c *PacketConn) closed() bool {
	c.sending.RLock()
	defer c.sending.RUnlock()
	return c.fd < 0
}

// Close ends Receive and Send.
func (c *PacketConn) Close() error {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.fd = -1
	return c.file.Close()
}
