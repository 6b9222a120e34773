package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Scheme of the URI SAN that holds a role.
const Scheme = "quorumlb"

// Errors of role checks. They are wrapped; compare with errors.Is.
var (
	// ErrNoCertificate means that the peer showed no certificate, or one that
	// was not verified against the cluster's CA.
	ErrNoCertificate = errors.New("no verified certificate")
	// ErrNoRole means that a certificate has no quorumlb URI.
	ErrNoRole = errors.New("certificate has no quorumlb role")
	// ErrManyRoles means that a certificate has more than one quorumlb URI.
	ErrManyRoles = errors.New("certificate has more than one quorumlb role")
	// ErrBadRole means that a role is not of the form kind/name.
	ErrBadRole = errors.New("bad role")
	// ErrWrongRole means that a peer has a role, but not one that may do this.
	ErrWrongRole = errors.New("wrong role")
)

// Kind is what a certificate's holder is.
type Kind uint8

// Kinds of holders. The zero Kind is invalid.
const (
	KindInvalid Kind = iota
	// KindMember is a quorumlb-node; the name is the member's.
	KindMember
	// KindSpeaker is the speaker of the node that the name names.
	KindSpeaker
	// KindAdmin may read and write everything an operator can.
	KindAdmin
	// KindViewer may read.
	KindViewer
)

var kindNames = [...]string{KindMember: "member", KindSpeaker: "speaker", KindAdmin: "admin", KindViewer: "viewer"}

// Kinds lists the valid kinds.
func Kinds() []Kind { return []Kind{KindMember, KindSpeaker, KindAdmin, KindViewer} }

// String gives the kind as it is written in a role.
func (k Kind) String() string {
	if k == KindInvalid || int(k) >= len(kindNames) {
		return "invalid"
	}
	return kindNames[k]
}

// Role is what a certificate's holder is, and which one.
type Role struct {
	Kind Kind
	Name string
}

// String gives "kind/name", which ParseRole reads.
func (r Role) String() string { return r.Kind.String() + "/" + r.Name }

// URI gives the role as the URI of a certificate's SAN.
func (r Role) URI() *url.URL {
	return &url.URL{Scheme: Scheme, Host: r.Kind.String(), Path: "/" + r.Name}
}

// maxName is the longest name, that of a DNS name (RFC 1035 section 2.3.4).
const maxName = 253

// Validate tells what is wrong with a role, wrapping ErrBadRole.
func (r Role) Validate() error {
	if r.Kind == KindInvalid || int(r.Kind) >= len(kindNames) {
		return fmt.Errorf("%w: unknown kind", ErrBadRole)
	}
	if r.Name == "" || len(r.Name) > maxName {
		return fmt.Errorf("%w: a name has 1 to %d characters", ErrBadRole, maxName)
	}
	for i, c := range []byte(r.Name) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("-._@", rune(c))) {
			return fmt.Errorf("%w: name %q: letters, digits and, not first, - . _ @", ErrBadRole, r.Name)
		}
	}
	return nil
}

// ParseRole reads "kind/name", for example "speaker/n1".
func ParseRole(s string) (Role, error) {
	kind, name, ok := strings.Cut(s, "/")
	if !ok {
		return Role{}, fmt.Errorf("%w: %q is not kind/name", ErrBadRole, s)
	}
	r := Role{Name: name}
	for _, k := range Kinds() {
		if k.String() == kind {
			r.Kind = k
		}
	}
	if r.Kind == KindInvalid {
		return Role{}, fmt.Errorf("%w: unknown kind %q (member, speaker, admin, viewer)", ErrBadRole, kind)
	}
	if err := r.Validate(); err != nil {
		return Role{}, err
	}
	return r, nil
}

// RoleFromCertificate gives the one role that a certificate holds. It does not
// verify the certificate. URIs of other schemes are ignored.
func RoleFromCertificate(c *x509.Certificate) (Role, error) {
	var found *url.URL
	for _, u := range c.URIs {
		if !strings.EqualFold(u.Scheme, Scheme) {
			continue
		}
		if found != nil {
			return Role{}, ErrManyRoles
		}
		found = u
	}
	if found == nil {
		return Role{}, ErrNoRole
	}
	if found.Opaque != "" || found.User != nil || found.RawQuery != "" || found.ForceQuery || found.Fragment != "" || found.Port() != "" {
		return Role{}, fmt.Errorf("%w: %q", ErrBadRole, found)
	}
	return ParseRole(found.Host + found.Path)
}

// RoleFromState gives the role of the peer of a connection that this side
// accepted. The peer's certificate must have been verified in the handshake,
// as ServerTLS does it.
func RoleFromState(s tls.ConnectionState) (Role, error) {
	if !s.HandshakeComplete || len(s.PeerCertificates) == 0 || len(s.VerifiedChains) == 0 {
		return Role{}, ErrNoCertificate
	}
	return RoleFromCertificate(s.PeerCertificates[0])
}
