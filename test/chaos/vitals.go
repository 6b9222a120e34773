package chaos

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/quorumlb/quorumlb/test/lab/cluster"
)

// vitalsEvery is how often members' metrics are read.
const vitalsEvery = time.Second

// Vital is what one member said of itself at one moment.
type Vital struct {
	At     time.Time
	Node   string
	Leads  bool
	Term   float64
	Mass   bool // nobody is expired: most nodes fell silent at once, or it has just started
	Stall  time.Duration
	Silent bool // it did not answer
}

// vitals read the members' metrics, for the report: who led, and why nobody was expired.
type vitals struct {
	mu   sync.Mutex
	list []Vital
}

func (v *vitals) run(ctx context.Context, e *Env) error {
	t := time.NewTicker(vitalsEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		var all sync.WaitGroup
		for _, n := range e.Members() {
			all.Go(func() { v.add(look(ctx, n)) })
		}
		all.Wait()
	}
}

func (v *vitals) add(x Vital) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.list = append(v.list, x)
}

// since gives what was read since a moment, and forgets the rest.
func (v *vitals) since(from time.Time) (list []Vital) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, x := range v.list {
		if !x.At.Before(from) {
			list = append(list, x)
		}
	}
	v.list = append([]Vital(nil), list...)
	return list
}

// deposed says whether another leader came within so much time before a moment, or may
// have: members are looked at every second only.
func deposed(list []Vital, at time.Time, within time.Duration) bool {
	var term float64
	for _, v := range list {
		if v.Silent || v.At.Before(at.Add(-within-2*vitalsEvery)) || v.At.After(at.Add(2*vitalsEvery)) {
			continue
		}
		if term != 0 && v.Term != term {
			return true
		}
		term = v.Term
	}
	return false
}

// wordsOf says what the members did in a span: who led, who held expiries back, who stood
// still and for how long.
func wordsOf(list []Vital, from, to time.Time) string {
	var words []string
	first, last := map[string]Vital{}, map[string]Vital{}
	held, led := map[string]int{}, map[string]float64{}
	var nodes []string
	for _, v := range list {
		if v.Silent || v.At.Before(from) || v.At.After(to.Add(vitalsEvery)) {
			continue
		}
		if _, seen := first[v.Node]; !seen {
			first[v.Node], nodes = v, append(nodes, v.Node)
		}
		last[v.Node] = v
		if v.Mass {
			held[v.Node]++
		}
		if v.Leads && led[v.Node] != v.Term {
			led[v.Node] = v.Term
			words = append(words, fmt.Sprintf("%s leads in term %.0f", v.Node, v.Term))
		}
	}
	for _, n := range nodes {
		if held[n] > 0 {
			words = append(words, fmt.Sprintf("%s holds expiries back in %d looks", n, held[n]))
		}
		if d := last[n].Stall - first[n].Stall; d > 0 {
			words = append(words, fmt.Sprintf("%s stood still for %v", n, d.Round(time.Millisecond)))
		}
	}
	if len(words) == 0 {
		return "no member said anything"
	}
	return strings.Join(words, ", ")
}

func look(ctx context.Context, n *cluster.Node) Vital {
	x := Vital{At: time.Now(), Node: n.Name}
	ctx, cancel := context.WithTimeout(ctx, vitalsEvery/2)
	defer cancel()
	text, err := n.Metrics(ctx, member)
	if err != nil {
		x.Silent = true
		return x
	}
	for line := range strings.Lines(text) {
		name, number, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		value, err := strconv.ParseFloat(number, 64)
		if err != nil {
			continue
		}
		switch name {
		case "quorumlb_raft_leader":
			x.Leads = value == 1
		case "quorumlb_raft_term":
			x.Term = value
		case "quorumlb_leases_mass_event":
			x.Mass = value == 1
		case "quorumlb_leases_stalled_seconds":
			x.Stall = time.Duration(value * float64(time.Second))
		}
	}
	return x
}
