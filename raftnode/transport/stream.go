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
	"github.com/quorumlb/quorumlb/raftnode/storage"
)

// ErrWrongMember means that an address belongs to another member than the one
// that was meant, or to the same one with another disk and id.
var ErrWrongMember = errors.New("another member has this address")

// forgetFailure is how long a failed dial is remembered.
const forgetFailure = 5 * time.Second

// stream is Raft's side of a Mux: a raft.StreamLayer. Addresses that it dials
// are "id@host:port"; the host is resolved anew by every dial.
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
func target(id, addr string) raft.ServerAddress { return raft.ServerAddress(id + "@" + addr) }

// Dial connects to a member and makes sure that it is the one.
func (s *stream) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, addr, ok := strings.Cut(string(to), "@")
	if !ok {
		return nil, fmt.Errorf("dial %q: not id@host:port", to)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := s.dial(ctx, id, addr)
	s.note(addr, err)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", to, err)
	}
	return c, nil
}

// dial connects to an id. The server compares it with its own, see Mux.choose;
// the name in it is compared here with the certificate's.
func (s *stream) dial(ctx context.Context, id, addr string) (net.Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	cfg := s.client.Clone()
	cfg.ServerName = id
	c := &conn{Conn: tls.Client(raw, cfg), raw: raw, mux: s.mux}
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
	case !isMember(role, storage.MemberName(id)):
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
