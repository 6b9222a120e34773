package pulse

import (
	"crypto/tls"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/quorumlb/quorumlb/internal/window"
)

// maxBackoff is the longest pause before a connection or a stream is tried again. The
// rules want it not to be longer than the heartbeat interval.
const maxBackoff = 100 * time.Millisecond

// Dialer returns a Dial that makes connections for pulses alone, on which nothing
// else can be ahead of them. The configuration must check that the server is a member.
func Dialer(conf *tls.Config, opts ...grpc.DialOption) func(addr string) (Conn, error) {
	opts = append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(conf)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: 500 * time.Millisecond,
		}),
		// Timeout is also how long sent data may stay unacknowledged.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: time.Second}),
		grpc.WithIdleTimeout(0),
	}, append(window.Dial(), opts...)...)
	return func(addr string) (Conn, error) {
		conn, err := grpc.NewClient("passthrough:///"+addr, opts...)
		if err != nil {
			return nil, fmt.Errorf("connect to member at %s: %w", addr, err)
		}
		return conn, nil
	}
}
