package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// report collects the table's rows.
type report struct {
	progress io.Writer
	rows     []row
}

// row is one measurement beside its peer.
type row struct {
	what, ours, peer, aim string
	met                   bool // only with an aim
}

func (r *report) add(x row) {
	r.rows = append(r.rows, x)
	fmt.Fprintf(r.progress, "  %s: %s (peer: %s)\n", x.what, x.ours, x.peer)
}

func (r *report) print(out io.Writer) {
	fmt.Fprintln(out, "| measured | QuorumLB | peer, same run | aim | met |")
	fmt.Fprintln(out, "|---|---|---|---|---|")
	for _, x := range r.rows {
		met := ""
		if x.aim != "" {
			met = map[bool]string{true: "yes", false: "**no**"}[x.met]
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s |\n", x.what, x.ours, dash(x.peer), dash(x.aim), met)
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// durations is a sample of times.
type durations []time.Duration

func (d durations) at(permille int) time.Duration {
	if len(d) == 0 {
		return 0
	}
	s := slices.Clone(d)
	slices.Sort(s)
	return s[min(len(s)-1, len(s)*permille/1000)]
}

func (d durations) median() time.Duration { return d.at(500) }

func (d durations) max() time.Duration { return d.at(1000) }

// spread is "min / median / max".
func (d durations) spread() string {
	if len(d) == 0 {
		return "none"
	}
	return fmt.Sprintf("%v / %v / %v (n=%d)", ms(d.at(0)), ms(d.median()), ms(d.max()), len(d))
}

func ms(d time.Duration) time.Duration {
	if d < 20*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}
