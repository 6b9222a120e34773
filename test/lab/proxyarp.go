package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// ProxyARP answers every ARP request for an address of a prefix, as some routers
// do for what lies behind them. (The kernel's own does not answer requests without a
// sender address.)
type ProxyARP struct {
	file   *os.File
	mac    MAC
	prefix netip.Prefix
	once   sync.Once
	wg     sync.WaitGroup
}

// onlyARP lets ARP through.
var onlyARP = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 12, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_ARP, SkipFalse: 1},
	bpf.RetConstant{Val: 0xffff},
	bpf.RetConstant{Val: 0},
}

// AnswerForAll makes the host answer for the prefix on an interface.
func (h *Host) AnswerForAll(ifname string, prefix netip.Prefix) (*ProxyARP, error) {
	p := &ProxyARP{mac: h.MAC(ifname), prefix: prefix}
	err := h.Do(func() error {
		link, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		p.file, err = packetSocket(link.Index, onlyARP)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("answer for %s at %s %s: %w", prefix, h.name, ifname, err)
	}
	p.wg.Go(p.run)
	h.own(p)
	return p, nil
}

func (p *ProxyARP) run() {
	buf := make([]byte, 2048)
	for {
		n, err := p.file.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil || n < 42 || binary.BigEndian.Uint16(buf[20:]) != 1 || MAC(buf[6:12]) == p.mac {
			continue
		}
		target := netip.AddrFrom4([4]byte(buf[38:42]))
		if !p.prefix.Contains(target) {
			continue
		}
		reply := append([]byte(nil), buf[6:12]...)
		reply = append(reply, p.mac[:]...)
		reply = append(reply, buf[12:20]...)
		reply = append(reply, 0, 2)
		reply = append(reply, p.mac[:]...)
		reply = append(reply, buf[38:42]...)
		reply = append(reply, buf[22:32]...)
		_, _ = p.file.Write(reply)
	}
}

// Close ends it.
func (p *ProxyARP) Close() {
	p.once.Do(func() { _ = p.file.Close() })
	p.wg.Wait()
}
