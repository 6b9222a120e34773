package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const testProto = "test/1"

// identity writes an identity issued by ca into a directory of its own.
func identity(t *testing.T, ca *CA, role Role, now time.Time, validity time.Duration) Files {
	t.Helper()
	dir := t.TempDir()
	f := Files{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	writeIdentity(t, f, ca, role, now, validity)
	return f
}

func writeIdentity(t *testing.T, f Files, ca *CA, role Role, now time.Time, validity time.Duration) {
	t.Helper()
	cert, key, err := ca.Issue(role, []string{"127.0.0.1", "localhost"}, now, validity)
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{f.CA: ca.CertPEM(), f.Cert: cert, f.Key: key} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func newTestCA(t *testing.T) *CA {
	t.Helper()
	ca, err := NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func reloader(t *testing.T, f Files) *Reloader {
	t.Helper()
	r, err := NewReloader(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// handshake connects a client to a server and returns what each side made of it.
func handshake(t *testing.T, server, client *tls.Config) (state tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		srv := tls.Server(conn, server)
		if err := srv.Handshake(); err != nil {
			done <- err
			return
		}
		state = srv.ConnectionState()
		_, err = srv.Write([]byte("x"))
		done <- err
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(5 * time.Second))
	conn := tls.Client(raw, client)
	clientErr = conn.Handshake()
	if clientErr == nil {
		// With TLS 1.3 the server's verdict on our certificate comes after our handshake.
		_, clientErr = io.ReadFull(conn, make([]byte, 1))
	} else {
		raw.Close()
	}
	return state, <-done, clientErr
}

func TestHandshakeGivesRole(t *testing.T) {
	ca := newTestCA(t)
	server := reloader(t, identity(t, ca, Role{KindMember, "m1"}, time.Now(), time.Hour))
	for _, want := range []Role{{KindMember, "m2"}, {KindSpeaker, "node-1.example"}, {KindAdmin, "alice@ops"}, {KindViewer, "grafana"}} {
		t.Run(want.String(), func(t *testing.T) {
			client := reloader(t, identity(t, ca, want, time.Now(), time.Hour))
			state, serverErr, clientErr := handshake(t, server.ServerTLS(testProto), client.ClientTLS(KindMember, testProto))
			if serverErr != nil || clientErr != nil {
				t.Fatalf("server: %v, client: %v", serverErr, clientErr)
			}
			got, err := RoleFromState(state)
			if err != nil || got != want {
				t.Fatalf("role %v, %v; want %v", got, err, want)
			}
			if state.NegotiatedProtocol != testProto || state.Version != tls.VersionTLS13 {
				t.Fatalf("negotiated %q, version %x", state.NegotiatedProtocol, state.Version)
			}
		})
	}
}

func TestHandshakeRefuses(t *testing.T) {
	now := time.Now()
	ca, foreign := newTestCA(t), newTestCA(t)
	member, admin := Role{KindMember, "m1"}, Role{KindAdmin, "a"}
	goodServer := func(t *testing.T) *tls.Config {
		return reloader(t, identity(t, ca, member, now, time.Hour)).ServerTLS(testProto)
	}
	goodClient := func(t *testing.T) *tls.Config {
		return reloader(t, identity(t, ca, admin, now, time.Hour)).ClientTLS(KindMember, testProto)
	}
	// at gives a Reloader that loaded its files at another time.
	at := func(t *testing.T, ca *CA, role Role, when time.Time) *Reloader {
		t.Helper()
		r, err := newReloader(identity(t, ca, role, when, time.Hour), nil, func() time.Time { return when })
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	// Its own CA is valid at that time, too.
	oldCA, err := NewCA(now.Add(-48 * time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	oldServer := func(t *testing.T) *tls.Config {
		return reloader(t, identity(t, oldCA, member, now, time.Hour)).ServerTLS(testProto)
	}

	tests := []struct {
		name           string
		server, client func(t *testing.T) *tls.Config
		serverRefuses  bool
	}{
		{"foreign client", goodServer, func(t *testing.T) *tls.Config {
			c := reloader(t, identity(t, foreign, admin, now, time.Hour)).ClientTLS(KindMember, testProto)
			c.VerifyConnection = nil // it would refuse the server first
			return c
		}, true},
		{"no client certificate", goodServer, func(t *testing.T) *tls.Config {
			c := goodClient(t)
			c.GetClientCertificate = nil
			return c
		}, true},
		{"expired client", oldServer, func(t *testing.T) *tls.Config {
			c := at(t, oldCA, admin, now.Add(-24*time.Hour)).ClientTLS(KindMember, testProto)
			c.VerifyConnection = nil
			return c
		}, true},
		{"client without a role", goodServer, func(t *testing.T) *tls.Config {
			return withLeaf(t, goodClient(t), ca, nil)
		}, true},
		{"client with two roles", goodServer, func(t *testing.T) *tls.Config {
			return withLeaf(t, goodClient(t), ca, []*url.URL{member.URI(), admin.URI()})
		}, true},
		{"client of TLS 1.2", goodServer, func(t *testing.T) *tls.Config {
			c := goodClient(t)
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return c
		}, true},
		{"foreign server", func(t *testing.T) *tls.Config {
			return reloader(t, identity(t, foreign, member, now, time.Hour)).ServerTLS(testProto)
		}, goodClient, false},
		{"expired server", func(t *testing.T) *tls.Config {
			return at(t, oldCA, member, now.Add(-24*time.Hour)).ServerTLS(testProto)
		}, func(t *testing.T) *tls.Config {
			return reloader(t, identity(t, oldCA, admin, now, time.Hour)).ClientTLS(KindMember, testProto)
		}, false},
		{"an admin as server", func(t *testing.T) *tls.Config {
			return reloader(t, identity(t, ca, admin, now, time.Hour)).ServerTLS(testProto)
		}, goodClient, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, serverErr, clientErr := handshake(t, tt.server(t), tt.client(t))
			if serverErr == nil || clientErr == nil {
				t.Fatalf("server: %v, client: %v; want both to fail", serverErr, clientErr)
			}
			var alert *net.OpError
			if refused := errors.As(clientErr, &alert); refused != tt.serverRefuses {
				t.Fatalf("server refuses: %v, want %v (server: %v, client: %v)", refused, tt.serverRefuses, serverErr, clientErr)
			}
		})
	}
}

// withLeaf gives a client another certificate of the same CA, with these URIs.
func withLeaf(t *testing.T, c *tls.Config, ca *CA, uris []*url.URL) *tls.Config {
	t.Helper()
	cert := signLeaf(t, ca, uris)
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	return c
}

func TestRoleFromState(t *testing.T) {
	member := Role{KindMember, "m1"}
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	tests := []struct {
		name string
		uris []*url.URL
		want Role
		err  error
	}{
		{"one", []*url.URL{member.URI()}, member, nil},
		{"others are ignored", []*url.URL{uri("spiffe://x/y"), member.URI()}, member, nil},
		{"none", nil, Role{}, ErrNoRole},
		{"two", []*url.URL{member.URI(), uri("QUORUMLB://viewer/a")}, Role{}, ErrManyRoles},
		{"no name", []*url.URL{uri("quorumlb://member")}, Role{}, ErrBadRole},
		{"empty name", []*url.URL{uri("quorumlb://member/")}, Role{}, ErrBadRole},
		{"slash in name", []*url.URL{uri("quorumlb://speaker/a/b")}, Role{}, ErrBadRole},
		{"escaped slash", []*url.URL{uri("quorumlb://speaker/a%2Fb")}, Role{}, ErrBadRole},
		{"query", []*url.URL{uri("quorumlb://admin/a?x=1")}, Role{}, ErrBadRole},
		{"empty query", []*url.URL{uri("quorumlb://admin/a?")}, Role{}, ErrBadRole},
		{"port", []*url.URL{uri("quorumlb://admin:1/a")}, Role{}, ErrBadRole},
		{"user", []*url.URL{uri("quorumlb://u@admin/a")}, Role{}, ErrBadRole},
		{"unknown kind", []*url.URL{uri("quorumlb://root/a")}, Role{}, ErrBadRole},
		{"opaque", []*url.URL{uri("quorumlb:admin/a")}, Role{}, ErrBadRole},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			leaf := &x509.Certificate{URIs: tt.uris}
			state := tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}
			got, err := RoleFromState(state)
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Fatalf("got %v, %v; want %v, %v", got, err, tt.want, tt.err)
			}
			state.VerifiedChains = nil
			if _, err := RoleFromState(state); !errors.Is(err, ErrNoCertificate) {
				t.Fatalf("unverified: %v", err)
			}
		})
	}
}

func TestParseRole(t *testing.T) {
	for _, s := range []string{"member/m1", "speaker/n-1.example", "admin/alice@ops", "viewer/A_b"} {
		r, err := ParseRole(s)
		if err != nil || r.String() != s {
			t.Errorf("%q: %v, %v", s, r, err)
		}
	}
	for _, s := range []string{"", "member", "member/", "boss/x", "speaker/-a", "speaker/.", "admin/a b", "admin/ä"} {
		if r, err := ParseRole(s); !errors.Is(err, ErrBadRole) {
			t.Errorf("%q: %v, %v; want ErrBadRole", s, r, err)
		}
	}
}

func TestInitAndIssue(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	if err := Init(dir); err != nil {
		t.Fatal(err)
	}
	if err := Init(dir); !errors.Is(err, ErrExists) {
		t.Fatalf("second Init: %v, want ErrExists", err)
	}
	role := Role{KindSpeaker, "n1"}
	f, err := Issue(dir, role, []string{"10.0.0.1", "n1.example"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if r := reloader(t, f); r.Role() != role {
		t.Fatalf("role %v", r.Role())
	}
	for _, key := range []string{f.Key, filepath.Join(dir, CAKeyFile)} {
		st, err := os.Stat(key)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Fatalf("%s: %v, %v; want 0600", key, st.Mode(), err)
		}
	}
	data, err := os.ReadFile(f.Cert)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := parseCertificates(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, usage := range certs[0].ExtKeyUsage {
		if usage == x509.ExtKeyUsageServerAuth {
			t.Fatal("a speaker's certificate may serve")
		}
	}
	if _, err := Issue(dir, role, nil, 2*CAValidity); err == nil {
		t.Fatal("issued a certificate that outlasts the CA")
	}
	if _, err := Issue(dir, Role{KindAdmin, "../x"}, nil, time.Hour); !errors.Is(err, ErrBadRole) {
		t.Fatalf("name with slash: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(left) > 0 {
		t.Fatalf("left behind: %v, %v", left, err)
	}
}
