package main

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// aims of the packages' own benchmarks: the value with this unit is at most,
// or at least, the limit.
var aims = []struct {
	name    string // a prefix of the benchmark's name
	unit    string
	limit   float64
	atLeast bool
	text    string
}{
	{"fsm Evolve", "events/s", 300_000, true, "300,000 events/s"},
	{"fsm SnapshotSave", "ns/op", 1e9, false, "1 s"},
	{"fsm SnapshotRestore", "ns/op", 2e9, false, "2 s"},
	{"allocator ChooseAddresses", "ns/op", 1000, false, "below 1 µs"},
	{"speakers/layer2 Reply", "allocs/op", 0, false, "no allocation"},
}

// judge adds the aim of a benchmark to its row.
func (x *row) judge(name string, values []string) {
	for _, a := range aims {
		// "fsm Evolve" is not "fsm EvolveFailover".
		if rest, ok := strings.CutPrefix(name, a.name); !ok || rest != "" && rest[0] != '/' {
			continue
		}
		x.aim = a.text
		for i := 0; i+1 < len(values); i += 2 {
			if v, err := strconv.ParseFloat(values[i], 64); err == nil && values[i+1] == a.unit {
				x.met = v <= a.limit
				if a.atLeast {
					x.met = v >= a.limit
				}
			}
		}
	}
}

// benchLine is a line of "go test -bench": name, count, then values with units.
var benchLine = regexp.MustCompile(`^(Benchmark\S+?)(?:-\d+)?\s+\d+\s+(.+)$`)

// benchMicro runs the packages' own benchmarks.
func benchMicro(ctx context.Context, _ options, r *report) error {
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
			name, values := strings.TrimPrefix(m[1], "Benchmark"), strings.Fields(m[2])
			x := row{what: "`" + pkg + "` " + name, ours: strings.Join(values, " ")}
			x.judge(pkg+" "+name, values)
			r.add(x)
		}
	}
	return lines.Err()
}
