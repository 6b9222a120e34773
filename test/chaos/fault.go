package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Fault is one kind of trouble.
type Fault struct {
	// Name of its class, in the report and in the table of docs/chaos.md.
	Name string
	// Notice is what a client may notice of it when nothing else happens.
	Notice string
	// Weight is how often it is picked, among all.
	Weight int
	// Min and Max bound how long it lasts; both 0 for one that is over when Begin returns.
	Min, Max time.Duration
	// Aim picks its victims.
	Aim func(r *rand.Rand, s Shape) Target
	// Begin starts it. End is not nil when it lasts; it is called once, also after an
	// error, and undoes everything.
	Begin func(ctx context.Context, e *Env, t Target) (end func(context.Context) error, err error)
}

// Shape is what a plan can know of a cluster before it runs.
type Shape struct {
	Nodes   int
	Members int
	// Small is the number of the node whose member has a disk that can be filled; 0: none.
	Small int
}

func (s Shape) node(r *rand.Rand) string   { return nodeName(1 + r.IntN(s.Nodes)) }
func (s Shape) member(r *rand.Rand) string { return nodeName(1 + r.IntN(s.Members)) }

func (s Shape) all() (names []string) {
	for i := range s.Nodes {
		names = append(names, nodeName(i+1))
	}
	return names
}

func (s Shape) members() []string { return s.all()[:s.Members] }

func nodeName(i int) string { return fmt.Sprintf("n%d", i) }

// Target is whom a fault strikes, and how hard.
type Target struct {
	// Nodes are the victims. Silence of one of their speakers needs no other reason.
	Nodes []string
	// From and To are the sides of a partition; no To means everybody else.
	From, To []string
	OneWay   bool
	Permille uint32
	Delay    time.Duration
	// Holds are what the fault needs for itself; see Hold.
	Holds []Hold
}

// String is for people.
func (t Target) String() string {
	var b strings.Builder
	b.WriteString(strings.Join(t.Nodes, "+"))
	if len(t.From) > 0 {
		to, arrow := "all", " <-> "
		if len(t.To) > 0 {
			to = strings.Join(t.To, "+")
		}
		if t.OneWay {
			arrow = " -> "
		}
		b.Reset()
		b.WriteString(strings.Join(t.From, "+") + arrow + to)
	}
	if t.Permille > 0 && t.Permille < 1000 {
		fmt.Fprintf(&b, " %d%%", t.Permille/10)
	}
	if t.Delay > 0 {
		fmt.Fprintf(&b, " %v", t.Delay)
	}
	return b.String()
}

// touches says whether the fault strikes the node.
func (t Target) touches(node string) bool { return slices.Contains(t.Nodes, node) }

// Hold is what two faults may not strike together: a process, a host, a line, the group's
// members as a whole. Two that are not Alone go together.
type Hold struct {
	What  string
	Alone bool
}

func alone(what ...string) (holds []Hold) {
	for _, w := range what {
		holds = append(holds, Hold{w, true})
	}
	return holds
}

func shared(what ...string) (holds []Hold) {
	for _, w := range what {
		holds = append(holds, Hold{What: w})
	}
	return holds
}

func collide(a, b []Hold) bool {
	for _, x := range a {
		for _, y := range b {
			if x.What == y.What && (x.Alone || y.Alone) {
				return true
			}
		}
	}
	return false
}

// members is held by every fault that disables a member for a while, and alone by one
// that needs all others well: a wiped disk counts as a lost vote until the member is back.
const membersHold = "members"

// onNode are the holds of a fault of one process: the host must stay.
func onNode(node, what string) []Hold {
	return append(alone(what+":"+node), shared("host:"+node)...)
}

// Faults is the registry.
func Faults() []Fault {
	return slices.Concat(processFaults(), hostFaults(), managementFaults(), clientFaults(), diskFaults(), groupFaults())
}

// Named picks faults by the words in their names; all of them without words.
func Named(faults []Fault, words []string) (list []Fault) {
	for _, f := range faults {
		if len(words) == 0 || slices.ContainsFunc(words, func(w string) bool { return strings.Contains(f.Name, w) }) {
			list = append(list, f)
		}
	}
	return list
}
