package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/internal/obs"
	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/internal/testaddr"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
)

// local is a group of members in the test's process, whose insides can be
// reached.
type local struct {
	t       *testing.T
	members []*Member
	ended   []chan error
	cancel  []context.CancelFunc
}

func startLocal(t *testing.T, n int) *local {
	t.Helper()
	ca, err := pki.NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	addrs := make(map[string]string)
	for i := range n {
		addrs[fmt.Sprintf("m%d", i+1)] = testaddr.New(t)
	}
	g := &local{t: t}
	for i := range n {
		name := fmt.Sprintf("m%d", i+1)
		m, err := New(Config{
			Name: name, DataDir: filepath.Join(t.TempDir(), name), Listen: addrs[name], Members: addrs,
			TLS: issue(t, ca, "member/"+name), Logger: testLogger(name), DigestInterval: 200 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		g.members, g.ended, g.cancel = append(g.members, m), append(g.ended, ended), append(g.cancel, cancel)
	}
	t.Cleanup(func() {
		for i := range g.members {
			g.cancel[i]()
		}
		for i := range g.members {
			<-g.ended[i]
		}
	})
	for _, m := range g.members {
		until(t, m.String()+" ready", m.Ready)
	}
	return g
}

// testLogger writes to stderr when QLB_TEST_LOG is set.
func testLogger(member string) *slog.Logger {
	if os.Getenv("QLB_TEST_LOG") == "" {
		return nil
	}
	log, _ := obs.NewLogger(os.Stderr, "debug", "")
	return log.With(obs.KeyMember, member)
}

func issue(t *testing.T, ca *pki.CA, role string) pki.Files {
	t.Helper()
	r, err := pki.ParseRole(role)
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue(r, nil, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f := pki.Files{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	for path, data := range map[string][]byte{f.CA: ca.CertPEM(), f.Cert: cert, f.Key: key} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// leader is the index of the member that leads.
func (g *local) leader() int {
	g.t.Helper()
	found := -1
	until(g.t, "a leader", func() bool {
		for i, m := range g.members {
			if p := m.parts.Load(); p != nil && p.node.Leadership().Leader {
				found = i
				return true
			}
		}
		return false
	})
	return found
}

// spoil makes a member's digests those of another state, as a fault of its
// memory or of an older program might.
func (m *Member) spoil(how byte) {
	d := m.parts.Load().digests
	d.mu.Lock()
	defer d.mu.Unlock()
	d.source = spoilt{d.source, how}
	d.idle = nil
}

type spoilt struct {
	digestSource
	how byte
}

func (s spoilt) DigestNow() consensus.Digest {
	d := s.digestSource.DigestNow()
	d.Sum[0] ^= s.how
	return d
}

func TestMemberThatDivergesStopsServing(t *testing.T) {
	for _, who := range []string{"follower", "leader"} {
		t.Run(who, func(t *testing.T) {
			g := startLocal(t, 3)
			bad := g.leader()
			if who == "follower" {
				bad = (bad + 1) % 3
			}
			g.members[bad].spoil(1)
			until(t, "it stops serving", func() bool { return errors.Is(g.members[bad].parts.Load().services.Offline(), ErrDiverged) })
			if err := g.members[bad].ready(); !errors.Is(err, ErrDiverged) {
				t.Errorf("/readyz: %v", err)
			}
			until(t, "another leads", func() bool { return g.leader() != bad })
			for i, m := range g.members {
				if i != bad {
					until(t, m.String()+" ready", m.Ready)
					until(t, m.String()+" says so", func() bool { return m.self(m.parts.Load()).Problems != nil })
				}
			}
			select {
			case err := <-g.ended[bad]:
				g.ended[bad] <- err
				t.Errorf("it ended: %v; it should stay and say why", err)
			default:
			}
		})
	}
}

func TestNoMajorityOfDigestsIsAnAlarm(t *testing.T) {
	g := startLocal(t, 3)
	g.members[0].spoil(1)
	g.members[1].spoil(2)
	for _, m := range g.members {
		until(t, m.String()+" alarms", func() bool { return m.parts.Load().comparer.Problem() != "" })
		if err := m.parts.Load().services.Offline(); err != nil {
			t.Errorf("%s stopped serving: %v", m, err)
		}
	}
}

// TestLeaderWithAHangingDiskEnds: the storage reports a write that hangs. A leader
// stays while the other disks are no better, and ends when they are well.
func TestLeaderWithAHangingDiskEnds(t *testing.T) {
	g := startLocal(t, 3)
	leader := g.leader()
	follower, other := g.members[(leader+1)%3], g.members[(leader+2)%3]
	follower.slowDisk(2 * time.Second)
	// Without its directory a member cannot write what it is asked to.
	away := other.cfg.DataDir + ".away"
	if err := os.Rename(other.cfg.DataDir, away); err != nil {
		t.Fatal(err)
	}
	g.members[leader].slowDisk(2 * time.Second)
	select {
	case err := <-g.ended[leader]:
		t.Fatalf("the leader ended although no majority of the others is better: %v", err)
	default:
	}
	if err := os.Rename(away, other.cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	until(t, "the others are well", g.members[leader].parts.Load().othersHealthy)
	g.members[leader].slowDisk(2 * time.Second)
	err := <-g.ended[leader]
	g.ended[leader] <- err
	if !errors.Is(err, ErrSlowDisk) {
		t.Errorf("Run() = %v", err)
	}
	until(t, "a new leader", func() bool { return g.leader() != leader })
	until(t, "a follower with a slow disk goes on", follower.Ready)
}

func TestStopBeforeTheGroupIsFounded(t *testing.T) {
	ca, err := pki.NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(Config{
		Name: "m1", DataDir: t.TempDir(), Listen: "127.0.0.1:0", TLS: issue(t, ca, "member/m1"),
		Members: map[string]string{"m1": "127.0.0.1:1", "m2": "127.0.0.1:2", "m3": "127.0.0.1:3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := m.Run(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run() = %v", err)
	}
	if m.Ready() || m.Checks().CaughtUp() == nil {
		t.Error("ready without a group")
	}
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	ca, err := pki.NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	tls, other := issue(t, ca, "member/m1"), issue(t, ca, "admin/alice")
	members := map[string]string{"m1": "127.0.0.1:1"}
	for name, conf := range map[string]Config{
		"bad name":            {Name: "M 1", DataDir: t.TempDir(), Listen: "127.0.0.1:0", Members: members, TLS: tls},
		"no members":          {Name: "m1", DataDir: t.TempDir(), Listen: "127.0.0.1:0", TLS: tls},
		"unknown profile":     {Name: "m1", DataDir: t.TempDir(), Listen: "127.0.0.1:0", Members: members, TLS: tls, Profile: "slow"},
		"no certificate":      {Name: "m1", DataDir: t.TempDir(), Listen: "127.0.0.1:0", Members: members},
		"certificate's role":  {Name: "m1", DataDir: t.TempDir(), Listen: "127.0.0.1:0", Members: members, TLS: other},
		"address not our own": {Name: "m1", DataDir: t.TempDir(), Listen: "192.0.2.1:7400", Members: members, TLS: tls},
	} {
		if _, err := New(conf); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

// TestBrokenDiskAtStart: Raft writes its term when it is opened. When the disk refuses,
// that never returns, and still the member ends, so that it can be started again.
func TestBrokenDiskAtStart(t *testing.T) {
	m := &Member{log: slog.New(slog.DiscardHandler), broken: make(chan error, 1)}
	never := make(chan struct{})
	defer close(never)
	want := errors.New("write CurrentTerm: input/output error")
	_, err := m.unlessBroken(func() (*parts, error) {
		m.brokenDisk(want)
		<-never
		return nil, nil
	})
	if !errors.Is(err, want) || !errors.Is(err, consensus.ErrHung) {
		t.Errorf("ended with %v", err)
	}
}
