package service

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/quorumlb/quorumlb/internal/sent"
	"github.com/quorumlb/quorumlb/internal/window"
)

// Peers keeps a gRPC connection to every member that was called.
type Peers struct {
	opts []grpc.DialOption

	mu     sync.Mutex
	closed bool
	conns  map[string]*grpc.ClientConn
}

// NewPeers calls members with the configuration, which must check that the
// server is a member.
func NewPeers(conf *tls.Config, opts ...grpc.DialOption) *Peers {
	opts = append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(conf)),
		sent.DialOption(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 2 * time.Second}),
	}, append(window.Dial(), opts...)...)
	return &Peers{opts: opts, conns: make(map[string]*grpc.ClientConn)}
}

var errPeersClosed = errors.New("the member is stopping")

// Conn gives the connection to a member at host:port. It does not wait for it.
func (p *Peers) Conn(addr string) (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errPeersClosed
	}
	conn := p.conns[addr]
	if conn == nil {
		var err error
		if conn, err = grpc.NewClient("passthrough:///"+addr, p.opts...); err != nil {
			return nil, fmt.Errorf("connect to member at %s: %w", addr, err)
		}
		p.conns[addr] = conn
	}
	if conn.GetState() == connectivity.TransientFailure {
		conn.ResetConnectBackoff() // somebody needs it now
	}
	return conn, nil
}

// Close closes all connections; calls on them fail.
func (p *Peers) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var errs []error
	for _, c := range p.conns {
		errs = append(errs, c.Close())
	}
	clear(p.conns)
	return errors.Join(errs...)
}
