package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorumlb/quorumlb/internal/pki"
)

// ErrWrongMember means that an address was answered by another member than the
// one that was meant.
var ErrWrongMember = errors.New("another member answers at this address")

// forgetFailure is how long a failed dial is remembered.
const forgetFailure = 5 * time.Second

// stream is Raft's side of a Mux: a raft.StreamLayer. Addresses that it dials
// are "member@host:port"; the host is resolved anew by every dial.
type stream struct {
	mux    *Mux
	client *tls.Config

	mu     sync.Mutex
	failed map[string]time.Time // by host:port
}

func newStream(m *Mux) *stream {
	return &stream{
		mux:    m,
		client: m.cfg.Identity.ClientTLS(pki.KindMember, ProtoRaft),
		failed: make(map[string]time.Time),
	}
}

func (s *stream) Accept() (net.Conn, error) { return s.mux.raft.Accept() }
func (s *stream) Close() error              { return s.mux.raft.Close() }
func (s *stream) Addr() net.Addr            { return s.mux.addr }

// target is how a member at an address is written for Dial.
func target(member, addr string) raft.ServerAddress {
	return raft.ServerAddress(member + "@" + addr)
}

// Dial connects to a member and makes sure that it is the one.
func (s *stream) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	member, addr, ok := strings.Cut(string(to), "@")
	if !ok {
		return nil, fmt.Errorf("dial %q: not member@host:port", to)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := s.dial(ctx, member, addr)
	s.note(addr, err)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", to, err)
	}
	return c, nil
}

func (s *stream) dial(ctx context.Context, member, addr string) (net.Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: tls.Client(raw, s.client), raw: raw, mux: s.mux}
	c.raft.Store(true)
	if !s.mux.track(c) {
		return nil, net.ErrClosed
	}
	if err := c.HandshakeContext(ctx); err != nil {
		c.abort()
		return nil, err
	}
	state := c.ConnectionState()
	// The chain was verified by the client configuration.
	role, err := pki.RoleFromCertificate(state.PeerCertificates[0])
	switch {
	case err != nil:
	case !isMember(role, member):
		err = fmt.Errorf("%w: %s", ErrWrongMember, role)
	case state.NegotiatedProtocol != ProtoRaft:
		err = fmt.Errorf("peer speaks %q, not %s", state.NegotiatedProtocol, ProtoRaft)
	}
	if err != nil {
		c.abort()
		return nil, err
	}
	return c, nil
}

// note remembers whether an address could be reached.
func (s *stream) note(addr string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.failed, addr)
	} else {
		s.failed[addr] = time.Now()
	}
}

// unreachable tells whether an address could not be reached just now.
func (s *stream) unreachable(addr string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.failed[addr]
	if ok && time.Since(at) > forgetFailure {
		delete(s.failed, addr)
		ok = false
	}
	return ok
}
