package plot_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/quorumlb/quorumlb/test/bench/plot"
)

// wellFormed reads the whole document.
func wellFormed(t *testing.T, svg []byte) {
	t.Helper()
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
	}
}

func TestSVG(t *testing.T) {
	p := plot.Plot{
		Title: "a < b & c", X: "s", Y: "share", Steps: true, YMax: 1,
		Lines: []plot.Line{
			{Name: "ours", Points: plot.CDF([]float64{0.6, 0.7, 0.75})},
			{Name: "<peer>", Points: plot.CDF([]float64{3.1, 3.3}), Dashed: true, Colour: 1},
			{Name: "nothing"},
		},
	}
	svg := p.SVG()
	wellFormed(t, svg)
	if !bytes.Equal(svg, p.SVG()) {
		t.Error("two drawings differ")
	}
	for _, want := range []string{"a &lt; b &amp; c", "&lt;peer&gt;", "stroke-dasharray"} {
		if !strings.Contains(string(svg), want) {
			t.Errorf("%q is missing", want)
		}
	}
	if strings.Contains(string(svg), "NaN") || strings.Contains(string(svg), "Inf") {
		t.Errorf("no number in\n%s", svg)
	}
}

func TestSVGOfLittle(t *testing.T) {
	for name, p := range map[string]plot.Plot{
		"no lines":  {},
		"one point": {Lines: []plot.Line{{Points: [][2]float64{{5, 5}}}}},
		"log":       {LogX: true, LogY: true, Lines: []plot.Line{{Points: [][2]float64{{1, 10}, {256, 20_000}}}}},
		"one log":   {LogX: true, Lines: []plot.Line{{Points: [][2]float64{{1, 10}}}}},
		"zeroes":    {Lines: []plot.Line{{Points: [][2]float64{{0, 0}, {1, 0}}}}},
	} {
		svg := p.SVG()
		wellFormed(t, svg)
		if strings.Contains(string(svg), "NaN") || strings.Contains(string(svg), "Inf") {
			t.Errorf("%s: no number in\n%s", name, svg)
		}
	}
}
