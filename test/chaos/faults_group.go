package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
)

// groupFaults are what an operator does to a group, which is no reason for anybody to
// notice anything.
func groupFaults() []Fault {
	all := func(s Shape, what string, nodes []string) (holds []Hold) {
		for _, n := range nodes {
			holds = append(holds, onNode(n, what)...)
		}
		return holds
	}
	return []Fault{
		{
			Name: "certificates renewed", Notice: "nothing", Weight: 1,
			Aim:   func(*rand.Rand, Shape) Target { return Target{Holds: alone("pki")} },
			Begin: renew,
		}, {
			Name: "leadership given away", Notice: "nothing", Weight: 2,
			Aim:   func(*rand.Rand, Shape) Target { return Target{Holds: alone("leadership")} },
			Begin: transfer,
		}, {
			Name: "members restarted one by one", Notice: "nothing", Weight: 1,
			Aim: func(_ *rand.Rand, s Shape) Target {
				return Target{Holds: append(all(s, member, s.members()), alone(membersHold)...)}
			},
			Begin: rollMembers,
		}, {
			Name: "speakers restarted one by one", Notice: "nothing", Weight: 1,
			Aim: func(_ *rand.Rand, s Shape) Target {
				return Target{Nodes: s.all(), Holds: all(s, speaker, s.all())}
			},
			Begin: rollSpeakers,
		}, {
			Name: "member removed and taken in", Notice: "nothing", Weight: 1, Min: time.Second, Max: 6 * time.Second,
			Aim: loneMember, Begin: removeMember,
		}, {
			Name: "older backup restored", Notice: "nothing", Weight: 2,
			Aim: func(*rand.Rand, Shape) Target { return Target{Holds: alone("restore")} },
			Begin: func(ctx context.Context, e *Env, _ Target) (func(context.Context) error, error) {
				return nil, e.history.restore(ctx, e)
			},
		}, {
			Name: "lease times changed", Notice: "nothing", Weight: 1, Min: 4 * time.Second, Max: 15 * time.Second,
			Aim: func(r *rand.Rand, _ Shape) Target {
				return Target{Delay: shortestDetection + time.Duration(r.Int64N(int64(longestDetection-shortestDetection))), Holds: alone("times")}
			},
			Begin: changeTimes,
		},
	}
}

func renew(_ context.Context, e *Env, _ Target) (func(context.Context) error, error) {
	var errs []error
	for _, n := range e.Nodes {
		errs = append(errs, e.Rotate(n))
	}
	return nil, errors.Join(errs...)
}

func transfer(ctx context.Context, e *Env, _ Target) (func(context.Context) error, error) {
	err := e.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
		_, err := a.TransferLeadership(ctx, &adminv1.TransferLeadershipRequest{})
		return err
	})
	return nil, refusalOK(err)
}

// refusalOK takes a refusal for an answer: a group in trouble may decline.
func refusalOK(err error) error {
	switch status.Code(err) {
	case codes.FailedPrecondition, codes.Aborted, codes.Unavailable, codes.DeadlineExceeded, codes.NotFound:
		return nil
	}
	return err
}

func rollMembers(ctx context.Context, e *Env, _ Target) (func(context.Context) error, error) {
	for _, n := range e.Members() {
		if err := e.restart(ctx, n, member, func(ctx context.Context) error { return n.MemberReady(ctx) }); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func rollSpeakers(ctx context.Context, e *Env, _ Target) (func(context.Context) error, error) {
	for _, n := range e.Nodes {
		if err := e.restart(ctx, n, speaker, func(ctx context.Context) error { return e.nodeReady(ctx, n) }); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// restart stops a daemon as an init system would and waits until it is back.
func (e *Env) restart(ctx context.Context, n *cluster.Node, daemon string, ready func(context.Context) error) error {
	e.keeper.Down(n, daemon)
	stop := n.StopSpeaker
	if daemon == member {
		stop = n.StopMember
	}
	err := stop(ctx)
	e.keeper.Up(n, daemon)
	if err != nil && processOf(n, daemon).Running() {
		return fmt.Errorf("%s of %s does not end: %w", daemon, n.Name, err)
	}
	if err := lab.Poll(ctx, 45*time.Second, ready); err != nil {
		return fmt.Errorf("%s of %s is not back: %w", daemon, n.Name, err)
	}
	return nil
}

func (e *Env) nodeReady(ctx context.Context, n *cluster.Node) error {
	resp, err := e.Get(ctx, false, "nodes")
	if err != nil {
		return err
	}
	for _, x := range resp.GetNodes() {
		if s := x.GetState(); x.GetName() == n.Name && (s == "Ready" || s == "Drained") {
			return nil
		}
	}
	return fmt.Errorf("%s is not ready", n.Name)
}

func removeMember(ctx context.Context, e *Env, t Target) (func(context.Context) error, error) {
	n := e.victim(t)
	if err := e.allVoters(ctx, 20*time.Second); err != nil {
		return nil, fmt.Errorf("%w: the others are not well: %w", errNotDone, err)
	}
	e.keeper.Down(n, member)
	end := func(ctx context.Context) error {
		// Whatever became of the removal: an empty directory joins as new.
		err := errors.Join(n.Member().Kill(), os.RemoveAll(n.DataDir()))
		e.keeper.Up(n, member)
		return errors.Join(err, e.voterAgain(ctx))
	}
	err := e.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
		_, err := a.RemoveMember(ctx, &adminv1.RemoveMemberRequest{Id: n.MemberName})
		return err
	})
	return end, refusalOK(err)
}

// D is between these, whatever the faults.
const (
	shortestDetection = 300 * time.Millisecond
	longestDetection  = 2300 * time.Millisecond
)

// changeTimes sets D to the target's delay, and back.
func changeTimes(ctx context.Context, e *Env, t Target) (func(context.Context) error, error) {
	end := func(ctx context.Context) error { return e.setTimes(ctx, defaultTimes) }
	return end, e.setTimes(ctx, times(t.Delay))
}

// defaultTimes are those that a group begins with.
var defaultTimes = &logv1.LeaseTimes{
	DetectionNanos: int64(750 * time.Millisecond), HeartbeatNanos: int64(150 * time.Millisecond), SettleNanos: int64(10 * time.Second),
}

func times(d time.Duration) *logv1.LeaseTimes {
	return &logv1.LeaseTimes{DetectionNanos: int64(d), HeartbeatNanos: int64(d / 5), SettleNanos: int64(5 * time.Second)}
}

// setTimes sets the lease times; one change has to take effect before the next.
func (e *Env) setTimes(ctx context.Context, times *logv1.LeaseTimes) error {
	return lab.Poll(ctx, 30*time.Second, func(ctx context.Context) error {
		return e.Do(ctx, func(ctx context.Context, a adminv1.AdminServiceClient) error {
			_, err := a.SetLeaseTimes(ctx, &adminv1.SetLeaseTimesRequest{Times: times})
			return err
		})
	})
}
