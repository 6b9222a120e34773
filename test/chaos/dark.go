package chaos

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
)

// shortest is what counts as a gap at all: below it the machine's scheduler is measured.
const shortest = 150 * time.Millisecond

// aftermath is how long after its end a fault is still a reason for a gap: what it broke is
// put together again meanwhile.
const aftermath = 5 * time.Second

// Gap is a time in which an address did not answer the client's datagrams.
type Gap struct {
	Addr  netip.Addr    `json:"addr"`
	From  time.Time     `json:"from"`
	For   time.Duration `json:"for"`
	Owner string        `json:"owner"` // by the log, when it began
	Class string        `json:"class"` // of the fault that it is put down to
	// Noise is how long the control probe had no answer meanwhile.
	Noise time.Duration `json:"noise"`
}

// Classes of gaps that are nobody's.
const (
	classNone  = "(no fault)"
	classMixed = "(several faults)"
	classNoise = "(this machine)"
)

// gapsOf finds the gaps between answers in [from, to).
func gapsOf(addr netip.Addr, samples []lab.Sample, from, to time.Time) (gaps []Gap) {
	var answers []time.Time
	for _, x := range samples {
		if !x.Answered.IsZero() && x.Answered.Sub(x.Sent) <= lab.Patience {
			answers = append(answers, x.Answered)
		}
	}
	slices.SortFunc(answers, time.Time.Compare)
	last := from
	for _, at := range append(answers, to) {
		if d := at.Sub(last); d >= shortest {
			gaps = append(gaps, Gap{Addr: addr, From: last, For: d})
		}
		if at.After(last) {
			last = at
		}
	}
	return gaps
}

// blame puts a gap down to a class of faults: to the one fault that was under way or just
// over when it began; among several to the one that strikes the owner; else to none of them.
func blame(g Gap, injuries []Injury) string {
	if g.Noise >= g.For*2/3 {
		return classNoise
	}
	var near, owners []Injury
	for _, x := range injuries {
		if x.Skipped != "" || x.From.After(g.From.Add(shortest)) || x.To.Add(aftermath).Before(g.From) {
			continue
		}
		near = append(near, x)
		if g.Owner != "" && x.target.touches(g.Owner) {
			owners = append(owners, x)
		}
	}
	for _, list := range [][]Injury{near, owners} {
		if len(list) > 0 && !slices.ContainsFunc(list, func(x Injury) bool { return x.Class != list[0].Class }) {
			return list[0].Class
		}
	}
	if len(near) == 0 {
		return classNone
	}
	return classMixed
}

// Distribution says how long addresses were dark by faults of one class.
type Distribution struct {
	Class  string          `json:"class"`
	Faults int             `json:"faults"`
	Gaps   int             `json:"gaps"`
	P50    time.Duration   `json:"p50"`
	P90    time.Duration   `json:"p90"`
	P99    time.Duration   `json:"p99"`
	Max    time.Duration   `json:"max"`
	All    []time.Duration `json:"-"`
	Notice string          `json:"notice,omitempty"`
}

// distributions sums gaps up by class, for every class that struck.
func distributions(gaps []Gap, injuries []Injury, faults []Fault) (list []Distribution) {
	by := map[string]*Distribution{}
	class := func(name string) *Distribution {
		if by[name] == nil {
			by[name] = &Distribution{Class: name}
		}
		return by[name]
	}
	for _, x := range injuries {
		if x.Skipped == "" {
			class(x.Class).Faults++
		}
	}
	for _, g := range gaps {
		d := class(g.Class)
		d.Gaps++
		d.All = append(d.All, g.For)
	}
	for _, f := range faults {
		if d := by[f.Name]; d != nil {
			d.Notice = f.Notice
		}
	}
	for _, d := range by {
		slices.Sort(d.All)
		if n := len(d.All); n > 0 {
			at := func(permille int) time.Duration { return d.All[min(n-1, n*permille/1000)] }
			d.P50, d.P90, d.P99, d.Max = at(500), at(900), at(990), d.All[n-1]
		}
		list = append(list, *d)
	}
	slices.SortFunc(list, func(a, b Distribution) int { return cmp.Compare(a.Class, b.Class) })
	return list
}
