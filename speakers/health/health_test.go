package health

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/speakers/session"
)

var web = session.ServiceKey{Namespace: "default", Name: "web"}

func task(check *logv1.HealthCheck, port int) *speakerv1.HealthTask {
	check.IntervalNanos, check.TimeoutNanos = int64(5*time.Millisecond), int64(2*time.Second)
	check.Rise, check.Fall = max(check.Rise, 1), max(check.Fall, 1)
	return &speakerv1.HealthTask{Service: &speakerv1.ServiceName{Namespace: web.Namespace, Name: web.Name}, Check: check, Port: uint32(port)}
}

func run(t *testing.T, dir string) *Runner {
	r := New(dir, nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

// wait polls until the service's status is as wanted.
func wait(t *testing.T, r *Runner, state speakerv1.HealthState, reason string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		all, _, _, more := r.Statuses(0)
		if len(all) == 1 && all[0].GetState() == state && strings.Contains(all[0].GetReason(), reason) {
			return
		}
		select {
		case <-more:
		case <-time.After(time.Until(deadline)):
			t.Fatalf("have %v, want %v %q", all, state, reason)
		}
	}
}

const (
	healthy   = speakerv1.HealthState_HEALTH_STATE_HEALTHY
	unhealthy = speakerv1.HealthState_HEALTH_STATE_UNHEALTHY
)

func TestHTTP(t *testing.T) {
	var status atomic.Int32
	var hang atomic.Bool
	status.Store(200)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if hang.Load() {
			<-req.Context().Done()
			return
		}
		if req.URL.Path != "/healthz" || req.Host != "shop.example" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		w.Header().Set("Location", "http://192.0.2.1/elsewhere")
		w.WriteHeader(int(status.Load()))
	}))
	defer server.Close()
	port := server.Listener.Addr().(*net.TCPAddr).Port
	r := run(t, "")
	check := &logv1.HealthCheck{Http: &logv1.HttpCheck{Path: "/healthz", Host: "shop.example"}}
	slow := task(check, port)
	slow.Check.TimeoutNanos = int64(500 * time.Millisecond)
	r.Apply(map[session.ServiceKey]*speakerv1.HealthTask{web: slow})
	wait(t, r, healthy, "status 200 OK")
	status.Store(503)
	wait(t, r, unhealthy, "status 503 Service Unavailable")
	status.Store(302) // is not followed
	wait(t, r, healthy, "status 302 Found")
	hang.Store(true)
	wait(t, r, unhealthy, "no answer within 500ms")
	r.Apply(map[session.ServiceKey]*speakerv1.HealthTask{web: task(&logv1.HealthCheck{Http: &logv1.HttpCheck{Path: "/", Port: uint32(port)}}, 1)})
	hang.Store(false)
	wait(t, r, unhealthy, "418")
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	r := run(t, "")
	r.Apply(map[session.ServiceKey]*speakerv1.HealthTask{web: task(&logv1.HealthCheck{Tcp: &logv1.TcpCheck{}}, port)})
	wait(t, r, healthy, "connected to 127.0.0.1:"+strconv.Itoa(port))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wait(t, r, unhealthy, "connection refused")
	// Where the node delivers the service's address, that is what is asked.
	other, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Skip(err)
	}
	defer other.Close()
	at := task(&logv1.HealthCheck{Tcp: &logv1.TcpCheck{}}, other.Addr().(*net.TCPAddr).Port)
	at.Addresses = [][]byte{netip.MustParseAddr("127.0.0.2").AsSlice()}
	r.Apply(map[session.ServiceKey]*speakerv1.HealthTask{web: at})
	wait(t, r, healthy, "connected to 127.0.0.2")
}

func script(t *testing.T, dir, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
		t.Fatal(err)
	}
}

func TestScripts(t *testing.T) {
	dir := t.TempDir()
	outside := t.TempDir()
	script(t, dir, "good", `echo first; echo "$QUORUMLB_SERVICE $# $HOME"`, 0o755)
	script(t, dir, "bad", "echo all is lost >&2; exit 3", 0o755)
	script(t, dir, "slow", "sleep 60 & wait", 0o755)
	script(t, dir, "plain", "exit 0", 0o644)
	script(t, outside, "evil", "exit 0", 0o755)
	if err := os.Symlink(filepath.Join(outside, "evil"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir, name string
		state     speakerv1.HealthState
		reason    string
	}{
		{dir, "good", healthy, "default/web 0"},
		{dir, "bad", unhealthy, "exit status 3: all is lost"},
		{dir, "slow", unhealthy, "no answer within"},
		{dir, "none", unhealthy, "no such file"},
		{dir, "plain", unhealthy, "not an executable file"},
		{dir, "link", unhealthy, "not an executable file"},
		{dir, "../" + filepath.Base(outside) + "/evil", unhealthy, "is not the name of a script"},
		{dir, filepath.Join(outside, "evil"), unhealthy, "is not the name of a script"},
		{dir, "", unhealthy, "is not the name of a script"},
		{"", "good", unhealthy, "--check-dir"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := run(t, c.dir)
			tk := task(&logv1.HealthCheck{Exec: &logv1.ExecCheck{Script: c.name}}, 0)
			if c.name == "slow" {
				tk.Check.TimeoutNanos = int64(100 * time.Millisecond)
			}
			r.Apply(map[session.ServiceKey]*speakerv1.HealthTask{web: tk})
			wait(t, r, c.state, c.reason)
		})
	}
}

// A state changes only after so many results of one kind in a row.
func TestRiseAndFall(t *testing.T) {
	for results, want := range map[string]string{
		"+": "?", "++": "H", "-": "?", "--": "?", "---": "U", "+-+-+-": "?", "++--": "H", "++---": "U", "---+": "U", "---++": "H",
		"++--+--": "H", "---+-+-": "U",
	} {
		r := New("", nil)
		c := &check{task: task(&logv1.HealthCheck{Tcp: &logv1.TcpCheck{}, Rise: 2, Fall: 3}, 1)}
		c.status = &speakerv1.HealthStatus{State: speakerv1.HealthState_HEALTH_STATE_UNKNOWN}
		r.running[web] = c
		for _, one := range results {
			r.result(web, c, one == '+', string(one))
		}
		got := map[speakerv1.HealthState]string{healthy: "H", unhealthy: "U", speakerv1.HealthState_HEALTH_STATE_UNKNOWN: "?"}[c.status.GetState()]
		if got != want {
			t.Errorf("%s: %s, want %s", results, got, want)
		}
	}
}

// Statuses tells only what changed, what is gone, and forgets nothing on a change of
// the check.
func TestStatuses(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	r := run(t, "")
	r.Apply(map[session.ServiceKey]*speakerv1.HealthTask{web: task(&logv1.HealthCheck{Tcp: &logv1.TcpCheck{}}, port)})
	wait(t, r, healthy, "")
	_, _, seq, _ := r.Statuses(0)
	if changed, gone, _, _ := r.Statuses(seq); len(changed)+len(gone) > 0 {
		t.Errorf("nothing has changed: %v %v", changed, gone)
	}
	// Another check that has found nothing yet: the old result stands.
	r.Apply(map[session.ServiceKey]*speakerv1.HealthTask{web: task(&logv1.HealthCheck{Tcp: &logv1.TcpCheck{}, Fall: 100, Rise: 100}, port)})
	wait(t, r, healthy, "")
	r.Apply(nil)
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, gone, _, more := r.Statuses(seq)
		if len(gone) == 1 && gone[0].GetName() == "web" {
			break
		}
		select {
		case <-more:
		case <-time.After(time.Until(deadline)):
			t.Fatal("the check does not end")
		}
	}
	if all, gone, _, _ := r.Statuses(0); len(all)+len(gone) > 0 {
		t.Errorf("told anew: %v %v", all, gone)
	}
}
