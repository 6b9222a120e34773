// Command quorumlb-speaker runs the speaker of one node.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/quorumlb/quorumlb/internal/obs"
	"github.com/quorumlb/quorumlb/internal/task"
	"github.com/quorumlb/quorumlb/internal/version"
	"github.com/quorumlb/quorumlb/speakers"
)

// env is what the program gets from the outside.
type env struct {
	args           []string // without the program's name
	stdout, stderr io.Writer
	// started, if set, is called with the address of the HTTP server once it
	// listens.
	started func(http net.Addr)
}

// gcPercent lets the heap grow by half before it is collected. The reply path
// allocates nothing and the rest little, so memory is worth more than the time.
const gcPercent = 50

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, env{args: os.Args[1:], stdout: os.Stdout, stderr: os.Stderr})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "quorumlb-speaker:", err)
		os.Exit(1)
	}
}

// run executes the command line until it is done or ctx ends. Its error is what
// the process exits with.
func run(ctx context.Context, e env) error {
	opts, err := loadOptions(e.args)
	if err != nil {
		return err
	}
	cmd := newCommand(opts, e)
	cmd.SetArgs(e.args)
	cmd.SetOut(e.stdout)
	cmd.SetErr(e.stderr)
	return cmd.ExecuteContext(ctx)
}

func newCommand(opts *options, e env) *cobra.Command {
	cmd := &cobra.Command{
		Use:           "quorumlb-speaker [flags]",
		Short:         "Run the speaker of one node of a QuorumLB cluster",
		Long:          longHelp,
		Example:       exampleHelp,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.String(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), opts, e)
		},
	}
	opts.bind(cmd.Flags())
	cmd.AddCommand(newCleanupCommand(opts, e), newVersionCommand(e))
	return cmd
}

func newCleanupCommand(opts *options, e env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove what the speaker has put on the loopback interface",
		Long:  cleanupHelp,
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			log, err := obs.NewLogger(e.stderr, opts.LogLevel, opts.LogFormat)
			if err != nil {
				return err
			}
			return speakers.Cleanup(opts.StateDir, log)
		},
	}
	cmd.Flags().StringVar(&opts.Config, "config", "", "YAML `file` of the speaker")
	cmd.Flags().StringVar(&opts.StateDir, "state-dir", opts.StateDir, "`directory` of the speaker that was")
	return cmd
}

func newVersionCommand(e env) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the program's version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(e.stdout, "quorumlb-speaker %s (%s)\n", version.String(), version.Go())
			return err
		},
	}
}

// serve runs the speaker and its HTTP server until ctx ends and the node owns
// nothing.
func serve(ctx context.Context, opts *options, e env) error {
	log, err := obs.NewLogger(e.stderr, opts.LogLevel, opts.LogFormat)
	if err != nil {
		return err
	}
	log = log.With(obs.KeyNode, opts.Node)
	conf, err := opts.speaker(log)
	if err != nil {
		return err
	}
	registry := obs.NewRegistry("quorumlb-speaker")
	conf.Registry = registry
	speaker, err := speakers.New(conf)
	if err != nil {
		return err
	}
	// Ctx tells the speaker to leave; everything else ends when it has left.
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group := task.NewGroup("quorumlb-speaker", task.Func(speaker.String(), func(gctx context.Context) error {
		defer stop()
		leave, cancel := context.WithCancel(gctx)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		return speaker.Run(leave)
	}))
	if opts.HTTP != "" {
		ln, err := net.Listen("tcp", opts.HTTP)
		if err != nil {
			return fmt.Errorf("http: %w", err)
		}
		if e.started != nil {
			e.started(ln.Addr())
		}
		handler := obs.Handler(registry, speaker.Checks())
		if opts.Pprof {
			handler = obs.WithPprof(handler)
		}
		group.Add(obs.NewServer(ln, handler, log))
	}
	log.Info("starting", "version", version.String())
	err = group.Run(inner)
	log.Info("stopped", obs.KeyError, err)
	return err
}
