package main

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
)

// benchLine is a line of "go test -bench": name, count, then values with units.
var benchLine = regexp.MustCompile(`^(Benchmark\S+?)(?:-\d+)?\s+\d+\s+(.+)$`)

// benchMicro runs the packages' own benchmarks.
func benchMicro(ctx context.Context, _ options, r *report) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", ".", "-benchmem", "-timeout", "20m",
		"./fsm/...", "./allocator/...", "./speakers/layer2/...")
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
			values := strings.Join(strings.FieldsFunc(m[2], func(c rune) bool { return c == '\t' }), ", ")
			r.add(row{what: "`" + pkg + "` " + strings.TrimPrefix(m[1], "Benchmark"), ours: strings.Join(strings.Fields(values), " ")})
		}
	}
	return lines.Err()
}
