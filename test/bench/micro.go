package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
)

// benchLine is a line of "go test -bench": name, count, then values with units.
var benchLine = regexp.MustCompile(`^(Benchmark\S+?)(?:-\d+)?\s+\d+\s+(.+)$`)

// benchMicro runs the packages' own benchmarks.
func benchMicro(ctx context.Context, r *recorder) error {
	r.clear()
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", ".", "-benchmem", "-timeout", "20m",
		"./fsm/...", "./allocator/...", "./speakers/layer2/...", "./raftnode/pulse/...")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	pkg := ""
	lines := bufio.NewScanner(strings.NewReader(string(out)))
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "pkg: github.com/quorumlb/quorumlb/"); ok {
			pkg = rest
		}
		if m := benchLine.FindStringSubmatch(lines.Text()); m != nil {
			r.text(pkg+" "+strings.TrimPrefix(m[1], "Benchmark"), strings.Join(strings.Fields(m[2]), " "))
		}
	}
	return errors.Join(lines.Err(), r.save())
}
