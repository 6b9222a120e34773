// Command mutants puts deliberate bugs into the program, one at a time, and tells
// which of the provers notice: the simulation (test/sim), random operations against the
// rules of allocation (raftnode/decider), and chaos on real processes (test/chaos). Unit
// tests are not asked.
//
//	go run ./test/mutants [-only word] [-missing] [-time 60s] [-checks 1000] [-chaos 3m] [-seed n] [-list] [-write]
//
// The bugs are in list.go. None is ever written into the tree: the programs are built
// with an overlay. docs/mutants.md has what came out, and -write puts it there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// options are what the command line asks for.
type options struct {
	// sim and chaos bound the time of each prover for one mutant; 0 leaves it out.
	sim, chaos time.Duration
	// checks is how many runs of random operations are held against the rules; 0: none.
	checks uint64
	// least is how many schedules the simulation plays, if its time is too short for them.
	least uint64
	seed  uint64
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var o options
	flags := flag.NewFlagSet("mutants", flag.ContinueOnError)
	only := flags.String("only", "", "only the mutants with this word in their names")
	flags.DurationVar(&o.sim, "time", time.Minute, "for how long the simulation looks for each; 0: not at all")
	flags.Uint64Var(&o.least, "least", 1000, "and for at least so many schedules, which may take longer on a busy machine")
	flags.Uint64Var(&o.checks, "checks", 1000, "how many runs of 120 random operations are held against the rules of allocation; 0: none")
	flags.DurationVar(&o.chaos, "chaos", 3*time.Minute, "for how long chaos looks for each that it is asked about; 0: not at all")
	flags.Uint64Var(&o.seed, "seed", 0, "have the simulation play this one schedule")
	missing := flags.Bool("missing", false, "only the mutants that no prover has found in earlier runs")
	list := flags.Bool("list", false, "list the mutants and do nothing")
	write := flags.Bool("write", false, "put all that is known into docs/mutants.md")
	if err := flags.Parse(args); err != nil {
		return err
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	known, err := load(root)
	if err != nil {
		return err
	}
	todo := chosen(*only)
	if *missing {
		todo = slices.DeleteFunc(todo, known.caught)
	}
	switch {
	case *list:
		for _, m := range todo {
			fmt.Fprintf(out, "%-28s %s\n", m.Name, m.Breaks)
		}
		return nil
	case len(todo) == 0:
		return fmt.Errorf("no mutant is left with %q in its name: -list shows them all", *only)
	case o.seed != 0 && len(todo) > 1:
		return errors.New("-seed plays one mutant: name it with -only")
	}
	failed := hunt(ctx, root, o, todo, known, out)
	if err := known.save(root); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s", table(todo, known))
	if *write {
		if err := writePage(root, table(mutants, known)); err != nil {
			return err
		}
	}
	return failed
}

// chosen are the mutants that have the word in their names; with none, all, and before
// them the program as it is, in which nothing may be found.
func chosen(word string) (list []mutant) {
	if word == "" {
		list = append(list, mutant{Name: unchanged, Breaks: "nothing: what is found here is a fault of the program or of the prover"})
	}
	for _, m := range mutants {
		if strings.Contains(m.Name, word) {
			list = append(list, m)
		}
	}
	return list
}

// unchanged is the program without a bug of ours.
const unchanged = "(unchanged)"

// hunt asks the provers about each mutant. The error lists what did not come out as it should.
func hunt(ctx context.Context, root string, o options, todo []mutant, known results, out io.Writer) error {
	var failed []string
	for i, m := range todo {
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, p := range provers {
			if !p.wants(m, o, known) {
				continue
			}
			fmt.Fprintf(out, "%2d/%d %-28s %-10s ", i+1, len(todo), m.Name, p.name)
			r, err := p.ask(ctx, root, m, o)
			if err != nil {
				fmt.Fprintf(out, "not done: %v\n", err)
				failed = append(failed, fmt.Sprintf("%s, %s: %v", m.Name, p.name, err))
				continue
			}
			fmt.Fprintln(out, r)
			known.put(m, p.name, r)
			if err := known.save(root); err != nil {
				return err
			}
		}
		switch found := known.foundBy(m); {
		case m.Name == unchanged && found != "":
			failed = append(failed, fmt.Sprintf("%s finds a violation in the program as it is", found))
		case m.Name != unchanged && found == "" && m.covered == "":
			failed = append(failed, m.Name+": not found")
		}
	}
	if len(failed) > 0 {
		return errors.New(strings.Join(failed, "\n         "))
	}
	return nil
}
