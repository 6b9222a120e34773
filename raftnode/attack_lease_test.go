package raftnode

import (
	"context"
	"maps"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/clock"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode/transport"
)

// onlyAt cuts a speaker off from all members but those named.
func (g *attackGroup) onlyAt(s *attackSpeaker, members ...string) {
	for _, m := range g.names {
		g.net.cut(s.machine, m, true)
	}
	for _, m := range members {
		g.net.cut(s.machine, m, false)
	}
}

// succeeded waits until another than old may answer for the address, and for a while
// in which an ack that must not be would show.
func (g *attackGroup) succeeded(a netip.Addr, old *attackSpeaker, speakers ...*attackSpeaker) (by *attackSpeaker) {
	g.t.Helper()
	g.eventually("a successor for "+a.String(), func() bool {
		for _, s := range speakers {
			if s.machine != old.machine && s.answers(a) {
				by = s
				return true
			}
		}
		return false
	})
	for until := time.Now().Add(500 * time.Millisecond); time.Now().Before(until); {
		time.Sleep(10 * time.Millisecond)
	}
	return by
}

// deafLeader keeps all answers to a leader's Raft messages back until they are let
// through, and what others say to it for ever: it will not learn of an election.
func (g *attackGroup) deafLeader(leader string) (letAnswers func()) {
	_, letAnswers = g.members[leader].fault.Faults.HoldAnswers(transport.OpInvalid, "")
	g.t.Cleanup(letAnswers)
	for _, m := range g.others(leader) {
		g.mends = append(g.mends, g.members[m].fault.Faults.Drop(transport.OpInvalid, raft.ServerID(leader)))
		g.net.holdMade(m, leader, true, true)
	}
	return letAnswers
}

// heal ends all faults.
func (g *attackGroup) heal() {
	for _, mend := range g.mends {
		mend()
	}
	g.mends = nil
	g.net.heal()
}

// drip lets through a few answers at a time of those that a member waits for.
func (g *attackGroup) drip(to string, from ...string) (stop func()) {
	ctx, cancel := context.WithCancel(g.t.Context()) // ends before the clean-up
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			for _, m := range from {
				g.net.holdMade(to, m, false, false)
				attackPause(ctx, 5*time.Millisecond)
				g.net.holdMade(to, m, true, false)
			}
			attackPause(ctx, 100*time.Millisecond)
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// TestAttackAnswersHeldOverElection: the leader's followers answer polls and
// AppendEntries, but the answers are kept back until after they have elected another
// leader, and then let through a few at a time, so that the old one goes on
// believing. A speaker that only the old leader hears must not be confirmed by them.
func TestAttackAnswersHeldOverElection(t *testing.T) {
	t.Parallel()
	g := newAttackGroup(t, attackTimes, "m3")
	speakers := g.startSpeakers("n1", "n2", "n3")
	g.makeLeader("m3")
	a := g.found(1)[0]
	g.give(a, speakers[0])

	// From here on answers pile up: some to polls sent before, some after.
	letAnswers := g.deafLeader("m3")
	for _, m := range []string{"m1", "m2"} {
		g.net.holdMade("m3", m, true, false)
	}
	g.onlyAt(speakers[0], "m3")
	speakers[0].attachTo("m3")
	time.Sleep(50 * time.Millisecond)
	g.net.holdRaft("m3", "m1", true)
	g.net.holdRaft("m3", "m2", true)

	next := g.leader("m1", "m2")
	letAnswers() // of AppendEntries, from before the election
	stop := g.drip("m3", "m1", "m2")
	by := g.succeeded(a, speakers[0], speakers...)
	if !g.leads("m3") {
		t.Log("the old leader noticed that it was none; the attack was weak")
	}
	if speakers[0].deadline() > clock.Boottime.Now() {
		t.Error("the old leader goes on confirming")
	}
	stop()
	t.Logf("%s follows by the word of %s", by, next)
	g.noTwoOwners()

	g.heal()
	letAnswers()
	g.eventually("the old owner's new session", func() bool { return speakers[0].deadline() > clock.Boottime.Now() })
	g.noTwoOwners()
}

// TestAttackDrainWithHangingWatch: the owner's watch comes from a follower that is
// cut off from the others, while its heartbeats reach everybody.
func TestAttackDrainWithHangingWatch(t *testing.T) {
	t.Parallel()
	g := newAttackGroup(t, attackTimes)
	speakers := g.startSpeakers("n1", "n2", "n3")
	a := g.found(1)[0]
	s1 := speakers[0]
	g.give(a, s1)
	g.aged(speakers...)

	hangs := func() (follower string, mend func()) {
		follower = g.others(g.leader())[0]
		s1.attachTo(follower)
		time.Sleep(200 * time.Millisecond)
		g.net.isolate(follower, g.names, true)
		return follower, func() { g.net.isolate(follower, g.names, false) }
	}

	_, mend := hangs()
	s1.deaf.Store(true)
	drained := clock.Boottime.Now()
	g.drain("n1")
	by := g.succeeded(a, s1, speakers...)
	_, at := firstSince(a, drained, by)
	if took := at - drained; took < outlast(attackTimes) {
		t.Errorf("%s had the address %v after the drain, before F(1+ρ) = %v; the old owner has not seen it", by, took, outlast(attackTimes))
	} else {
		t.Logf("owner deaf: moved after %v", took)
	}
	if !s1.has(a) {
		t.Error("the old owner's watch did not hang")
	}
	g.noTwoOwners()
	mend()
	s1.deaf.Store(false)

	// A speaker that attaches elsewhere makes the same move fast.
	g.undrain("n1")
	g.give(a, s1)
	_, mend = hangs()
	drained = clock.Boottime.Now()
	g.drain("n1")
	s1.attachTo("")
	by = g.succeeded(a, s1, speakers...)
	_, at = firstSince(a, drained, by)
	t.Logf("owner attaches elsewhere: moved after %v", at-drained)
	mend()
	g.noTwoOwners()
}

// TestAttackOldProcess: an old process of the node goes on beside its successor, on
// the same machine, while the node is drained, and dies.
func TestAttackOldProcess(t *testing.T) {
	t.Parallel()
	g := newAttackGroup(t, attackTimes)
	speakers := g.startSpeakers("n1", "n2", "n3")
	a := g.found(1)[0]
	old := speakers[0]
	g.give(a, old)
	g.aged(speakers...)

	t.Log("drained with an old process about")
	old.deaf.Store(true)
	young := g.speaker("n1", "n1").start()
	opened := clock.Boottime.Now()
	if old.deadline() < opened {
		t.Log("the old process was not confirmed; the attack is weak")
	}
	g.drain("n1")
	by := g.succeeded(a, old, append(speakers, young)...)
	t.Logf("%s follows; the old process was told that it is replaced: %v", by, old.replaced.Load())
	g.noTwoOwners()
	old.crash()

	t.Log("the young one dies at once after it has come")
	g.undrain("n1")
	g.give(a, young)
	young.deaf.Store(true)
	third := g.speaker("n1", "n1").start()
	third.crash()
	by = g.succeeded(a, young, speakers...)
	t.Logf("%s follows", by)
	g.noTwoOwners()
	if old.answers(a) {
		t.Error("the old process is still confirmed")
	}
}

// TestAttackClone: another machine comes up with the node's name and other MACs.
func TestAttackClone(t *testing.T) {
	t.Parallel()
	g := newAttackGroup(t, attackTimes)
	speakers := g.startSpeakers("n1", "n2", "n3")
	a := g.found(1)[0]
	old := speakers[0]
	g.give(a, old)

	// The clone starts its speaker twice, so that the state shows nothing of the
	// first machine any more, and leadership goes over.
	old.deaf.Store(true)
	g.speaker("n1", "clone").start().crash()
	clone := g.speaker("n1", "clone").start()
	g.transfer()
	g.eventually("the clone is confirmed", func() bool { return clone.answers(a) })
	g.noTwoOwners()
	g.eventually("the old one is told", func() bool { return old.replaced.Load() })

	// The first machine starts its speaker again, over an election.
	clone.deaf.Store(true)
	again := g.speaker("n1", "n1").start()
	leader := g.leader()
	g.net.isolate(leader, g.names, true)
	g.leader(g.others(leader)...)
	g.eventually("the first machine is confirmed again", func() bool { return again.answers(a) })
	g.heal()
	g.noTwoOwners()
}

// TestAttackManagementOutage: for 2 s nothing passes between members, nor between
// them and speakers; and then only between members. No address moves.
func TestAttackManagementOutage(t *testing.T) {
	t.Parallel()
	g := newAttackGroup(t, attackTimes)
	speakers := g.startSpeakers("n1", "n2", "n3")
	addrs := g.found(6)
	machines := []string{"admin", "n1", "n2", "n3"}
	for what, cut := range map[string][]string{"everything": append(machines, g.names...), "speakers": machines} {
		g.unmoved("an outage of "+what, addrs, speakers, func() {
			for _, m := range g.names {
				g.net.isolate(m, cut, true)
			}
			time.Sleep(2 * time.Second)
			for _, s := range speakers {
				if s.deadline() > clock.Boottime.Now() {
					t.Errorf("%s is still confirmed after an outage of %s", s, what)
				}
			}
			g.heal()
		})
	}
	g.noTwoOwners()
	g.sameDigests()
}

// unmoved checks that what f does moves no address. An attempt in which a speaker got
// no processor for so long that it was silent says nothing and is made again.
func (g *attackGroup) unmoved(what string, addrs []netip.Addr, speakers []*attackSpeaker, f func()) {
	g.t.Helper()
	type owned struct {
		owner string
		epoch uint64
	}
	owners := func() map[netip.Addr]owned {
		all := make(map[netip.Addr]owned)
		for _, a := range addrs {
			owner, epoch := g.ownerOf(g.leader(), a)
			all[a] = owned{owner, epoch}
		}
		return all
	}
	for range 5 {
		g.eventually("owners", func() bool { return g.allAnswered(addrs) })
		g.aged(speakers...)
		// On a busy machine the last outage may be the same mass event as the next, and
		// what is left of the settle time is all that the next one has.
		g.eventually("the end of the last mass event", func() bool {
			for _, name := range g.names {
				if p := g.parts(name); p == nil || p.keeper.View().MassEvent {
					return false
				}
			}
			return true
		})
		for _, s := range speakers {
			s.gap.Reset()
		}
		before := owners()
		f()
		g.eventually("all owners confirmed again", func() bool { return g.allAnswered(addrs) })
		time.Sleep(2 * g.times.Detection) // what would expire has expired by now
		after := owners()
		if maps.Equal(before, after) {
			return
		}
		silent := time.Duration(0)
		for _, s := range speakers {
			silent = max(silent, s.gap.Get())
		}
		if silent <= g.times.Detection/2 {
			g.t.Errorf("%s moved addresses: from %v to %v", what, before, after)
			return
		}
		g.t.Logf("%s moved addresses, but a speaker was silent for %v: again", what, silent)
	}
	g.t.Logf("this machine is too busy to tell whether %s moves an address", what)
}

// setTimes changes the lease times, whenever the leader lets it be.
func (g *attackGroup) setTimes(times fsm.LeaseTimes) {
	g.t.Helper()
	g.call("set lease times", func(ctx context.Context, c adminv1.AdminServiceClient) error {
		_, err := c.SetLeaseTimes(ctx, leaseRequest(times))
		return err
	})
}

func leaseRequest(t fsm.LeaseTimes) *adminv1.SetLeaseTimesRequest {
	return &adminv1.SetLeaseTimesRequest{Times: &logv1.LeaseTimes{
		DetectionNanos: int64(t.Detection), HeartbeatNanos: int64(t.Heartbeat), SettleNanos: int64(t.Settle),
	}}
}

var longTimes = fsm.LeaseTimes{Detection: 1250 * time.Millisecond, Heartbeat: 100 * time.Millisecond, Settle: fsm.DefaultLeaseTimes.Settle}

// TestAttackShorterLease: the owner falls silent with a long confirmation in its
// hand, and the lease times become short at that moment.
func TestAttackShorterLease(t *testing.T) {
	t.Parallel()
	g := newAttackGroup(t, longTimes)
	speakers := g.startSpeakers("n1", "n2", "n3")
	a := g.found(1)[0]
	s1 := speakers[0]
	g.give(a, s1)

	g.onlyAt(s1)
	g.setTimes(attackTimes)
	by := g.succeeded(a, s1, speakers...)
	t.Logf("%s follows", by)
	g.noTwoOwners()
}

// TestAttackShorterLeaseInMove: the same in a planned move, under a leader that
// comes in between and knows the former times from the log.
func TestAttackShorterLeaseInMove(t *testing.T) {
	t.Parallel()
	g := newAttackGroup(t, longTimes)
	speakers := g.startSpeakers("n1", "n2", "n3")
	a := g.found(1)[0]
	s1 := speakers[0]
	g.give(a, s1)
	g.aged(s1)

	s1.deaf.Store(true)
	g.setTimes(attackTimes)
	g.drain("n1")
	leader := g.leader()
	g.net.isolate(leader, append(g.names, "n1", "n2", "n3"), true)
	g.leader(g.others(leader)...)
	by := g.succeeded(a, s1, speakers...)
	t.Logf("%s follows", by)
	g.noTwoOwners()
}

// TestAttackLongerLease: lease times become long in a batch that is never
// committed, and the leader that decided it is deposed.
func TestAttackLongerLease(t *testing.T) {
	t.Parallel()
	g := newAttackGroup(t, attackTimes, "m3")
	speakers := g.startSpeakers("n1", "n2", "n3")
	g.makeLeader("m3")
	a := g.found(1)[0]
	s1 := speakers[0]
	g.give(a, s1)

	// Polls pass, the log does not. The election comes no sooner than the followers'
	// patience ends, so for that long the acks are good.
	g.net.holdRaft("m3", "m1", true)
	g.net.holdRaft("m3", "m2", true)
	letAnswers := g.deafLeader("m3")
	g.onlyAt(s1, "m3")
	s1.attachTo("m3")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	long := longTimes
	long.Detection = 4 * time.Second
	changed := make(chan error, 1)
	go func() {
		_, err := g.admin["m3"].SetLeaseTimes(ctx, leaseRequest(long))
		changed <- err
	}()
	g.leader("m1", "m2")
	by := g.succeeded(a, s1, speakers...)
	t.Logf("%s follows", by)
	g.noTwoOwners()
	g.heal()
	letAnswers()
	cancel()
	<-changed
	g.eventually("the first owner's new session", func() bool { return s1.deadline() > clock.Boottime.Now() })
	g.sameDigests()
	g.noTwoOwners()
}
