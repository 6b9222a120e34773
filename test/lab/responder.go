package lab

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sync/errgroup"
)

// Ports of the responder.
const (
	EchoPort    = 7007 // UDP: the datagram comes back with the node's name behind it
	GreeterPort = 8080 // TCP: whoever connects is told the node's name
	TalkPort    = 8081 // TCP: the node's name, and then every byte comes back
)

// StartResponder runs the service that the probes talk to, on all addresses
// that the host has now or will get.
func (h *Host) StartResponder() (*Process, error) {
	return h.StartRole("responder", "responder", "-name", h.name)
}

func runResponder(args []string) error {
	flags := flag.NewFlagSet("responder", flag.ContinueOnError)
	name := flags.String("name", "", "answer with this name")
	if err := flags.Parse(args); err != nil {
		return err
	}
	g, _ := errgroup.WithContext(context.Background())
	g.Go(func() error { return echo4(*name) })
	g.Go(func() error { return echo6(*name) })
	g.Go(func() error { return greet(*name) })
	g.Go(func() error { return talk(*name) })
	return g.Wait()
}

// echo4 answers from the address that was asked, which a wildcard socket has to
// be told to do.
func echo4(name string) error {
	conn, err := net.ListenPacket("udp4", fmt.Sprintf("0.0.0.0:%d", EchoPort))
	if err != nil {
		return err
	}
	defer conn.Close()
	p := ipv4.NewPacketConn(conn)
	if err := p.SetControlMessage(ipv4.FlagDst, true); err != nil {
		return err
	}
	buf := make([]byte, 2048)
	for {
		n, cm, from, err := p.ReadFrom(buf[:1024])
		if err != nil {
			return err
		}
		// A failed answer is the prober's lost datagram.
		_, _ = p.WriteTo(append(buf[:n], name...), &ipv4.ControlMessage{Src: cm.Dst}, from)
	}
}

func echo6(name string) error {
	conn, err := net.ListenPacket("udp6", fmt.Sprintf("[::]:%d", EchoPort))
	if err != nil {
		return err
	}
	defer conn.Close()
	p := ipv6.NewPacketConn(conn)
	if err := p.SetControlMessage(ipv6.FlagDst, true); err != nil {
		return err
	}
	buf := make([]byte, 2048)
	for {
		n, cm, from, err := p.ReadFrom(buf[:1024])
		if err != nil {
			return err
		}
		_, _ = p.WriteTo(append(buf[:n], name...), &ipv6.ControlMessage{Src: cm.Dst}, from)
	}
}

// greet tells every caller the node's name and waits for the caller to close
// first, so that no TIME_WAIT piles up here.
func greet(name string) error {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(GreeterPort))
	if err != nil {
		return err
	}
	defer l.Close()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() { // ends with the connection, after 5 s at the latest
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			_, _ = io.WriteString(conn, name+"\n")
			_, _ = io.Copy(io.Discard, conn)
		}()
	}
}

// Greet asks the responder at the address who it is.
func (h *Host) Greet(ctx context.Context, addr netip.Addr) (string, error) {
	conn, err := h.Dial(ctx, "tcp", netip.AddrPortFrom(addr, GreeterPort).String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	if n > 0 && buf[n-1] == '\n' {
		return string(buf[:n-1]), nil
	}
	return "", errors.Join(io.ErrUnexpectedEOF, err)
}

// Burn keeps each of the machine's cores busy, times over, until stop is called.
func (h *Host) Burn(times int) (stop func(), err error) {
	var procs []*Process
	stop = func() {
		for _, p := range procs {
			_ = p.Kill()
		}
	}
	for range times * runtime.NumCPU() {
		p, err := h.StartRole("burn", "burn")
		if err != nil {
			stop()
			return nil, err
		}
		procs = append(procs, p)
	}
	return stop, nil
}

// runBurn keeps one core busy until it is killed.
func runBurn([]string) error {
	for parent := os.Getppid(); os.Getppid() == parent; {
		for i := 0; i < 1<<24; i++ { //nolint:revive // this is the work
		}
	}
	return nil
}
