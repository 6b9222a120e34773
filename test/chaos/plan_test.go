package chaos

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var testShape = Shape{Nodes: 5, Members: 3, Small: 2}

func TestPlanComesFromTheSeed(t *testing.T) {
	draw := func(seed uint64) (words []string) {
		for _, s := range Plan(rand.New(rand.NewPCG(seed, 1)), Faults(), testShape, 3, time.Minute) {
			words = append(words, s.At.String()+s.For.String()+s.Fault.Name+s.Target.String())
		}
		return words
	}
	if !slices.Equal(draw(1), draw(1)) {
		t.Error("one seed, two plans")
	}
	if slices.Equal(draw(1), draw(2)) {
		t.Error("two seeds, one plan")
	}
}

func TestPlansKeepTheRules(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(200) {
		shape := testShape
		shape.Members = 3 + 2*int(seed%2)
		steps := Plan(rand.New(rand.NewPCG(seed, 1)), Faults(), shape, 3, time.Minute)
		if len(steps) < 4 {
			t.Errorf("seed %d: only %d faults in a minute", seed, len(steps))
		}
		for i, s := range steps {
			seen[s.Fault.Name] = true
			if s.At+s.For > time.Minute {
				t.Errorf("seed %d: %s lasts until %v", seed, s.Fault.Name, s.At+s.For)
			}
			under := 1
			for _, o := range steps[:i] {
				if o.At+o.For <= s.At {
					continue
				}
				under++
				if collide(o.Target.Holds, s.Target.Holds) {
					t.Errorf("seed %d: %s of %v and %s of %v at once", seed, o.Fault.Name, o.Target, s.Fault.Name, s.Target)
				}
			}
			if under > 3 {
				t.Errorf("seed %d: %d faults at once", seed, under)
			}
		}
	}
	for _, f := range Faults() {
		if !seen[f.Name] {
			t.Errorf("%s never struck", f.Name)
		}
	}
}

// TestLostVotes: a member whose disk is wiped has lost its vote, so no other member may be
// in trouble meanwhile, or the group may be lost for good.
func TestLostVotes(t *testing.T) {
	for _, f := range Faults() {
		target := f.Aim(rand.New(rand.NewPCG(1, 1)), testShape)
		lone := f.Name == "disk wiped" || f.Name == "member removed and taken in"
		for _, g := range Faults() {
			for seed := range uint64(20) {
				other := g.Aim(rand.New(rand.NewPCG(seed, 2)), testShape)
				harmsMember := slices.ContainsFunc(other.Holds, func(h Hold) bool {
					return strings.HasPrefix(h.What, "member:") || h.What == "mgmt:n1" || h.What == "mgmt:n2" || h.What == "mgmt:n3"
				})
				if lone && harmsMember && !collide(target.Holds, other.Holds) {
					t.Errorf("%s of %v together with %s of %v", f.Name, target, g.Name, other)
				}
			}
		}
	}
}
