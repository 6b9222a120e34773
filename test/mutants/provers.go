package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// prover runs the mutated program and says what it found.
type prover struct {
	name string
	// limit is how long it is asked to look.
	limit func(options) time.Duration
	// args and env are the go command that asks it; dir takes its files.
	args func(m mutant, o options) []string
	env  func(m mutant, o options, dir string) []string
	// slack is how long building, starting and judging may take beside.
	slack time.Duration
	// read makes a result of what the command printed and left in dir.
	read func(out string, failed bool, dir string) (result, error)
}

const (
	simulation = "simulation"
	rules      = "rules"
	chaos      = "chaos"
)

var provers = []prover{
	{
		name: simulation, slack: 15 * time.Minute, read: readSim,
		limit: func(o options) time.Duration { return o.sim },
		args: func(_ mutant, o options) []string {
			return []string{"test", "./test/sim", "-vet=off", "-run", "^TestSim$", "-v", "-count=1", "-timeout", "0",
				"-args", "-sim.time=" + o.sim.String(), "-sim.least=" + strconv.FormatUint(o.least, 10), "-sim.seed=" + strconv.FormatUint(o.seed, 10)}
		},
		env: func(mutant, options, string) []string { return nil },
	},
	{
		name: rules, slack: 15 * time.Minute, read: readRules,
		// About 40 runs a second where nothing else runs.
		limit: func(o options) time.Duration { return time.Duration(o.checks) * 100 * time.Millisecond },
		args: func(_ mutant, o options) []string {
			return []string{"test", "./raftnode/decider", "-vet=off", "-run", "^TestOperationsAgainstTheRules$", "-v", "-count=1", "-timeout", "0",
				"-rapid.checks=" + strconv.FormatUint(o.checks, 10), "-rapid.shrinktime=5s", "-rapid.nofailfile"}
		},
		env: func(mutant, options, string) []string { return nil },
	},
	{
		name: chaos, slack: 30 * time.Minute, read: readChaos,
		limit: func(o options) time.Duration { return o.chaos },
		args: func(mutant, options) []string {
			return []string{"test", "./test/chaos", "-vet=off", "-run", "^TestChaos$", "-v", "-count=1", "-timeout", "0"}
		},
		env: func(m mutant, o options, dir string) []string {
			return []string{"QUORUMLB_CHAOS_TIME=" + o.chaos.String(), "QUORUMLB_CHAOS_DIR=" + dir, "QUORUMLB_CHAOS_FAULTS=" + m.faults}
		},
	},
}

// wants tells whether the prover is to be asked: the simulation about everything that it
// has, the rules about what decides, chaos about what nobody has found yet.
func (p prover) wants(m mutant, o options, known results) bool {
	switch {
	case p.limit(o) == 0:
		return false
	case p.name == simulation:
		return !m.wire
	case p.name == rules:
		return m.Name == unchanged || m.decides()
	case m.Name == unchanged:
		return false // make chaos asks that
	}
	return m.wire || !known.of(m)[simulation].Found && !known.of(m)[rules].Found
}

// decides tells whether the bug is in what the rules are held against: the state, the
// allocator and the decider.
func (m mutant) decides() bool {
	return slices.ContainsFunc(m.files(), func(file string) bool {
		switch filepath.Dir(file) {
		case "fsm", "allocator", "raftnode/decider":
			return true
		}
		return false
	})
}

// ask builds the mutant and runs the prover. The error says that nothing was learned: it
// does not build, the prover broke down, or its time is up.
func (p prover) ask(ctx context.Context, root string, m mutant, o options) (result, error) {
	dir, err := os.MkdirTemp("", "mutant-")
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(dir)
	env, err := m.overlay(root, dir)
	if err != nil {
		return result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*p.limit(o)+p.slack)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", p.args(m, o)...)
	cmd.Dir, cmd.Env = root, append(env, p.env(m, o, dir)...)
	// The test binary and what it started end with the command.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return result{}, fmt.Errorf("given up: %w", context.Cause(ctx))
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return result{}, err
	}
	text := string(out)
	if strings.Contains(text, "[build failed]") || strings.Contains(text, "[setup failed]") {
		return result{}, fmt.Errorf("it does not build:\n%s", tail(text))
	}
	r, err := p.read(text, exit != nil, dir)
	if err != nil {
		return result{}, fmt.Errorf("%w:\n%s", err, tail(text))
	}
	return r, nil
}

// tail is the end of a command's output.
func tail(s string) string { return s[max(0, len(s)-2000):] }

var (
	simFirst  = regexp.MustCompile(`schedules from seed (\d+) on`)
	simFound  = regexp.MustCompile(`(?m)\bseed (\d+): (\d+\.\d+ s: .*)$`)
	simPlayed = regexp.MustCompile(`(\d+) schedules in (\S+),`)
	simAgain  = regexp.MustCompile(`seed (\d+) failed in (\d+) of (\d+) plays: (.*)`)
)

// errBroken says that a prover failed without naming a violation: a panic, a deadlock, a
// signal. That is no catch.
var errBroken = errors.New("it broke down without finding a violation")

func readSim(out string, failed bool, _ string) (result, error) {
	if x := simAgain.FindStringSubmatch(out); x != nil {
		return result{Found: true, Seed: number(x[1]), What: x[4], Effort: fmt.Sprintf("%s of %s plays", x[2], x[3])}, nil
	}
	played := simPlayed.FindStringSubmatch(out)
	x := simFound.FindStringSubmatch(out)
	switch {
	case x != nil && played != nil:
		return result{Found: true, Seed: number(x[1]), What: x[2], Effort: fmt.Sprintf("%s schedules, %s", played[1], rounded(played[2]))}, nil
	case failed:
		return result{}, errBroken
	case played != nil:
		return result{Effort: fmt.Sprintf("%s schedules, %s", played[1], rounded(played[2]))}, nil
	case simFirst.MatchString(out):
		return result{}, errBroken
	}
	return result{}, nil // a seed played again, without a failure
}

func number(s string) uint64 {
	n, _ := strconv.ParseUint(s, 10, 64) // of a regular expression for digits
	return n
}

func rounded(s string) string {
	d, err := time.ParseDuration(s)
	if err != nil {
		return s
	}
	return d.Round(100 * time.Millisecond).String()
}

var (
	rulesFound = regexp.MustCompile(`\[rapid\] failed after (\d+) tests: (.*)`)
	rulesSeed  = regexp.MustCompile(`-rapid\.seed=(\d+)`)
	rulesOK    = regexp.MustCompile(`\[rapid\] OK, passed (\d+) tests \((.*)\)`)
)

// readRules reads what rapid says of TestOperationsAgainstTheRules.
func readRules(out string, _ bool, _ string) (result, error) {
	if x := rulesOK.FindStringSubmatch(out); x != nil {
		return result{Effort: fmt.Sprintf("%s runs, %s", x[1], rounded(x[2]))}, nil
	}
	x, seed := rulesFound.FindStringSubmatch(out), rulesSeed.FindStringSubmatch(out)
	if x == nil || seed == nil {
		return result{}, errBroken
	}
	return result{Found: true, Seed: number(seed[1]), What: x[2], Effort: fmt.Sprintf("%d runs", number(x[1])+1)}, nil
}

// readChaos reads the summary that a run leaves.
func readChaos(_ string, failed bool, dir string) (result, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "summary.json"))
	if err != nil {
		return result{}, errBroken
	}
	var s struct {
		Seed       uint64     `json:"seed"`
		Rounds     []struct{} `json:"rounds"`
		Faults     int        `json:"faults"`
		Violations []string   `json:"violations"`
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return result{}, err
	}
	effort := fmt.Sprintf("%d rounds, %d faults", len(s.Rounds), s.Faults)
	switch {
	case len(s.Violations) > 0:
		return result{Found: true, Seed: s.Seed, What: s.Violations[0], More: s.Violations[1:], Effort: effort}, nil
	case failed:
		return result{}, errBroken
	}
	return result{Seed: s.Seed, Effort: effort}, nil
}
