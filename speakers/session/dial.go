package session

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/quorumlb/quorumlb/internal/window"
)

const (
	// resolveTimeout is how long a name may take before the address that it had
	// the last time is used.
	resolveTimeout = 250 * time.Millisecond
	// handshakeTimeout bounds a connection attempt after TCP stands.
	handshakeTimeout = 2 * time.Second
	// reconnectDelay is the wait between two attempts: at most h in every profile.
	reconnectDelay = 40 * time.Millisecond
	// maxMessage bounds what a member may send: a view of a million addresses.
	maxMessage = 64 << 20
	// bufferSize keeps the memory of a connection small.
	bufferSize = 4 << 10
)

// dialer opens TCP connections that notice soon when the other side is gone.
type dialer struct {
	times func() *times

	mu sync.Mutex
	// known are the addresses (IP:port) that names were connected at.
	known map[string]string
	// learned is called when known has changed.
	learned func()
}

// dial connects to host:port.
func (d *dialer) dial(ctx context.Context, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	candidates := []string{address}
	if net.ParseIP(host) == nil {
		candidates, err = d.resolve(ctx, host, port)
		if err != nil {
			return nil, err
		}
	}
	var errs []error
	for _, c := range candidates {
		conn, err := d.connect(ctx, c)
		if err == nil {
			d.remember(address, c)
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// resolve returns the addresses of a name, or else the one that it had.
func (d *dialer) resolve(ctx context.Context, host, port string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		if last := d.known[net.JoinHostPort(host, port)]; last != "" {
			return []string{last}, nil
		}
		return nil, err
	}
	var out []string
	for _, ip := range ips {
		out = append(out, net.JoinHostPort(ip.Unmap().String(), port))
	}
	return out, nil
}

// connect gives up early and is tried again soon, rather than wait for the
// kernel's second SYN after a full second.
func (d *dialer) connect(ctx context.Context, address string) (net.Conn, error) {
	t := d.times()
	patience := max(2*t.heartbeat, 200*time.Millisecond)
	// Data that nobody acknowledges for so long has nobody to go to.
	unacked := max(t.detection, 500*time.Millisecond)
	nd := net.Dialer{
		Timeout:         patience,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3},
		Control: func(_, _ string, c syscall.RawConn) error {
			var serr error
			err := c.Control(func(fd uintptr) {
				serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacked.Milliseconds()))
			})
			return errors.Join(err, serr)
		},
	}
	return nd.DialContext(ctx, "tcp", address)
}

func (d *dialer) remember(address, at string) {
	d.mu.Lock()
	changed := d.known[address] != at
	d.known[address] = at
	d.mu.Unlock()
	if changed {
		d.learned()
	}
}

// client makes a connection that is opened when it is first used, and only then.
func (d *dialer) client(cfg Config, address string) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if cfg.TLS != nil {
		creds = credentials.NewTLS(cfg.TLS)
	}
	return grpc.NewClient("passthrough:///"+address, append(window.Dial(),
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(d.dial),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithReadBufferSize(bufferSize), grpc.WithWriteBufferSize(bufferSize),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		// (ResetConnectBackoff, with a longer delay here, is not safe to call while a
		// connection is being made: grpc-go 1.85 reads a map without its lock.)
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: reconnectDelay, Multiplier: 1, Jitter: 0.1, MaxDelay: reconnectDelay},
			MinConnectTimeout: handshakeTimeout,
		}),
	)...)
}
