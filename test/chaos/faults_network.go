package chaos

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
)

// managementFaults strike the lines between members, speakers and operators.
func managementFaults() []Fault {
	mgmt := func(e *Env) *lab.Switch { return e.Mgmt }
	hold := func(s Shape, nodes ...string) []Hold { return lineHolds(s, "mgmt", nodes...) }
	return []Fault{
		{
			Name: "management: node cut off", Notice: "one move; dark for its new clients only", Weight: 3,
			Min: 300 * time.Millisecond, Max: 15 * time.Second,
			Aim: func(r *rand.Rand, s Shape) Target {
				n := s.node(r)
				return Target{Nodes: []string{n}, From: []string{n}, Permille: 1000, Holds: hold(s, n)}
			},
			Begin: dropAt(mgmt),
		}, {
			Name: "management: split", Notice: "moves from the smaller side", Weight: 2,
			Min: 300 * time.Millisecond, Max: 12 * time.Second,
			Aim: func(r *rand.Rand, s Shape) Target {
				from, to := halves(r, s.all())
				return Target{Nodes: s.all(), From: from, To: to, Permille: 1000, Holds: hold(s, s.all()...)}
			},
			Begin: dropAt(mgmt),
		}, {
			Name: "management: one way", Notice: "one move at most", Weight: 3,
			Min: 300 * time.Millisecond, Max: 12 * time.Second,
			Aim: func(r *rand.Rand, s Shape) Target {
				n, t := s.node(r), Target{Permille: 1000, OneWay: true}
				others := slices.DeleteFunc(s.all(), func(o string) bool { return o == n })
				t.Nodes, t.From, t.To = []string{n}, []string{n}, others
				switch r.IntN(3) {
				case 0: // it hears nobody
					t.From, t.To = t.To, t.From
				case 1: // one pair
					t.To = []string{others[r.IntN(len(others))]}
					t.Nodes = []string{n, t.To[0]}
				}
				t.Holds = hold(s, t.Nodes...)
				return t
			},
			Begin: dropAt(mgmt),
		}, {
			Name: "management: loss", Notice: "nothing, or a move", Weight: 2, Min: time.Second, Max: 15 * time.Second,
			Aim: func(r *rand.Rand, s Shape) Target {
				n := s.node(r)
				return Target{Nodes: []string{n}, From: []string{n}, Permille: 20 + r.Uint32N(400), Holds: hold(s, n)}
			},
			Begin: dropAt(mgmt),
		}, {
			Name: "management: slow line", Notice: "nothing, or a move", Weight: 2, Min: time.Second, Max: 15 * time.Second,
			Aim: func(r *rand.Rand, s Shape) Target {
				n := s.node(r)
				return Target{Nodes: []string{n}, Delay: time.Duration(5+r.IntN(400)) * time.Millisecond, Holds: hold(s, n)}
			},
			Begin: slowAt(mgmt),
		},
	}
}

// clientFaults strike the lines between nodes and clients.
func clientFaults() []Fault {
	lan := func(e *Env) *lab.Switch { return e.LAN }
	hold := func(s Shape, nodes ...string) []Hold { return lineHolds(s, "lan", nodes...) }
	return []Fault{
		{
			Name: "clients: node cut off", Notice: "dark while it lasts: no interface reports it", Weight: 2,
			Min: 300 * time.Millisecond, Max: 8 * time.Second,
			Aim: func(r *rand.Rand, s Shape) Target {
				n := s.node(r)
				return Target{Nodes: []string{n}, From: []string{n}, Permille: 1000, Holds: hold(s, n)}
			},
			Begin: dropAt(lan),
		}, {
			Name: "clients: split", Notice: "dark while it lasts, to the client's side", Weight: 2,
			Min: 300 * time.Millisecond, Max: 8 * time.Second,
			Aim: func(r *rand.Rand, s Shape) Target {
				from, to := halves(r, s.all())
				return Target{
					Nodes: s.all(), From: append(from, "client"), To: append(to, "router"), Permille: 1000,
					Holds: append(hold(s, s.all()...), alone("lan:client")...),
				}
			},
			Begin: dropAt(lan),
		}, {
			Name: "clients: one way", Notice: "dark while it lasts", Weight: 2,
			Min: 300 * time.Millisecond, Max: 8 * time.Second,
			Aim: func(r *rand.Rand, s Shape) Target {
				n := s.node(r)
				others := append(slices.DeleteFunc(s.all(), func(o string) bool { return o == n }), "client", "router")
				t := Target{Nodes: []string{n}, From: []string{n}, To: others, OneWay: true, Permille: 1000, Holds: hold(s, n)}
				if r.IntN(2) == 0 {
					t.From, t.To = t.To, t.From
				}
				return t
			},
			Begin: dropAt(lan),
		}, {
			Name: "clients: loss", Notice: "that share of datagrams", Weight: 2, Min: time.Second, Max: 12 * time.Second,
			Aim: func(r *rand.Rand, s Shape) Target {
				n := s.node(r)
				return Target{Nodes: []string{n}, From: []string{n}, Permille: 20 + r.Uint32N(300), Holds: hold(s, n)}
			},
			Begin: dropAt(lan),
		}, {
			Name: classSlowClients, Notice: "the delay", Weight: 1, Min: time.Second, Max: 12 * time.Second,
			Aim: func(r *rand.Rand, s Shape) Target {
				n := s.node(r)
				return Target{Nodes: []string{n}, Delay: time.Duration(5+r.IntN(100)) * time.Millisecond, Holds: hold(s, n)}
			},
			Begin: slowAt(lan),
		},
	}
}

// lineHolds are the holds of a fault of some nodes' lines.
func lineHolds(s Shape, line string, nodes ...string) (holds []Hold) {
	counts := false
	for _, n := range nodes {
		holds = append(holds, onNode(n, line)...)
		counts = counts || slices.Contains(s.members(), n)
	}
	if counts && line == "mgmt" {
		holds = append(holds, shared(membersHold)...)
	}
	return holds
}

// halves deals the names to two sides, neither empty.
func halves(r *rand.Rand, names []string) (a, b []string) {
	r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	n := 1 + r.IntN(len(names)-1)
	a, b = slices.Clone(names[:n]), slices.Clone(names[n:])
	slices.Sort(a)
	slices.Sort(b)
	return a, b
}

// dropAt drops frames between the target's sides.
func dropAt(which func(*Env) *lab.Switch) func(context.Context, *Env, Target) (func(context.Context) error, error) {
	return func(_ context.Context, e *Env, t Target) (func(context.Context) error, error) {
		var faults []*lab.Fault
		end := func(context.Context) error {
			var errs []error
			for _, f := range faults {
				errs = append(errs, f.Clear())
			}
			return errors.Join(errs...)
		}
		to := t.To
		if len(to) == 0 {
			to = []string{""}
		}
		for _, a := range t.From {
			for _, b := range to {
				pairs := [][2]string{{a, b}}
				if !t.OneWay {
					pairs = append(pairs, [2]string{b, a})
				}
				for _, p := range pairs {
					f, err := which(e).Drop(p[0], p[1], t.Permille)
					if err != nil {
						return end, err
					}
					faults = append(faults, f)
				}
			}
		}
		return end, nil
	}
}

func slowAt(which func(*Env) *lab.Switch) func(context.Context, *Env, Target) (func(context.Context) error, error) {
	return func(_ context.Context, e *Env, t Target) (func(context.Context) error, error) {
		line, err := which(e).Slow(t.Nodes[0], t.Delay, t.Delay/4)
		if err != nil {
			return nil, err
		}
		return func(context.Context) error { return line.Clear() }, nil
	}
}
