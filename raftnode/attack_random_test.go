package raftnode

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/raftnode/transport"
)

// Seed is QLB_TEST_SEED for what a test does at random: 1 if it is not set, and a new
// one each time if it is "fresh".
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(1)
	switch s := os.Getenv("QLB_TEST_SEED"); s {
	case "":
	case "fresh":
		seed = rand.Uint64N(1_000_000)
	default:
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("QLB_TEST_SEED: %v", err)
		}
	}
	t.Logf("QLB_TEST_SEED=%d", seed)
	return seed
}

// attackSeconds is QLB_ATTACK_SECONDS, or the given.
func attackSeconds(usual time.Duration) time.Duration {
	if s, err := strconv.Atoi(os.Getenv("QLB_ATTACK_SECONDS")); err == nil {
		return time.Duration(s) * time.Second
	}
	if testing.Short() {
		return usual / 4
	}
	return usual
}

// attackMix is a random mix of attacks.
type attackMix struct {
	*attackGroup
	rnd   *rand.Rand
	nodes []string
	// current is the newest process of each node.
	current map[string]*attackSpeaker
	undo    []attackUndo
	calls   sync.WaitGroup
	counts  map[string]int
	made    int // services ever declared
	clones  int

	mu     sync.Mutex
	backup []byte
	// resting is a member that was stopped; stopped is closed when it has.
	resting string
	stopped chan struct{}
}

type attackUndo struct {
	at time.Time
	f  func()
}

// TestAttackRandom mixes everything at random. No Release address ever has two
// owners, and in the end every address has one and all members are equal.
func TestAttackRandom(t *testing.T) {
	t.Parallel()
	seed := Seed(t)
	m := &attackMix{
		attackGroup: newAttackGroup(t, attackTimes), rnd: rand.New(rand.NewPCG(seed, 9)),
		nodes: []string{"n1", "n2", "n3", "n4"}, current: make(map[string]*attackSpeaker), counts: make(map[string]int),
	}
	for _, n := range m.nodes {
		m.current[n] = m.speaker(n, n).start()
	}
	m.found(6)
	m.backup = m.save()
	for end := time.Now().Add(attackSeconds(20 * time.Second)); time.Now().Before(end); {
		m.step()
		m.settle(false)
		time.Sleep(time.Duration(50+m.rnd.IntN(250)) * time.Millisecond)
	}
	m.settle(true)
	m.calls.Wait()
	m.heal()
	m.converge()
	t.Logf("%v", m.counts)
	m.noTwoOwners()
}

// settle ends the faults whose time has come, or all.
func (m *attackMix) settle(all bool) {
	kept := m.undo[:0]
	for _, u := range m.undo {
		if all || time.Now().After(u.at) {
			u.f()
		} else {
			kept = append(kept, u)
		}
	}
	m.undo = kept
	if m.resting == "" {
		return
	}
	if all {
		<-m.stopped
	}
	select {
	case <-m.stopped:
		m.start(m.resting)
		m.resting = ""
	default:
	}
}

// later ends a fault after a while.
func (m *attackMix) later(f func()) {
	m.undo = append(m.undo, attackUndo{time.Now().Add(time.Duration(100+m.rnd.IntN(2500)) * time.Millisecond), f})
}

// do calls a member in the background; whether it succeeds is no matter.
func (m *attackMix) do(f func(ctx context.Context, c adminv1.AdminServiceClient) error) {
	c := m.admin[m.member()]
	m.calls.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 6*time.Second)
		defer cancel()
		_ = f(ctx, c)
	})
}

func (m *attackMix) member() string { return m.names[m.rnd.IntN(len(m.names))] }
func (m *attackMix) node() string   { return m.nodes[m.rnd.IntN(len(m.nodes))] }

// step does one thing.
func (m *attackMix) step() {
	attacks := []struct {
		name   string
		weight int
		f      func()
	}{
		{"cut speaker", 4, m.cutSpeaker},
		{"cut member", 3, m.cutMember},
		{"hold one way", 4, m.holdOneWay},
		{"raft answers", 3, m.raftAnswers},
		{"reset", 2, func() { m.net.reset(m.current[m.node()].machine, m.member()) }},
		{"deaf", 4, m.deafen},
		{"freeze", 3, m.freeze},
		{"restart speaker", 3, m.restartSpeaker},
		{"clone", 1, m.clone},
		{"stop member", 1, m.stopMember},
		{"transfer", 2, func() {
			m.do(func(ctx context.Context, c adminv1.AdminServiceClient) error {
				_, err := c.TransferLeadership(ctx, &adminv1.TransferLeadershipRequest{})
				return err
			})
		}},
		{"drain", 4, m.drainSome},
		{"move", 4, m.moveSome},
		{"lease times", 2, m.changeTimes},
		{"service", 3, m.changeService},
		{"save", 1, m.saveSome},
		{"restore", 2, m.restoreSome},
	}
	total := 0
	for _, a := range attacks {
		total += a.weight
	}
	pick := m.rnd.IntN(total)
	for _, a := range attacks {
		if pick -= a.weight; pick < 0 {
			m.counts[a.name]++
			a.f()
			return
		}
	}
}

// cutSpeaker cuts a speaker off from some members.
func (m *attackMix) cutSpeaker() {
	machine := m.current[m.node()].machine
	for _, name := range m.names {
		if m.rnd.IntN(3) > 0 {
			m.net.cut(machine, name, true)
			m.later(func() { m.net.cut(machine, name, false) })
		}
	}
}

func (m *attackMix) cutMember() {
	name := m.member()
	m.net.isolate(name, m.names, true)
	m.later(func() { m.net.isolate(name, m.names, false) })
}

// holdOneWay keeps polls or answers back, and what goes with them.
func (m *attackMix) holdOneWay() {
	by, to, answers := m.member(), m.member(), m.rnd.IntN(2) == 0
	if by == to {
		to = m.others(by)[m.rnd.IntN(2)]
	}
	m.net.holdMade(by, to, answers, !answers)
	m.later(func() { m.net.holdMade(by, to, false, false) })
}

func (m *attackMix) raftAnswers() {
	f, to := &m.members[m.member()].fault.Faults, raft.ServerID("")
	if m.rnd.IntN(2) == 0 {
		to = raft.ServerID(m.member())
	}
	switch m.rnd.IntN(3) {
	case 0:
		_, free := f.HoldAnswers(transport.OpAppendEntries, to)
		m.t.Cleanup(free)
		m.later(free)
	case 1:
		m.later(f.DropAnswers(transport.OpInvalid, to))
	default:
		_, free := f.Hold(transport.OpAppendEntries, to)
		m.t.Cleanup(free)
		m.later(free)
	}
}

func (m *attackMix) deafen() {
	s := m.current[m.node()]
	s.deaf.Store(true)
	m.later(func() { s.deaf.Store(false) })
}

func (m *attackMix) freeze() {
	s := m.current[m.node()]
	s.frozen.Store(true)
	m.later(func() { s.frozen.Store(false) })
}

// succeedBy starts another process; the old one goes on for a while.
func (m *attackMix) succeedBy(node, machine string) {
	old, young := m.current[node], m.speaker(node, machine)
	young.begin()
	m.current[node] = young
	if m.rnd.IntN(2) == 0 {
		old.deaf.Store(true)
	}
	m.later(old.crash)
}

func (m *attackMix) restartSpeaker() {
	node := m.node()
	m.succeedBy(node, m.current[node].machine)
}

func (m *attackMix) clone() {
	m.clones++
	m.succeedBy(m.node(), fmt.Sprintf("clone%d", m.clones))
}

func (m *attackMix) stopMember() {
	if m.resting != "" {
		return
	}
	m.resting, m.stopped = m.member(), make(chan struct{})
	name, stopped := m.resting, m.stopped
	go func() {
		defer close(stopped)
		m.end(name)
	}()
}

func (m *attackMix) drainSome() {
	node, undrain := m.node(), m.rnd.IntN(2) == 0
	m.do(func(ctx context.Context, c adminv1.AdminServiceClient) error {
		if undrain {
			_, err := c.Undrain(ctx, &adminv1.UndrainRequest{Node: node})
			return err
		}
		_, err := c.Drain(ctx, &adminv1.DrainRequest{Node: node})
		return err
	})
}

func (m *attackMix) moveSome() {
	a, node := fmt.Sprintf("192.0.2.%d", m.rnd.IntN(6)), m.node()
	m.do(func(ctx context.Context, c adminv1.AdminServiceClient) error {
		_, err := c.Move(ctx, &adminv1.MoveRequest{Address: a, ToNode: node})
		return err
	})
}

func (m *attackMix) changeTimes() {
	shorter := fsm.LeaseTimes{Detection: 500 * time.Millisecond, Heartbeat: 100 * time.Millisecond, Settle: time.Second}
	times := []fsm.LeaseTimes{attackTimes, longTimes, shorter}[m.rnd.IntN(3)]
	m.do(func(ctx context.Context, c adminv1.AdminServiceClient) error {
		_, err := c.SetLeaseTimes(ctx, leaseRequest(times))
		return err
	})
}

// changeService declares or deletes a service, or gives its address to another.
func (m *attackMix) changeService() {
	m.made++
	name, other, remove := fmt.Sprintf("r%d", m.rnd.IntN(4)), fmt.Sprintf("s%d", m.rnd.IntN(6)), m.rnd.IntN(2) == 0
	m.do(func(ctx context.Context, c adminv1.AdminServiceClient) error {
		if !remove {
			_, err := c.Apply(ctx, &adminv1.ApplyRequest{Resources: []*adminv1.Resource{attackService(name), attackService(other)}})
			return err
		}
		_, err := c.Delete(ctx, &adminv1.DeleteRequest{Names: []*adminv1.ResourceName{
			{Kind: "VirtualService", Namespace: "test", Name: name}, {Kind: "VirtualService", Namespace: "test", Name: other},
		}})
		return err
	})
}

func (m *attackMix) saveSome() {
	m.do(func(ctx context.Context, c adminv1.AdminServiceClient) error {
		backup, err := saveThrough(ctx, c)
		if err == nil {
			m.mu.Lock()
			m.backup = backup
			m.mu.Unlock()
		}
		return err
	})
}

func (m *attackMix) restoreSome() {
	m.mu.Lock()
	backup := m.backup
	m.mu.Unlock()
	m.do(func(ctx context.Context, c adminv1.AdminServiceClient) error { return restoreThrough(ctx, c, backup) })
}

// converge waits until all is as it should be after all faults have ended.
func (m *attackMix) converge() {
	m.t.Helper()
	for _, name := range m.names {
		m.ready(name)
	}
	for _, n := range m.nodes {
		m.undrain(n)
	}
	var addrs []netip.Addr
	m.eventually("an owner of every address", func() bool {
		addrs = addrs[:0]
		m.read(m.leader(), func(s *fsm.State) {
			for a, rec := range s.Addresses {
				if len(rec.Services) > 0 {
					addrs = append(addrs, a)
				}
			}
		})
		return m.allAnswered(addrs)
	})
	m.sameDigests()
	m.t.Logf("%d addresses, %d processes of speakers", len(addrs), len(m.speakers))
}
