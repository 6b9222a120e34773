// Command bench measures every speed that the project claims, each beside its
// peer in the same run on the same machine, and prints one Markdown table.
//
//	go run ./test/bench [-repeats 20] [-spurious 10m] [-only outage,writes]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
)

func main() {
	lab.Role(bareRole, runBare)
	lab.Init()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options of a run.
type options struct {
	repeats  int
	spurious time.Duration
	only     string
	dir      string // on the disk that is measured
}

// part is one group of measurements.
type part struct {
	name string
	run  func(ctx context.Context, o options, r *report) error
}

var parts = []part{
	{"outage", benchOutage},
	{"writes", benchWrites},
	{"arp", benchARP},
	{"footprint", benchFootprint},
	{"micro", benchMicro},
	{"spurious", benchSpurious},
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.repeats, "repeats", 20, "power-offs of each kind")
	flags.DurationVar(&o.spurious, "spurious", 10*time.Minute, "how long every core is kept busy to see nobody expired")
	flags.StringVar(&o.only, "only", "", "only these parts, separated by commas: outage, writes, arp, footprint, micro, spurious")
	flags.StringVar(&o.dir, "dir", filepath.Join(".cache", "bench"), "where the logs under test are written; its disk is measured")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return err
	}
	r := &report{progress: progress}
	var errs []error
	for _, p := range parts {
		if o.only != "" && !strings.Contains(","+o.only+",", ","+p.name+",") {
			continue
		}
		fmt.Fprintf(progress, "%s ...\n", p.name)
		if err := p.run(ctx, o, r); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
			fmt.Fprintf(progress, "  %v\n", err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	fmt.Fprintf(out, "\n%s, %d cores, Linux %s, %s\n\n", time.Now().Format(time.DateOnly), runtime.NumCPU(), kernel(), runtime.Version())
	r.print(out)
	return errors.Join(errs...)
}

func kernel() string {
	var u syscall.Utsname
	if syscall.Uname(&u) != nil {
		return "?"
	}
	var b strings.Builder
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}
