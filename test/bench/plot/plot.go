// Package plot draws lines into SVG files: no library, no script, readable on
// white and on black pages. The same input gives the same bytes.
//
// It must not import anything of the project.
package plot

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
)

// Line is one line of a plot.
type Line struct {
	Name   string
	Points [][2]float64
	// Dashed marks a peer's line.
	Dashed bool
	// Colour numbers the colour, so that lines that belong together share one.
	Colour int
}

// Plot is a plot of lines.
type Plot struct {
	Title, X, Y string
	// LogX and LogY are for axes that grow by factors; their values must be above 0.
	LogX, LogY bool
	// Steps draws each line as steps, as distributions are.
	Steps bool
	// YMax is the upper end of the Y axis; 0 for what the lines need.
	YMax  float64
	Lines []Line
}

const (
	width, height = 760, 400
	left, right   = 70, 220 // room for the legend
	top, bottom   = 40, 50
	ticks         = 6
)

// colours are told apart by most eyes (Okabe and Ito).
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666"}

// CDF are the points of a sample's distribution: share of the samples over value.
func CDF(sorted []float64) (points [][2]float64) {
	if len(sorted) == 0 {
		return nil
	}
	points = append(points, [2]float64{sorted[0], 0})
	for i, v := range sorted {
		points = append(points, [2]float64{v, float64(i+1) / float64(len(sorted))})
	}
	return points
}

// SVG draws the plot.
func (p Plot) SVG() []byte {
	x, y := p.axes()
	b := &bytes.Buffer{}
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	fmt.Fprintf(b, `<text x="%d" y="22" font-size="15">%s</text>`+"\n", left, html.EscapeString(p.Title))
	for _, v := range x.ticks() {
		at := num(x.at(v))
		fmt.Fprintf(b, `<path d="M%s %d V%d" stroke="#dddddd"/><text x="%s" y="%d" text-anchor="middle">%s</text>`+"\n", at, top, height-bottom, at, height-bottom+18, label(v))
	}
	for _, v := range y.ticks() {
		at := num(y.at(v))
		fmt.Fprintf(b, `<path d="M%d %s H%d" stroke="#dddddd"/><text x="%d" y="%s" text-anchor="end" dy="4">%s</text>`+"\n", left, at, width-right, left-8, at, label(v))
	}
	fmt.Fprintf(b, `<path d="M%d %d V%d H%d" fill="none" stroke="#333333"/>`+"\n", left, top, height-bottom, width-right)
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", (left+width-right)/2, height-10, html.EscapeString(p.X))
	fmt.Fprintf(b, `<text transform="translate(16 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n", (top+height-bottom)/2, html.EscapeString(p.Y))
	for i, l := range p.Lines {
		p.line(b, x, y, i, l)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func (p Plot) line(b *bytes.Buffer, x, y axis, i int, l Line) {
	dash := ""
	if l.Dashed {
		dash = ` stroke-dasharray="5 3"`
	}
	style := fmt.Sprintf(`fill="none" stroke="%s" stroke-width="2"%s`, colours[l.Colour%len(colours)], dash)
	at := top + 14 + 18*i
	fmt.Fprintf(b, `<path d="M%d %d h24" %s/><text x="%d" y="%d" dy="4">%s</text>`+"\n", width-right+14, at, style, width-right+44, at, html.EscapeString(l.Name))
	if len(l.Points) == 0 {
		return
	}
	path := &bytes.Buffer{}
	for j, pt := range l.Points {
		px, py := num(x.at(pt[0])), num(y.at(pt[1]))
		switch {
		case j == 0:
			fmt.Fprintf(path, "M%s %s", px, py)
		case p.Steps:
			fmt.Fprintf(path, "H%sV%s", px, py)
		default:
			fmt.Fprintf(path, "L%s %s", px, py)
		}
	}
	fmt.Fprintf(b, `<path d="%s" %s/>`+"\n", path, style)
}

// axis maps values to pixels.
type axis struct {
	low, high  float64
	log        bool
	from, upto float64 // pixels
}

func (p Plot) axes() (x, y axis) {
	x = axis{low: math.Inf(1), high: math.Inf(-1), log: p.LogX, from: left, upto: width - right}
	y = axis{low: math.Inf(1), high: math.Inf(-1), log: p.LogY, from: height - bottom, upto: top}
	for _, l := range p.Lines {
		for _, pt := range l.Points {
			x.low, x.high = min(x.low, pt[0]), max(x.high, pt[0])
			y.low, y.high = min(y.low, pt[1]), max(y.high, pt[1])
		}
	}
	if p.YMax > 0 {
		y.high = p.YMax
	}
	x.widen()
	y.widen()
	return x, y
}

// widen begins an even axis at 0, and gives an empty one a length.
func (a *axis) widen() {
	if math.IsInf(a.low, 0) {
		a.low, a.high = 1, 2
	}
	if !a.log {
		a.low = min(a.low, 0)
	}
	if a.high <= a.low {
		a.high = a.low + 1
	}
}

func (a axis) at(v float64) float64 {
	low, high := a.low, a.high
	if a.log {
		v, low, high = math.Log(v), math.Log(low), math.Log(high)
	}
	return a.from + (v-low)/(high-low)*(a.upto-a.from)
}

// ticks are round numbers on the axis: 1, 2 or 5 times a power of ten, or the
// powers of four (of ten, on long ones) where it grows by factors.
func (a axis) ticks() (list []float64) {
	if a.log {
		factor := 4.0
		if a.high/a.low > 2000 {
			factor = 10
		}
		for v := math.Pow(factor, math.Ceil(math.Log(a.low)/math.Log(factor)-1e-9)); v <= a.high*1.0001; v *= factor {
			list = append(list, v)
		}
		return list
	}
	raw := (a.high - a.low) / ticks
	step := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{5, 2} {
		if step*m <= raw {
			step *= m
			break
		}
	}
	for i := math.Ceil(a.low / step); i*step <= a.high*1.0001; i++ {
		list = append(list, i*step)
	}
	return list
}

func num(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

func label(v float64) string {
	if math.Abs(v) < 1e-12 {
		return "0"
	}
	return strconv.FormatFloat(v, 'g', 6, 64)
}
