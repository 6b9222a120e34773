package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/internal/pki"
)

// Explain says in an operator's words why a member did not answer, and what may
// be done about it.
func Explain(err error) string {
	if s, ok := status.FromError(err); ok && err != nil {
		return explainStatus(s)
	}
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		op        *net.OpError
		record    tls.RecordHeaderError
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer (is the machine up, and does a firewall let this port through?)"
	case errors.As(err, &dns):
		return "the name " + dns.Name + " does not resolve"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused (is quorumlb-node running there?)"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "no route to the host"
	case errors.As(err, &authority):
		return "its certificate is of another CA than --tls-ca"
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return "its certificate is not that of a member"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired or is not valid yet: " + invalid.Detail
	case errors.Is(err, pki.ErrWrongRole):
		return "its certificate is not that of a member: " + err.Error()
	case errors.As(err, &op) && op.Op == "remote error": // a TLS alert
		return "it refuses our certificate: " + strings.TrimPrefix(op.Err.Error(), "tls: ")
	case errors.As(err, &record):
		return "does not speak TLS; is this a member's port?"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return "closed the connection"
	}
	return err.Error()
}

func explainStatus(s *status.Status) string {
	m := s.Message()
	switch s.Code() {
	case codes.DeadlineExceeded:
		return "connected, but gave no answer in time"
	case codes.Unavailable:
		if strings.Contains(m, "connection error") || strings.Contains(m, "error reading from server") {
			return "the connection was lost"
		}
	}
	return m
}

// Violations are the mistakes that the group found in a request, by field; nil
// for any other error.
func Violations(err error) []*errdetails.BadRequest_FieldViolation {
	s, ok := status.FromError(err)
	if !ok {
		return nil
	}
	for _, d := range s.Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			return bad.GetFieldViolations()
		}
	}
	return nil
}
