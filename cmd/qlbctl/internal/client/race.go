package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

const (
	// stagger is the head start of each endpoint over the next one.
	stagger = 250 * time.Millisecond
	// dialTimeout bounds dialing one endpoint: TCP and TLS.
	dialTimeout = 4 * time.Second
)

var errNoCandidates = errors.New("no endpoint left to try")

type dialed struct {
	conn     net.Conn
	endpoint string
	err      error
}

// race dials the endpoints in order, each a little after the one before or at
// once when that has failed, and gives the first connection whose TLS handshake
// is done. It adds the reasons of those that failed to unreachable. When it
// returns, every dial that it started has ended or is being cancelled, and no
// connection but the one returned stays open.
func race(ctx context.Context, endpoints []string, conf *tls.Config, unreachable *Unreachable) (net.Conn, string, error) {
	if len(endpoints) == 0 {
		return nil, "", errNoCandidates
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan dialed)
	running := 0
	defer func() {
		cancel()
		for ; running > 0; running-- {
			if r := <-results; r.conn != nil {
				r.conn.Close()
			}
		}
	}()
	next := time.NewTimer(0)
	defer next.Stop()
	for len(endpoints) > 0 || running > 0 {
		select {
		case <-next.C:
			if len(endpoints) == 0 {
				continue
			}
			ep := endpoints[0]
			endpoints = endpoints[1:]
			running++
			go func() {
				conn, err := dial(ctx, ep, conf)
				results <- dialed{conn, ep, err}
			}()
			next.Reset(stagger)
		case r := <-results:
			running--
			if r.err == nil {
				return r.conn, r.endpoint, nil
			}
			unreachable.add(r.endpoint, r.err)
			next.Reset(0)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	return nil, "", errNoCandidates
}

// dial connects, and waits for the first byte of the member's: a member refuses a
// certificate only after the client's own handshake is done, and tells why then.
func dial(ctx context.Context, endpoint string, conf *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", endpoint)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	if conn.ConnectionState().NegotiatedProtocol != "h2" {
		raw.Close()
		return nil, errors.New("does not speak gRPC; is this a member's port?")
	}
	// Only the race's end, or the deadline, ends the wait.
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	p := peeked{conn, bufio.NewReader(conn)}
	_, err = p.r.Peek(1)
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	return p, nil
}

// peeked is a connection of which something was read ahead.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p peeked) Read(b []byte) (int, error) { return p.r.Read(b) }
