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

	"google.golang.org/protobuf/proto"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/speakers/internal/nettest"
	"github.com/quorumlb/quorumlb/speakers/session"
)

var web = session.ServiceKey{Namespace: "default", Name: "web"}

func task(check *logv1.HealthCheck, port int) *speakerv1.HealthTask {
	check = proto.CloneOf(check) // a runner may still read what it was made of before
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
		nettest.Lacks(t, err)
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

// The status decides: that the body does not end, or ends too early, matters to nobody.
func TestBodyDoesNotMatter(t *testing.T) {
	for name, body := range map[string]func(http.ResponseWriter, *http.Request){
		"endless": func(w http.ResponseWriter, req *http.Request) {
			for req.Context().Err() == nil {
				_, _ = w.Write(make([]byte, 10))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(time.Millisecond)
			}
		},
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("begun"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(body))
			defer server.Close()
			r := run(t, "")
			port := server.Listener.Addr().(*net.TCPAddr).Port
			tk := task(&logv1.HealthCheck{Http: &logv1.HttpCheck{Path: "/"}}, port)
			tk.Check.TimeoutNanos = int64(time.Second)
			r.Apply(map[session.ServiceKey]*speakerv1.HealthTask{web: tk})
			wait(t, r, healthy, "status 200 OK")
		})
	}
}

// A node that delivers a service's addresses serves it when it serves them all.
func TestEachAddressIsAsked(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		nettest.Lacks(t, err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Listener.Close()
	server.Listener = l
	server.Start()
	defer server.Close()
	for name, check := range map[string]*logv1.HealthCheck{"tcp": {Tcp: &logv1.TcpCheck{}}, "http": {Http: &logv1.HttpCheck{Path: "/"}}} {
		t.Run(name, func(t *testing.T) {
			r := run(t, "")
			tk := task(check, l.Addr().(*net.TCPAddr).Port)
			tk.Addresses = [][]byte{netip.MustParseAddr("127.0.0.2").AsSlice(), netip.MustParseAddr("127.0.0.3").AsSlice()}
			r.Apply(map[session.ServiceKey]*speakerv1.HealthTask{web: tk})
			wait(t, r, unhealthy, "127.0.0.3: ")
			one := task(check, l.Addr().(*net.TCPAddr).Port)
			one.Addresses = tk.Addresses[:1]
			r.Apply(map[session.ServiceKey]*speakerv1.HealthTask{web: one})
			wait(t, r, healthy, "")
		})
	}
}

// A script that succeeds has succeeded, whatever it leaves running; but that ends.
func TestLeftoversOfAScriptEnd(t *testing.T) {
	dir := t.TempDir()
	pidFile := filepath.Join(dir, "pid")
	for name, text := range map[string]string{
		"silent": "sleep 60 >/dev/null 2>&1 & echo $! >" + pidFile,
		"loud":   "sleep 60 & echo $! >" + pidFile,
		"failed": "sleep 60 >/dev/null 2>&1 & echo $! >" + pidFile + "; exit 1",
	} {
		script(t, dir, name, text, 0o755)
		tk := task(&logv1.HealthCheck{Exec: &logv1.ExecCheck{Script: name}}, 0)
		if _, err := runScript(t.Context(), dir, web, tk); (err != nil) != (name == "failed") {
			t.Errorf("%s: %v", name, err)
		}
		b, err := os.ReadFile(pidFile)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); running(pid); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the child goes on", name)
			}
		}
	}
}

// running reports whether a process is there and no zombie.
func running(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// A script runs elsewhere than the speaker, also when its directory is not named by its
// whole path.
func TestRelativeScriptDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("checks", 0o700); err != nil {
		t.Fatal(err)
	}
	script(t, "checks", "good", "pwd", 0o755)
	tk := task(&logv1.HealthCheck{Exec: &logv1.ExecCheck{Script: "good"}}, 0)
	if got, err := runScript(t.Context(), "checks", web, tk); err != nil || got != "/" {
		t.Errorf("%q, %v", got, err)
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
