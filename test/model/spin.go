package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	// workers run at once, each with at most memoryMB.
	workers  = 2
	memoryMB = 1900
	// deadline of one check; most take seconds.
	deadline = 10 * time.Minute
	// replays is how often a counterexample is replayed that shows nothing.
	replays = 3
	// depth of the search; to reach it is an error.
	depth = 2_000_000
)

//go:embed *.pml
var models embed.FS

// result is what came of a check.
type result struct {
	check
	found  bool // a counterexample
	states string
	trace  string
	took   time.Duration
	err    error
}

func (r *result) outcome() string {
	switch {
	case r.err != nil:
		return "FAILED: " + r.err.Error()
	case r.found:
		return "counterexample"
	case r.covered:
		return "holds all the same"
	default:
		return "holds"
	}
}

// run checks in a directory of its own.
func (c check) run(ctx context.Context) result {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	r := result{check: c}
	start := time.Now()
	r.err = r.search(ctx)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && r.err != nil {
		r.err = fmt.Errorf("not done after %v: %w", deadline, r.err)
	}
	r.took = time.Since(start)
	return r
}

func (r *result) search(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "model-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.CopyFS(dir, models); err != nil {
		return err
	}
	file, defines := r.model+".pml", r.defines()
	if _, err := tool(ctx, dir, "spin", append(append([]string{"-a"}, defines...), file)...); err != nil {
		return err
	}
	cc := []string{"-w", "-DSAFETY", "-DNOREDUCE", "-DCOLLAPSE", fmt.Sprintf("-DMEMLIM=%d", memoryMB), "-o", "pan", "pan.c"}
	if r.shortest() {
		cc = append(cc, "-DBFS", "-O1") // to compile takes longer than to find it
	} else {
		cc = append(cc, "-O2")
	}
	if _, err := tool(ctx, dir, "gcc", cc...); err != nil {
		return err
	}
	said, err := tool(ctx, dir, "./pan", fmt.Sprintf("-m%d", depth), "-w22")
	if err != nil {
		return err
	}
	if err := r.read(said); err != nil || !r.found {
		return err
	}
	// On a busy machine a replay was seen to show nothing, which no other run of it did.
	for range replays {
		var replay string
		if replay, err = tool(ctx, dir, "spin", append(append([]string{"-t", "-T"}, defines...), file)...); err != nil {
			return err
		}
		if r.trace = readable(replay, r.wrong); strings.Count(r.trace, "\n") > 1 {
			return nil
		}
		err = fmt.Errorf("the replay shows nothing:\n%s", replay)
	}
	return err
}

// shortest tells whether to search breadth first, for the shortest counterexample.
func (c check) shortest() bool { return c.rule != "" && !c.covered }

var (
	statesLine = regexp.MustCompile(`(?m)^\s*([\d.e+]+) states, stored`)
	errorsLine = regexp.MustCompile(`errors: (\d+)`)
)

// read takes the verifier's report. A search that was cut short is an error, unless it
// has found a counterexample.
func (r *result) read(said string) error {
	states, count := statesLine.FindStringSubmatch(said), errorsLine.FindStringSubmatch(said)
	if states == nil || count == nil {
		return fmt.Errorf("the verifier said:\n%s", said)
	}
	r.states, r.found = states[1], count[1] != "0"
	if r.found {
		if !strings.Contains(said, "assertion violated") {
			return fmt.Errorf("not an assertion, but:\n%s", said)
		}
		return nil
	}
	for _, cut := range []string{"not completed", "max search depth too small", "MEMLIM", "out of memory", "aborting"} {
		if strings.Contains(said, cut) {
			return fmt.Errorf("the search is not complete:\n%s", said)
		}
	}
	return nil
}

// tool runs a program in dir and returns what it printed.
func tool(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if filepath.Base(name) != name {
		cmd.Path = filepath.Join(dir, name)
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() && name == "./pan" {
		err = nil // its report tells
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
