package raftnode

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/clock"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

// transfer asks once for another leader.
func (g *attackGroup) transfer() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, _ = g.admin[g.leader()].TransferLeadership(ctx, &adminv1.TransferLeadershipRequest{})
}

// remove takes a member out of the group, and out of what the test looks at.
func (g *attackGroup) remove(name string) {
	g.t.Helper()
	g.names = slices.DeleteFunc(slices.Clone(g.names), func(n string) bool { return n == name })
	g.members[name].removed = true
	g.call("remove "+name, func(ctx context.Context, c adminv1.AdminServiceClient) error {
		_, err := c.RemoveMember(ctx, &adminv1.RemoveMemberRequest{Id: name})
		return err
	})
}

// voters waits until the group has so many voters.
func (g *attackGroup) voters(n int) {
	g.t.Helper()
	g.eventually("voters", func() bool {
		voters := 0
		for _, m := range g.parts(g.leader()).node.Members() {
			if m.Voter {
				voters++
			}
		}
		return voters == n
	})
}

// TestAttackMoveOverChanges: a planned move whose old owner's watch hangs, and in its
// middle a new voter joins, leadership is handed over, the next leader is cut off, and
// then taken out of the group.
func TestAttackMoveOverChanges(t *testing.T) {
	t.Parallel()
	g := newAttackGroup(t, attackTimes)
	g.add("m4")
	speakers := g.startSpeakers("n1", "n2", "n3")
	a := g.found(1)[0]
	s1 := speakers[0]
	g.give(a, s1)
	g.start("m4")
	g.aged(s1)

	s1.deaf.Store(true)
	drained := clock.Boottime.Now()
	g.drain("n1")
	g.transfer()
	lost := g.leader()
	g.net.isolate(lost, g.names, true)
	g.leader(g.others(lost)...)
	g.remove(lost)
	g.net.heal()
	by := g.succeeded(a, s1, speakers...)
	_, at := firstSince(a, drained, by)
	if took := at - drained; took < outlast(attackTimes) {
		t.Errorf("%s had the address %v after the drain, before F(1+ρ) = %v", by, took, outlast(attackTimes))
	} else {
		t.Logf("%s follows after %v", by, took)
	}
	g.noTwoOwners()
	s1.deaf.Store(false)
	g.voters(3)
	g.sameDigests()
}

// expired waits until the leader's state has the node expired.
func (g *attackGroup) expired(node string) {
	g.t.Helper()
	g.eventually(node+"'s expiry", func() (yes bool) {
		g.read(g.leader(), func(s *fsm.State) { yes = s.Nodes[node].SessionState == fsm.SessionExpired })
		return yes
	})
}

// TestAttackExpiryOverChanges: the owner falls silent, and between its expiry and its
// fence time a voter joins, leadership is handed over, and the next leader is cut off
// and taken out of the group.
func TestAttackExpiryOverChanges(t *testing.T) {
	t.Parallel()
	g := newAttackGroup(t, attackTimes)
	g.add("m4")
	speakers := g.startSpeakers("n1", "n2", "n3")
	a := g.found(1)[0]
	s1 := speakers[0]
	g.give(a, s1)
	g.start("m4")

	g.onlyAt(s1)
	g.expired("n1")
	g.transfer()
	lost := g.leader()
	g.net.isolate(lost, g.names, true)
	g.leader(g.others(lost)...)
	g.remove(lost)
	by := g.succeeded(a, s1, speakers...)
	t.Logf("%s follows", by)
	g.noTwoOwners()
	g.heal()
	g.voters(3)
	g.sameDigests()
	g.noTwoOwners()
}

// TestAttackRemovedLeader: the owner is heard by one leader only, which is cut off
// together with it, does not notice, and is taken out of the group.
func TestAttackRemovedLeader(t *testing.T) {
	t.Parallel()
	g := newAttackGroup(t, attackTimes, "m3")
	speakers := g.startSpeakers("n1", "n2", "n3")
	g.makeLeader("m3")
	a := g.found(1)[0]
	s1 := speakers[0]
	g.give(a, s1)

	g.onlyAt(s1, "m3")
	s1.attachTo("m3")
	g.net.isolate("m3", g.names, true)
	g.leader("m1", "m2")
	g.remove("m3")
	g.expired("n1")
	g.transfer()
	by := g.succeeded(a, s1, speakers...)
	t.Logf("%s follows; the removed member leads, as it believes: %v", by, g.leads("m3"))
	g.noTwoOwners()
	g.heal()
	g.sameDigests()
	g.noTwoOwners()
}

// TestAttackRestore: the group is reverted to an older state in which an address
// belonged to another service, while its owner lives and its watch hangs.
func TestAttackRestore(t *testing.T) {
	t.Parallel()
	g := newAttackGroup(t, attackTimes)
	speakers := g.startSpeakers("n1", "n2", "n3")
	addrs := g.found(4)
	a := addrs[0]
	g.give(a, speakers[0])
	g.aged(speakers...)
	backup := g.save()

	// The address becomes another service's, and another node's.
	g.call("set retention", func(ctx context.Context, c adminv1.AdminServiceClient) error {
		_, err := c.SetRetention(ctx, &adminv1.SetRetentionRequest{RetentionNanos: 0})
		return err
	})
	g.remake(a, "s0", "thief")
	g.give(a, speakers[1])
	g.noTwoOwners()

	speakers[1].deaf.Store(true)
	restored := clock.Boottime.Now()
	g.restore(backup)
	g.drain("n2")
	g.transfer()
	by := g.succeeded(a, speakers[1], speakers...)
	_, at := firstSince(a, restored, by)
	t.Logf("%s owns the restored address after %v", by, at-restored)
	g.noTwoOwners()
	speakers[1].deaf.Store(false)

	services := make(map[string][]netip.Addr)
	g.read(g.leader(), func(s *fsm.State) {
		for k, svc := range s.Services {
			services[k.Name] = svc.Addresses
		}
	})
	if len(services) != len(addrs) || len(services["s0"]) != 1 || services["s0"][0] != a {
		t.Errorf("services after the restore: %v", services)
	}
	g.eventually("owners of all", func() bool { return g.allAnswered(addrs) })
	g.sameDigests()
	g.noTwoOwners()
}

// remake deletes a service and declares another with its address.
func (g *attackGroup) remake(a netip.Addr, old, young string) {
	g.t.Helper()
	g.call("delete", func(ctx context.Context, c adminv1.AdminServiceClient) error {
		_, err := c.Delete(ctx, &adminv1.DeleteRequest{Names: []*adminv1.ResourceName{{Kind: "VirtualService", Namespace: "test", Name: old}}})
		return err
	})
	g.apply(attackService(young, a.String()))
}

// allAnswered tells whether every address has an owner that may answer for it.
func (g *attackGroup) allAnswered(addrs []netip.Addr) bool {
	for _, a := range addrs {
		owner, _ := g.ownerOf(g.leader(), a)
		if !slices.ContainsFunc(g.speakers, func(s *attackSpeaker) bool { return s.node == owner && s.answers(a) }) {
			return false
		}
	}
	return true
}
