package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/client"
	"github.com/quorumlb/quorumlb/config"
)

// Exit codes, as `qlbctl --help` documents them.
const (
	ExitOK          = 0 // done; a check found nothing
	ExitFound       = 1 // refused, failed, or a check found something
	ExitUsage       = 2 // the command line or the configuration of qlbctl is wrong
	ExitUnreachable = 3 // no member could be reached, or none answered in time
)

// Env is the world as a command sees it.
type Env struct {
	Args           []string // without the program's name
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Now            func() time.Time
	// Terminal: a person reads Stdout. Only then is there colour.
	Terminal bool
	// Interactive: a person can answer a question on Stdin.
	Interactive bool
}

// Run carries out one command line and gives its exit code.
func Run(ctx context.Context, env Env) int {
	a := &app{env: env}
	defer a.close()
	root := a.root()
	root.SetArgs(env.Args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	code, text := a.explain(err)
	if text != "" {
		fmt.Fprintln(env.Stderr, "qlbctl: "+text)
	}
	if code == ExitUsage {
		fmt.Fprintf(env.Stderr, "See '%s --help'.\n", cmd.CommandPath())
	}
	return code
}

// usageError is a mistake in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// doneError is an error of a command that ran; cobra's own errors, which are
// about the command line, are not in one.
type doneError struct{ error }

func (e doneError) Unwrap() error { return e.error }

// errFound says that a check found something which is printed already.
var errFound = errors.New("the check found something")

// explain turns an error into an exit code and what to say.
func (a *app) explain(err error) (code int, text string) {
	var (
		usage       usageError
		done        doneError
		unreachable *client.Unreachable
		invalid     config.Errors
	)
	switch {
	case errors.Is(err, errFound):
		return ExitFound, ""
	case errors.As(err, &usage), !errors.As(err, &done):
		return ExitUsage, err.Error()
	}
	err = done.error
	switch {
	case errors.As(err, &unreachable):
		return ExitUnreachable, err.Error()
	case errors.As(err, &invalid):
		return ExitFound, "refused:\n  " + strings.ReplaceAll(err.Error(), "\n", "\n  ")
	case errors.Is(err, context.Canceled):
		return ExitFound, "interrupted"
	}
	if s, ok := status.FromError(err); ok {
		return a.explainStatus(err, s)
	}
	return ExitFound, err.Error()
}

// explainStatus is for the answer of a member that says no.
func (a *app) explainStatus(err error, s *status.Status) (code int, text string) {
	switch s.Code() {
	case codes.DeadlineExceeded:
		return ExitUnreachable, fmt.Sprintf("%s did not answer within %s", a.member(), a.flags.timeout)
	case codes.Unavailable:
		return ExitUnreachable, "lost the connection to " + a.member() + ": " + client.Explain(err)
	case codes.Unauthenticated, codes.PermissionDenied:
		return ExitFound, fmt.Sprintf("not allowed as %s: %s", a.role(), s.Message())
	case codes.Unimplemented:
		return ExitFound, fmt.Sprintf("%s runs a version that does not know this command: %s", a.member(), s.Message())
	case codes.Canceled:
		return ExitFound, "interrupted"
	}
	violations := client.Violations(err)
	if len(violations) == 0 {
		return ExitFound, s.Message()
	}
	summary := "refused"
	if s.Code() != codes.InvalidArgument {
		// The message says the violations once more, behind the first colon.
		summary, _, _ = strings.Cut(s.Message(), ":")
	}
	lines := []string{summary + ":"}
	for _, v := range violations {
		lines = append(lines, "  "+v.GetField()+": "+v.GetDescription())
	}
	return ExitFound, strings.Join(lines, "\n")
}
