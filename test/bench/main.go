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
	"strings"
	"syscall"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
)

func main() {
	addRoles()
	lab.Init()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// addRoles adds the parts that copies of this program play on the lab's hosts.
func addRoles() {
	lab.Role(bareRole, runBare)
	lab.Role(swarmRole, runSwarm)
}

// options of a run.
type options struct {
	repeats  int
	spurious time.Duration
	rss      time.Duration
	speakers int
	services int
	only     string
	again    bool
	list     bool
	report   bool
	profiles bool
	dir      string // on the disk that is measured
	results  string
	docs     string
	note     string
}

func (o *options) bind(flags *flag.FlagSet) {
	flags.IntVar(&o.repeats, "repeats", 20, "how often each outage, restart and round is measured")
	flags.DurationVar(&o.spurious, "spurious", 10*time.Minute, "how long every core is kept busy to see nobody expired")
	flags.DurationVar(&o.rss, "rss", time.Hour, "how long memory is watched")
	flags.IntVar(&o.speakers, "speakers", 500, "simulated speakers of the parts leases and fanout")
	flags.IntVar(&o.services, "services", 100_000, "services of the part coldstart")
	flags.StringVar(&o.only, "only", "", "only these parts, separated by commas; a part's first words name all that begin with them (see -list)")
	flags.BoolVar(&o.again, "again", false, "measure anew what has been measured")
	flags.BoolVar(&o.list, "list", false, "list the parts with their time limits, and what is measured of them")
	flags.BoolVar(&o.report, "report", false, "measure nothing; write the report from the results")
	flags.BoolVar(&o.profiles, "profiles", false, "write CPU and heap profiles of the daemons under load beside the results")
	flags.StringVar(&o.dir, "dir", filepath.Join(".cache", "bench"), "where the logs under test are written; its disk is measured")
	flags.StringVar(&o.results, "results", filepath.Join(".cache", "bench-results"), "directory of the results")
	flags.StringVar(&o.note, "note", "", "what a reader of the report should know about this run")
	flags.StringVar(&o.docs, "docs", "docs", "directory that the report is written to")
}

// part is one group of measurements with a result of its own.
type part struct {
	name  string
	limit time.Duration
	// measure adds samples until there are enough or ctx ends.
	measure func(ctx context.Context, r *recorder) error
}

// wanted tells whether -only names the part.
func (p part) wanted(only string) bool {
	if only == "" {
		return true
	}
	for word := range strings.SplitSeq(only, ",") {
		if p.name == word || strings.HasPrefix(p.name, word+"-") {
			return true
		}
	}
	return false
}

func allParts(o options) []part {
	parts := outageParts(o)
	n := time.Duration(o.repeats)
	return append(parts,
		part{"writes", 6 * time.Minute, benchWrites},
		part{"fanout", 5*time.Minute + n*6*time.Second, benchFanout},
		part{"leases", 5 * time.Minute, benchLeases},
		part{"coldstart", 12*time.Minute + n*20*time.Second, benchColdStart},
		part{"arp", 2 * time.Minute, benchARP},
		part{"footprint", 5 * time.Minute, benchFootprint},
		part{"micro", 25 * time.Minute, benchMicro},
		part{"spurious", o.spurious + 2*time.Minute, benchSpurious},
		part{"rss", o.rss + 3*time.Minute, benchRSS},
	)
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	o.bind(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	for _, path := range []*string{&o.dir, &o.results, &o.docs} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if o.report {
		return writeReport(o)
	}
	var parts []part
	for _, p := range allParts(o) {
		if p.wanted(o.only) {
			parts = append(parts, p)
		}
	}
	switch {
	case len(parts) == 0:
		return fmt.Errorf("-only %q names no part; -list shows them", o.only)
	case o.list:
		return list(out, o, parts)
	}
	return measure(ctx, o, parts, out, progress)
}

func list(out io.Writer, o options, parts []part) error {
	var sum time.Duration
	for _, p := range parts {
		state := "not measured"
		if r, err := loadResult(o.results, p.name); err == nil {
			state = fmt.Sprintf("%d of %d, with %s", r.count(), r.Want, r.Setup.Version)
		}
		fmt.Fprintf(out, "%-40s at most %-8v %s\n", p.name, p.limit.Round(time.Second), state)
		sum += p.limit
	}
	fmt.Fprintf(out, "all together at most %v; usually a third of that\n", sum.Round(time.Minute))
	return nil
}

// measure measures the parts one after the other.
func measure(ctx context.Context, o options, parts []part, out, progress io.Writer) error {
	bin, err := cluster.Build(ctx)
	if err != nil {
		return err
	}
	setup, err := describe(ctx, bin)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.results, 0o755); err != nil {
		return err
	}
	var errs []error
	for i, p := range parts {
		r := newRecorder(o, p.name, setup, progress)
		if r.complete() {
			fmt.Fprintf(progress, "%s: measured already (-again measures anew)\n", p.name)
			continue
		}
		fmt.Fprintf(progress, "%s (%d of %d, at most %v) ...\n", p.name, i+1, len(parts), p.limit.Round(time.Second))
		limited, cancel := context.WithTimeout(ctx, p.limit)
		err := p.measure(limited, r)
		cancel()
		if err := errors.Join(err, r.end(err)); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
			fmt.Fprintf(progress, "  %v\n", err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	rows, err := loadRows(o.results)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	fmt.Fprintln(out)
	printTable(out, rows)
	return errors.Join(errs...)
}
