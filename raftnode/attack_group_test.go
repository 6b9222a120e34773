package raftnode

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/internal/leasetime"
	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/internal/testaddr"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/transport"
)

// attackPatience is for what must come about, however busy the machine is.
const attackPatience = 60 * time.Second

// Lease times of the attacks: F = 1.5 s. They are long for the machine's sake:
// that nothing moves without a cause is no matter of safety.
var attackTimes = fsm.LeaseTimes{Detection: 750 * time.Millisecond, Heartbeat: 100 * time.Millisecond, Settle: fsm.DefaultLeaseTimes.Settle}

var attackTiming = consensus.Timing{
	Heartbeat: 400 * time.Millisecond, Election: 400 * time.Millisecond, Lease: 400 * time.Millisecond,
	Commit: 10 * time.Millisecond, RPC: time.Second,
}

// outlast is F(1+ρ).
func outlast(t fsm.LeaseTimes) time.Duration { return leasetime.Lengthen(t.Fence()) }

// attackGroup is a group of real members in this process, real Raft and TLS on
// loopback and real files, with an attackNet between everybody.
type attackGroup struct {
	t        *testing.T
	net      *attackNet
	ca       *pki.CA
	dir      string
	times    fsm.LeaseTimes
	addrs    map[string]string
	names    []string // of members, sorted
	members  map[string]*attackMember
	speakers []*attackSpeaker
	admin    map[string]adminv1.AdminServiceClient

	// lazy members do not notice that they have lost their followers.
	lazy map[string]bool
	// mends end faults.
	mends []func()
	conns []*grpc.ClientConn
}

type attackMember struct {
	name  string
	cfg   Config
	fault *attackFault

	mu     sync.Mutex
	m      *Member // nil while stopped
	cancel context.CancelFunc
	ended  chan error
	// removed from the group: it may have ended with an error.
	removed bool
}

func newAttackGroup(t *testing.T, times fsm.LeaseTimes, lazy ...string) *attackGroup {
	t.Helper()
	ca, err := pki.NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	g := &attackGroup{
		t: t, net: newAttackNet(), ca: ca, dir: t.TempDir(), times: times, addrs: make(map[string]string),
		members: make(map[string]*attackMember), admin: make(map[string]adminv1.AdminServiceClient), lazy: make(map[string]bool),
	}
	for _, name := range lazy {
		g.lazy[name] = true
	}
	t.Cleanup(g.stop)
	for _, name := range []string{"m1", "m2", "m3"} {
		g.addrs[name] = testaddr.New(t)
	}
	for name := range g.addrs {
		g.add(name)
	}
	for _, name := range g.names {
		g.start(name)
	}
	for _, name := range g.names {
		g.ready(name)
	}
	return g
}

func (g *attackGroup) logger(who string) *slog.Logger {
	if os.Getenv("QLB_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})).With("who", who)
}

func (g *attackGroup) files(role string) pki.Files {
	g.t.Helper()
	r, err := pki.ParseRole(role)
	if err != nil {
		g.t.Fatal(err)
	}
	cert, key, err := g.ca.Issue(r, nil, time.Now(), 24*time.Hour)
	if err != nil {
		g.t.Fatal(err)
	}
	dir, err := os.MkdirTemp(g.dir, strings.ReplaceAll(role, "/", "-")+"-")
	if err != nil {
		g.t.Fatal(err)
	}
	f := pki.Files{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	for path, data := range map[string][]byte{f.CA: g.ca.CertPEM(), f.Cert: cert, f.Key: key} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			g.t.Fatal(err)
		}
	}
	return f
}

func (g *attackGroup) identity(role string) *pki.Reloader {
	g.t.Helper()
	id, err := pki.NewReloader(g.files(role), nil)
	if err != nil {
		g.t.Fatal(err)
	}
	return id
}

// add makes a member that is not started.
func (g *attackGroup) add(name string) *attackMember {
	g.t.Helper()
	if g.addrs[name] == "" {
		g.addrs[name] = testaddr.New(g.t)
	}
	g.net.name(g.addrs[name], name)
	m := &attackMember{name: name, fault: &attackFault{net: g.net, local: name}}
	members := make(map[string]string)
	for n, a := range g.addrs {
		members[n] = a
	}
	m.cfg = Config{
		Name: name, DataDir: filepath.Join(g.dir, "data-"+name), Listen: g.addrs[name], Members: members, TLS: g.files("member/" + name),
		Lease: g.times, Logger: g.logger(name), DigestInterval: 500 * time.Millisecond,
		Fault: m.fault, DialOptions: []grpc.DialOption{g.net.dialer(name)},
		Change: func(c *consensus.Config) {
			c.Timing = attackTiming
			if g.lazy[name] {
				c.Timing.Heartbeat, c.Timing.Election, c.Timing.Lease = 20*time.Second, 20*time.Second, 20*time.Second
			}
		},
	}
	g.members[name] = m
	g.names = append(g.names, name)
	slices.Sort(g.names)
	g.admin[name] = adminv1.NewAdminServiceClient(g.dial("admin", g.identity("admin/test"), name))
	return m
}

// dial connects somebody to a member.
func (g *attackGroup) dial(who string, id *pki.Reloader, member string) *grpc.ClientConn {
	g.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+g.addrs[member], grpc.WithTransportCredentials(transport.ClientCredentials(id)),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}), g.net.dialer(who))
	if err != nil {
		g.t.Fatal(err)
	}
	g.conns = append(g.conns, conn)
	return conn
}

func (g *attackGroup) start(name string) {
	g.t.Helper()
	m := g.members[name]
	cfg := m.cfg
	cfg.Registry = nil
	var member *Member
	var err error
	for deadline := time.Now().Add(attackPatience); ; time.Sleep(20 * time.Millisecond) {
		if member, err = New(cfg); err == nil {
			break
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("start %s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- member.Run(ctx) }()
	m.mu.Lock()
	m.m, m.cancel, m.ended = member, cancel, ended
	m.mu.Unlock()
}

// end stops a member in order.
func (g *attackGroup) end(name string) {
	g.t.Helper()
	m := g.members[name]
	m.mu.Lock()
	cancel, ended := m.cancel, m.ended
	m.m, m.cancel = nil, nil
	m.mu.Unlock()
	if cancel == nil {
		return
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil && !m.removed {
			g.t.Errorf("%s ended with %v", name, err)
		}
	case <-time.After(attackPatience):
		g.t.Errorf("%s does not end", name)
	}
}

func (g *attackGroup) stop() {
	g.heal()
	for _, s := range g.speakers {
		s.crash()
	}
	for _, c := range g.conns {
		c.Close()
	}
	var wg sync.WaitGroup
	for name := range g.members {
		wg.Go(func() { g.end(name) })
	}
	wg.Wait()
}

// parts are the insides of a running member, nil if it has none.
func (g *attackGroup) parts(name string) *parts {
	m := g.members[name]
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.m == nil {
		return nil
	}
	return m.m.parts.Load()
}

func (g *attackGroup) ready(name string) {
	g.t.Helper()
	g.eventually(name+" ready", func() bool {
		m := g.members[name]
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.m != nil && len(m.ended) > 0 {
			g.t.Fatalf("%s ended: %v", name, <-m.ended)
		}
		return m.m != nil && m.m.ready() == nil
	})
}

func (g *attackGroup) eventually(what string, ok func() bool) {
	g.t.Helper()
	begin := time.Now()
	for !ok() {
		if time.Since(begin) > attackPatience {
			g.t.Fatalf("not in time: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if took := time.Since(begin); took > 5*time.Second {
		g.t.Logf("waited %v for %s", took.Round(time.Millisecond), what)
	}
}

// leads tells whether the member believes that it leads.
func (g *attackGroup) leads(name string) bool {
	p := g.parts(name)
	return p != nil && p.node.Leadership().Leader
}

// leader waits for a leader among the named members, all if none is named: the one
// with the highest term.
func (g *attackGroup) leader(among ...string) (found string) {
	g.t.Helper()
	if len(among) == 0 {
		among = g.names
	}
	g.eventually("a leader", func() bool {
		var term uint64
		found = ""
		for _, name := range among {
			if p := g.parts(name); p != nil {
				if l := p.node.Leadership(); l.Leader && l.Term > term {
					found, term = name, l.Term
				}
			}
		}
		return found != ""
	})
	return found
}

// others are the members beside those named.
func (g *attackGroup) others(names ...string) []string {
	return slices.DeleteFunc(slices.Clone(g.names), func(n string) bool { return slices.Contains(names, n) })
}

// makeLeader has a member lead.
func (g *attackGroup) makeLeader(name string) {
	g.t.Helper()
	g.eventually(name+" leads", func() bool {
		if g.leads(name) && g.leader() == name {
			return true
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, _ = g.admin[name].TransferLeadership(ctx, &adminv1.TransferLeadershipRequest{To: name})
		return false
	})
}

// read reads the state of a member.
func (g *attackGroup) read(member string, f func(s *fsm.State)) {
	if p := g.parts(member); p != nil {
		p.node.Read(f)
	}
}

// ownerOf gives owner and epoch by the state of a member.
func (g *attackGroup) ownerOf(member string, a netip.Addr) (owner string, epoch uint64) {
	g.read(member, func(s *fsm.State) {
		if rec := s.Addresses[a]; rec != nil {
			owner, epoch = rec.Owner, rec.Epoch
		}
	})
	return owner, epoch
}

// give moves an address to a speaker and waits until it may answer for it.
func (g *attackGroup) give(a netip.Addr, to *attackSpeaker) {
	g.t.Helper()
	asked := time.Time{}
	g.eventually(fmt.Sprintf("%s owns %s", to, a), func() bool {
		owner, _ := g.ownerOf(g.leader(), a)
		if owner == to.node {
			return to.answers(a)
		}
		if time.Since(asked) > time.Second {
			asked = time.Now()
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_, _ = g.admin[g.leader()].Move(ctx, &adminv1.MoveRequest{Address: a.String(), ToNode: to.node})
		}
		return false
	})
}

// aged waits until what the speakers' sessions report counts: until then every planned
// move takes the fence time anyway.
func (g *attackGroup) aged(speakers ...*attackSpeaker) {
	g.t.Helper()
	since := clock.Boottime.Now()
	g.eventually("the sessions' age", func() bool {
		now := clock.Boottime.Now()
		for _, s := range speakers {
			if s.deadline() <= now {
				since = now
			}
		}
		return now-since > outlast(g.times)+100*time.Millisecond
	})
}

// sameDigests waits until all running members have the same state at one revision.
func (g *attackGroup) sameDigests() {
	g.t.Helper()
	g.eventually("members at one revision", func() bool {
		var rev uint64
		var digest [32]byte
		for i, name := range g.names {
			var r uint64
			var d [32]byte
			g.read(name, func(s *fsm.State) { r, d = s.Revision, s.Digest() })
			switch {
			case i == 0:
				rev, digest = r, d
			case r != rev || r == 0:
				return false
			case d != digest:
				g.t.Fatalf("%s at revision %d has another state than %s", name, r, g.names[0])
			}
		}
		return true
	})
}

// noTwoOwners checks every Release address: no two machines were ever confirmed as
// its owner at once. All times are of one clock.
func (g *attackGroup) noTwoOwners() {
	g.t.Helper()
	type held struct {
		by *attackSpeaker
		attackSpan
	}
	all := make(map[netip.Addr][]held)
	total := time.Duration(0)
	for _, s := range g.speakers {
		for a, spans := range s.history() {
			for _, sp := range spans {
				all[a] = append(all[a], held{s, sp})
				total += sp.until - sp.from
			}
		}
	}
	for a, spans := range all {
		slices.SortFunc(spans, func(x, y held) int { return int(x.from - y.from) })
		for i, x := range spans {
			for _, y := range spans[i+1:] {
				if y.from >= x.until {
					break
				}
				if x.by.machine != y.by.machine {
					g.t.Errorf("%s: %s was confirmed as owner from %v to %v, and %s from %v to %v: %v of both",
						a, x.by, x.from, x.until, y.by, y.from, y.until, min(x.until, y.until)-y.from)
				}
			}
		}
	}
	if total == 0 {
		g.t.Error("nobody ever owned anything")
	}
}
