package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/raftnode/storage"
)

// ALPN protocols on a member's port.
const (
	ProtoRaft = "qlb-raft/1"
	ProtoGRPC = "h2"
)

// ErrRole means that a certificate's role may not do what it is used for.
var ErrRole = errors.New("the certificate's role does not fit")

// Config of a Mux.
type Config struct {
	// Name of this member; its certificate's role must be member/<name>.
	Name string
	// Listen is the address to bind, host:port.
	Listen string
	// Advertise is what others are told, host:port; empty means the bound address.
	Advertise string
	// Identity gives the TLS configurations.
	Identity *pki.Reloader
	// HandshakeTimeout limits a handshake and the hand-over; 0 means 5 s.
	HandshakeTimeout time.Duration
	// MaxHandshakes is how many run at a time; 0 means 128.
	MaxHandshakes int
	Logger        *slog.Logger
}

// Counters of a Mux since its start.
type Counters struct {
	// Raft and GRPC count connections that were handed on.
	Raft, GRPC atomic.Uint64
	// Failed counts handshakes that failed, Refused peers whose role does not fit.
	Failed, Refused atomic.Uint64
}

// Mux is a listener for two protocols.
type Mux struct {
	cfg    Config
	ln     net.Listener
	addr   net.Addr // advertised
	server *tls.Config
	log    *slog.Logger

	// Counters may be read at any time.
	Counters Counters

	raft, grpc *handover
	// raftID is the id that Raft connections must be meant for; nil before Raft.SetID.
	raftID    atomic.Pointer[string]
	done      chan struct{}
	closeOnce sync.Once

	mu    sync.Mutex
	conns map[*conn]struct{} // nil after Close
}

// Listen binds the port. Nothing is accepted before Run.
func Listen(cfg Config) (*Mux, error) {
	if cfg.HandshakeTimeout <= 0 {
		cfg.HandshakeTimeout = 5 * time.Second
	}
	if cfg.MaxHandshakes <= 0 {
		cfg.MaxHandshakes = 128
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if role := cfg.Identity.Role(); !isMember(role, cfg.Name) {
		return nil, fmt.Errorf("%w: certificate says %s, want member/%s", ErrRole, role, cfg.Name)
	}
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	m := &Mux{
		cfg:    cfg,
		ln:     ln,
		addr:   advertised(cfg.Advertise, ln.Addr()),
		server: cfg.Identity.ServerTLS(ProtoRaft, ProtoGRPC),
		log:    cfg.Logger,
		done:   make(chan struct{}),
		conns:  make(map[*conn]struct{}),
	}
	m.raft, m.grpc = newHandover(m.addr), newHandover(ln.Addr())
	return m, nil
}

// isMember tells whether a role is that of the member of this name, by name or
// by one of the ids that the name had.
func isMember(r pki.Role, name string) bool {
	return r.Kind == pki.KindMember && storage.MemberName(r.Name) == name
}

// address is a net.Addr of a host and port that need not be an IP address.
type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

func advertised(advertise string, bound net.Addr) net.Addr {
	if advertise == "" {
		return bound
	}
	return address(advertise)
}

// Addr is the bound address.
func (m *Mux) Addr() net.Addr { return m.ln.Addr() }

// Advertised is the address that other members are told.
func (m *Mux) Advertised() string { return m.addr.String() }

// GRPC gives a listener for gRPC. Use it with Credentials. A server that stops
// closes its listener; the next one gets another.
func (m *Mux) GRPC() net.Listener { return newView(m.grpc) }

// Run accepts connections until Close is called or ctx ends, which closes. It
// returns when its goroutines have ended.
func (m *Mux) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, m.Close)
	defer stop()
	defer m.Close()
	var handshakes sync.WaitGroup
	defer handshakes.Wait()
	slots := make(chan struct{}, m.cfg.MaxHandshakes)
	var delay time.Duration
	for {
		// Without a free slot new connections wait in the kernel's queue.
		select {
		case slots <- struct{}{}:
		case <-m.done:
			return nil
		}
		raw, err := m.ln.Accept()
		if err != nil {
			<-slots
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			// Out of file descriptors, most often; it passes.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			m.log.Error("accept failed", "error", err, "retry_in", delay)
			if !m.sleep(delay) {
				return nil
			}
			continue
		}
		delay = 0
		handshakes.Go(func() {
			defer func() { <-slots }()
			m.handle(raw)
		})
	}
}

func (m *Mux) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-m.done:
		return false
	}
}

// handle does the handshake of one connection and hands it on.
func (m *Mux) handle(raw net.Conn) {
	c := &conn{Conn: tls.Server(raw, m.server), raw: raw, mux: m}
	if !m.track(c) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.cfg.HandshakeTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		m.Counters.Failed.Add(1)
		level := slog.LevelInfo
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			// A port check, or our own Close.
			level = slog.LevelDebug
		}
		m.log.Log(ctx, level, "handshake failed", "remote", raw.RemoteAddr(), "error", err)
		c.abort()
		return
	}
	to, err := m.choose(c.ConnectionState())
	if err != nil {
		m.Counters.Refused.Add(1)
		level := slog.LevelWarn
		if errors.Is(err, ErrWrongMember) {
			level = slog.LevelDebug // until the group has forgotten the old id, several times a second
		}
		m.log.Log(ctx, level, "connection refused", "remote", raw.RemoteAddr(), "error", err)
		c.abort()
		return
	}
	c.raft.Store(to == m.raft)
	if !to.give(ctx, c) {
		c.abort()
	}
}

// choose gives the one that a connection is for.
func (m *Mux) choose(s tls.ConnectionState) (*handover, error) {
	role, err := pki.RoleFromState(s)
	if err != nil {
		return nil, err
	}
	switch s.NegotiatedProtocol {
	case ProtoGRPC:
		m.Counters.GRPC.Add(1)
		return m.grpc, nil
	case ProtoRaft:
		if role.Kind != pki.KindMember {
			return nil, fmt.Errorf("%w: %s speaks Raft", ErrRole, role)
		}
		// The name that a Raft client indicates is the id that it wants. Whoever
		// still means the id that this member had with another disk must not get
		// answers: they would count as that id's.
		if id := m.raftID.Load(); id == nil || s.ServerName != *id {
			return nil, fmt.Errorf("%w: %s wants %q", ErrWrongMember, role, s.ServerName)
		}
		m.Counters.Raft.Add(1)
		return m.raft, nil
	default:
		return nil, fmt.Errorf("no protocol negotiated by %s", role)
	}
}

// track notes a connection for Close; false means that it is too late.
func (m *Mux) track(c *conn) bool {
	m.mu.Lock()
	if m.conns == nil {
		m.mu.Unlock()
		_ = c.raw.Close()
		return false
	}
	defer m.mu.Unlock()
	m.conns[c] = struct{}{}
	return true
}

func (m *Mux) forget(c *conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.conns, c)
}

// Close stops listening and ends every connection, also those that were handed
// on and those that were dialed. It may be called more than once.
func (m *Mux) Close() {
	m.closeOnce.Do(func() {
		close(m.done)
		_ = m.ln.Close()
		_ = m.raft.Close()
		_ = m.grpc.Close()
		m.mu.Lock()
		conns := m.conns
		m.conns = nil
		m.mu.Unlock()
		for c := range conns {
			c.abort()
		}
	})
}

// conn is a connection that its Mux can end.
type conn struct {
	*tls.Conn
	raw net.Conn
	mux *Mux
	// raft is set when Raft has it.
	raft atomic.Bool
}

// Close ends the connection in order.
func (c *conn) Close() error {
	c.mux.forget(c)
	return c.Conn.Close()
}

// abort ends the connection at once, without TLS's farewell, which waits for a
// peer that does not read.
func (c *conn) abort() {
	c.mux.forget(c)
	_ = c.raw.Close()
}

// handover is a listener whose connections come from handshakes.
type handover struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandover(addr net.Addr) *handover {
	return &handover{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// give hands a connection to Accept; false if nobody took it in time.
func (h *handover) give(ctx context.Context, c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.done:
	case <-ctx.Done():
	}
	return false
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handover) Addr() net.Addr { return h.addr }

func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// view is a listener on a handover that can be closed without it.
type view struct {
	*handover
	done chan struct{}
	once sync.Once
}

func newView(h *handover) *view { return &view{handover: h, done: make(chan struct{})} }

func (v *view) Accept() (net.Conn, error) {
	select {
	case c := <-v.conns:
		return c, nil
	case <-v.done:
	case <-v.handover.done:
	}
	return nil, net.ErrClosed
}

func (v *view) Close() error {
	v.once.Do(func() { close(v.done) })
	return nil
}
