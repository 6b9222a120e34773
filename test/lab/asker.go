package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/net/bpf"
)

// Asker broadcasts "who has ADDRESS?" over and over. A host that knows a
// neighbour does not ask again for a long time, so without it a second station
// that would answer stays unseen. Put it on a station of its own: the answers
// go to the asker alone and do not refresh the client's own entries.
type Asker struct {
	ifname   string
	mac      MAC
	from4    netip.Addr
	from6    netip.Addr
	file     *os.File
	interval time.Duration

	mu    sync.Mutex
	addrs []netip.Addr

	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup
}

// Ask starts an asker on the host's interface. Every address of SetAddrs is
// asked for once in each interval, spread evenly over it.
func (h *Host) Ask(ifname string, interval time.Duration) (*Asker, error) {
	a := &Asker{
		ifname: ifname, mac: h.MAC(ifname), from4: h.Addr(ifname, false), from6: h.Addr(ifname, true),
		interval: interval, stop: make(chan struct{}),
	}
	err := h.Do(func() error {
		link, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		// It only sends: let nothing in.
		a.file, err = packetSocket(link.Index, []bpf.Instruction{bpf.RetConstant{Val: 0}})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask at %s %s: %w", h.name, ifname, err)
	}
	a.wg.Go(a.run)
	h.own(a)
	return a, nil
}

// Announce broadcasts one ARP announcement (RFC 5227: a request whose sender and
// target are the address) from the interface: whoever hears it believes that the
// IPv4 address is here.
func (h *Host) Announce(ifname string, addr netip.Addr) error {
	return h.Do(func() error {
		link, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		file, err := packetSocket(link.Index, []bpf.Instruction{bpf.RetConstant{Val: 0}})
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = file.Write(arpRequest(h.MAC(ifname), addr, addr))
		return err
	})
}

// SetAddrs says which addresses to ask for from now on.
func (a *Asker) SetAddrs(addrs []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.addrs = addrs
}

func (a *Asker) run() {
	next := 0
	t := time.NewTimer(a.interval)
	defer t.Stop()
	for {
		select {
		case <-a.stop:
			return
		case <-t.C:
		}
		a.mu.Lock()
		addrs := a.addrs
		a.mu.Unlock()
		if len(addrs) == 0 {
			t.Reset(a.interval)
			continue
		}
		t.Reset(a.interval / time.Duration(len(addrs)))
		next = (next + 1) % len(addrs)
		a.ask(addrs[next])
	}
}

func (a *Asker) ask(addr netip.Addr) {
	from := a.from4
	if addr.Is6() {
		from = a.from6
	}
	if !from.IsValid() {
		return
	}
	_, err := a.file.Write(whoHas(a.mac, from, addr))
	if err != nil && !errors.Is(err, os.ErrClosed) {
		return // the link is down: the next one may go out
	}
}

// Close ends it.
func (a *Asker) Close() {
	a.once.Do(func() {
		close(a.stop)
		_ = a.file.Close()
	})
	a.wg.Wait()
}
