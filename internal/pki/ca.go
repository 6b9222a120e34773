package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Names of the CA's files in its directory.
const (
	CACertFile = "ca.crt"
	CAKeyFile  = "ca.key"
)

// CAValidity is how long a new CA is valid.
const CAValidity = 10 * 365 * 24 * time.Hour

// DefaultValidity is how long a certificate is valid if nobody says otherwise.
const DefaultValidity = 365 * 24 * time.Hour

// skew is how far a certificate's validity starts in the past, for machines
// whose clocks are behind that of the issuer.
const skew = 5 * time.Minute

// ErrExists means that a CA is there already; a new one would lock everybody out.
var ErrExists = errors.New("a CA exists already")

// CA issues certificates.
type CA struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// NewCA makes a CA that starts to be valid a little before now.
func NewCA(now time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA key: %w", err)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "QuorumLB CA"},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(CAValidity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back CA certificate: %w", err)
	}
	return &CA{Cert: cert, Key: key}, nil
}

// CertPEM gives the CA's certificate.
func (ca *CA) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Cert.Raw})
}

// Issue makes a certificate and its key, both as PEM. The sans are IP addresses
// and DNS names; they are for people and other tools, our own peers look at the
// role. The validity is counted from now and may not outlast the CA.
func (ca *CA) Issue(role Role, sans []string, now time.Time, validity time.Duration) (certPEM, keyPEM []byte, err error) {
	if err := role.Validate(); err != nil {
		return nil, nil, err
	}
	until := now.Add(validity)
	if validity <= 0 {
		return nil, nil, fmt.Errorf("validity %s: must be positive", validity)
	}
	if until.After(ca.Cert.NotAfter) {
		return nil, nil, fmt.Errorf("validity %s: the CA itself ends at %s", validity, ca.Cert.NotAfter.Format(time.RFC3339))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	template, err := leafTemplate(role, sans)
	if err != nil {
		return nil, nil, err
	}
	template.NotBefore, template.NotAfter = now.Add(-skew), until
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Cert, &key.PublicKey, ca.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign certificate: %w", err)
	}
	keyPEM, err = encodeKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM, nil
}

func leafTemplate(role Role, sans []string) (*x509.Certificate, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: role.String()},
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	t.URIs = append(t.URIs, role.URI())
	if role.Kind == KindMember {
		// Only members serve.
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, s := range sans {
		if ip := net.ParseIP(s); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else if s != "" {
			t.DNSNames = append(t.DNSNames, s)
		} else {
			return nil, errors.New("empty subject alternative name")
		}
	}
	return t, nil
}

// Init makes a CA in dir, which is created if it does not exist. It fails with
// ErrExists rather than replace a CA.
func Init(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make CA directory: %w", err)
	}
	for _, f := range []string{CAKeyFile, CACertFile} {
		if _, err := os.Lstat(filepath.Join(dir, f)); err == nil {
			return fmt.Errorf("%w: %s", ErrExists, filepath.Join(dir, f))
		}
	}
	ca, err := NewCA(time.Now())
	if err != nil {
		return err
	}
	keyPEM, err := encodeKey(ca.Key)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, CAKeyFile), keyPEM, 0o600); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, CACertFile), ca.CertPEM(), 0o644)
}

// LoadCA reads the CA that Init made in dir.
func LoadCA(dir string) (*CA, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, CACertFile), filepath.Join(dir, CAKeyFile))
	if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("load CA: key is %T, want ECDSA", pair.PrivateKey)
	}
	if !pair.Leaf.IsCA {
		return nil, errors.New("load CA: the certificate is not that of a CA")
	}
	return &CA{Cert: pair.Leaf, Key: key}, nil
}

// Issue makes a certificate with the CA in dir and writes it there as
// <kind>-<name>.crt and .key; files of an earlier issue are replaced. It
// returns where they are, together with the CA's certificate.
func Issue(dir string, role Role, sans []string, validity time.Duration) (Files, error) {
	base := role.Kind.String() + "-" + role.Name
	return IssueAs(dir, role, sans, validity, filepath.Join(dir, base))
}

// IssueAs is Issue with files named base.crt and base.key.
func IssueAs(dir string, role Role, sans []string, validity time.Duration, base string) (Files, error) {
	ca, err := LoadCA(dir)
	if err != nil {
		return Files{}, err
	}
	certPEM, keyPEM, err := ca.Issue(role, sans, time.Now(), validity)
	if err != nil {
		return Files{}, fmt.Errorf("issue %s: %w", role, err)
	}
	f := Files{CA: filepath.Join(dir, CACertFile), Cert: base + ".crt", Key: base + ".key"}
	if err := writeFile(f.Key, keyPEM, 0o600); err != nil {
		return Files{}, err
	}
	if err := writeFile(f.Cert, certPEM, 0o644); err != nil {
		return Files{}, err
	}
	return f, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// parseCertificates reads all certificates of a PEM file.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := bytes.TrimSpace(data); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("not PEM")
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("unexpected PEM block %q", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate")
	}
	return out, nil
}
