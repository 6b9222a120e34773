package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// UDPProbe sends numbered datagrams to an address and notes which came back,
// when, and from which node.
type UDPProbe struct {
	series
	Addr netip.Addr
	conn *net.UDPConn
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup
}

// ProbeUDP starts a probe on the host: a datagram to the address's EchoPort at
// every interval.
func (h *Host) ProbeUDP(addr netip.Addr, every time.Duration) (*UDPProbe, error) {
	p := &UDPProbe{Addr: addr, stop: make(chan struct{})}
	err := h.Do(func() (err error) {
		p.conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, EchoPort)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("probe %s: %w", addr, err)
	}
	p.wg.Go(func() { ticker(every, p.stop, p.send) })
	p.wg.Go(p.receive)
	h.own(p)
	return p, nil
}

func (p *UDPProbe) send() {
	i := p.add(Sample{Sent: time.Now()})
	// An error (no neighbour, port unreachable) is a datagram without an answer.
	_, _ = p.conn.Write(binary.BigEndian.AppendUint64(nil, uint64(i)))
}

func (p *UDPProbe) receive() {
	buf := make([]byte, 256)
	for {
		n, err := p.conn.Read(buf)
		now := time.Now()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 8 {
			continue // an ICMP error of an earlier datagram
		}
		p.update(int(binary.BigEndian.Uint64(buf)), func(s *Sample) {
			if s.Answered.IsZero() {
				s.Answered, s.Node = now, string(buf[8:n])
			}
		})
	}
}

// Close ends the probe. Its samples stay.
func (p *UDPProbe) Close() {
	p.once.Do(func() {
		close(p.stop)
		_ = p.conn.Close()
	})
	p.wg.Wait()
}
