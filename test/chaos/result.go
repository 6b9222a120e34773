package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/quorumlb/quorumlb/test/lab"
)

// Result is the machine-readable summary of a run.
type Result struct {
	Seed    uint64    `json:"seed"`
	Time    string    `json:"time"`
	Began   time.Time `json:"began"`
	Took    string    `json:"took"`
	Shape   Shape     `json:"shape"`
	Command string    `json:"command"` // repeats the plan
	// Violations fail the run; Notes are worth a look.
	Violations    []string       `json:"violations"`
	Notes         []string       `json:"notes"`
	Faults        int            `json:"faults"`
	Skipped       int            `json:"skipped"`
	Distributions []Distribution `json:"distributions"`
	Overlaps      []Overlap      `json:"overlaps"`
	Operations    map[Verb]int   `json:"operations"`
	Unknown       int            `json:"unknown"` // operations of unknown outcome
	Refused       map[string]int `json:"refused"`
	Moves         int64          `json:"moves"`
	MovesRefused  int64          `json:"moves_refused"`
	Linearizable  Linearizable   `json:"linearizable"`
	Expiries      []Expiry       `json:"expiries"`
	GaveUp        []Exit         `json:"gave_up"`
	Frames        int            `json:"claims"` // that were judged
	Events        int            `json:"events"` // of the log
	Revision      uint64         `json:"revision"`
	Digest        string         `json:"digest"`
	Noise         time.Duration  `json:"noise"` // longest gap of the control probe
	Rounds        []*Round       `json:"rounds"`

	addrs []netip.Addr
	gaps  []Gap
	names func(lab.MAC) string
}

// Round is one plan and what followed.
type Round struct {
	Number int       `json:"number"`
	From   time.Time `json:"from"`
	// Over is when the last fault ended, To when all had been judged.
	Over     time.Time     `json:"over"`
	To       time.Time     `json:"to"`
	Rested   time.Duration `json:"rested"` // from Over until every address was answered
	Noise    time.Duration `json:"noise"`
	Injuries []Injury      `json:"injuries"`
	Gaps     []Gap         `json:"gaps"`

	owners  map[netip.Addr][]Change
	tenures []lab.Tenure
	noises  []Gap
	vitals  []Vital
}

func newResult(o Options, shape Shape, e *Env) *Result {
	return &Result{
		Seed: o.Seed, Time: o.Time.String(), Began: time.Now(), Shape: shape, addrs: e.Addrs, names: e.NameOf,
		Command:    fmt.Sprintf("make chaos SEED=%d TIME=%v", o.Seed, o.Time),
		Violations: []string{}, Notes: []string{}, Operations: map[Verb]int{},
	}
}

func (r *Result) violate(format string, args ...any) {
	r.Violations = append(r.Violations, fmt.Sprintf(format, args...))
}

func (r *Result) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// judgeRound judges the wire of a round and forgets its frames.
func (e *Env) judgeRound(ctx context.Context, o Options, round *Round, res *Result) error {
	resp, err := e.Get(ctx, false)
	if err != nil {
		res.violate("round %d: no member answers: %v", round.Number, err)
	} else if err := e.chronicle.upTo(ctx, resp.GetRevision()); err != nil {
		res.note("round %d: %v", round.Number, err)
	}
	round.To = time.Now()
	round.noises = gapsOf(netip.Addr{}, e.machine.Samples(round.From, round.To), round.From, round.To.Add(-lab.Patience))
	round.Noise = e.machine.Window(round.From, round.To.Add(-lab.Patience)).LongestGap
	res.Noise = max(res.Noise, round.Noise)

	round.vitals = e.vitals.since(round.From)
	e.judgeClaims(round, res)
	e.judgeDark(round, res)
	e.judgeExpiries(round, res)
	res.Rounds = append(res.Rounds, round)
	for _, x := range round.Injuries {
		if x.Skipped != "" {
			res.Skipped++
		} else {
			res.Faults++
		}
	}
	o.Progress("round %d: at rest %v after the last fault, %d gaps, longest %v, machine's own %v, %d violations", round.Number,
		round.Rested.Round(10*time.Millisecond), len(round.Gaps), longest(round.Gaps).Round(time.Millisecond), round.Noise.Round(time.Millisecond), len(res.Violations))
	if len(res.Violations) == 0 {
		e.forget(round.To.Add(-2 * time.Second))
	}
	return nil
}

func (e *Env) judgeClaims(round *Round, res *Result) {
	captures := append(e.ears.all(), e.AtClient, e.AtRouter)
	for _, c := range captures {
		if n := c.Drops(); n > 0 {
			res.note("round %d: a capture lost %d frames", round.Number, n)
		}
	}
	claims := lab.Claims(round.From, round.To, e.Addrs, e.AtClient, e.AtRouter)
	round.tenures = wireTenures(claims)
	round.owners = map[netip.Addr][]Change{}
	heard := e.ears.heard(e.Nodes, round.From.Add(-2*time.Second), round.To, e.Addrs)
	expiries := e.chronicle.expired()
	for addr, list := range byAddr(claims) {
		list = lab.Distinct(list)
		res.Frames += len(list)
		ev := evidence{
			changes: e.chronicle.of(addr), expiries: expiries, hold: isHold(addr), nameOf: e.NameOf,
			heard: func(node string, after time.Time) (time.Time, bool) {
				for _, c := range heard[node][addr] {
					if !c.At.Before(after) {
						return c.At, true
					}
				}
				return time.Time{}, false
			},
			noise: round.noiseAt, late: round.lateAt, pausedUntil: round.pausedUntil,
			deposed: func(at time.Time) bool { return deposed(round.vitals, at, longestDetection) },
		}
		round.owners[addr] = ev.changes
		for _, x := range judge(addr, list, ev) {
			res.Overlaps = append(res.Overlaps, x)
			if x.Allowed == "" {
				res.violate("round %d: two stations: %v", round.Number, x)
			}
		}
	}
}

// isHold tells the pools of config apart: Release begins at 32.
func isHold(addr netip.Addr) bool {
	raw := addr.AsSlice()
	last := raw[len(raw)-1]
	if addr.Is4() {
		return last < 120
	}
	return last < 0x20
}

// noiseAt is how long the control probe stood still around a moment.
func (r *Round) noiseAt(at time.Time) (worst time.Duration) {
	for _, g := range r.noises {
		if g.From.Before(at.Add(time.Second)) && g.From.Add(g.For).After(at.Add(-time.Second)) {
			worst = max(worst, g.For)
		}
	}
	return worst
}

// lateAt is how much a slow line delayed a node's frames.
func (r *Round) lateAt(node string, at time.Time) (worst time.Duration) {
	for _, x := range r.Injuries {
		if x.Class == classSlowClients && x.target.touches(node) && !at.Before(x.From) && at.Before(x.To.Add(time.Second)) {
			worst = max(worst, 2*x.target.Delay)
		}
	}
	return worst
}

func (r *Round) pausedUntil(node string, at time.Time) time.Time {
	for _, x := range r.Injuries {
		paused := x.Class == classSpeakerPaused || x.Class == classHostPaused
		if paused && x.target.touches(node) && !at.Before(x.From) && at.Before(x.To) {
			return x.To
		}
	}
	return at
}

// longDark is from when on the report says what the members were doing meanwhile.
const longDark = 2 * time.Second

func (e *Env) judgeDark(round *Round, res *Result) {
	to := round.To.Add(-lab.Patience)
	for _, addr := range e.Addrs {
		changes := e.chronicle.of(addr)
		for _, g := range gapsOf(addr, e.UDP[addr].Samples(round.From, round.To), round.From, to) {
			g.Owner = ownerAt(changes, g.From)
			for _, n := range round.noises {
				from, until := later(n.From, g.From), earlier(n.From.Add(n.For), g.From.Add(g.For))
				g.Noise += max(0, until.Sub(from))
			}
			g.Class = blame(g, round.Injuries)
			if g.For > longDark && g.Class != classNoise {
				res.note("round %d: %s (owner %s) was dark from %s for %v, put down to %s; %s", round.Number, addr, g.Owner,
					g.From.Format("15:04:05.000"), g.For.Round(time.Millisecond), g.Class, wordsOf(round.vitals, g.From, g.From.Add(g.For)))
			}
			round.Gaps = append(round.Gaps, g)
		}
	}
	res.gaps = append(res.gaps, round.Gaps...)
}

// judgeExpiries looks for nodes that were taken for dead although no fault struck them.
func (e *Env) judgeExpiries(round *Round, res *Result) {
	for _, x := range e.chronicle.expired() {
		if x.At.Before(round.From) || x.At.After(round.To) {
			continue
		}
		for _, i := range round.Injuries {
			if i.Skipped == "" && i.target.touches(x.Node) && i.From.Before(x.At) && i.To.Add(aftermath).After(x.At) {
				x.Because = append(x.Because, i.Class)
			}
		}
		if len(x.Because) == 0 {
			res.note("round %d: %s was taken for dead at %s, and no fault struck it", round.Number, x.Node, x.At.Format("15:04:05.000"))
		}
		res.Expiries = append(res.Expiries, x)
	}
}

// forget drops what has been judged, so that a run may last for hours.
func (e *Env) forget(before time.Time) {
	for _, c := range append(e.ears.all(), e.AtClient, e.AtRouter) {
		c.Forget(before)
	}
	e.machine.Forget(before)
	e.Control.Forget(before)
	for _, a := range e.Addrs {
		e.UDP[a].Forget(before)
		e.TCP[a].Forget(before)
	}
}

// writeCaptures leaves the captures of the last round for Wireshark.
func (e *Env) writeCaptures() {
	_ = e.AtClient.WritePcap(filepath.Join(e.Dir(), "client.pcap"))
	_ = e.AtRouter.WritePcap(filepath.Join(e.Dir(), "router.pcap"))
	for _, n := range e.Nodes {
		if list := e.ears.at(n.Name); len(list) > 0 {
			_ = list[len(list)-1].WritePcap(filepath.Join(e.Dir(), n.Name+".pcap"))
		}
	}
}

// end judges the run as a whole and writes the report.
func (r *Result) end(e *Env, o Options) {
	r.Took = time.Since(r.Began).Round(time.Second).String()
	h := e.history
	h.mu.Lock()
	ops := slices.Clone(h.ops)
	for _, text := range slices.Compact(h.twice) {
		r.violate("one address, two services: %s", text)
	}
	r.Refused = maps.Clone(h.failed)
	h.mu.Unlock()
	for _, op := range ops {
		r.Operations[op.Verb]++
		if op.Unknown {
			r.Unknown++
		}
	}
	r.Moves, r.MovesRefused = e.moves.Load(), e.movesRefused.Load()
	r.Linearizable = check(ops, 20*time.Second, func(name string, info porcupine.LinearizationInfo) {
		_ = porcupine.VisualizePath(model(), info, filepath.Join(o.Dir, "history-"+filepath.Base(name)+".html"))
	})
	for _, name := range r.Linearizable.Illegal {
		r.violate("no order of the operations on %s explains their answers", name)
	}
	for _, name := range r.Linearizable.Unknown {
		r.note("whether the operations on %s can be ordered was not found out in time", name)
	}
	for _, p := range e.panics() {
		r.violate("%s", p)
	}
	r.GaveUp = e.keeper.Exits()
	r.Events = e.chronicle.events
	for _, g := range e.chronicle.gaps {
		r.note("the log's events of revisions %s were lost before they were read", g)
	}
	var injuries []Injury
	for _, round := range r.Rounds {
		injuries = append(injuries, round.Injuries...)
	}
	r.Distributions = distributions(r.gaps, injuries, o.Faults)
	if len(r.Violations) > 0 {
		_ = writeJSON(filepath.Join(o.Dir, "history.json"), ops)
		_ = writeJSON(filepath.Join(o.Dir, "refused.json"), h.refused)
	}
}

// Write writes summary.json and report.html.
func (r *Result) Write(dir string) error {
	if err := writeJSON(filepath.Join(dir, "summary.json"), r); err != nil {
		return err
	}
	return r.writeReport(filepath.Join(dir, "report.html"))
}

func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}

func longest(gaps []Gap) (d time.Duration) {
	for _, g := range gaps {
		d = max(d, g.For)
	}
	return d
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
