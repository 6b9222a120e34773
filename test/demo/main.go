// Command demo shows the main job: a lab of five nodes, seven disasters, one
// table. It exits with 1 when a row misses its expectation.
//
//	go run ./test/demo [-keep]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
	"github.com/quorumlb/quorumlb/test/scenario"
)

// limit is how long the demo may take once its programs are built.
const limit = 90 * time.Second

func main() {
	lab.Init()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

var errMissed = errors.New("a row missed its expectation")

type options struct {
	keep bool
	only string
	logs bool
}

func run(ctx context.Context, args []string, out *os.File) error {
	var opts options
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.BoolVar(&opts.keep, "keep", false, "keep the lab at the end, until Ctrl-C, and say how to look around in it")
	flags.StringVar(&opts.only, "only", "", "play only these rows, for example 1,2")
	flags.BoolVar(&opts.logs, "logs", false, "print the ends of the daemons' logs when a row misses")
	if err := flags.Parse(args); err != nil {
		return err
	}
	fmt.Fprintln(out, "building the programs ...")
	if _, err := cluster.Build(ctx); err != nil {
		return err
	}
	fmt.Fprintln(out, "making five nodes, three members, a client, a router, a management network ...")
	playing, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within %v", limit))
	defer cancel()
	s, err := scenario.Open(playing, scenario.Options{})
	if s != nil {
		defer func() {
			if err := s.Close(); err != nil {
				fmt.Fprintln(os.Stderr, "demo: remove the lab:", err)
			}
		}()
	}
	if err != nil {
		if s != nil && ctx.Err() == nil {
			fmt.Fprintln(out, s.LogTails(15))
		}
		return fmt.Errorf("%w", errors.Join(err, context.Cause(playing)))
	}
	outcomes, err := play(playing, s, opts.only, out)
	table(out, outcomes)
	if opts.logs && err != nil {
		fmt.Fprintln(out, s.LogTails(30))
	}
	if opts.keep && ctx.Err() == nil {
		return errors.Join(err, linger(ctx, s, out))
	}
	return err
}

// play plays the rows under the live view.
func play(ctx context.Context, s *scenario.Stage, only string, out *os.File) (outcomes []scenario.Outcome, err error) {
	v := newView(s, out)
	g, viewing := errgroup.WithContext(ctx)
	viewing, stop := context.WithCancel(viewing)
	g.Go(func() error { return v.run(viewing) })
	for _, e := range scenario.Events() {
		if only != "" && !strings.Contains(","+only+",", ","+e.Name[:1]+",") {
			continue
		}
		v.begin(e)
		o, _ := s.Play(ctx, e) // an error is one of the outcome's misses
		if ctx.Err() != nil {
			err = fmt.Errorf("row %q: %w", e.Name, context.Cause(ctx))
			break
		}
		outcomes = append(outcomes, o)
		v.end(o)
		if len(o.Misses) > 0 {
			err = errMissed
		}
	}
	stop()
	return outcomes, errors.Join(err, g.Wait())
}

// linger keeps the lab until the user has seen enough.
func linger(ctx context.Context, s *scenario.Stage, out io.Writer) error {
	at, err := s.WriteAt()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, `
The lab stays until you press Ctrl-C here. In another terminal, as the same user:

  %[1]s admin qlbctl status                  how the group is
  %[1]s admin qlbctl get vips -o wide        who owns what, who announces it
  %[1]s admin qlbctl drain n4                then look again
  %[1]s admin qlbctl history address %[2]s
  %[1]s client arping -c 3 -I eth0 %[2]s
  %[1]s router tcpdump -eni eth0 arp or icmp6
  %[1]s n1 ip address show lo

Logs, data and certificates are in %[3]s
`, at, s.Addrs[0], s.Dir())
	<-ctx.Done()
	return nil
}
