// Package clustertest runs a group of consensus.Nodes in one test process: real
// Raft over TLS on loopback, real files. Each member can be stopped, crashed,
// wiped and started again, and its Raft messages interfered with.
package clustertest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/internal/testaddr"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/storage"
	"github.com/quorumlb/quorumlb/raftnode/transport"
)

// Patience is how long helpers wait before they fail the test.
const Patience = 90 * time.Second

// PKI issues identities for tests.
type PKI struct {
	t  testing.TB
	CA *pki.CA
}

// NewPKI makes a CA.
func NewPKI(t testing.TB) *PKI {
	t.Helper()
	ca, err := pki.NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &PKI{t: t, CA: ca}
}

// Files issues files for a role, "member/m1", into a directory of their own.
func (p *PKI) Files(role string) pki.Files {
	p.t.Helper()
	r, err := pki.ParseRole(role)
	if err != nil {
		p.t.Fatal(err)
	}
	cert, key, err := p.CA.Issue(r, nil, time.Now(), 24*time.Hour)
	if err != nil {
		p.t.Fatal(err)
	}
	dir := p.t.TempDir()
	f := pki.Files{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	for path, data := range map[string][]byte{f.CA: p.CA.CertPEM(), f.Cert: cert, f.Key: key} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	return f
}

// Identity gives the identity of a role.
func (p *PKI) Identity(role string) *pki.Reloader {
	p.t.Helper()
	id, err := pki.NewReloader(p.Files(role), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return id
}

// Logger logs for a member to stderr if QLB_TEST_LOG is set.
func Logger(t testing.TB, member string) *slog.Logger {
	if os.Getenv("QLB_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", member)
}

// Eventually polls until ok is true and fails the test after Patience.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// Cluster is a group of members m1, m2, ...
type Cluster struct {
	T       testing.TB
	PKI     *PKI
	Members []*Member
}

// Member is one of them. Node, Store and Mux are nil while it is stopped.
type Member struct {
	Name, ID string
	Dir      string
	Address  string
	Faults   *transport.Faults
	// Change, if set, changes the configuration at a start.
	Change func(*consensus.Config)

	Node  *consensus.Node
	Store *storage.Store
	Mux   *transport.Mux

	cluster *Cluster
	id      *pki.Reloader
	cancel  context.CancelFunc
	ended   chan error
}

// ClusterID of every Cluster.
const ClusterID = "0123456789abcdef"

// New founds a group of n members. The first batch, ClusterFounded, is applied
// by its leader at least.
func New(t testing.TB, n int, change func(*consensus.Config)) *Cluster {
	t.Helper()
	c := &Cluster{T: t, PKI: NewPKI(t)}
	var group []consensus.Member
	for i := range n {
		m := c.Add(fmt.Sprintf("m%d", i+1))
		m.Change = change
		m.Start(storage.FoundingIdentity(m.Name))
		group = append(group, consensus.Member{ID: m.ID, Address: m.Address, Voter: true})
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if err := c.Members[0].Node.Bootstrap(ctx, group); err != nil {
		t.Fatal(err)
	}
	c.Leader()
	c.Propose(&logv1.Event{Fact: &logv1.Event_ClusterFounded{ClusterFounded: &logv1.ClusterFounded{
		ClusterId: []byte(ClusterID), ClusterVersion: 1,
	}}})
	return c
}

// Add makes a member that is not started, with an empty directory.
func (c *Cluster) Add(name string) *Member {
	c.T.Helper()
	m := &Member{
		Name: name, Dir: c.T.TempDir(), Address: testaddr.New(c.T), Faults: new(transport.Faults),
		cluster: c, id: c.PKI.Identity("member/" + name),
	}
	c.Members = append(c.Members, m)
	c.T.Cleanup(func() {
		if m.Node != nil {
			m.Stop()
		}
	})
	return m
}

// Start starts a member; identity is what an empty directory gets.
func (m *Member) Start(identity storage.Identity) {
	m.cluster.T.Helper()
	if err := m.TryStart(identity); err != nil {
		m.cluster.T.Fatalf("start %s: %v", m.Name, err)
	}
}

// TryStart is Start that returns its error.
func (m *Member) TryStart(identity storage.Identity) (err error) {
	t := m.cluster.T
	log := Logger(t, m.Name)
	var broken func(error)
	store, err := storage.Open(m.Dir, storage.Options{Logger: log, OnBroken: func(err error) { broken(err) }})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = store.Close()
		}
	}()
	if _, has := store.Identity(); !has {
		if err := store.SetIdentity(identity); err != nil {
			return err
		}
	}
	id, _ := store.Identity()
	m.ID = id.ID
	mux, err := listen(transport.Config{Name: m.Name, Listen: m.Address, Identity: m.id, Logger: log})
	if err != nil {
		return err
	}
	m.Address = mux.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	muxEnded := make(chan error, 1)
	go func() { muxEnded <- mux.Run(context.Background()) }()
	cfg := consensus.Config{ID: id.ID, Store: store, Logger: log}
	cfg.Transport = transport.NewRaft(mux, transport.RaftConfig{Fault: m.Faults})
	if m.Change != nil {
		m.Change(&cfg)
	}
	node, err := consensus.Open(cfg)
	if err != nil {
		cancel()
		_ = cfg.Transport.Close()
		mux.Close()
		return errors.Join(err, <-muxEnded)
	}
	broken = node.Fail
	m.Node, m.Store, m.Mux, m.cancel = node, store, mux, cancel
	m.ended = make(chan error, 1)
	go func() {
		err := node.Run(ctx)
		mux.Close()
		m.ended <- errors.Join(err, <-muxEnded)
	}()
	return nil
}

// listen binds, patiently when the address is that of an earlier run.
func listen(cfg transport.Config) (mux *transport.Mux, err error) {
	for deadline := time.Now().Add(Patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if mux, err = transport.Listen(cfg); err == nil {
			return mux, nil
		}
	}
	return nil, err
}

// Ended waits until the member's Run has ended by itself and gives its error.
func (m *Member) Ended() error {
	m.cluster.T.Helper()
	select {
	case err := <-m.ended:
		if cerr := m.Store.Close(); err == nil {
			err = cerr
		}
		m.cancel()
		m.Node, m.Store, m.Mux = nil, nil, nil
		return err
	case <-time.After(Patience):
		m.cluster.T.Fatalf("%s did not end", m.Name)
		return nil
	}
}

// Stop ends a member in order.
func (m *Member) Stop() {
	m.cluster.T.Helper()
	m.cancel()
	// A member whose transfer of leadership hangs ends by itself, as it should.
	if err := m.Ended(); err != nil && !errors.Is(err, consensus.ErrTransferStuck) {
		m.cluster.T.Errorf("stop %s: %v", m.Name, err)
	}
}

// Crash cuts a member's connections first, so that it can hand nothing over.
func (m *Member) Crash() {
	m.cluster.T.Helper()
	m.Mux.Close()
	m.Stop()
}

// Wipe replaces the directory of a stopped member by an empty one.
func (m *Member) Wipe() { m.Dir = m.cluster.T.TempDir() }

// Running are the members that were started and have not ended, by themselves even.
func (c *Cluster) Running() (out []*Member) {
	for _, m := range c.Members {
		if m.Node != nil && len(m.ended) == 0 {
			out = append(out, m)
		}
	}
	return out
}

// Leader waits until a member leads and those that run agree on it.
func (c *Cluster) Leader() (leader *Member) {
	c.T.Helper()
	Eventually(c.T, "the members agree on a leader", func() bool {
		leader = nil
		for _, m := range c.Running() {
			if m.Node.Leadership().Leader {
				leader = m
			}
		}
		if leader == nil {
			return false
		}
		for _, m := range c.Running() {
			if m.Node.LeaderID() != leader.ID {
				return false
			}
		}
		return true
	})
	return leader
}

// Followers are the running members but the leader.
func (c *Cluster) Followers() (out []*Member) {
	c.T.Helper()
	leader := c.Leader()
	for _, m := range c.Running() {
		if m != leader {
			out = append(out, m)
		}
	}
	return out
}

// Batch encodes events as the batch that follows a node's state.
func Batch(n *consensus.Node, events ...*logv1.Event) (raw []byte) {
	n.Read(func(s *fsm.State) {
		raw = fsm.EncodeBatch(s.NextBatch(time.Now().UnixNano(), []string{"test"}, events))
	})
	return raw
}

// Propose commits a batch by whoever leads and gives its revision. Nobody else may
// propose meanwhile: that is how a batch of unknown outcome is found again.
func (c *Cluster) Propose(events ...*logv1.Event) uint64 {
	c.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	var tried uint64
	for {
		n := c.Leader().Node
		err := n.Barrier(Patience)
		if err == nil {
			if tried != 0 && n.Revision() >= tried {
				return tried
			}
			tried = n.Revision() + 1
			if err = n.Propose(Batch(n, events...)).Wait(ctx); err == nil {
				return n.Revision()
			}
		}
		// A busy machine may lose its leader at any moment.
		if !n.NotAppended(err) && !errors.Is(err, raft.ErrLeadershipLost) {
			c.T.Fatalf("propose: %v", err)
		}
	}
}

// Retention is a small event for tests, with a value to tell it by.
func Retention(n int) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_RetentionSet{RetentionSet: &logv1.RetentionSet{RetentionNanos: int64(n) * int64(time.Second)}}}
}

// Agree waits until all running members have applied the same and have the
// same digest.
func (c *Cluster) Agree() consensus.Digest {
	c.T.Helper()
	var want consensus.Digest
	Eventually(c.T, "the members' digests are equal", func() bool {
		running := c.Running()
		want = running[0].Node.DigestNow()
		for _, m := range running[1:] {
			if m.Node.DigestNow() != want {
				return false
			}
		}
		return true
	})
	return want
}
