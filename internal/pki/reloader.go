package pki

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// staleness is how long a set of files is used before they are looked at again.
const staleness = time.Second

// Files names the PEM files of one identity.
type Files struct {
	CA   string // one or more CA certificates, so that a CA can be replaced
	Cert string // the certificate, followed by intermediate ones if any
	Key  string
}

// material is one consistent set: a pair that the pool verifies.
type material struct {
	cert tls.Certificate
	pool *x509.CertPool
	role Role
	sum  [sha256.Size]byte
}

// Reloader keeps an identity in step with its files. It is safe for concurrent
// use and has no goroutine.
type Reloader struct {
	files Files
	log   *slog.Logger
	now   func() time.Time

	mu      sync.Mutex
	good    *material
	checked time.Time
	// badSum is the content that was found broken last, err what is wrong with it.
	badSum [sha256.Size]byte
	err    error
}

// NewReloader loads an identity. The files must be in order now: a process that
// cannot prove who it is does not start.
func NewReloader(files Files, log *slog.Logger) (*Reloader, error) {
	return newReloader(files, log, time.Now)
}

func newReloader(files Files, log *slog.Logger, now func() time.Time) (*Reloader, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &Reloader{files: files, log: log, now: now}
	raw, err := r.read()
	if err != nil {
		return nil, err
	}
	m, err := r.parse(raw)
	if err != nil {
		return nil, err
	}
	r.good, r.checked = m, now()
	return r, nil
}

// Role is the role that this identity has now.
func (r *Reloader) Role() Role { return r.current().role }

// NotAfter is when the certificate in use ends.
func (r *Reloader) NotAfter() time.Time { return r.current().cert.Leaf.NotAfter }

// Err tells what is wrong with the files on disk while an older set is in use;
// nil when the files are in use.
func (r *Reloader) Err() error {
	r.current()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// current gives the newest good set, looking at the files at most once a second.
func (r *Reloader) current() *material {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if age := now.Sub(r.checked); age >= 0 && age < staleness {
		return r.good
	}
	r.checked = now
	r.reload()
	return r.good
}

func (r *Reloader) reload() {
	raw, err := r.read()
	if err != nil {
		// Files that are not there change like any other content.
		r.broken(sha256.Sum256([]byte(err.Error())), err)
		return
	}
	sum := raw.sum()
	if sum == r.good.sum {
		r.err, r.badSum = nil, [sha256.Size]byte{}
		return
	}
	m, err := r.parse(raw)
	if err != nil {
		r.broken(sum, err)
		return
	}
	r.good, r.err, r.badSum = m, nil, [sha256.Size]byte{}
	r.log.Info("certificate reloaded", "role", m.role.String(), "file", r.files.Cert, "not_after", m.cert.Leaf.NotAfter)
}

// broken reports a set that cannot be used, once for each content.
func (r *Reloader) broken(sum [sha256.Size]byte, err error) {
	r.err = err
	if sum == r.badSum {
		return
	}
	r.badSum = sum
	r.log.Error("certificate on disk cannot be used, keeping the one in use",
		"file", r.files.Cert, "error", err, "not_after", r.good.cert.Leaf.NotAfter)
}

// rawFiles is the content of Files. Comparing content instead of times sees a
// replacement within the clock's granularity and through symbolic links.
type rawFiles struct{ ca, cert, key []byte }

func (raw rawFiles) sum() [sha256.Size]byte {
	h := sha256.New()
	for _, b := range [][]byte{raw.ca, raw.cert, raw.key} {
		s := sha256.Sum256(b)
		h.Write(s[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func (r *Reloader) read() (rawFiles, error) {
	var raw rawFiles
	for _, f := range []struct {
		what, path string
		to         *[]byte
	}{{"CA", r.files.CA, &raw.ca}, {"certificate", r.files.Cert, &raw.cert}, {"key", r.files.Key, &raw.key}} {
		b, err := os.ReadFile(f.path)
		if err != nil {
			return rawFiles{}, fmt.Errorf("read %s: %w", f.what, err)
		}
		*f.to = b
	}
	return raw, nil
}

// parse checks that the files belong together: the key to the certificate, the
// certificate to the CA, with one role, valid now.
func (r *Reloader) parse(raw rawFiles) (*material, error) {
	cas, err := parseCertificates(raw.ca)
	if err != nil {
		return nil, fmt.Errorf("CA %s: %w", r.files.CA, err)
	}
	pool := x509.NewCertPool()
	for _, c := range cas {
		if !c.IsCA {
			return nil, fmt.Errorf("CA %s: %q is not the certificate of a CA", r.files.CA, c.Subject)
		}
		pool.AddCert(c)
	}
	pair, err := tls.X509KeyPair(raw.cert, raw.key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s and key %s: %w", r.files.Cert, r.files.Key, err)
	}
	role, err := RoleFromCertificate(pair.Leaf)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", r.files.Cert, err)
	}
	chain := make([]*x509.Certificate, 0, len(pair.Certificate))
	for _, der := range pair.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %s: %w", r.files.Cert, err)
		}
		chain = append(chain, c)
	}
	if err := verifyChain(pool, chain, r.now(), x509.ExtKeyUsageClientAuth); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", r.files.Cert, err)
	}
	return &material{cert: pair, pool: pool, role: role, sum: raw.sum()}, nil
}

// verifyChain checks a chain, leaf first, against a pool of CAs and a time.
func verifyChain(pool *x509.CertPool, chain []*x509.Certificate, now time.Time, usage x509.ExtKeyUsage) error {
	if len(chain) == 0 {
		return ErrNoCertificate
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		// Its own text suggests a bad signature; here it is most often another cluster.
		return fmt.Errorf("issued by another CA: %w", err)
	}
	return err
}
