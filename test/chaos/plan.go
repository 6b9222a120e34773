package chaos

import (
	"math/rand/v2"
	"time"
)

// Step is one fault of a plan.
type Step struct {
	Fault  Fault
	Target Target
	// At is when it begins, from the round's start; For is how long it lasts.
	At, For time.Duration
}

const (
	// defaultTogether is how many faults may be under way at once.
	defaultTogether = 3
	// firstFault leaves the round some time in which all is well.
	firstFault = 2 * time.Second
	// recovery is how long a fault's holds are kept in the plan after its end.
	recovery = time.Second
)

// Plan draws the faults of one round, so many of them together. Equal seeds give equal plans.
func Plan(r *rand.Rand, faults []Fault, s Shape, together int, length time.Duration) (steps []Step) {
	total := 0
	for _, f := range faults {
		total += f.Weight
	}
	for at := firstFault; at < length && total > 0; at += pause(r) {
		for range 8 { // tries to find one that fits to those under way
			step := draw(r, faults, total, s)
			step.At = at
			step.For = min(step.For, length-at)
			if fits(steps, step, together) {
				steps = append(steps, step)
				break
			}
		}
	}
	return steps
}

// pause is the time between two faults: often short, so that they overlap.
func pause(r *rand.Rand) time.Duration {
	return time.Duration((0.3 + min(r.ExpFloat64()*3, 9)) * float64(time.Second))
}

func draw(r *rand.Rand, faults []Fault, total int, s Shape) Step {
	n := r.IntN(total)
	i := 0
	for n >= faults[i].Weight {
		n -= faults[i].Weight
		i++
	}
	f := faults[i]
	step := Step{Fault: f, Target: f.Aim(r, s)}
	if f.Max > 0 {
		// Short ones are as interesting as long ones.
		u := r.Float64()
		step.For = f.Min + time.Duration(u*u*float64(f.Max-f.Min))
	}
	return step
}

func fits(steps []Step, next Step, together int) bool {
	if next.Target.Holds == nil {
		return false // there is no such victim in this cluster
	}
	under := 0
	for _, s := range steps {
		if s.At+s.For+recovery <= next.At {
			continue
		}
		if under++; under >= together || collide(s.Target.Holds, next.Target.Holds) {
			return false
		}
	}
	return true
}
