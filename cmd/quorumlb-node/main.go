// Command quorumlb-node runs one member of a QuorumLB group.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/quorumlb/quorumlb/internal/obs"
	"github.com/quorumlb/quorumlb/internal/task"
	"github.com/quorumlb/quorumlb/internal/version"
	"github.com/quorumlb/quorumlb/raftnode"
)

// env is what the program gets from the outside.
type env struct {
	args           []string // without the program's name
	stdout, stderr io.Writer
	// started, if set, is called with the address of the HTTP server once it
	// listens.
	started func(http net.Addr)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, env{args: os.Args[1:], stdout: os.Stdout, stderr: os.Stderr})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "quorumlb-node:", err)
		os.Exit(1)
	}
}

// run executes the command line until it is done or ctx ends. Its error is what
// the process exits with.
func run(ctx context.Context, e env) error {
	cmd := newCommand(e)
	cmd.SetArgs(e.args)
	cmd.SetOut(e.stdout)
	cmd.SetErr(e.stderr)
	return cmd.ExecuteContext(ctx)
}

func newCommand(e env) *cobra.Command {
	opts := newOptions()
	cmd := &cobra.Command{
		Use:           "quorumlb-node [flags]",
		Short:         "Run one member of a QuorumLB group",
		Long:          longHelp,
		Example:       exampleHelp,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.String(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := opts.load(cmd.Flags()); err != nil {
				return err
			}
			return serve(cmd.Context(), opts, e)
		},
	}
	opts.bind(cmd.Flags())
	cmd.AddCommand(newRecoverCommand(e), newVersionCommand(e))
	return cmd
}

func newVersionCommand(e env) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the program's version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(e.stdout, "quorumlb-node %s (%s)\n", version.String(), version.Go())
			return err
		},
	}
}

// serve runs the member and its HTTP server until ctx ends.
func serve(ctx context.Context, opts *options, e env) error {
	log, err := obs.NewLogger(e.stderr, opts.LogLevel, opts.LogFormat)
	if err != nil {
		return err
	}
	registry := obs.NewRegistry("quorumlb-node")
	conf, err := opts.member()
	if err != nil {
		return err
	}
	conf.Logger, conf.Registry = log, registry
	member, err := raftnode.New(conf)
	if err != nil {
		return err
	}
	group := task.NewGroup("quorumlb-node", member)
	if opts.HTTP != "" {
		ln, err := net.Listen("tcp", opts.HTTP)
		if err != nil {
			return fmt.Errorf("http: %w", err)
		}
		if e.started != nil {
			e.started(ln.Addr())
		}
		handler := obs.Handler(registry, member.Checks())
		if opts.Pprof {
			handler = obs.WithPprof(handler)
		}
		group.Add(obs.NewServer(ln, handler, log))
	}
	log.Info("starting", "name", opts.Name, "version", version.String())
	if err := group.Run(ctx); err != nil {
		log.Error("stopped", obs.KeyError, err)
		return err
	}
	log.Info("stopped")
	return nil
}
