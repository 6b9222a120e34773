package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/quorumlb/quorumlb/internal/pki"
)

// Credentials are for a gRPC server on Mux.GRPC: the handshake is done, and
// peer.AuthInfo is a credentials.TLSInfo with what it found.
func Credentials() credentials.TransportCredentials { return handshaken{} }

// ClientCredentials are for a gRPC client of a member.
func ClientCredentials(id *pki.Reloader) credentials.TransportCredentials {
	return credentials.NewTLS(id.ClientTLS(pki.KindMember, ProtoGRPC))
}

type handshaken struct{}

func (handshaken) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, ok := c.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return nil, nil, errors.New("transport: connection did not come from Mux.GRPC")
	}
	state := secured.ConnectionState()
	if !state.HandshakeComplete || state.NegotiatedProtocol != ProtoGRPC {
		return nil, nil, errors.New("transport: connection is not ready for gRPC")
	}
	return c, credentials.TLSInfo{
		State:          state,
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

func (handshaken) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("transport: Credentials are for servers; clients use ClientCredentials")
}

func (handshaken) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (handshaken) Clone() credentials.TransportCredentials { return handshaken{} }

// OverrideServerName has no meaning for a server.
func (handshaken) OverrideServerName(string) error { return nil }
