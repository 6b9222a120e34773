package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// samples of one kind.
type samples []float64

// at is the sample that so many of 1000 do not exceed (nearest rank); NaN
// without samples.
func (s samples) at(permille int) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	rank := (len(s)*permille + 999) / 1000
	return sorted[max(rank, 1)-1]
}

func (s samples) median() float64 { return s.at(500) }

func (s samples) max() float64 { return s.at(1000) }

func (s samples) sum() (sum float64) {
	for _, v := range s {
		sum += v
	}
	return sum
}

// spread is "p50 / p90 / max" of times.
func (s samples) spread() string {
	if len(s) == 0 {
		return ""
	}
	return fmt.Sprintf("%s / %s / %s", seconds(s.median()), seconds(s.at(900)), seconds(s.max()))
}

// seconds words a time with three digits.
func seconds(v float64) string {
	d := time.Duration(v * float64(time.Second))
	switch {
	case d >= 10*time.Second:
		return fmt.Sprintf("%.1f s", v)
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", v)
	case d >= 20*time.Millisecond:
		return fmt.Sprintf("%.0f ms", v*1e3)
	case d >= time.Millisecond:
		return fmt.Sprintf("%.1f ms", v*1e3)
	case d > 0:
		return fmt.Sprintf("%.0f µs", v*1e6)
	}
	return "0"
}

func megabytes(v float64) string { return fmt.Sprintf("%.1f MB", v/(1<<20)) }

func kilobytes(v float64) string { return fmt.Sprintf("%.1f kB", v/1e3) }

func percent(v float64) string { return fmt.Sprintf("%.1f %%", v) }

func perSecond(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	if len(s) > 3 {
		s = s[:len(s)-3] + "," + s[len(s)-3:]
	}
	return s + "/s"
}

// slope is the least-squares growth of y for each unit of x.
func slope(points []point) float64 {
	n := float64(len(points))
	if n < 2 {
		return 0
	}
	var sx, sy, sxx, sxy float64
	for _, p := range points {
		sx, sy = sx+p[0], sy+p[1]
		sxx, sxy = sxx+p[0]*p[0], sxy+p[0]*p[1]
	}
	det := n*sxx - sx*sx
	if det == 0 {
		return 0
	}
	return (n*sxy - sx*sy) / det
}
