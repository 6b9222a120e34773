package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSamples(t *testing.T) {
	s := samples{5, 1, 4, 2, 3}
	if s.median() != 3 || s.at(900) != 5 || s.max() != 5 || s.sum() != 15 {
		t.Errorf("p50 %v, p90 %v, max %v, sum %v", s.median(), s.at(900), s.max(), s.sum())
	}
	var ten samples
	for i := range 10 {
		ten = append(ten, float64(i+1))
	}
	if ten.median() != 5 || ten.at(900) != 9 || ten.at(0) != 1 {
		t.Errorf("of ten: p50 %v, p90 %v, min %v", ten.median(), ten.at(900), ten.at(0))
	}
	if !math.IsNaN(samples(nil).median()) || samples(nil).spread() != "" {
		t.Error("no samples have a median")
	}
	if got := slope([]point{{0, 10}, {1, 12}, {2, 14}}); got != 2 {
		t.Errorf("slope %v", got)
	}
	if got := slope([]point{{1, 1}, {1, 2}}); got != 0 {
		t.Errorf("slope of no time %v", got)
	}
}

func TestWanted(t *testing.T) {
	p := part{name: "outage-fast-kill"}
	for only, want := range map[string]bool{
		"": true, "outage": true, "outage-fast": true, "outage-fast-kill": true, "writes,outage": true,
		"out": false, "outage-default": false, "writes": false, "outage-fast-kill-x": false,
	} {
		if p.wanted(only) != want {
			t.Errorf("-only %q: %v", only, !want)
		}
	}
}

func TestPartsHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range allParts(options{repeats: 20}) {
		if seen[p.name] || p.limit <= 0 {
			t.Errorf("%s: twice, or without a limit", p.name)
		}
		seen[p.name] = true
	}
}

// TestGoesOn breaks a part off and goes on with the next run, unless another build
// is measured or all is to be measured anew.
func TestGoesOn(t *testing.T) {
	o, one := options{repeats: 2, results: t.TempDir()}, setup{Version: "1"}
	name := ourPart(profiles[0], events[0])
	r := newRecorder(o, name, one, t.Output())
	if r.complete() {
		t.Error("complete before it began")
	}
	if err := r.add(map[string]float64{"dark": 0.7}); err != nil { // and the power fails
		t.Fatal(err)
	}
	if r = newRecorder(o, name, one, t.Output()); r.complete() || len(r.get("dark")) != 1 {
		t.Errorf("goes on with %v", r.get("dark"))
	}
	if err := r.add(map[string]float64{"dark": 0.8}); err != nil {
		t.Fatal(err)
	}
	if err := r.end(nil); err != nil {
		t.Fatal(err)
	}
	if r = newRecorder(o, name, one, t.Output()); !r.complete() {
		t.Error("not complete")
	}
	more, again := o, o
	more.repeats, again.again = 3, true
	if r = newRecorder(more, name, one, t.Output()); r.complete() || len(r.get("dark")) != 2 {
		t.Error("more repeats are wanted than there are")
	}
	if r = newRecorder(again, name, one, t.Output()); r.complete() || len(r.get("dark")) != 0 {
		t.Error("-again keeps samples")
	}
	if r = newRecorder(o, name, setup{Version: "2"}, t.Output()); len(r.get("dark")) != 0 {
		t.Error("another build's samples are kept")
	}
}

func TestReport(t *testing.T) {
	o := options{repeats: 1, results: t.TempDir(), docs: t.TempDir()}
	if err := writeReport(o); err == nil {
		t.Error("a report of nothing")
	}
	for name, s := range map[string]map[string]float64{
		ourPart(profiles[1], events[0]):         {"dark": 0.249, "unanswered": 0.25, "return-lost": 0, "return-dark": 0.01},
		peerPart(profiles[1].advert, events[0]): {"dark": 0.32, "unanswered": 0.33, "return-lost": 3, "return-dark": 0.02},
		"footprint":                             {"many-rss": 31 << 20, "many-cpu": 1},
	} {
		r := newRecorder(o, name, setup{Version: "v1"}, t.Output())
		if err := r.add(s); err != nil {
			t.Fatal(err)
		}
		r.Started, r.Ended = time.Unix(0, 0), time.Unix(0, 0)
		if err := r.end(nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeReport(o); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(o.docs, "benchmarks.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for _, want := range []string{
		"| power-off of the owner, `fast` | 1 | 249 ms / 249 ms / 249 ms | keepalived, advert_int 0.1: 320 ms / 320 ms / 320 ms | max <= 310ms; p50 below keepalived's | yes |",
		"31.0 MB", "**no**", "QuorumLB v1", "benchmarks/outage-poweroff.svg",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if strings.Contains(text, "{{") {
		t.Error("something of the frame was not filled in")
	}
	if _, err := os.Stat(filepath.Join(o.docs, "benchmarks", "outage-poweroff.svg")); err != nil {
		t.Error(err)
	}
}
