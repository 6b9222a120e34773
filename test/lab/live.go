package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// talk sends every byte back, behind the node's name, until the caller closes.
func talk(name string) error {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(TalkPort))
	if err != nil {
		return err
	}
	defer l.Close()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() { // ends with the connection, or with the process
			defer conn.Close()
			_, _ = io.WriteString(conn, name+"\n")
			_, _ = io.Copy(conn, conn)
		}()
	}
}

// Live are connections that stay, and that are used all the time.
type Live struct {
	// Nodes counts the connections by the node at their other end.
	Nodes map[string]int

	conns []net.Conn
	stop  chan struct{}
	once  sync.Once
	wg    sync.WaitGroup

	mu     sync.Mutex
	broken []string
}

// Live makes n connections to the address's TalkPort and sends a byte over each
// at every interval, which has to come back within Patience.
func (h *Host) Live(ctx context.Context, addr netip.Addr, n int, every time.Duration) (*Live, error) {
	l := &Live{Nodes: map[string]int{}, stop: make(chan struct{})}
	h.own(l)
	for range n {
		conn, err := h.Dial(ctx, "tcp", netip.AddrPortFrom(addr, TalkPort).String())
		if err != nil {
			return l, err
		}
		l.conns = append(l.conns, conn)
		_ = conn.SetReadDeadline(time.Now().Add(Patience))
		var name strings.Builder
		for b := make([]byte, 1); ; name.WriteByte(b[0]) {
			if _, err := io.ReadFull(conn, b); err != nil {
				return l, fmt.Errorf("%s does not say who it is: %w", addr, err)
			}
			if b[0] == '\n' {
				break
			}
		}
		l.Nodes[name.String()]++
	}
	for i, conn := range l.conns {
		l.wg.Go(func() { l.use(conn, every, every*time.Duration(i)/time.Duration(n)) })
	}
	return l, nil
}

func (l *Live) use(conn net.Conn, every, first time.Duration) {
	t := time.NewTimer(first)
	defer t.Stop()
	b := []byte{'x'}
	for {
		select {
		case <-l.stop:
			return
		case <-t.C:
		}
		_ = conn.SetDeadline(time.Now().Add(Patience))
		_, err := conn.Write(b)
		if err == nil {
			_, err = io.ReadFull(conn, b)
		}
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				l.mu.Lock()
				l.broken = append(l.broken, err.Error())
				l.mu.Unlock()
			}
			return
		}
		t.Reset(every)
	}
}

// Broken lists what ended connections, one text for each.
func (l *Live) Broken() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.broken...)
}

// Close ends the connections in peace.
func (l *Live) Close() {
	l.once.Do(func() {
		close(l.stop)
		for _, conn := range l.conns {
			_ = conn.Close()
		}
	})
	l.wg.Wait()
}
