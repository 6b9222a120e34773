package service

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/internal/testaddr"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/decider"
	"github.com/quorumlb/quorumlb/raftnode/lease"
	"github.com/quorumlb/quorumlb/raftnode/transport"
	"github.com/quorumlb/quorumlb/raftnode/watch"
)

// authority issues certificates for tests.
type authority struct {
	t  testing.TB
	ca *pki.CA
}

func newAuthority(t testing.TB) *authority {
	ca, err := pki.NewCA(time.Now().Add(-24 * time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t: t, ca: ca}
}

func (a *authority) issue(role string, now time.Time) tls.Certificate {
	a.t.Helper()
	r, err := pki.ParseRole(role)
	if err != nil {
		a.t.Fatal(err)
	}
	certPEM, keyPEM, err := a.ca.Issue(r, nil, now, time.Hour)
	if err != nil {
		a.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		a.t.Fatal(err)
	}
	return pair
}

// identity writes a certificate to files and loads it as a daemon does.
func (a *authority) identity(role string) *pki.Reloader {
	a.t.Helper()
	r, err := pki.ParseRole(role)
	if err != nil {
		a.t.Fatal(err)
	}
	certPEM, keyPEM, err := a.ca.Issue(r, nil, time.Now(), time.Hour)
	if err != nil {
		a.t.Fatal(err)
	}
	dir := a.t.TempDir()
	files := pki.Files{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "m.crt"), Key: filepath.Join(dir, "m.key")}
	for path, data := range map[string][]byte{files.CA: a.ca.CertPEM(), files.Cert: certPEM, files.Key: keyPEM} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	id, err := pki.NewReloader(files, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	return id
}

// dial connects with a certificate; none when it is nil.
func (a *authority) dial(addr string, cert *tls.Certificate) *grpc.ClientConn {
	a.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(a.ca.Cert)
	conf := &tls.Config{RootCAs: roots, InsecureSkipVerify: true}
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(conf)))
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { conn.Close() })
	return conn
}

// fakeMember is a member whose Raft is a variable.
type fakeMember struct {
	t    testing.TB
	id   string
	addr string
	wg   sync.WaitGroup
	stop func()
	*Services

	mu      sync.Mutex
	state   *fsm.State
	log     []consensus.Entry
	waiters chan struct{} // closed and replaced by every batch
	leader  consensus.Leadership
	changed chan struct{}
	members []consensus.Member
	// decide answers Submit on the leader.
	decide func(ctx context.Context, cmd decider.Command) (decider.Result, error)
	heard  []lease.Heartbeat
	later  atomic.Int64 // how far the clock of the authorization is ahead
	acks   chan lease.Ack
	reads  int
	oldest uint64 // of its history; 0 means 1
}

func newFakeMember(t testing.TB, a *authority, id string) *fakeMember {
	t.Helper()
	identity := a.identity("member/" + id)
	mux, err := transport.Listen(transport.Config{Name: id, Listen: testaddr.New(t), Identity: identity})
	if err != nil {
		t.Fatal(err)
	}
	m := &fakeMember{
		t: t, id: id, addr: mux.Addr().String(), state: fsm.New(),
		waiters: make(chan struct{}), changed: make(chan struct{}), acks: make(chan lease.Ack, 8),
	}
	m.members = []consensus.Member{{ID: id, Address: m.addr, Voter: true}}
	peers := NewPeers(identity.ClientTLS(pki.KindMember, transport.ProtoGRPC))
	m.Services = New(Config{
		ID: id, Log: m, Group: m, Decider: m, Membership: m, Hearts: m, Member: m, Hub: watch.NewHub(m, 0),
		Peers: peers, Self: func() Self { return Self{Up: time.Second} }, ProbeDisk: func() (time.Duration, error) { return time.Millisecond, nil }, Hold: 2 * time.Second,
		Now:             func() time.Time { return time.Now().Add(time.Duration(m.later.Load())) },
		CertificateEnds: identity.NotAfter, Logger: slog.New(slog.DiscardHandler),
	})
	srv, err := m.Server(transport.Credentials())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.wg.Go(func() { _ = mux.Run(ctx) })
	m.wg.Go(func() { _ = srv.Serve(mux.GRPC()) })
	m.wg.Go(func() { _ = m.Services.Run(ctx) })
	m.stop = sync.OnceFunc(func() {
		cancel()
		srv.Stop()
		peers.Close()
		m.wg.Wait()
	})
	t.Cleanup(m.stop)
	return m
}

func (m *fakeMember) setDecide(f func(ctx context.Context, cmd decider.Command) (decider.Result, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.decide = f
}

func (m *fakeMember) readCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reads
}

func (m *fakeMember) heartbeats() []lease.Heartbeat {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.heard)
}

func (m *fakeMember) setLeader(id, addr string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leader = consensus.Leadership{Leader: id == m.id, ID: id, Address: addr}
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *fakeMember) Leadership() consensus.Leadership {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.leader
	l.Changed = m.changed
	return l
}

func (m *fakeMember) Submit(ctx context.Context, cmd decider.Command) (decider.Result, error) {
	m.mu.Lock()
	decide, leads := m.decide, m.leader.Leader
	m.mu.Unlock()
	if !leads {
		return decider.Result{}, decider.ErrNotLeader
	}
	if decide == nil {
		return decider.Result{}, &decider.PreconditionError{Reason: "the test decides nothing"}
	}
	return decide(ctx, cmd)
}

func (m *fakeMember) Read(f func(*fsm.State)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(m.state)
}

func (m *fakeMember) apply(events ...*logv1.Event) uint64 {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	batch := m.state.NextBatch(time.Now().UnixNano(), []string{"admin:test"}, events)
	raw := fsm.EncodeBatch(batch)
	batch, ch, err := m.state.Apply(raw)
	if err != nil {
		m.t.Fatal(err)
	}
	m.log = append(m.log, consensus.Entry{Revision: batch.GetRevision(), Raw: raw, Batch: batch})
	m.cfg.Hub.Apply(batch, ch, m.state)
	close(m.waiters)
	m.waiters = make(chan struct{})
	return batch.GetRevision()
}

func (m *fakeMember) WaitRevision(ctx context.Context, revision uint64) error {
	for {
		m.mu.Lock()
		have, wait := m.state.Revision, m.waiters
		m.mu.Unlock()
		if have >= revision {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *fakeMember) LinearizableRead(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	if !m.leader.Leader {
		return consensus.ErrNotLeader
	}
	return nil
}

func (m *fakeMember) Revision() (revision uint64) {
	m.Read(func(s *fsm.State) { revision = s.Revision })
	return revision
}

func (m *fakeMember) History(_ context.Context, from, until uint64) ([]consensus.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []consensus.Entry
	for _, e := range m.log {
		if e.Revision >= max(from, m.oldest) && e.Revision < until {
			out = append(out, e)
		}
	}
	return out, nil
}

func (m *fakeMember) RevisionAt(_ context.Context, unixNano int64) (revision uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.log {
		if e.Batch.GetTimeUnixNano() <= unixNano {
			revision = e.Revision
		}
	}
	return revision, nil
}

func (m *fakeMember) OldestRevision(context.Context) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(m.oldest, 1), nil
}

func (m *fakeMember) StateAt(_ context.Context, revision uint64) (*fsm.State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.oldest > 0 && revision < m.oldest-1 {
		return nil, consensus.ErrIncomplete
	}
	st := fsm.New()
	for _, e := range m.log[:revision] {
		if _, _, err := st.Apply(e.Raw); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// change changes what the member is made of.
func (m *fakeMember) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// replicate gives this member the batches of another; it keeps those from oldest on.
func (m *fakeMember) replicate(from *fakeMember, oldest uint64) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = fsm.New()
	for _, e := range from.log {
		if _, _, err := m.state.Apply(e.Raw); err != nil {
			m.t.Fatal(err)
		}
	}
	m.log, m.oldest = slices.Clone(from.log), oldest
}

func (m *fakeMember) Term() uint64 { return 1 }

func (m *fakeMember) SnapshotTo(w io.Writer) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Revision, fsm.WriteSnapshot(w, m.state)
}

func (m *fakeMember) Members() []consensus.Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.members
}

func (m *fakeMember) Add(context.Context, string, string) error { return nil }
func (m *fakeMember) Remove(context.Context, string) error      { return nil }
func (m *fakeMember) Transfer(context.Context, string) error    { return nil }

func (m *fakeMember) Heard(h lease.Heartbeat) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = append(m.heard, h)
}
func (m *fakeMember) Acks(string) (<-chan lease.Ack, func()) { return m.acks, func() {} }
func (m *fakeMember) Unheard(string, uint64) (time.Duration, bool) {
	return time.Millisecond, true
}
func (m *fakeMember) Seen(string) uint64 { return 0 }

func (m *fakeMember) Hello(context.Context, *memberv1.HelloRequest) (*memberv1.HelloResponse, error) {
	return &memberv1.HelloResponse{Id: m.id}, nil
}

func (m *fakeMember) Join(context.Context, *memberv1.JoinRequest) (*memberv1.JoinResponse, error) {
	return &memberv1.JoinResponse{}, nil
}

func (m *fakeMember) Pulse(grpc.BidiStreamingServer[memberv1.PulseRequest, memberv1.PulseResponse]) error {
	return nil
}

// eventually polls until ok says so.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

var errTest = errors.New("test")

func median(ds []time.Duration) time.Duration {
	slices.Sort(ds)
	return ds[len(ds)/2]
}

func sameType(a, b decider.Command) bool { return reflect.TypeOf(a) == reflect.TypeOf(b) }
