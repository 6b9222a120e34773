package consensus_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus/clustertest"
	"github.com/quorumlb/quorumlb/raftnode/storage"
)

// fill gives the directories of a group a log of n batches, as if it had been
// written and never been compacted.
func fill(tb testing.TB, members []*clustertest.Member, n int) {
	tb.Helper()
	var conf raft.Configuration
	for _, m := range members {
		conf.Servers = append(conf.Servers, raft.Server{ID: raft.ServerID(m.Name), Address: raft.ServerAddress(m.Address)})
	}
	logs := []*raft.Log{{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(conf)}}
	head := fsm.New()
	for i := range n {
		ev := clustertest.Retention(i + 1)
		if i == 0 {
			ev = &logv1.Event{Fact: &logv1.Event_ClusterFounded{ClusterFounded: &logv1.ClusterFounded{
				ClusterId: []byte(clustertest.ClusterID), ClusterVersion: 1,
			}}}
		}
		raw := fsm.EncodeBatch(head.NextBatch(int64(i+1), []string{"test"}, []*logv1.Event{ev}))
		if _, _, err := head.Apply(raw); err != nil {
			tb.Fatal(err)
		}
		logs = append(logs, &raft.Log{Index: uint64(i + 2), Term: 1, Type: raft.LogCommand, Data: raw})
	}
	for _, m := range members {
		s, err := storage.Open(m.Dir, storage.Options{})
		if err != nil {
			tb.Fatal(err)
		}
		for chunk := range slices.Chunk(logs, 10_000) {
			if err := s.Logs().StoreLogs(chunk); err != nil {
				tb.Fatal(err)
			}
		}
		if err := s.Stable().SetUint64([]byte("CurrentTerm"), 1); err != nil {
			tb.Fatal(err)
		}
		if err := s.SetIdentity(storage.FoundingIdentity(m.Name)); err != nil {
			tb.Fatal(err)
		}
		if err := s.Close(); err != nil {
			tb.Fatal(err)
		}
	}
}

// stopped makes a group whose members have addresses and directories, but no
// state yet and do not run.
func stopped(tb testing.TB, n int) *clustertest.Cluster {
	tb.Helper()
	c := &clustertest.Cluster{T: tb, PKI: clustertest.NewPKI(tb)}
	for i := range n {
		m := c.Add(fmt.Sprintf("m%d", i+1))
		m.Start(storage.FoundingIdentity(m.Name)) // binds its port
		m.Stop()
		m.Wipe()
	}
	return c
}

// All members restart with a full log and no snapshot. QLB_TEST_BATCHES sets
// another length than the short default.
func TestRestartWithFullLog(t *testing.T) {
	n := 10_000 // more than Raft's queue to the apply goroutine holds
	if s := os.Getenv("QLB_TEST_BATCHES"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	c := stopped(t, 3)
	fill(t, c.Members, n)
	start := time.Now()
	for _, m := range c.Members {
		m.Start(storage.Identity{})
	}
	opened := time.Since(start)
	c.Leader()
	elected := time.Since(start)
	for _, m := range c.Members {
		if err := m.Node.CaughtUp(within(t)); err != nil {
			t.Fatal(err)
		}
		if err := m.Node.WaitRevision(within(t), uint64(n)); err != nil {
			t.Fatal(err)
		}
	}
	ready := time.Since(start)
	c.Agree()
	begin := time.Now()
	oldest, err := c.Members[0].Node.OldestRevision(within(t))
	if err != nil || oldest != 1 {
		t.Fatalf("oldest %d, %v", oldest, err)
	}
	walked := time.Since(begin)
	begin = time.Now()
	if _, err := c.Members[0].Node.History(within(t), 10, 20); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d batches: opened in %s, leader after %s, all applied after %s; whole history walked in %s, ten old batches in %s",
		n, opened, elected, ready, walked, time.Since(begin))
	if n <= 10_000 && ready > time.Minute {
		t.Fatalf("ready after %s", ready)
	}
}

// BenchmarkCommit measures a batch through three members with fsync, one at a time.
func BenchmarkCommit(b *testing.B) {
	c := clustertest.New(b, 3, nil)
	n := c.Leader().Node
	var took []time.Duration
	for b.Loop() {
		raw := clustertest.Batch(n, clustertest.Retention(1))
		start := time.Now()
		if err := n.Propose(raw).Wait(context.Background()); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}

// BenchmarkConfirm measures a linearizable read on the leader.
func BenchmarkConfirm(b *testing.B) {
	c := clustertest.New(b, 3, nil)
	n := c.Leader().Node
	for b.Loop() {
		if err := n.LinearizableRead(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
