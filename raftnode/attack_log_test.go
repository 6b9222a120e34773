package raftnode

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode/transport"
)

// TestAttackBatchesInFlight: leadership is lost and won back, by whatever member,
// with batches in flight, under a stream of writes through all members. What was
// acknowledged is there, and nothing is there twice.
func TestAttackBatchesInFlight(t *testing.T) {
	t.Parallel()
	g := newAttackGroup(t, attackTimes)
	g.found(0)
	g.apply(&adminv1.Resource{Kind: &adminv1.Resource_Pool{Pool: &logv1.Pool{Name: "wide", Addresses: []string{"10.0.0.0/16"}}}})
	rnd := rand.New(rand.NewPCG(Seed(t), 5))

	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	acked := make(map[string]netip.Addr)
	tried := 0
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("w%d-%d", w, i)
				try, done := context.WithTimeout(ctx, 3*time.Second)
				resp, err := g.admin[fmt.Sprintf("m%d", 1+(w+i)%3)].Apply(try, &adminv1.ApplyRequest{Resources: []*adminv1.Resource{attackService(name)}})
				done()
				mu.Lock()
				tried++
				if err == nil && len(resp.GetResults()[0].GetAddresses()) == 1 {
					acked[name] = netip.MustParseAddr(resp.GetResults()[0].GetAddresses()[0])
				}
				mu.Unlock()
				attackPause(ctx, 20*time.Millisecond)
			}
		})
	}

	terms := make(map[uint64]bool)
	begun, span := time.Now(), attackSeconds(7*time.Second)
	for time.Since(begun) < span || len(terms) < 3 && time.Since(begun) < attackPatience {
		leader := g.leader()
		terms[g.parts(leader).node.Term()] = true
		f := &g.members[leader].fault.Faults
		heal := g.lose(f, leader, rnd)
		attackPause(ctx, time.Duration(200+rnd.IntN(900))*time.Millisecond)
		heal()
		mu.Lock()
		goal := len(acked) + rnd.IntN(40)
		mu.Unlock()
		g.eventually("writes", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(acked) >= goal
		})
	}
	cancel()
	wg.Wait()
	g.heal()
	g.apply(attackService("last")) // everything before is settled with it
	g.sameDigests()
	t.Logf("%d of %d writes acknowledged over %d terms", len(acked), tried, len(terms))
	if len(terms) < 2 || len(acked) == 0 {
		t.Error("leadership was never lost, or nothing was ever written")
	}

	g.read(g.leader(), func(s *fsm.State) {
		of := make(map[netip.Addr]string)
		for k, svc := range s.Services {
			for _, a := range svc.Addresses {
				if other, twice := of[a]; twice {
					t.Errorf("%s belongs to %s and %s", a, other, k.Name)
				}
				of[a] = k.Name
			}
		}
		for name, a := range acked {
			if of[a] != name {
				t.Errorf("%s was acknowledged with %s, which belongs to %q", name, a, of[a])
			}
		}
	})
	for name, n := range g.declarations() {
		if n != 1 {
			t.Errorf("%s was declared or given an address %d times", name, n)
		}
	}
}

// lose interferes with a leader's log.
func (g *attackGroup) lose(f *transport.Faults, leader string, rnd *rand.Rand) (heal func()) {
	others := g.others(leader)
	one := raft.ServerID(others[rnd.IntN(len(others))])
	switch rnd.IntN(6) {
	case 0: // commits that the leader does not learn of
		return f.DropAnswers(transport.OpAppendEntries, "")
	case 1:
		_, heal = f.HoldAnswers(transport.OpInvalid, "")
		return heal
	case 2: // entries that arrive late, from a leader that is none any more
		_, heal = f.Hold(transport.OpAppendEntries, "")
		return heal
	case 3: // one follower has what the other has not
		lost := f.Drop(transport.OpInvalid, one)
		_, late := f.HoldAnswers(transport.OpInvalid, "")
		return func() { late(); lost() }
	case 4:
		g.net.isolate(leader, others, true)
		return func() { g.net.isolate(leader, others, false) }
	default:
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_, _ = g.admin[leader].TransferLeadership(ctx, &adminv1.TransferLeadershipRequest{})
		return func() {}
	}
}

// declarations counts, for each service, how often the log declares it or gives it an
// address, whichever is more.
func (g *attackGroup) declarations() map[string]int {
	declared, given := make(map[string]int), make(map[string]int)
	g.call("events", func(ctx context.Context, c adminv1.AdminServiceClient) error {
		clear(declared)
		clear(given)
		stream, err := c.Events(ctx, &adminv1.EventsRequest{})
		if err != nil {
			return err
		}
		for {
			m, err := stream.Recv()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if d := m.GetEvent().GetServiceDeclared(); d != nil {
				declared[d.GetService().GetName()]++
			}
			if a := m.GetEvent().GetAddressAllocated(); a != nil {
				given[a.GetName()]++
			}
		}
	})
	for name, n := range given {
		declared[name] = max(declared[name], n)
	}
	return declared
}
