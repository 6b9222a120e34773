package chaos

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
)

// Classes that the judges must know.
const (
	classSpeakerPaused = "speaker paused"
	classHostPaused    = "host paused"
	classSlowClients   = "clients: slow line"
)

// Daemons of a node, as the keeper names them.
const (
	member    = "member"
	speaker   = "speaker"
	responder = "responder"
)

func processFaults() []Fault {
	memberAim := func(r *rand.Rand, s Shape) Target { return memberTarget(s.member(r)) }
	speakerAim := func(r *rand.Rand, s Shape) Target {
		n := s.node(r)
		return Target{Nodes: []string{n}, Holds: onNode(n, speaker)}
	}
	return []Fault{
		{
			Name: "member killed", Notice: "nothing", Weight: 3, Max: 8 * time.Second,
			Aim: memberAim, Begin: killOf(member),
		}, {
			Name: "member paused", Notice: "nothing", Weight: 3, Min: 200 * time.Millisecond, Max: 10 * time.Second,
			Aim: memberAim, Begin: pauseOf(member),
		}, {
			Name: "speaker killed", Notice: "nothing to those who know the address", Weight: 3, Max: 8 * time.Second,
			Aim: speakerAim, Begin: killOf(speaker),
		}, {
			Name: classSpeakerPaused, Notice: "nothing to those who know the address", Weight: 3, Min: 200 * time.Millisecond, Max: 10 * time.Second,
			Aim: speakerAim, Begin: pauseOf(speaker),
		}, {
			Name: "all members killed", Notice: "Hold: nothing; Release: dark from F on", Weight: 1, Max: 6 * time.Second,
			Aim: func(_ *rand.Rand, s Shape) Target {
				t := Target{Holds: alone(membersHold)}
				for _, n := range s.members() {
					t.Holds = append(t.Holds, onNode(n, member)...)
				}
				return t
			},
			Begin: killAll,
		},
	}
}

// memberTarget is one member, and not its speaker.
func memberTarget(node string) Target {
	return Target{From: []string{node}, Holds: append(onNode(node, member), shared(membersHold)...)}
}

// victim is the node that the fault is about.
func (e *Env) victim(t Target) *cluster.Node {
	if len(t.Nodes) > 0 {
		return e.Node(t.Nodes[0])
	}
	return e.Node(t.From[0])
}

func processOf(n *cluster.Node, daemon string) *lab.Process {
	switch daemon {
	case member:
		return n.Member()
	case speaker:
		return n.Speaker()
	default:
		return n.Responder()
	}
}

// killOf kills a daemon; the keeper starts it again when the fault ends.
func killOf(daemon string) func(context.Context, *Env, Target) (func(context.Context) error, error) {
	return func(_ context.Context, e *Env, t Target) (func(context.Context) error, error) {
		n := e.victim(t)
		e.keeper.Down(n, daemon)
		end := func(context.Context) error {
			e.keeper.Up(n, daemon)
			return nil
		}
		return end, processOf(n, daemon).Kill()
	}
}

func killAll(_ context.Context, e *Env, _ Target) (func(context.Context) error, error) {
	var errs []error
	for _, n := range e.Members() {
		e.keeper.Down(n, member)
		errs = append(errs, n.Member().Kill())
	}
	return func(context.Context) error {
		for _, n := range e.Members() {
			e.keeper.Up(n, member)
		}
		return nil
	}, errors.Join(errs...)
}

func pauseOf(daemons ...string) func(context.Context, *Env, Target) (func(context.Context) error, error) {
	return func(_ context.Context, e *Env, t Target) (func(context.Context) error, error) {
		n := e.victim(t)
		var paused []*lab.Process
		for _, d := range daemons {
			p := processOf(n, d)
			if p.Running() && p.Pause() == nil { // one that has just ended by itself needs no pause
				paused = append(paused, p)
			}
		}
		return func(context.Context) error {
			for _, p := range paused {
				_ = p.Resume() // it may have been gone already
			}
			return nil
		}, nil
	}
}

func hostFaults() []Fault {
	aim := func(r *rand.Rand, s Shape) Target {
		n := s.node(r)
		t := Target{Nodes: []string{n}, Holds: alone("host:"+n, "mgmt:"+n, "lan:"+n)}
		for _, m := range s.members() {
			if m == n {
				t.Holds = append(t.Holds, shared(membersHold)...)
			}
		}
		return t
	}
	return []Fault{
		{
			Name: classHostPaused, Notice: "dark for D and a commit, or the pause", Weight: 2, Min: 200 * time.Millisecond, Max: 10 * time.Second,
			Aim: aim, Begin: pauseOf(member, speaker, responder),
		}, {
			Name: "power-off", Notice: "dark for D and a commit", Weight: 4, Min: time.Second, Max: 15 * time.Second,
			Aim: aim, Begin: powerOff,
		}, {
			Name: "link down", Notice: "dark for a commit", Weight: 2, Min: 300 * time.Millisecond, Max: 8 * time.Second,
			Aim: func(r *rand.Rand, s Shape) Target {
				n := s.node(r)
				return Target{Nodes: []string{n}, Holds: onNode(n, "lan")}
			},
			Begin: linkDown,
		},
	}
}

func powerOff(_ context.Context, e *Env, t Target) (func(context.Context) error, error) {
	n := e.victim(t)
	_, err := n.Host.PowerOff()
	return func(context.Context) error {
		// The keeper starts what starts at boot.
		return errors.Join(n.Host.PowerOn(), e.ears.replug(n))
	}, err
}

func linkDown(_ context.Context, e *Env, t Target) (func(context.Context) error, error) {
	n := e.victim(t)
	err := e.LAN.PortDown(n.Name)
	return func(context.Context) error { return e.LAN.PortUp(n.Name) }, err
}
