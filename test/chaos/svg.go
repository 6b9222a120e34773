package chaos

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
)

// Sizes of the plots, in pixels.
const (
	plotWidth = 1180
	labelWide = 200
	laneHigh  = 13
	rowHigh   = 30
)

// nodeColours are those of n1 to n9.
var nodeColours = []string{"#4878b0", "#e8923a", "#5a9e5a", "#9a6fb0", "#8c6a5a", "#d884bc", "#7f7f7f", "#b5b53c", "#46b0bd"}

func colourOf(node string) string {
	var i int
	if _, err := fmt.Sscanf(node, "n%d", &i); err == nil && i >= 1 && i <= len(nodeColours) {
		return nodeColours[i-1]
	}
	return "#222"
}

// drawing collects an SVG whose x axis is time.
type drawing struct {
	b        strings.Builder
	from, to time.Time
	high     int
}

func (d *drawing) x(at time.Time) float64 {
	share := float64(at.Sub(d.from)) / float64(d.to.Sub(d.from))
	return labelWide + math.Max(0, math.Min(1, share))*(plotWidth-labelWide)
}

func (d *drawing) bar(from, to time.Time, y, high float64, style, title string) {
	x := d.x(from)
	fmt.Fprintf(&d.b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" %s><title>%s</title></rect>`,
		x, y, math.Max(0.8, d.x(to)-x), high, style, html.EscapeString(title))
}

func (d *drawing) text(x, y float64, class, words string) {
	fmt.Fprintf(&d.b, `<text x="%.1f" y="%.1f" class="%s">%s</text>`, x, y, class, html.EscapeString(words))
}

func (d *drawing) svg() template.HTML {
	return template.HTML(fmt.Sprintf(`<svg viewBox="0 0 %d %d" width="%d" height="%d" role="img">%s</svg>`,
		plotWidth, d.high, plotWidth, d.high, d.b.String()))
}

// timeline draws a round: faults as bands, then for each address who owned it by the log,
// who claimed it on the wire, and when the client had answers.
func (r *Result) timeline(x *Round) template.HTML {
	d := &drawing{from: x.From, to: x.To}
	lanes := lanesOf(x.Injuries)
	top := float64(len(lanes)*laneHigh + 8)
	below := top + float64(len(r.addrs)*rowHigh)
	d.high = int(below) + r.Shape.Members*laneHigh + 26
	for i, lane := range lanes {
		for _, f := range lane {
			y := float64(i * laneHigh)
			d.bar(f.From, later(f.To, f.From.Add(100*time.Millisecond)), y, laneHigh-2, `class="fault"`, describeInjury(f))
			// The band goes through all rows, so that the eye finds what follows from it.
			d.bar(f.From, f.To, top, float64(len(r.addrs)*rowHigh), `class="shade"`, describeInjury(f))
			d.text(d.x(f.From)+2, y+laneHigh-4, "tiny", f.Class+" "+f.Target)
		}
	}
	for i, addr := range r.addrs {
		r.row(d, x, addr, top+float64(i*rowHigh))
	}
	for i := range r.Shape.Members {
		d.member(x, nodeName(i+1), below+4+float64(i*laneHigh))
	}
	d.axis()
	return d.svg()
}

// member draws when a member led, when it held expiries back, and for how long it stood still.
func (d *drawing) member(x *Round, node string, y float64) {
	d.text(2, y+9, "tiny", "member on "+node+": leads, holds expiries back, stalls")
	var last Vital
	for _, v := range x.vitals {
		if v.Node != node {
			continue
		}
		from := v.At.Add(-vitalsEvery)
		switch {
		case v.Silent:
			d.bar(from, v.At, y+4, 2, `fill="#bbb"`, "does not answer")
		case v.Leads:
			d.bar(from, v.At, y+2, 6, fmt.Sprintf(`fill="%s"`, colourOf(node)), fmt.Sprintf("leads in term %.0f", v.Term))
		}
		if v.Mass {
			d.bar(from, v.At, y+9, 2, `fill="#b0b"`, "expires nobody: most nodes are silent, or it has just started")
		}
		if stalled := v.Stall - last.Stall; !last.At.IsZero() && stalled > 50*time.Millisecond {
			d.bar(v.At.Add(-min(stalled, vitalsEvery)), v.At, y, 2, `fill="#d22"`, fmt.Sprintf("stood still for %v", stalled.Round(time.Millisecond)))
		}
		last = v
	}
}

func describeInjury(x Injury) string {
	return fmt.Sprintf("%s %s, %s for %v", x.Class, x.Target, x.From.Format("15:04:05.000"), x.To.Sub(x.From).Round(time.Millisecond))
}

func (r *Result) row(d *drawing, x *Round, addr netip.Addr, y float64) {
	policy := "Release"
	if isHold(addr) {
		policy = "Hold"
	}
	d.text(2, y+12, "label", addr.String()+" "+policy)
	d.text(2, y+23, "tiny", "log, wire, answers to the client")
	changes := x.owners[addr]
	for i, c := range changes {
		end := x.To
		if i+1 < len(changes) {
			end = changes[i+1].At
		}
		if c.Lost || end.Before(x.From) || c.At.After(x.To) {
			continue
		}
		d.bar(c.At, end, y+2, 9, fmt.Sprintf(`fill="%s"`, colourOf(c.Node)),
			fmt.Sprintf("%s owns it from %s, epoch %d, %s", c.Node, c.At.Format("15:04:05.000"), c.Revision, c.Why))
	}
	for _, t := range x.tenures {
		if t.Addr == addr {
			node := r.nameOf(t)
			d.bar(t.From, t.To, y+12, 5, fmt.Sprintf(`fill="%s"`, colourOf(node)), fmt.Sprintf("%s claims it, %d frames", node, t.Claims))
		}
	}
	d.bar(x.From, x.To, y+18, 6, `fill="#cfe8cf"`, "answered")
	for _, g := range x.Gaps {
		if g.Addr == addr {
			colour := "#d22"
			if g.Class == classNoise {
				colour = "#aaa"
			}
			d.bar(g.From, g.From.Add(g.For), y+18, 6, fmt.Sprintf(`fill="%s"`, colour),
				fmt.Sprintf("no answer for %v: %s", g.For.Round(time.Millisecond), g.Class))
		}
	}
}

func (r *Result) nameOf(t lab.Tenure) string {
	if r.names == nil {
		return t.MAC.String()
	}
	return r.names(t.MAC)
}

func (d *drawing) axis() {
	y := float64(d.high - 12)
	for at := d.from.Truncate(5 * time.Second).Add(5 * time.Second); at.Before(d.to); at = at.Add(5 * time.Second) {
		x := d.x(at)
		fmt.Fprintf(&d.b, `<line x1="%.1f" x2="%.1f" y1="0" y2="%.1f" class="grid"/>`, x, x, y)
		d.text(x-20, y+11, "tiny", at.Format("15:04:05"))
	}
}

// lanesOf packs faults into as few lanes as their names, which need room, allow.
func lanesOf(injuries []Injury) (lanes [][]Injury) {
	const room = 9 * time.Second
next:
	for _, x := range injuries {
		if x.Skipped != "" {
			continue
		}
		for i, lane := range lanes {
			last := lane[len(lane)-1]
			if later(last.To, last.From.Add(room)).Before(x.From) {
				lanes[i] = append(lane, x)
				continue next
			}
		}
		lanes = append(lanes, []Injury{x})
	}
	return lanes
}

// buckets of the histogram: a gap belongs to the first that is not shorter.
var buckets = []time.Duration{
	250 * time.Millisecond, 500 * time.Millisecond, 750 * time.Millisecond, time.Second, 1500 * time.Millisecond,
	2 * time.Second, 3 * time.Second, 5 * time.Second, 10 * time.Second, 20 * time.Second, time.Hour,
}

// histogram draws, for each class of faults, how many gaps were how long.
func (r *Result) histogram() template.HTML {
	d := &drawing{from: time.Unix(0, 0), to: time.Unix(1, 0)}
	const high, wide = 22, 62
	for i, b := range buckets {
		words := fmt.Sprintf("≤ %v s", b.Seconds())
		if b == time.Hour {
			words = "more"
		}
		d.text(float64(labelWide+60+i*wide), 12, "tiny", words)
	}
	y := 18
	for _, dist := range r.Distributions {
		d.text(2, float64(y+15), "label", dist.Class)
		counts := make([]int, len(buckets))
		for _, g := range dist.All {
			for i, b := range buckets {
				if g <= b {
					counts[i]++
					break
				}
			}
		}
		for i, n := range counts {
			if n == 0 {
				continue
			}
			x := float64(labelWide + 60 + i*wide)
			shade := 0.2 + 0.8*float64(n)/float64(len(dist.All))
			fmt.Fprintf(&d.b, `<rect x="%.1f" y="%d" width="%d" height="%d" fill="#d22" fill-opacity="%.2f"/>`, x, y+2, wide-3, high-4, shade)
			d.text(x+4, float64(y+16), "count", fmt.Sprint(n))
		}
		if len(dist.All) == 0 {
			d.text(labelWide+64, float64(y+15), "tiny", fmt.Sprintf("none in %d", dist.Faults))
		}
		y += high
	}
	d.high = y + 4
	return d.svg()
}

// legend names the nodes' colours.
func (r *Result) legend() template.HTML {
	var b strings.Builder
	for i := range r.Shape.Nodes {
		fmt.Fprintf(&b, `<span class="key" style="background:%s">n%d</span> `, nodeColours[i], i+1)
	}
	return template.HTML(b.String())
}
