// Command model checks the lease and ownership protocol with spin: that its
// properties hold, and that each stops to hold when a rule is left out.
//
//	go run ./test/model [-write] [-only fence] [-v]
//
// The models are the .pml files beside this one, and checks.go lists what is run. Each counterexample is
// turned into a readable trace and compared with the one in docs/model; with
// -write it replaces that. docs/model.md tells what is modelled and what is not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "model:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("model", flag.ContinueOnError)
	write := flags.Bool("write", false, "write the traces to -docs instead of comparing them")
	only := flags.String("only", "", "check only this model")
	docs := flags.String("docs", "docs/model", "where the traces are")
	verbose := flags.Bool("v", false, "print each trace")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for _, tool := range []string{"spin", "gcc"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing: run test/prepare model", tool)
		}
	}
	var todo []check
	for _, c := range checks {
		if *only == "" || *only == c.model {
			todo = append(todo, c)
		}
	}
	results := runAll(ctx, todo, out)
	if err := ctx.Err(); err != nil {
		return err
	}
	if *verbose {
		for _, r := range results {
			fmt.Fprintf(out, "\n%s\n%s", r.name(), r.trace)
		}
	}
	table(out, results)
	failed := append(judge(results), keep(*docs, results, *write, *only == "")...)
	if len(failed) > 0 {
		return errors.New(strings.Join(failed, "\n       "))
	}
	return nil
}

// runAll runs the checks on two processors and prints each as it ends.
func runAll(ctx context.Context, todo []check, out io.Writer) []result {
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		done    int
		results = make([]result, len(todo))
		next    = make(chan int)
	)
	for range min(workers, runtime.NumCPU()) {
		wg.Go(func() {
			for i := range next {
				r := todo[i].run(ctx)
				results[i] = r
				mu.Lock()
				done++
				fmt.Fprintf(out, "%2d/%d %-60s %s\n", done, len(todo), r.name(), r.outcome())
				mu.Unlock()
			}
		})
	}
	for i := range todo {
		next <- i
	}
	close(next)
	wg.Wait()
	return results
}

// judge names the checks that did not come out as they should.
func judge(results []result) []string {
	var failed []string
	for _, r := range results {
		switch {
		case r.err != nil:
			failed = append(failed, fmt.Sprintf("%s: %v", r.name(), r.err))
		case r.found && r.rule == "":
			failed = append(failed, fmt.Sprintf("%s does not hold:\n%s", r.name(), r.trace))
		case r.found && r.covered:
			failed = append(failed, fmt.Sprintf("%s: the other rules do not cover for it any more:\n%s", r.name(), r.trace))
		case !r.found && r.rule != "" && !r.covered:
			failed = append(failed, fmt.Sprintf("%s: no counterexample without this rule", r.name()))
		}
	}
	return failed
}

func table(out io.Writer, results []result) {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "\nRULE LEFT OUT\tMODEL\tSTATES\tTIME\tVERDICT")
	for _, r := range results {
		rule := r.rule
		if rule == "" {
			rule = "none: " + r.property
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.1f s\t%s\n", rule, r.model+" "+strings.Join(r.sizes, " "), r.states, r.took.Round(100*time.Millisecond).Seconds(), r.outcome())
	}
	_ = w.Flush()
}
