package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
)

// ServerTLS is the configuration of a listener: clients must show a certificate
// of the cluster's CA that holds exactly one role. Which role may do what is
// decided later, by RoleFromState. The protocols are offered by ALPN, first
// one preferred.
func (r *Reloader) ServerTLS(nextProtos ...string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             nextProtos,
		SessionTicketsDisabled: true,
		ClientAuth:             tls.RequireAndVerifyClientCert,
		// Never used, because GetConfigForClient answers for every handshake; it
		// makes a server that forgets about it refuse everybody.
		ClientCAs: x509.NewCertPool(),
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			m := r.current()
			return &tls.Config{
				MinVersion:             tls.VersionTLS13,
				NextProtos:             nextProtos,
				SessionTicketsDisabled: true,
				Certificates:           []tls.Certificate{m.cert},
				ClientAuth:             tls.RequireAndVerifyClientCert,
				ClientCAs:              m.pool,
				Time:                   r.now,
				VerifyConnection: func(s tls.ConnectionState) error {
					if len(s.PeerCertificates) == 0 {
						return ErrNoCertificate
					}
					_, err := RoleFromCertificate(s.PeerCertificates[0])
					return err
				},
			}, nil
		},
	}
}

// ClientTLS is the configuration of a dialer: the server must show a
// certificate of the cluster's CA that holds a role of the kind, whatever
// address it was dialed by.
func (r *Reloader) ClientTLS(server Kind, nextProtos ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: nextProtos,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			m := r.current()
			return &m.cert, nil
		},
		// The standard check is of the host name. VerifyConnection replaces it and
		// runs for every handshake, resumed ones included.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			m := r.current()
			if err := verifyChain(m.pool, s.PeerCertificates, r.now(), x509.ExtKeyUsageServerAuth); err != nil {
				return fmt.Errorf("server certificate: %w", err)
			}
			role, err := RoleFromCertificate(s.PeerCertificates[0])
			if err != nil {
				return fmt.Errorf("server certificate: %w", err)
			}
			if role.Kind != server {
				return fmt.Errorf("server certificate: %w: %s, want a %s", ErrWrongRole, role, server)
			}
			return nil
		},
	}
}
