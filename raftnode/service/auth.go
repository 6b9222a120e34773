package service

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/internal/pki"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// Metadata of a call that a member forwards.
const (
	// metaActor is who called the forwarding member, as "kind/name".
	metaActor = "quorumlb-actor"
	// metaForwarded is the id of the forwarding member. A call that carries it is
	// not forwarded again.
	metaForwarded = "quorumlb-forwarded"
)

// caller is who a request comes from.
type caller struct {
	role pki.Role
	// via is the member that forwarded the call; empty for a direct one.
	via string
}

// actor is the caller's name in the log: "admin:alice".
func (c caller) actor() string { return c.role.Kind.String() + ":" + c.role.Name }

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// errNoIdentity answers a peer without a verified certificate with one role.
func errNoIdentity(err error) error {
	return status.Errorf(codes.Unauthenticated, "show a certificate of this cluster's CA with one role: %v", err)
}

// identify finds who calls: the peer itself, or the one that a member vouches for.
func identify(ctx context.Context, now time.Time) (caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return caller{}, errNoIdentity(pki.ErrNoCertificate)
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return caller{}, errNoIdentity(pki.ErrNoCertificate)
	}
	role, err := pki.RoleFromState(info.State)
	if err != nil {
		return caller{}, errNoIdentity(err)
	}
	// The handshake checked the dates, but a connection may outlive them.
	if leaf := info.State.PeerCertificates[0]; now.After(leaf.NotAfter) {
		return caller{}, errNoIdentity(x509.CertificateInvalidError{Cert: leaf, Reason: x509.Expired})
	}
	md, _ := metadata.FromIncomingContext(ctx)
	actor, via := md.Get(metaActor), md.Get(metaForwarded)
	if len(actor) == 0 && len(via) == 0 {
		return caller{role: role}, nil
	}
	if role.Kind != pki.KindMember {
		return caller{}, status.Errorf(codes.PermissionDenied, "%s may not speak for others", role)
	}
	if len(actor) != 1 || len(via) != 1 {
		return caller{}, status.Error(codes.InvalidArgument, "a forwarded call names one actor and one member")
	}
	behalf, err := pki.ParseRole(actor[0])
	if err != nil {
		return caller{}, status.Errorf(codes.InvalidArgument, "forwarded call: %v", err)
	}
	return caller{role: behalf, via: via[0]}, nil
}

// authorizer admits calls by the table of methods.
type authorizer struct {
	now func() time.Time
	// offline tells why this member does not serve; nil when it does.
	offline func() error
}

func (a *authorizer) admit(ctx context.Context, method string) (context.Context, error) {
	c, err := identify(ctx, a.now())
	if err != nil {
		return nil, err
	}
	m, known := methods[method]
	if !known || !m.allows(c.role.Kind) {
		return nil, status.Errorf(codes.PermissionDenied, "%s may not call %s; it takes a certificate with role %s",
			c.role, method, kindList(m.kinds))
	}
	if err := a.offline(); err != nil && !m.offline {
		return nil, status.Errorf(codes.Unavailable, "this member does not serve: %v; ask another member", err)
	}
	return context.WithValue(ctx, callerKey{}, c), nil
}

func kindList(kinds []pki.Kind) string {
	if len(kinds) == 0 {
		return "that does not exist"
	}
	names := make([]string, 0, len(kinds))
	for _, k := range kinds {
		names = append(names, k.String())
	}
	return strings.Join(names, " or ")
}

// errNoNode marks requests that must name a node and do not.
var errNoNode = errors.New("the request names no node")

// checkNode holds a speaker to its own node.
func checkNode(c caller, msg any) error {
	if c.role.Kind != pki.KindSpeaker {
		return nil
	}
	node, named := nodeOf(msg)
	if !named {
		return nil
	}
	if node == "" {
		return status.Error(codes.InvalidArgument, errNoNode.Error())
	}
	if node != c.role.Name {
		return status.Errorf(codes.PermissionDenied, "%s may not speak for node %q", c.role, node)
	}
	return nil
}

// nodeOf is the node that a speaker's message speaks for; false when the message
// rides on a stream whose first message named it.
func nodeOf(msg any) (string, bool) {
	switch m := msg.(type) {
	case *speakerv1.AttachRequest:
		if m.GetHello() == nil {
			return "", false
		}
		return m.GetHello().GetNode(), true
	case interface{ GetNode() string }:
		return m.GetNode(), true
	}
	return "", false
}

func (a *authorizer) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := a.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	if err := checkNode(callerOf(ctx), req); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (a *authorizer) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, err := a.admit(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return next(srv, &guardedStream{ServerStream: ss, ctx: ctx, caller: callerOf(ctx)})
}

// guardedStream carries the caller and checks every message that comes in.
type guardedStream struct {
	grpc.ServerStream
	ctx    context.Context
	caller caller
}

func (s *guardedStream) Context() context.Context { return s.ctx }

func (s *guardedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return checkNode(s.caller, m)
}
