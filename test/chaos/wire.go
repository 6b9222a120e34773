package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/scenario"
)

const (
	// yield is how long an owner under Hold has to fall silent after it has heard its
	// successor.
	yield = 100 * time.Millisecond
	// inHand is how many frames a stopped owner may still send for one address: the answer
	// and the announcement whose deadlines it had compared before it was stopped.
	inHand = 2
)

// evidence is all that a claim is judged by.
type evidence struct {
	changes  []Change // of the address, in order
	expiries []Expiry // of all nodes
	hold     bool     // the address's policy
	nameOf   func(lab.MAC) string
	// heard tells when a node's own line first carried another station's claim for the
	// address, at or after a moment; false: never.
	heard func(node string, after time.Time) (time.Time, bool)
	// noise is how long the machine stood still around a moment.
	noise func(time.Time) time.Duration
	// late is how long a node's line delayed its frames at a moment.
	late func(node string, at time.Time) time.Duration
	// deposed says whether the members' leader had changed shortly before a moment.
	deposed func(time.Time) bool
	// pausedUntil is when a node's speaker that was stopped at a moment went on.
	pausedUntil func(node string, at time.Time) time.Time
}

// Overlap is a time in which a station claimed an address that the log had given to
// another one.
type Overlap struct {
	Addr netip.Addr `json:"addr"`
	Old  string     `json:"old"`
	New  string     `json:"new"`
	// Since is when the log gave it away; For is how much later the last claim came;
	// Frames is how many came.
	Since  time.Time     `json:"since"`
	For    time.Duration `json:"for"`
	Frames int           `json:"frames"`
	// Allowed says why it may be; empty: it may not.
	Allowed string `json:"allowed"`
}

// String is for people.
func (o Overlap) String() string {
	return fmt.Sprintf("%s: %s claimed it %d times, the last %v after it was given to %s at %s",
		o.Addr, o.Old, o.Frames, o.For.Round(time.Millisecond), o.New, o.Since.Format("15:04:05.000"))
}

// judge finds who claimed the address when the log had given it to somebody else. The
// claims are in order of time.
func judge(addr netip.Addr, claims []lab.Claim, ev evidence) []Overlap {
	type key struct {
		node  string
		since time.Time
	}
	found := map[key]*Overlap{}
	for _, c := range claims {
		node := ev.nameOf(c.MAC)
		lost, next, known := lostAt(ev.changes, node, c.At)
		switch {
		case !known:
			o := found[key{node: node}]
			if o == nil {
				o = &Overlap{Addr: addr, Old: node, New: ownerAt(ev.changes, c.At), Since: c.At}
				found[key{node: node}] = o
			}
			o.Frames++
			o.For = c.At.Sub(o.Since)
			continue
		case lost.IsZero():
			continue // it is the owner, or nobody has been given the address since
		}
		slack := ev.noise(c.At) + ev.late(node, c.At)
		late := c.At.Sub(lost)
		if late <= scenario.Flight+slack {
			continue
		}
		k := key{node, lost}
		o := found[k]
		if o == nil {
			o = &Overlap{Addr: addr, Old: node, New: next, Since: lost}
			found[k] = o
		}
		o.For = late
		if why := ev.mayHold(node, lost, c.At, slack); why != "" {
			o.Allowed = why
			continue
		}
		o.Frames++
	}
	var out []Overlap
	for _, o := range found {
		switch {
		case o.Frames == 0: // all of it was allowed
		case o.Frames <= inHand:
			o.Allowed = "frames in hand"
		default:
			o.Allowed = ""
		}
		out = append(out, *o)
	}
	slices.SortFunc(out, func(a, b Overlap) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Old, b.Old)) })
	return out
}

// lostAt says when the log gave the address, which the node once had, to another, the
// newest time before at; zero when the node still is its last owner. Known is false when it
// never was.
func lostAt(changes []Change, node string, at time.Time) (lost time.Time, next string, known bool) {
	for _, x := range changes {
		if x.Lost || x.At.After(at) {
			continue
		}
		switch {
		case x.Node == node:
			known, lost, next = true, time.Time{}, ""
		case known && lost.IsZero():
			lost, next = x.At, x.Node
		}
	}
	return lost, next, known
}

// mayHold says why a node under Hold may still claim an address that it lost: it was taken
// for dead, or could not be told, so it may know nothing of it, and it has not heard its
// successor.
func (ev evidence) mayHold(node string, lost, at time.Time, slack time.Duration) string {
	if !ev.hold || !ev.takenForDead(node, lost) && !ev.notTold(node, lost) {
		return ""
	}
	heard, ever := ev.heard(node, lost)
	if !ever || heard.After(at) {
		return "has not heard its successor"
	}
	if until := ev.pausedUntil(node, heard); until.After(heard) {
		heard = until // it could hear nothing while it was stopped
	}
	if at.Sub(heard) <= yield+slack {
		return "yields"
	}
	// Its last heartbeat was perhaps heard by the former leader only. It cannot know,
	// and stands its ground for D after that heartbeat.
	if at.Sub(lost) <= longestDetection+slack && ev.deposed(lost) {
		return "was heard by a leader that has lost its office"
	}
	return ""
}

// takenForDead says whether the node's session had expired when it lost the address, after
// it had got it.
func (ev evidence) takenForDead(node string, lost time.Time) bool {
	var got time.Time
	for _, x := range ev.changes {
		if !x.Lost && x.Node == node && x.At.Before(lost) {
			got = x.At
		}
	}
	return slices.ContainsFunc(ev.expiries, func(x Expiry) bool {
		return x.Node == node && !x.At.Before(got) && !x.At.After(lost)
	})
}

// notTold says whether the address was taken from the node by a planned move so long
// before its successor got it that the members did not wait for its word, but until it could be
// confirmed no longer (F, twice D at least).
func (ev evidence) notTold(node string, lost time.Time) bool {
	var taken time.Time
	for _, x := range ev.changes {
		if x.Node == node && !x.At.After(lost) {
			taken = time.Time{}
			if x.Lost {
				taken = x.At
			}
		}
	}
	return !taken.IsZero() && lost.Sub(taken) >= 2*shortestDetection
}

// byAddr sorts claims under their addresses.
func byAddr(claims []lab.Claim) map[netip.Addr][]lab.Claim {
	out := map[netip.Addr][]lab.Claim{}
	for _, c := range claims {
		out[c.Addr] = append(out[c.Addr], c)
	}
	return out
}

// wireTenures are who was heard for each address, for the report.
func wireTenures(claims []lab.Claim) (list []lab.Tenure) {
	tenures := lab.Tenures(claims)
	for _, addr := range slices.SortedFunc(maps.Keys(tenures), netip.Addr.Compare) {
		list = append(list, tenures[addr]...)
	}
	return list
}
