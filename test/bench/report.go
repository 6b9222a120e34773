package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/quorumlb/quorumlb/test/bench/plot"
)

// frame is the report without what is measured: {{NAME}} stands for that.
//
//go:embed frame.md
var frame string

// writeReport makes docs/benchmarks.md and the plots beside it from the results.
func writeReport(o options) error {
	all, err := loadResults(o)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("%s holds no results", o.results)
	}
	plots := filepath.Join(o.docs, "benchmarks")
	if err := os.MkdirAll(plots, 0o755); err != nil {
		return err
	}
	text := strings.ReplaceAll(frame, "{{SETUP}}", setupText(all, o.note))
	for _, t := range tables {
		var b bytes.Buffer
		if rows := t.rows(all); len(rows) > 0 {
			printTable(&b, rows)
		} else {
			b.WriteString("Not measured yet.\n")
		}
		text = strings.ReplaceAll(text, "{{"+t.group+"}}", b.String())
	}
	drawn := drawings(all)
	for _, group := range []string{"outage", "writes", "swarm", "rss"} {
		var b bytes.Buffer
		for _, d := range drawn {
			if d.group == group {
				fmt.Fprintf(&b, "![%s](benchmarks/%s.svg)\n", d.Title, d.file)
			}
		}
		text = strings.ReplaceAll(text, "{{"+group+" plots}}", b.String())
	}
	var errs []error
	for _, d := range drawn {
		errs = append(errs, os.WriteFile(filepath.Join(plots, d.file+".svg"), d.SVG(), 0o644))
	}
	errs = append(errs, os.WriteFile(filepath.Join(o.docs, "benchmarks.md"), []byte(text), 0o644))
	return errors.Join(errs...)
}

// setupText says what was measured on what. Results of several builds are named.
func setupText(all results, note string) string {
	bySetup := map[setup][]string{}
	var first, last string
	for name, r := range all {
		bySetup[r.Setup] = append(bySetup[r.Setup], name)
		from, to := r.Started.Format("2006-01-02"), r.Ended.Format("2006-01-02")
		if first == "" || from < first {
			first = from
		}
		last = max(last, to)
	}
	var b strings.Builder
	for s, names := range bySetup {
		which := "All parts"
		if len(bySetup) > 1 {
			which = strings.Join(shortNames(names), ", ")
		}
		fmt.Fprintf(&b, "* %s: QuorumLB %s, %s, Linux %s, %d cores (%s), %d MB; keepalived %s, etcd %s\n",
			which, s.Version, s.Go, s.Kernel, s.Cores, s.CPU, s.MemoryMB, dash(s.Keepalived), dash(s.Etcd))
	}
	lines := strings.SplitAfter(b.String(), "\n")
	slices.Sort(lines)
	when := "Measured on " + first
	if last != first {
		when = "Measured from " + first + " to " + last
	}
	text := when + "."
	if note != "" {
		text += " " + note
	}
	text += "\n\n" + strings.Join(lines, "")
	if load := highestLoad(all); load > 0 {
		text += fmt.Sprintf("* Highest load average (1 minute) during a part: %.1f; the lab itself makes some of it\n", load)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if r := all[name]; r.Error != "" {
			text += fmt.Sprintf("* `%s` ended early: %s\n", name, strings.ReplaceAll(firstLine(r.Error), "|", "/"))
		}
	}
	return text
}

func highestLoad(all results) (load float64) {
	for _, r := range all {
		load = max(load, r.Load)
	}
	return load
}

// shortNames says "outage-fast" for all events of one profile.
func shortNames(names []string) (short []string) {
	for _, name := range names {
		if words := strings.SplitN(name, "-", 4); words[0] == "outage" && len(words) > 2 {
			name = "outage-" + words[1]
			if words[1] == "keepalived" {
				name += "-" + words[2]
			}
		}
		short = append(short, "`"+name+"`")
	}
	slices.Sort(short)
	return slices.Compact(short)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// drawing is one plot file.
type drawing struct {
	group, file string
	plot.Plot
}

func drawings(all results) (list []drawing) {
	for _, e := range events {
		if d := outageDrawing(all, e); len(d.Lines) > 0 {
			list = append(list, d)
		}
	}
	if r := all["writes"]; r != nil && len(r.Curves) > 0 {
		d := drawing{"writes", "writes", plot.Plot{Title: "Writes per second by number of clients", X: "clients", Y: "per second", LogX: true}}
		for i, name := range slices.Sorted(maps.Keys(r.Curves)) {
			d.Lines = append(d.Lines, plot.Line{Name: name, Points: pointsOf(r.Curves[name]), Colour: i, Dashed: strings.HasPrefix(name, "etcd")})
		}
		list = append(list, d)
	}
	if r := all["fanout"]; r.get("last") != nil {
		d := drawing{"swarm", "fanout", plot.Plot{Title: "A change to every watch", X: "ms", Y: "share of the changes", Steps: true, YMax: 1}}
		for i, kind := range []string{"answered", "last", "etcd-answered", "etcd-last"} {
			if s := r.get(kind); len(s) > 0 {
				name := map[string]string{"answered": "call answered", "last": "last watch has it", "etcd-answered": "etcd: put answered", "etcd-last": "etcd: last watch"}[kind]
				d.Lines = append(d.Lines, plot.Line{Name: name, Points: cdf(s, 1e3), Colour: i % 2, Dashed: i > 1})
			}
		}
		list = append(list, d)
	}
	if r := all["rss"]; r != nil && len(r.Curves) > 0 {
		d := drawing{"rss", "rss", plot.Plot{Title: "Memory under light churn", X: "minutes", Y: "MB"}}
		for _, name := range slices.Sorted(maps.Keys(r.Curves)) {
			var points [][2]float64
			for _, p := range r.Curves[name] {
				points = append(points, [2]float64{p[0] / 60, p[1] / (1 << 20)})
			}
			d.Lines = append(d.Lines, plot.Line{Name: name, Points: points, Colour: len(d.Lines), Dashed: strings.HasPrefix(name, "speaker")})
		}
		list = append(list, d)
	}
	return list
}

func outageDrawing(all results, e event) drawing {
	d := drawing{"outage", "outage-" + e.name, plot.Plot{Title: e.text, X: "seconds without an answer", Y: "share of the outages", Steps: true, YMax: 1}}
	for i, p := range profiles {
		if s := all[ourPart(p, e)].get(darkOf(e)); len(s) > 0 {
			d.Lines = append(d.Lines, plot.Line{Name: p.name, Points: cdf(s, 1), Colour: i})
		}
	}
	for i, advert := range adverts {
		if s := all[peerPart(advert, e)].get(darkOf(e)); len(s) > 0 {
			name := fmt.Sprintf("keepalived, advert_int %v", advert.Seconds())
			d.Lines = append(d.Lines, plot.Line{Name: name, Points: cdf(s, 1), Colour: i, Dashed: true})
		}
	}
	return d
}

func cdf(s samples, scale float64) [][2]float64 {
	sorted := slices.Sorted(slices.Values(s))
	for i := range sorted {
		sorted[i] *= scale
	}
	return plot.CDF(sorted)
}

func pointsOf(list []point) (out [][2]float64) {
	for _, p := range list {
		out = append(out, [2]float64(p))
	}
	return out
}
