package decider

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/consensus/clustertest"
	"github.com/quorumlb/quorumlb/raftnode/transport"
)

// raftLog is a member's Raft node as the decider's log.
type raftLog struct{ *consensus.Node }

func (l raftLog) Propose(raw []byte) Future { return l.Node.Propose(raw) }
func (l raftLog) Verify() Future            { return l.Node.Verify() }

func (l raftLog) Leadership() Leadership {
	now := l.Node.Leadership()
	return Leadership{Leader: now.Leader, Term: now.Term, Changed: now.Changed}
}

// raftGroup is three members with a decider each, on real Raft.
type raftGroup struct {
	*clustertest.Cluster
	t        testing.TB
	deciders map[string]*Decider // by member id
}

func newRaftGroup(t testing.TB, timing consensus.Timing) *raftGroup {
	cluster := clustertest.New(t, 3, func(c *consensus.Config) { c.Timing = timing })
	g := &raftGroup{Cluster: cluster, t: t, deciders: map[string]*Decider{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, m := range g.Members {
		leases := newFakeLeases(bubbleClock{time.Now()})
		leases.auto = 20 * time.Millisecond
		d := New(Config{Self: m.ID, Log: raftLog{m.Node}, Leases: leases, Logger: clustertest.Logger(t, m.Name)})
		m.Node.Subscribe(d.Applied)
		g.deciders[m.ID] = d
		wg.Go(func() { _ = d.Run(ctx) })
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	return g
}

// leading waits for a leader and gives it with its decider.
func (g *raftGroup) leading() (*clustertest.Member, *Decider) {
	m := g.Leader()
	return m, g.deciders[m.ID]
}

// must submits to whoever leads, and again elsewhere when nothing was done.
func (g *raftGroup) must(cmd Command) Result {
	g.t.Helper()
	for deadline := time.Now().Add(clustertest.Patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		_, d := g.leading()
		r, err := g.submit(d, cmd)
		switch {
		case err == nil:
			return r
		case !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrUnknownOutcome):
			g.t.Fatalf("%s: %v", cmd.kind(), err)
		}
	}
	g.t.Fatalf("%s: never", cmd.kind())
	return Result{}
}

func (g *raftGroup) submit(d *Decider, cmd Command) (Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), clustertest.Patience)
	defer cancel()
	return d.Submit(ctx, cmd)
}

// send submits commands to one decider without waiting for their answers.
func (g *raftGroup) send(d *Decider, cmds ...Command) *answers {
	a := &answers{errs: make([]error, len(cmds)), res: make([]Result, len(cmds))}
	for i, cmd := range cmds {
		before := d.Stats().Commands.Load()
		a.wg.Go(func() { a.res[i], a.errs[i] = g.submit(d, cmd) })
		clustertest.Eventually(g.t, "the command is decided", func() bool { return d.Stats().Commands.Load() > before })
	}
	return a
}

func (g *raftGroup) has(poolName string) (has bool) {
	g.Leader().Node.Read(func(s *fsm.State) { has = s.Pools[poolName] != nil })
	return has
}

// headIs holds the leader's head against what all members have applied.
func (g *raftGroup) headIs() {
	g.t.Helper()
	g.must(apply(pool("last", "10.200.0.0/24")))
	g.Agree()
	m, d := g.leading()
	var head, committed [32]byte
	var at int64
	m.Node.Read(func(s *fsm.State) { committed, at = s.Digest(), s.Time })
	if _, err := g.submit(d, &peek{func(s *fsm.State) {
		c := *s
		c.Time = at
		head = c.Digest()
	}}); err != nil {
		g.t.Fatal(err)
	}
	if head != committed {
		g.t.Error("head and the committed state differ")
	}
}

func TestRaftCommits(t *testing.T) {
	g := newRaftGroup(t, consensus.DefaultTiming)
	g.must(apply(pool("p", "10.0.0.0/16"), ad("a")))
	g.must(openSession("n1", 1))
	_, d := g.leading()
	var wg sync.WaitGroup
	errs := make([]error, 300)
	for i := range errs {
		wg.Go(func() { _, errs[i] = g.submit(d, apply(service(fmt.Sprintf("s%d", i)))) })
	}
	wg.Wait()
	for i, err := range errs {
		if errors.Is(err, ErrNotLeader) || errors.Is(err, ErrUnknownOutcome) {
			g.must(apply(service(fmt.Sprintf("s%d", i)))) // a busy machine may lose its leader
		} else if err != nil {
			t.Error(err)
		}
	}
	g.headIs()
	t.Logf("%d commands in %d batches", d.Stats().Commands.Load(), d.Stats().Batches.Load())
	for _, f := range g.Followers() {
		if _, err := g.submit(g.deciders[f.ID], apply(service("x"))); !errors.Is(err, ErrNotLeader) {
			t.Errorf("a follower says %v", err)
		}
	}
}

// only lets no member but m become leader.
func (g *raftGroup) only(m *clustertest.Member) (heal func()) {
	var heals []func()
	for _, other := range g.Members {
		if other != m {
			heals = append(heals, other.Faults.Drop(transport.OpRequestPreVote, ""), other.Faults.Drop(transport.OpRequestVote, ""))
		}
	}
	return func() {
		for _, h := range heals {
			h()
		}
	}
}

// isolate cuts m off from the others, in both directions.
func (g *raftGroup) isolate(m *clustertest.Member) (heal func()) {
	heals := []func(){m.Faults.Drop(transport.OpInvalid, ""), m.Faults.DropAnswers(transport.OpInvalid, "")}
	for _, other := range g.Members {
		if other != m {
			heals = append(heals, other.Faults.Drop(transport.OpInvalid, raft.ServerID(m.ID)))
		}
	}
	return func() {
		for _, h := range heals {
			h()
		}
	}
}

func (g *raftGroup) deposed(m *clustertest.Member) {
	g.t.Helper()
	clustertest.Eventually(g.t, "the leader steps down", func() bool { return !m.Node.Leadership().Leader })
}

// Leadership is lost and found again by the same member, with batches in flight
// that reached nobody else: they are still in its log, and commit.
func TestRaftLeadershipRegained(t *testing.T) {
	g := newRaftGroup(t, consensus.DefaultTiming)
	g.must(apply(pool("p", "10.0.0.0/24")))
	m, d := g.leading()
	vote := g.only(m)
	heal := g.isolate(m)
	a := g.send(d, apply(pool("a", "10.1.0.0/24")), apply(pool("b", "10.2.0.0/24")), apply(pool("c", "10.3.0.0/24")))
	term := m.Node.Term()
	g.deposed(m)
	heal()
	clustertest.Eventually(t, "it leads again", func() bool { return m.Node.Leadership().Leader })
	vote()
	if m.Node.Term() == term {
		t.Error("the term is the same")
	}
	a.expect(t, nil, nil, nil)
	for _, p := range []string{"a", "b", "c"} {
		if !g.has(p) {
			t.Errorf("pool %s is acknowledged and missing", p)
		}
	}
	if n := d.Stats().Redecided.Load(); n != 0 {
		t.Errorf("%d commands were decided again although all were in the log", n)
	}
	g.headIs()
}

// Another member leads in between and overwrites what was in flight: it is known
// not to be applied.
func TestRaftBatchesInFlightAreOverwritten(t *testing.T) {
	g := newRaftGroup(t, consensus.DefaultTiming)
	g.must(apply(pool("p", "10.0.0.0/24")))
	m, d := g.leading()
	heal := g.isolate(m)
	a := g.send(d, apply(pool("a", "10.1.0.0/24")), apply(pool("b", "10.2.0.0/24")))
	clustertest.Eventually(t, "another member leads", func() bool {
		for _, other := range g.Members {
			if other != m && other.Node.Leadership().Leader {
				_, err := g.submit(g.deciders[other.ID], apply(pool("x", "10.9.0.0/24")))
				return err == nil
			}
		}
		return false
	})
	heal()
	a.wg.Wait()
	for i, err := range a.errs {
		// Unknown, when its own log took longer to be corrected than it waits.
		if !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("command %d: %v", i, err)
		}
	}
	g.headIs()
	if g.has("a") || g.has("b") || !g.has("x") {
		t.Error("answers and state differ")
	}
}

// The followers have the batches, but the leader never hears that: the next
// leader commits them.
func TestRaftBatchesInFlightSurvive(t *testing.T) {
	g := newRaftGroup(t, consensus.DefaultTiming)
	g.must(apply(pool("p", "10.0.0.0/24")))
	m, d := g.leading()
	g.Agree()
	last := func(m *clustertest.Member) int {
		n, err := strconv.Atoi(m.Node.Stats()["last_log_index"])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := last(m)
	quiet := m.Faults.DropAnswers(transport.OpAppendEntries, "")
	a := g.send(d, apply(pool("a", "10.1.0.0/24")))
	clustertest.Eventually(t, "a follower has the entry", func() bool {
		for _, other := range g.Members {
			if other != m && last(other) > before {
				return true
			}
		}
		return false
	})
	heal := g.isolate(m)
	g.deposed(m)
	clustertest.Eventually(t, "another member leads", func() bool {
		for _, other := range g.Members {
			if other != m && other.Node.Leadership().Leader {
				return true
			}
		}
		return false
	})
	quiet()
	heal()
	a.wg.Wait()
	if err := a.errs[0]; err != nil && !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("answer %v", err)
	}
	g.headIs()
	if !g.has("a") {
		t.Error("what a majority had is gone")
	}
}

var raftSeed = flag.Uint64("raftseed", 1, "seed of the random faults of a real group, 0 for a fresh one")

// Leadership wanders and members are cut off while clients write.
func TestRaftRandomFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	g := newRaftGroup(t, consensus.DefaultTiming)
	g.must(apply(pool("p", "10.0.0.0/16"), ad("a")))
	g.must(openSession("n1", 1))
	seed := *raftSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-raftseed %d", seed)
	rng := rand.New(rand.NewPCG(1, seed))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	made := make([][]attempt, 6)
	for c := range made {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				made[c] = append(made[c], g.attempt(c, i))
			}
		})
	}
	for range 12 {
		time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
		m, _ := g.leading()
		switch rng.IntN(3) {
		case 0:
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			_ = m.Node.Transfer(ctx, "")
			cancel()
		case 1:
			heal := g.isolate(m)
			time.Sleep(time.Duration(rng.IntN(1200)) * time.Millisecond)
			heal()
		case 2:
			heal := m.Faults.DropAnswers(transport.OpAppendEntries, "")
			time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
			heal()
		}
	}
	close(stop)
	wg.Wait()
	g.headIs()
	g.checkAttempts(made)
}

func (g *raftGroup) attempt(client, i int) attempt {
	a := attempt{mark: fmt.Sprintf("%d-%d", client, i)}
	cmd := apply(service(fmt.Sprintf("s%d-%d", client, i%20), func(s *logv1.Service) { s.Labels = map[string]string{"mark": a.mark} }))
	// Whoever says that it leads.
	for _, m := range g.Members {
		if m.Node.Leadership().Leader {
			r, err := g.submit(g.deciders[m.ID], cmd)
			a.rev, a.err = r.Revision, err
			return a
		}
	}
	time.Sleep(time.Millisecond)
	a.err = ErrNotLeader
	return a
}

func (g *raftGroup) checkAttempts(made [][]attempt) {
	ctx, cancel := context.WithTimeout(context.Background(), clustertest.Patience)
	defer cancel()
	history, err := g.Leader().Node.History(ctx, 1, 1<<62)
	if err != nil {
		g.t.Fatal(err)
	}
	at := map[string]uint64{}
	for _, e := range history {
		for _, ev := range e.Batch.GetEvents() {
			if mark := ev.GetServiceDeclared().GetService().GetLabels()["mark"]; mark != "" {
				if first, twice := at[mark]; twice {
					g.t.Errorf("%s is in the log at %d and %d", mark, first, e.Batch.GetRevision())
				}
				at[mark] = e.Batch.GetRevision()
			}
		}
	}
	acked, unknown, not := 0, 0, 0
	for _, attempts := range made {
		for _, a := range attempts {
			rev, applied := at[a.mark]
			switch {
			case a.err == nil && rev != a.rev:
				g.t.Errorf("%s was acknowledged at %d and is in the log at %d", a.mark, a.rev, rev)
			case a.err == nil:
				acked++
			case errors.Is(a.err, ErrUnknownOutcome):
				unknown++
			case applied:
				g.t.Errorf("%s is said not to be applied (%v) and is in the log at %d", a.mark, a.err, rev)
			default:
				not++
			}
		}
	}
	g.t.Logf("%d applied, %d unknown, %d not", acked, unknown, not)
	if acked == 0 {
		g.t.Error("nothing was written")
	}
}
