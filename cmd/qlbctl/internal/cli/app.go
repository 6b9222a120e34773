package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/client"
	"github.com/quorumlb/quorumlb/internal/pki"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

const defaultTimeout = 10 * time.Second

// globals are the flags of every command.
type globals struct {
	endpoints    []string
	ca, crt, key string
	output       string
	stale        bool
	timeout      time.Duration
}

// app is one run of qlbctl.
type app struct {
	env    Env
	flags  globals
	client *client.Client
}

func (a *app) close() {
	if a.client != nil {
		a.client.Close()
	}
}

// connect makes the client on first use. What is missing is a mistake of usage.
func (a *app) connect() (*client.Client, error) {
	if a.client != nil {
		return a.client, nil
	}
	f := &a.flags
	for _, need := range []struct{ value, flag, env string }{
		{strings.Join(f.endpoints, ","), "--endpoints", "QLBCTL_ENDPOINTS"},
		{f.ca, "--tls-ca", "QLBCTL_TLS_CA"},
		{f.crt, "--tls-cert", "QLBCTL_TLS_CERT"},
		{f.key, "--tls-key", "QLBCTL_TLS_KEY"},
	} {
		if need.value == "" {
			return nil, usagef("%s is missing; give the flag or set %s", need.flag, need.env)
		}
	}
	c, err := client.New(client.Config{
		Endpoints: f.endpoints,
		TLS:       pki.Files{CA: f.ca, Cert: f.crt, Key: f.key},
		Timeout:   f.timeout,
	})
	if err != nil {
		return nil, usageError{err}
	}
	a.client = c
	return c, nil
}

// call makes one call of the admin API on whichever member answers:
//
//	call(ctx, a, adminv1.AdminServiceClient.Drain, &adminv1.DrainRequest{...})
func call[Req, Resp any](ctx context.Context, a *app,
	rpc func(adminv1.AdminServiceClient, context.Context, *Req, ...grpc.CallOption) (*Resp, error), req *Req,
) (*Resp, error) {
	c, err := a.connect()
	if err != nil {
		return nil, err
	}
	var resp *Resp
	err = c.Call(ctx, func(ctx context.Context, api adminv1.AdminServiceClient) error {
		var err error
		resp, err = rpc(api, ctx, req)
		return err
	})
	var unreachable *client.Unreachable
	if errors.As(err, &unreachable) {
		unreachable.Reading = reading(req)
	}
	return resp, err
}

// reading tells whether a request changes nothing.
func reading(req any) bool {
	switch req.(type) {
	case *adminv1.GetRequest, *adminv1.StatusRequest, *adminv1.VersionRequest, *adminv1.ProbeRequest:
		return true
	}
	return false
}

// member names the member that answered last.
func (a *app) member() string {
	if a.client == nil || a.client.Member() == "" {
		return "the group"
	}
	return a.client.Member()
}

func (a *app) role() string {
	if a.client == nil {
		return "nobody"
	}
	return a.client.Role().String()
}

// command completes a cobra command: its errors are marked as those of a command
// that ran.
func command(cmd *cobra.Command, run func(ctx context.Context, args []string) error) *cobra.Command {
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if err := run(c.Context(), args); err != nil {
			return doneError{err}
		}
		return nil
	}
	return cmd
}

// group is a command that only holds others.
func group(cmd *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(subs...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		return usagef("unknown command %q for %q", args[0], c.CommandPath())
	}
	return cmd
}

// args checks the number of arguments and names what is missing.
func args(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, given []string) error {
		switch {
		case len(given) < len(names):
			return usagef("%s is missing", strings.Join(names[len(given):], " and "))
		case len(given) > len(names):
			return usagef("too many arguments: %s", strings.Join(given[len(names):], " "))
		}
		return nil
	}
}

func (a *app) warnf(format string, args ...any) {
	fmt.Fprintf(a.env.Stderr, "qlbctl: "+format+"\n", args...)
}
