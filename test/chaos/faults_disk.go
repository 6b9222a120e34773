package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
)

func diskFaults() []Fault {
	aim := func(r *rand.Rand, s Shape) Target {
		t := memberTarget(s.member(r))
		t.Delay = time.Duration(20+r.IntN(1500)) * time.Millisecond
		return t
	}
	plain := func(r *rand.Rand, s Shape) Target { return memberTarget(s.member(r)) }
	return []Fault{
		{
			Name: "disk full", Notice: "nothing", Weight: 2, Min: time.Second, Max: 10 * time.Second,
			Aim: func(_ *rand.Rand, s Shape) Target {
				if s.Small == 0 {
					return Target{}
				}
				return memberTarget(nodeName(s.Small))
			},
			Begin: fillDisk,
		}, {
			Name: "disk slow", Notice: "nothing", Weight: 3, Min: time.Second, Max: 12 * time.Second,
			Aim:   aim,
			Begin: sicken(func(t Target) string { return "slow " + t.Delay.String() }),
		}, {
			Name: "disk fails", Notice: "nothing", Weight: 2, Min: 200 * time.Millisecond, Max: 6 * time.Second,
			Aim: plain, Begin: sicken(func(Target) string { return "fail" }),
		}, {
			Name: "disk fails late", Notice: "nothing", Weight: 2, Min: 200 * time.Millisecond, Max: 6 * time.Second,
			Aim: plain, Begin: sicken(func(Target) string { return "fail-late" }),
		}, {
			Name: "disk wiped", Notice: "nothing", Weight: 2, Min: 4 * time.Second, Max: 8 * time.Second,
			Aim: loneMember, Begin: wipeDisk,
		},
	}
}

// loneMember is a member that may lose its vote: all others have to be well.
func loneMember(r *rand.Rand, s Shape) Target {
	n := s.member(r)
	return Target{From: []string{n}, Holds: append(onNode(n, member), alone(membersHold)...)}
}

func fillDisk(_ context.Context, e *Env, t Target) (func(context.Context) error, error) {
	free, err := lab.FillDisk(e.victim(t).Disk())
	if err != nil {
		return nil, err
	}
	return func(context.Context) error { return free() }, nil
}

// sickness is the file that the member of a node looks for; see raftnode/storage.
func sickness(n *cluster.Node, dir string) string { return filepath.Join(dir, n.Name, "sickness") }

func sicken(words func(Target) string) func(context.Context, *Env, Target) (func(context.Context) error, error) {
	return func(_ context.Context, e *Env, t Target) (func(context.Context) error, error) {
		path := sickness(e.victim(t), e.Dir())
		tmp := path + ".tmp"
		end := func(context.Context) error { return os.Remove(path) }
		return end, errors.Join(os.WriteFile(tmp, []byte(words(t)), 0o644), os.Rename(tmp, path))
	}
}

func wipeDisk(ctx context.Context, e *Env, t Target) (func(context.Context) error, error) {
	n := e.victim(t)
	if err := e.allVoters(ctx, 20*time.Second); err != nil {
		return nil, fmt.Errorf("%w: the others are not well: %w", errNotDone, err)
	}
	e.keeper.Down(n, member)
	err := errors.Join(n.Member().Kill(), os.RemoveAll(n.DataDir()))
	e.keeper.Up(n, member)
	return e.voterAgain, err
}

// voterAgain waits until all members have a vote; a wiped one has it as a new member.
func (e *Env) voterAgain(ctx context.Context) error { return e.allVoters(ctx, 60*time.Second) }

// allVoters waits until every member votes and is reached by the one that answers.
func (e *Env) allVoters(ctx context.Context, deadline time.Duration) error {
	return lab.Poll(ctx, deadline, func(ctx context.Context) error {
		var resp *adminv1.GetResponse
		resp, err := e.Get(ctx, false, "members")
		if err != nil {
			return err
		}
		well := map[string]bool{}
		for _, m := range resp.GetMembers() {
			if m.GetVoter() && m.GetHealthy() {
				well[m.GetAddress()] = true
			}
		}
		for _, n := range e.Members() {
			if !well[n.MemberAddr()] {
				return fmt.Errorf("%s does not vote, or is not reached", n.MemberName)
			}
		}
		if len(resp.GetMembers()) != len(e.Members()) {
			return fmt.Errorf("%d members", len(resp.GetMembers()))
		}
		return nil
	})
}
