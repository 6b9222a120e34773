package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// signLeaf makes a certificate with any URIs, also such that Issue refuses.
func signLeaf(t *testing.T, ca *CA, uris []*url.URL) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(7),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:         uris,
	}, ca.Cert, &key.PublicKey, ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// clockAt is a settable clock for a Reloader.
type clockAt struct{ t atomic.Pointer[time.Time] }

func (c *clockAt) set(t time.Time) { c.t.Store(&t) }
func (c *clockAt) now() time.Time  { return *c.t.Load() }

func TestReload(t *testing.T) {
	start := time.Now()
	ca := newTestCA(t)
	var clock clockAt
	clock.set(start)
	var logged bytes.Buffer
	f := identity(t, ca, Role{KindMember, "m1"}, start, time.Hour)
	r, err := newReloader(f, slog.New(slog.NewTextHandler(&logged, nil)), clock.now)
	if err != nil {
		t.Fatal(err)
	}
	first := r.NotAfter()

	writeIdentity(t, f, ca, Role{KindMember, "m1"}, start, 2*time.Hour)
	clock.set(start.Add(staleness - time.Millisecond))
	if !r.NotAfter().Equal(first) {
		t.Fatal("looked at the files again too soon")
	}
	clock.set(start.Add(staleness))
	second := r.NotAfter()
	if !second.After(first) {
		t.Fatal("the new certificate is not in use")
	}

	// Half a replacement: a key that does not belong to the certificate.
	_, otherKey, err := ca.Issue(Role{KindMember, "m1"}, nil, start, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.Key, otherKey, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := 2; i < 5; i++ {
		clock.set(start.Add(time.Duration(i) * staleness))
		if !r.NotAfter().Equal(second) {
			t.Fatal("a broken pair is in use")
		}
	}
	if r.Err() == nil {
		t.Fatal("a broken pair is not reported by Err")
	}
	if n := strings.Count(logged.String(), "cannot be used"); n != 1 {
		t.Fatalf("a broken pair was logged %d times, want once:\n%s", n, logged.String())
	}

	writeIdentity(t, f, ca, Role{KindMember, "m1"}, start, 3*time.Hour)
	clock.set(start.Add(6 * staleness))
	if !r.NotAfter().After(second) || r.Err() != nil {
		t.Fatalf("did not recover: %v", r.Err())
	}
	if err := os.Remove(f.Cert); err != nil {
		t.Fatal(err)
	}
	clock.set(start.Add(7 * staleness))
	if r.Err() == nil {
		t.Fatal("a missing file is not reported")
	}
}

// A CA is replaced in three steps: trust both, issue from the new one, drop the
// old one. No step needs a restart.
func TestReplaceCA(t *testing.T) {
	now := time.Now()
	oldCA, newCA := newTestCA(t), newTestCA(t)
	var clock clockAt
	clock.set(now)
	load := func(role Role) (*Reloader, Files) {
		f := identity(t, oldCA, role, now, time.Hour)
		r, err := newReloader(f, nil, clock.now)
		if err != nil {
			t.Fatal(err)
		}
		return r, f
	}
	server, serverFiles := load(Role{KindMember, "m1"})
	client, clientFiles := load(Role{KindAdmin, "a"})
	serverTLS, clientTLS := server.ServerTLS(testProto), client.ClientTLS(KindMember, testProto)
	check := func(step string, want bool) {
		t.Helper()
		clock.set(clock.now().Add(staleness))
		_, serverErr, clientErr := handshake(t, serverTLS, clientTLS)
		if ok := serverErr == nil && clientErr == nil; ok != want {
			t.Fatalf("%s: server %v, client %v; want success: %v", step, serverErr, clientErr, want)
		}
	}
	both := append(append([]byte{}, oldCA.CertPEM()...), newCA.CertPEM()...)
	trust := func(f Files, pem []byte) {
		if err := os.WriteFile(f.CA, pem, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check("before", true)
	trust(serverFiles, both)
	trust(clientFiles, both)
	check("both trusted", true)
	writeIdentity(t, serverFiles, newCA, Role{KindMember, "m1"}, now, time.Hour)
	trust(serverFiles, both)
	check("server reissued", true)
	trust(serverFiles, newCA.CertPEM())
	check("old CA dropped by the server", false)
	writeIdentity(t, clientFiles, newCA, Role{KindAdmin, "a"}, now, time.Hour)
	check("client reissued", true)
}

func TestNewReloaderRefuses(t *testing.T) {
	now := time.Now()
	ca, foreign := newTestCA(t), newTestCA(t)
	role := Role{KindMember, "m1"}
	tests := []struct {
		name  string
		spoil func(t *testing.T, f Files)
		want  string
	}{
		{"missing key", func(t *testing.T, f Files) { _ = os.Remove(f.Key) }, "read key"},
		{"garbage CA", func(t *testing.T, f Files) { _ = os.WriteFile(f.CA, []byte("x"), 0o600) }, "not PEM"},
		{"leaf as CA", func(t *testing.T, f Files) {
			b, _ := os.ReadFile(f.Cert)
			_ = os.WriteFile(f.CA, b, 0o600)
		}, "not the certificate of a CA"},
		{"other CA", func(t *testing.T, f Files) { _ = os.WriteFile(f.CA, foreign.CertPEM(), 0o600) }, "another CA"},
		{"expired", func(t *testing.T, f Files) { writeIdentity(t, f, ca, role, now.Add(-2*time.Hour), time.Hour) }, "expired"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := identity(t, ca, role, now, time.Hour)
			tt.spoil(t, f)
			if _, err := NewReloader(f, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}
