package raftnode_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/obs"
	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/internal/testaddr"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	"github.com/quorumlb/quorumlb/raftnode"
	"github.com/quorumlb/quorumlb/raftnode/transport"
)

const patience = 90 * time.Second

// processConfig is how a test tells a process of its own binary to be a member.
const processConfig = "QLB_TEST_MEMBER"

// memberConfig is a member as a process gets it.
type memberConfig struct {
	Name, DataDir, Listen, HTTP string
	Members                     map[string]string
	TLS                         pki.Files
	Lease                       fsm.LeaseTimes
}

func TestMain(m *testing.M) {
	if conf := os.Getenv(processConfig); conf != "" {
		if err := beMember(conf); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// beMember is what a member's process does: main without flags.
func beMember(text string) error {
	var conf memberConfig
	if err := json.Unmarshal([]byte(text), &conf); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log, err := obs.NewLogger(os.Stderr, "info", "")
	if err != nil {
		return err
	}
	reg := prometheus.NewRegistry()
	m, err := raftnode.New(raftnode.Config{
		Name: conf.Name, DataDir: conf.DataDir, Listen: conf.Listen, Members: conf.Members, TLS: conf.TLS,
		Lease: conf.Lease, Registry: reg, Logger: log.With(obs.KeyMember, conf.Name), DigestInterval: time.Second,
	})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", conf.HTTP)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { _ = obs.NewServer(ln, obs.Handler(reg, m.Checks()), log).Run(serving) })
	return m.Run(ctx)
}

// group is three members, each a process that can be killed.
type group struct {
	t       testing.TB
	ca      *pki.CA
	dir     string
	members []*process
	admin   *pki.Reloader
}

type process struct {
	group *group
	conf  memberConfig
	cmd   *exec.Cmd
	log   *os.File
}

func newGroup(t testing.TB, n int) *group {
	t.Helper()
	ca, err := pki.NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	g := &group{t: t, ca: ca, dir: t.TempDir()}
	addrs := make(map[string]string)
	for i := range n {
		addrs[fmt.Sprintf("m%d", i+1)] = testaddr.New(t)
	}
	for i := range n {
		name := fmt.Sprintf("m%d", i+1)
		g.members = append(g.members, &process{group: g, conf: memberConfig{
			Name: name, DataDir: filepath.Join(g.dir, name), Listen: addrs[name], HTTP: testaddr.New(t), Members: addrs,
			TLS: g.files("member/" + name), Lease: fsm.LeaseTimes{Detection: testDetection, Heartbeat: testHeartbeat, Settle: time.Second},
		}})
	}
	g.admin = g.identity("admin/test")
	t.Cleanup(func() {
		for _, m := range g.members {
			m.kill()
			if t.Failed() {
				t.Logf("log of %s:\n%s", m.conf.Name, m.tail())
			}
		}
	})
	return g
}

// testDetection is D. The machine that tests run on is shared and small.
const testDetection = 500 * time.Millisecond

func (g *group) files(role string) pki.Files {
	g.t.Helper()
	r, err := pki.ParseRole(role)
	if err != nil {
		g.t.Fatal(err)
	}
	cert, key, err := g.ca.Issue(r, nil, time.Now(), 24*time.Hour)
	if err != nil {
		g.t.Fatal(err)
	}
	base := filepath.Join(g.dir, strings.ReplaceAll(role, "/", "-"))
	f := pki.Files{CA: filepath.Join(g.dir, "ca.crt"), Cert: base + ".crt", Key: base + ".key"}
	for path, data := range map[string][]byte{f.CA: g.ca.CertPEM(), f.Cert: cert, f.Key: key} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			g.t.Fatal(err)
		}
	}
	return f
}

func (g *group) identity(role string) *pki.Reloader {
	g.t.Helper()
	id, err := pki.NewReloader(g.files(role), nil)
	if err != nil {
		g.t.Fatal(err)
	}
	return id
}

// dial connects to a member in a role.
func (g *group) dial(id *pki.Reloader, m *process) *grpc.ClientConn {
	g.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+m.conf.Listen, grpc.WithTransportCredentials(transport.ClientCredentials(id)),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	return conn
}

func (g *group) speaker(node string, mac byte) *fakeSpeaker {
	id := g.identity("speaker/" + node)
	var conns []*grpc.ClientConn
	for _, m := range g.members {
		conns = append(conns, g.dial(id, m))
	}
	return newFakeSpeaker(g.t, node, mac, conns)
}

// client is an administrator's connection to a member.
func (g *group) client(i int) adminv1.AdminServiceClient {
	return adminv1.NewAdminServiceClient(g.dial(g.admin, g.members[i]))
}

func (g *group) start() {
	g.t.Helper()
	for _, m := range g.members {
		m.start()
	}
	for _, m := range g.members {
		m.waitReady()
	}
}

// leader is the index of the member that leads.
func (g *group) leader() int {
	g.t.Helper()
	found := -1
	eventually(g.t, "a leader", func() bool {
		for i, m := range g.members {
			if m.cmd == nil {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			resp, err := g.client(i).Status(ctx, &adminv1.StatusRequest{Stale: true})
			cancel()
			if err == nil && resp.GetLeader() == resp.GetAnsweredBy() {
				found = i
				return true
			}
		}
		return false
	})
	return found
}

func (p *process) start() {
	t := p.group.t
	t.Helper()
	conf, err := json.Marshal(p.conf)
	if err != nil {
		t.Fatal(err)
	}
	if p.log == nil {
		if p.log, err = os.Create(filepath.Join(p.group.dir, p.conf.Name+".log")); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), processConfig+"="+string(conf))
	cmd.Stdout, cmd.Stderr = p.log, p.log
	// The test's process may be killed too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.cmd = cmd
}

// kill is a power failure of the process.
func (p *process) kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		p.cmd = nil
	}
}

// stop is what an init system does.
func (p *process) stop() {
	t := p.group.t
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	killed := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer killed.Stop()
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("%s ended with %v", p.conf.Name, err)
	}
	p.cmd = nil
}

func (p *process) get(path string) (int, error) {
	code, _, err := p.read(path)
	return code, err
}

// read gives what the member says over HTTP.
func (p *process) read(path string) (code int, body string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.conf.HTTP+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

func (p *process) waitReady() {
	p.group.t.Helper()
	eventually(p.group.t, p.conf.Name+" ready", func() bool {
		code, err := p.get("/readyz?caughtup")
		return err == nil && code == http.StatusOK
	})
}

func (p *process) tail() string {
	data, _ := os.ReadFile(filepath.Join(p.group.dir, p.conf.Name+".log"))
	return string(data[max(0, len(data)-6000):])
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}
