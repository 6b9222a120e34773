package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/internal/pki"
)

const patience = 10 * time.Second

func newCA(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// identity gives the identity of a role, issued by ca.
func identity(t *testing.T, ca *pki.CA, role string) *pki.Reloader {
	t.Helper()
	id, err := pki.NewReloader(identityFiles(t, ca, role, time.Hour), nil)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func identityFiles(t *testing.T, ca *pki.CA, role string, validity time.Duration) pki.Files {
	t.Helper()
	dir := t.TempDir()
	f := pki.Files{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	writeIdentity(t, f, ca, role, validity)
	return f
}

func writeIdentity(t *testing.T, f pki.Files, ca *pki.CA, role string, validity time.Duration) {
	t.Helper()
	r, err := pki.ParseRole(role)
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue(r, nil, time.Now(), validity)
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{f.CA: ca.CertPEM(), f.Cert: cert, f.Key: key} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// startMux starts the port of a member on loopback.
func startMux(t *testing.T, ca *pki.CA, name string, change func(*Config)) *Mux {
	t.Helper()
	cfg := Config{Name: name, Listen: "127.0.0.1:0", Identity: identity(t, ca, "member/"+name)}
	if change != nil {
		change(&cfg)
	}
	m, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- m.Run(context.Background()) }()
	t.Cleanup(func() {
		m.Close()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("Run did not end")
		}
	})
	return m
}

// serveGRPC serves health checks and reports the role of who asks.
func serveGRPC(t *testing.T, m *Mux) <-chan pki.Role {
	t.Helper()
	roles := make(chan pki.Role, 16)
	srv := grpc.NewServer(grpc.Creds(Credentials()), grpc.UnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			p, ok := peer.FromContext(ctx)
			if !ok {
				return nil, status.Error(codes.Internal, "no peer")
			}
			info, ok := p.AuthInfo.(credentials.TLSInfo)
			if !ok {
				return nil, status.Errorf(codes.Internal, "auth info is %T", p.AuthInfo)
			}
			role, err := pki.RoleFromState(info.State)
			if err != nil {
				return nil, status.Error(codes.Unauthenticated, err.Error())
			}
			roles <- role
			return next(ctx, req)
		}))
	healthv1.RegisterHealthServer(srv, health.NewServer())
	go func() { _ = srv.Serve(m.GRPC()) }()
	t.Cleanup(srv.Stop)
	return roles
}

func check(t *testing.T, addr string, creds credentials.TransportCredentials) error {
	t.Helper()
	c, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = healthv1.NewHealthClient(c).Check(ctx, &healthv1.HealthCheckRequest{})
	return err
}

func TestGRPCSeesTheRole(t *testing.T) {
	ca := newCA(t)
	m := startMux(t, ca, "m1", nil)
	roles := serveGRPC(t, m)
	for _, want := range []string{"member/m2", "speaker/n1", "admin/alice", "viewer/bob"} {
		if err := check(t, m.Addr().String(), ClientCredentials(identity(t, ca, want))); err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		if got := <-roles; got.String() != want {
			t.Fatalf("served %s, want %s", got, want)
		}
	}
	if n := m.Counters.GRPC.Load(); n != 4 {
		t.Fatalf("counted %d connections, want 4", n)
	}
}

func TestGRPCRefusesForeigners(t *testing.T) {
	ca, foreign := newCA(t), newCA(t)
	m := startMux(t, ca, "m1", nil)
	serveGRPC(t, m)
	if err := check(t, m.Addr().String(), ClientCredentials(identity(t, foreign, "admin/alice"))); status.Code(err) != codes.Unavailable {
		t.Fatalf("foreign client: %v, want Unavailable", err)
	}
}

// echo accepts Raft connections and sends back what comes.
func echo(t *testing.T, s *stream) {
	t.Helper()
	s.mux.raftID.Store(&s.mux.cfg.Name)
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

func ping(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 4))
	return err
}

func TestRaftStream(t *testing.T) {
	ca := newCA(t)
	a, b := startMux(t, ca, "m1", nil), startMux(t, ca, "m2", nil)
	echo(t, newStream(b))
	c, err := newStream(a).Dial(target("m2", b.Addr().String()), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := ping(c); err != nil {
		t.Fatal(err)
	}
	// A name is resolved at each dial.
	_, port, err := net.SplitHostPort(b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if c, err := newStream(a).Dial(target("m2", "localhost:"+port), time.Second); err == nil {
		_ = c.Close()
	} else {
		t.Fatalf("by name: %v", err)
	}
}

func TestDialRefusesAnotherMember(t *testing.T) {
	ca := newCA(t)
	a, b := startMux(t, ca, "m1", nil), startMux(t, ca, "m2", nil)
	echo(t, newStream(b))
	_, err := newStream(a).Dial(target("m3", b.Addr().String()), time.Second)
	if !errors.Is(err, ErrWrongMember) {
		t.Fatalf("got %v, want ErrWrongMember", err)
	}
}

func TestOnlyMembersSpeakRaft(t *testing.T) {
	ca := newCA(t)
	m := startMux(t, ca, "m1", nil)
	echo(t, newStream(m))
	for _, role := range []string{"speaker/n1", "admin/a", "viewer/v"} {
		c, err := tls.Dial("tcp", m.Addr().String(), identity(t, ca, role).ClientTLS(pki.KindMember, ProtoRaft))
		if err == nil {
			err = ping(c)
			_ = c.Close()
		}
		if err == nil {
			t.Errorf("%s speaks Raft", role)
		}
	}
	if n := m.Counters.Refused.Load(); n != 3 {
		t.Errorf("refused %d, want 3", n)
	}
}

func TestProtocolIsNeeded(t *testing.T) {
	ca := newCA(t)
	m := startMux(t, ca, "m1", nil)
	echo(t, newStream(m))
	for _, protos := range [][]string{nil, {"http/1.1"}} {
		c, err := tls.Dial("tcp", m.Addr().String(), identity(t, ca, "member/m2").ClientTLS(pki.KindMember, protos...))
		if err == nil {
			err = ping(c)
			_ = c.Close()
		}
		if err == nil {
			t.Errorf("%q: connected", protos)
		}
	}
}

func TestListenNeedsItsOwnCertificate(t *testing.T) {
	ca := newCA(t)
	for _, role := range []string{"member/m2", "speaker/m1"} {
		_, err := Listen(Config{Name: "m1", Listen: "127.0.0.1:0", Identity: identity(t, ca, role)})
		if !errors.Is(err, ErrRole) {
			t.Errorf("%s: %v, want ErrRole", role, err)
		}
	}
}

// Silent peers hold a slot for the handshake's deadline and no longer.
func TestSilentPeersDoNotBlockForEver(t *testing.T) {
	ca := newCA(t)
	m := startMux(t, ca, "m1", func(c *Config) { c.MaxHandshakes, c.HandshakeTimeout = 2, 50*time.Millisecond })
	serveGRPC(t, m)
	for range 8 {
		c, err := net.Dial("tcp", m.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	admin := ClientCredentials(identity(t, ca, "admin/a"))
	err := check(t, m.Addr().String(), admin)
	// A busy machine may take longer for a good handshake, too.
	for deadline := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(deadline); {
		err = check(t, m.Addr().String(), admin)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A connection that was handed on ends with the Mux, although its reader waits
// without a deadline.
func TestCloseEndsConnections(t *testing.T) {
	ca := newCA(t)
	a, b := startMux(t, ca, "m1", nil), startMux(t, ca, "m2", nil)
	accepted := make(chan net.Conn, 1)
	bs := newStream(b)
	b.raftID.Store(&b.cfg.Name)
	go func() {
		if c, err := bs.Accept(); err == nil {
			accepted <- c
		}
	}()
	dialed, err := newStream(a).Dial(target("m2", b.Addr().String()), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	read := func(c net.Conn) {
		_, err := c.Read(make([]byte, 1))
		ended <- err
	}
	go read(dialed)
	go read(<-accepted)
	b.Close()
	for range 2 {
		select {
		case err := <-ended:
			if err == nil {
				t.Fatal("read something")
			}
		case <-time.After(patience):
			t.Fatal("a connection survived Close")
		}
	}
	if _, err := bs.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("Accept after Close: %v", err)
	}
}

// A server that stops leaves the port to the next one.
func TestServersInTurn(t *testing.T) {
	ca := newCA(t)
	m := startMux(t, ca, "m1", nil)
	for range 2 {
		srv := grpc.NewServer(grpc.Creds(Credentials()))
		healthv1.RegisterHealthServer(srv, health.NewServer())
		served := make(chan error, 1)
		go func() { served <- srv.Serve(m.GRPC()) }()
		if err := check(t, m.Addr().String(), ClientCredentials(identity(t, ca, "admin/a"))); err != nil {
			t.Fatal(err)
		}
		srv.GracefulStop()
		if err := <-served; err != nil {
			t.Fatal(err)
		}
	}
}

func TestAdvertise(t *testing.T) {
	ca := newCA(t)
	m := startMux(t, ca, "m1", func(c *Config) { c.Advertise = "m1.example:7400" })
	r := NewRaft(m, RaftConfig{})
	defer r.Close()
	if r.LocalAddr() != "m1.example:7400" || m.Addr().String() == "m1.example:7400" {
		t.Fatalf("local %s, bound %s", r.LocalAddr(), m.Addr())
	}
}

// A certificate is replaced under a running port: connections that are open go
// on, new ones get the new certificate.
func TestCertificateReplacedWhileRunning(t *testing.T) {
	ca := newCA(t)
	files := identityFiles(t, ca, "member/m1", time.Hour)
	id, err := pki.NewReloader(files, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := startMux(t, ca, "m1", func(c *Config) { c.Identity = id })
	echo(t, newStream(m))
	client := newStream(startMux(t, ca, "m2", nil))
	ends := func(c net.Conn) time.Time { return c.(*conn).ConnectionState().PeerCertificates[0].NotAfter }
	old, err := client.Dial(target("m1", m.Advertised()), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	writeIdentity(t, files, ca, "member/m1", 2*time.Hour)
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		c, err := client.Dial(target("m1", m.Advertised()), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		replaced := ends(c).After(ends(old))
		_ = c.Close()
		if replaced {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the new certificate is not in use")
		}
	}
	if err := ping(old); err != nil {
		t.Fatalf("the open connection: %v", err)
	}
}
