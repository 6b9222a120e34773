package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/internal/pki"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

const (
	// maxMessage bounds an answer: the view of 100,000 services is some 50 MiB.
	maxMessage = 256 << 20
	// minAttempt is the least that one member gets to answer in.
	minAttempt = 3 * time.Second
	// roundPause is between two rounds over all members while they have no leader.
	roundPause = 200 * time.Millisecond
	// keepaliveTime finds out that the member behind a silent stream has lost power.
	keepaliveTime = 10 * time.Second
)

// Config says whom to ask, as whom, and how long.
type Config struct {
	// Endpoints are host:port of members; at least one.
	Endpoints []string
	// TLS is the operator's identity.
	TLS pki.Files
	// Timeout bounds one Call.
	Timeout time.Duration
}

// Client asks a group's members. It is not safe for concurrent use.
type Client struct {
	cfg    Config
	id     *pki.Reloader
	conn   *grpc.ClientConn
	member string // endpoint that conn leads to
	broke  string // endpoint whose stream broke last
}

// New reads the certificates; it connects to nobody yet.
func New(cfg Config) (*Client, error) {
	for _, ep := range cfg.Endpoints {
		if _, port, err := net.SplitHostPort(ep); err != nil || port == "" {
			return nil, fmt.Errorf("endpoint %q is not host:port", ep)
		}
	}
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("no endpoints")
	}
	id, err := pki.NewReloader(cfg.TLS, nil)
	if err != nil {
		return nil, err
	}
	return &Client{cfg: cfg, id: id}, nil
}

// Close ends the connection.
func (c *Client) Close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// Role is who the certificate says that the operator is.
func (c *Client) Role() pki.Role { return c.id.Role() }

// Member is the endpoint of the member that answered last; empty before.
func (c *Client) Member() string { return c.member }

// Timeout bounds one Call.
func (c *Client) Timeout() time.Duration { return c.cfg.Timeout }

// Call runs f against one member after the other until one answers. It gives up
// when the time is over, or after one round when nobody can be reached at all: the
// error is then an *Unreachable. What a member answers, refusals included, is
// f's own error. f may run more than once.
func (c *Client) Call(ctx context.Context, f func(context.Context, adminv1.AdminServiceClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	unreachable := &Unreachable{}
	skip := map[string]bool{}
	reached := false // somebody who may have an answer soon
	for {
		err := c.connect(ctx, skip, unreachable)
		if err == nil {
			reached = true
			if err = c.attempt(ctx, f); !passing(err) {
				return err
			}
			unreachable.add(c.member, err)
			unreachable.asked = unreachable.asked || tooLate(err)
			skip[c.member] = true
			c.Close()
			continue
		}
		if !reached || !pause(ctx, roundPause) {
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			unreachable.Timeout = ctx.Err() != nil
			return unreachable
		}
		clear(skip)
	}
}

// attempt gives one member the greater part of what is left (it may itself wait
// some seconds for a leader), so that one which hangs leaves time to ask another.
func (c *Client) attempt(ctx context.Context, f func(context.Context, adminv1.AdminServiceClient) error) error {
	deadline, _ := ctx.Deadline()
	left := time.Until(deadline)
	if len(c.cfg.Endpoints) > 1 {
		left = max(left*7/10, min(left, minAttempt))
	}
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	return f(ctx, adminv1.NewAdminServiceClient(c.conn))
}

// Stream runs f, which reads a stream for as long as it likes, against the
// first member that serves. Only finding it has a deadline. A broken stream
// is f's error; Broken tells whether it is worth trying again, which begins with
// another member.
func (c *Client) Stream(ctx context.Context, f func(context.Context, adminv1.AdminServiceClient) error) error {
	if err := c.findServing(ctx); err != nil {
		return err
	}
	err := f(ctx, adminv1.NewAdminServiceClient(c.conn))
	if Broken(err) {
		c.broke = c.member
		c.Close()
	}
	return err
}

// findServing connects to a member that answers, the one whose stream broke last of all.
func (c *Client) findServing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	unreachable := &Unreachable{}
	skip := map[string]bool{}
	if c.broke != "" {
		skip[c.broke] = true
	}
	for {
		err := c.connect(ctx, skip, unreachable)
		switch {
		case err == nil:
			err = c.attempt(ctx, func(ctx context.Context, api adminv1.AdminServiceClient) error {
				_, err := api.Version(ctx, &adminv1.VersionRequest{})
				return err
			})
			if !passing(err) {
				return err
			}
			unreachable.add(c.member, err)
			skip[c.member] = true
			c.Close()
		case c.broke != "":
			delete(skip, c.broke)
			c.broke = ""
		default:
			unreachable.Timeout = ctx.Err() != nil
			return unreachable
		}
	}
}

// Broken tells whether a stream ended because its member cannot go on, so that
// another one may.
func Broken(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.ResourceExhausted: // the latter: we read too slowly
		return true
	}
	return false
}

// passing tells whether another member may answer what this one did not.
func passing(err error) bool {
	return status.Code(err) == codes.Unavailable || status.Code(err) == codes.DeadlineExceeded
}

// connect makes sure that there is a connection to a member that is not to be
// skipped.
func (c *Client) connect(ctx context.Context, skip map[string]bool, unreachable *Unreachable) error {
	if c.conn != nil {
		return nil
	}
	var candidates []string
	for _, ep := range c.cfg.Endpoints {
		if !skip[ep] {
			candidates = append(candidates, ep)
		}
	}
	raw, ep, err := race(ctx, candidates, c.id.ClientTLS(pki.KindMember, "h2"), unreachable)
	if err != nil {
		return err
	}
	// The connection is there already and is handed over once; gRPC never dials.
	handed := make(chan net.Conn, 1)
	handed <- raw
	dial := func(context.Context, string) (net.Conn, error) {
		select {
		case conn := <-handed:
			return conn, nil
		default:
			return nil, errors.New("the connection is lost")
		}
	}
	c.conn, err = grpc.NewClient("passthrough:///"+ep,
		grpc.WithContextDialer(dial),
		// The handshake is done: race dials TLS.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTime / 2}),
		grpc.WithUserAgent("qlbctl"),
	)
	if err != nil {
		raw.Close()
		return err
	}
	c.member = ep
	return nil
}

// pause waits; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Unreachable says why no member answered.
type Unreachable struct {
	// Timeout: the time was over before everything had been tried.
	Timeout bool
	// asked: some member took the call and did not answer it.
	asked bool
	// Reading: the call changes nothing.
	Reading bool
	// order and why of each endpoint, the newest reason.
	order []string
	why   map[string]error
}

// add notes why an endpoint did not answer. That the time was over says less than
// what an earlier round found.
func (u *Unreachable) add(endpoint string, err error) {
	if u.why == nil {
		u.why = map[string]error{}
	}
	_, known := u.why[endpoint]
	if !known {
		u.order = append(u.order, endpoint)
	}
	if !known || !tooLate(err) {
		u.why[endpoint] = err
	}
}

func tooLate(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded
}

// Error gives one endpoint a line.
func (u *Unreachable) Error() string {
	var b strings.Builder
	b.WriteString("cannot reach the group")
	if u.Timeout {
		b.WriteString(" in time")
	}
	for _, ep := range u.order {
		fmt.Fprintf(&b, "\n  %s: %s", ep, Explain(u.why[ep]))
	}
	if u.asked && !u.Reading {
		b.WriteString("\nIf this was a change, it may or may not have been made; repeating it is safe. --timeout gives it longer.")
	}
	return b.String()
}

// Unwrap gives the reasons.
func (u *Unreachable) Unwrap() []error {
	var errs []error
	for _, ep := range u.order {
		errs = append(errs, u.why[ep])
	}
	return errs
}
