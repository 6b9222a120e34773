package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/lab"
)

// Options of a run.
type Options struct {
	Seed uint64
	// Time is how long faults strike, in rounds; what comes before and after is not in it.
	Time time.Duration
	// Round is the length of a round; 45 s by default. After each everything has to
	// come to rest.
	Round time.Duration
	// Dir gets logs, captures and the report.
	Dir string
	// Faults are the kinds to draw from; Faults() by default.
	Faults []Fault
	// Together is how many faults may be under way at once; 3 by default.
	Together int
	// Shape of the cluster; drawn from the seed by default.
	Shape    Shape
	LogLevel string
	// Keep leaves logs and captures behind also when all is well.
	Keep bool
	// Progress takes a line now and then.
	Progress func(format string, args ...any)
}

// Injury is one fault that struck.
type Injury struct {
	Class  string    `json:"class"`
	Target string    `json:"target"`
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	// Skipped says why it did not strike; Err what went wrong.
	Skipped string `json:"skipped,omitempty"`
	Err     string `json:"err,omitempty"`

	target Target
}

const (
	// settle bounds how long after the last fault every address has to be answered.
	settle = 30 * time.Second
	// quiet bounds how long after that all members have to be ready.
	quiet = 60 * time.Second
)

// drawShape chooses a cluster: mostly three members, sometimes five; one has a small disk.
func drawShape(r *rand.Rand) Shape {
	s := Shape{Nodes: 5, Members: 3}
	if r.IntN(4) == 0 {
		s.Members = 5
	}
	s.Small = 1 + r.IntN(s.Members)
	return s
}

// Run runs faults for the time and judges what followed. The error says that the run could
// not be made; what went wrong in it is in the result.
func Run(ctx context.Context, o Options) (*Result, error) {
	r := rand.New(rand.NewPCG(o.Seed, 0x5eed))
	shape := drawShape(r)
	if o.Shape.Nodes > 0 {
		shape = o.Shape
	}
	if o.Faults == nil {
		o.Faults = Faults()
	}
	if o.Round == 0 {
		o.Round = 45 * time.Second
	}
	if o.Together == 0 {
		o.Together = defaultTogether
	}
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	o.Progress("%d nodes, %d members, the disk of n%d is small", shape.Nodes, shape.Members, shape.Small)
	e, err := open(ctx, o, shape)
	if err != nil {
		return nil, err
	}
	res := newResult(o, shape, e)
	err = e.run(ctx, o, r, shape, res)
	res.end(e, o)
	if len(res.Violations) > 0 || err != nil || o.Keep {
		e.KeepDir()
		e.writeCaptures()
	}
	return res, errors.Join(err, e.Close())
}

// run plays the rounds, with the traffic of operators around them.
func (e *Env) run(ctx context.Context, o Options, r *rand.Rand, shape Shape, res *Result) error {
	lasting, stopLasting := context.WithCancel(ctx)
	traffic, stopTraffic := context.WithCancel(ctx)
	var always, operators errgroup.Group
	always.Go(func() error { return e.keeper.run(lasting) })
	always.Go(func() error { return e.chronicle.follow(lasting, e) })
	always.Go(func() error { return e.vitals.run(lasting, e) })
	defer func() {
		stopTraffic()
		stopLasting()
		_ = operators.Wait() // they return nil
		_ = always.Wait()
	}()
	e.history.setRound(0)
	for who := range declarers {
		seed := r.Uint64()
		operators.Go(func() error { return e.declarer(traffic, who, rand.New(rand.NewPCG(seed, 1))) })
	}
	seed := r.Uint64()
	operators.Go(func() error { return e.mover(traffic, declarers, rand.New(rand.NewPCG(seed, 2))) })
	left := o.Time
	for n := 0; left > 0 && ctx.Err() == nil; n++ {
		length := min(o.Round, left)
		if left -= length; left < o.Round/3 {
			length, left = length+left, 0 // a last round that is not too short
		}
		seed := r.Uint64()
		if err := e.round(ctx, o, n, length, rand.New(rand.NewPCG(seed, 3)), shape, res); err != nil {
			return err
		}
		if len(res.Violations) > 0 {
			break // what follows may only be its consequence
		}
	}
	stopTraffic()
	_ = operators.Wait()
	return e.finish(ctx, o, res)
}

// round plays one plan, lets everything come to rest, and judges it.
func (e *Env) round(ctx context.Context, o Options, n int, length time.Duration, r *rand.Rand, shape Shape, res *Result) error {
	e.history.setRound(n)
	round := &Round{Number: n, From: time.Now()}
	who := declarers + 1
	if m, a := e.someMember(r, who); a != nil {
		e.history.save(ctx, who, m, a)
	}
	plan := Plan(r, o.Faults, shape, o.Together, length)
	o.Progress("round %d: %d faults in %v", n, len(plan), length)
	round.Injuries = e.strikeAll(ctx, plan, round.From, length)
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	for _, x := range round.Injuries {
		if x.Err != "" {
			res.violate("%s of %s: %s", x.Class, x.Target, x.Err)
		}
	}
	round.Over = time.Now()
	if err := e.rest(ctx, round, res); err != nil {
		return err
	}
	return e.judgeRound(ctx, o, round, res)
}

// strikeAll plays a plan to its end and returns when all faults have ended.
func (e *Env) strikeAll(ctx context.Context, plan []Step, start time.Time, length time.Duration) []Injury {
	injuries := make([]Injury, len(plan))
	var g sync.WaitGroup
	for i, step := range plan {
		g.Go(func() { injuries[i] = e.strike(ctx, step, start, length) })
	}
	g.Wait()
	return injuries
}

func (e *Env) strike(ctx context.Context, step Step, start time.Time, length time.Duration) (x Injury) {
	x = Injury{Class: step.Fault.Name, Target: step.Target.String(), target: step.Target}
	_ = lab.Wait(ctx, time.Until(start.Add(step.At)))
	// The earlier ones may take longer than planned.
	waiting, cancel := context.WithDeadline(ctx, start.Add(length))
	defer cancel()
	free, err := e.holds.take(waiting, step.Target.Holds)
	x.From = time.Now()
	x.To = x.From
	if err != nil {
		x.Skipped = "an earlier fault lasted too long"
		return x
	}
	defer free()
	begin, cancelBegin := context.WithTimeout(ctx, 4*time.Minute)
	defer cancelBegin()
	end, err := step.Fault.Begin(begin, e, step.Target)
	if err == nil && end != nil {
		_ = lab.Wait(ctx, step.For)
	}
	x.To = time.Now()
	if end != nil {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		err = errors.Join(err, end(ending))
	}
	switch {
	case err == nil, ctx.Err() != nil:
	case errors.Is(err, errNotDone):
		x.Skipped = err.Error()
	default:
		x.Err = err.Error()
	}
	return x
}

// errNotDone says that a fault was left out, as the group was not well enough for it.
var errNotDone = errors.New("left out")

// rest wants every address answered by its owner, and then every member well.
func (e *Env) rest(ctx context.Context, round *Round, res *Result) error {
	bound := settle + 4*e.machine.Window(round.From, time.Now()).LongestGap
	if err := e.WaitAnswered(ctx, bound, nil); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		res.violate("round %d: %v after the last fault's end: %v", round.Number, bound.Round(time.Second), err)
	}
	round.Rested = time.Since(round.Over)
	if err := e.WaitMembers(ctx, quiet); err != nil {
		res.violate("round %d: members: %v", round.Number, err)
	}
	if err := e.WaitNodes(ctx, quiet); err != nil {
		res.violate("round %d: nodes: %v", round.Number, err)
	}
	// Late frames and late answers belong to the round.
	return lab.Wait(ctx, lab.Patience+500*time.Millisecond)
}

// finish wants all members equal, and reads everything once more.
func (e *Env) finish(ctx context.Context, o Options, res *Result) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	o.Progress("waiting for equal digests")
	if err := e.setTimes(ctx, defaultTimes); err != nil {
		res.violate("lease times cannot be set: %v", err)
	}
	if err := e.allVoters(ctx, quiet); err != nil {
		res.violate("members: %v", err)
	}
	if err := e.sameDigests(ctx, res); err != nil {
		res.violate("digests: %v", err)
	}
	err := lab.Poll(ctx, settle, func(ctx context.Context) error {
		n, err := e.Leader(ctx)
		if err != nil {
			return err
		}
		a, err := e.history.client(e, declarers+1, n)
		if err != nil {
			return err
		}
		return e.history.readAll(ctx, declarers+1, n, a, "ledger/")
	})
	if err != nil {
		res.violate("the last read: %v", err)
	}
	vips, err := e.VIPs(ctx)
	if err != nil || len(vips) < configVIPs {
		res.violate("of %d addresses on the wire %d are left (%v)", configVIPs, len(vips), err)
	}
	return nil
}

// sameDigests waits until all members have one revision and one digest. A member computes
// one when nothing has happened for 10 s.
func (e *Env) sameDigests(ctx context.Context, res *Result) error {
	return lab.Poll(ctx, 90*time.Second, func(ctx context.Context) error {
		resp, err := e.Get(ctx, false, "members")
		if err != nil {
			return err
		}
		members := resp.GetMembers()
		if len(members) != len(e.Members()) {
			return fmt.Errorf("%d members, want %d", len(members), len(e.Members()))
		}
		same := func(a, b *adminv1.MemberStatus) bool {
			return a.GetRevision() == b.GetRevision() && len(a.GetDigest()) > 0 && bytes.Equal(a.GetDigest(), b.GetDigest())
		}
		for _, m := range members {
			if !same(m, members[0]) {
				return fmt.Errorf("%s is at %d with %.8x, %s at %d with %.8x", m.GetId(), m.GetRevision(), m.GetDigest(),
					members[0].GetId(), members[0].GetRevision(), members[0].GetDigest())
			}
		}
		res.Digest = fmt.Sprintf("%x", members[0].GetDigest())
		res.Revision = members[0].GetRevision()
		return nil
	})
}
