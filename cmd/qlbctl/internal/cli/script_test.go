package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/internal/pki"
)

var update = flag.Bool("update", false, "rewrite the golden parts of the scripts")

// TestMain makes the test binary be qlbctl when a script asks for it.
func TestMain(m *testing.M) {
	time.Local = time.UTC
	testscript.Main(m, map[string]func(){"qlbctl": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		os.Exit(Run(ctx, testEnv(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv)))
	}})
}

func testEnv(args []string, stdin io.Reader, stdout, stderr io.Writer, getenv func(string) string) Env {
	return Env{
		Args: args, Stdin: stdin, Stdout: stdout, Stderr: stderr, Getenv: getenv,
		Now:         func() time.Time { return testNow },
		Terminal:    getenv("TEST_TERMINAL") != "",
		Interactive: getenv("TEST_INTERACTIVE") != "",
	}
}

// TestScripts runs testdata/script against fake members: real processes, real
// TLS, real gRPC, answers from memory.
func TestScripts(t *testing.T) {
	certs := issueAll(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Setup:               func(env *testscript.Env) error { return setup(env, certs) },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fake": fakeCmd,
			"code": codeCmd,
		},
	})
}

// issueAll makes a CA and one identity of each role, and a CA of somebody else.
func issueAll(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	for d, roles := range map[string][]string{
		dir:   {"member/m1", "member/m2", "speaker/n1", "admin/alice", "viewer/bob"},
		other: {"admin/mallory", "member/m9"},
	} {
		if err := pki.Init(d); err != nil {
			t.Fatal(err)
		}
		for _, r := range roles {
			role, err := pki.ParseRole(r)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pki.Issue(d, role, nil, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func identity(dir, base string) (*pki.Reloader, error) {
	return pki.NewReloader(pki.Files{
		CA: filepath.Join(dir, pki.CACertFile), Cert: filepath.Join(dir, base+".crt"), Key: filepath.Join(dir, base+".key"),
	}, nil)
}

type scriptKey struct{}

// world is the fake group of one script.
type world struct {
	group   *fakeGroup
	members map[string]*fakeMember
}

func setup(env *testscript.Env, certs string) error {
	w := &world{group: &fakeGroup{}, members: map[string]*fakeMember{}}
	w.load("healthy")
	var endpoints []string
	for _, id := range []string{"m1", "m2"} {
		ident, err := identity(certs, "member-"+id)
		if err != nil {
			return err
		}
		m, err := startMember(w.group, id, ident)
		if err != nil {
			return err
		}
		env.Defer(m.stop)
		w.members[id] = m
		endpoints = append(endpoints, m.addr)
		env.Setenv(strings.ToUpper(id), m.addr)
	}
	foreign, err := identity(filepath.Join(certs, "other"), "member-m9")
	if err != nil {
		return err
	}
	stranger, err := startMember(w.group, "m9", foreign)
	if err != nil {
		return err
	}
	env.Defer(stranger.stop)
	speaker, err := identity(certs, "speaker-n1")
	if err != nil {
		return err
	}
	wrongRole, err := startMember(w.group, "n1", speaker)
	if err != nil {
		return err
	}
	env.Defer(wrongRole.stop)
	member, err := identity(certs, "member-m1")
	if err != nil {
		return err
	}
	junk, stop, err := serveJunk(member)
	if err != nil {
		return err
	}
	env.Defer(stop)
	for k, v := range map[string]string{
		"QLBCTL_ENDPOINTS": strings.Join(endpoints, ","),
		"QLBCTL_TLS_CA":    filepath.Join(certs, pki.CACertFile),
		"QLBCTL_TLS_CERT":  filepath.Join(certs, "admin-alice.crt"),
		"QLBCTL_TLS_KEY":   filepath.Join(certs, "admin-alice.key"),
		"CERTS":            certs, "STRANGER": stranger.addr, "WRONGROLE": wrongRole.addr, "JUNK": junk,
		"SAMPLES": mustAbs("../../../../docs/samples"),
	} {
		env.Setenv(k, v)
	}
	env.Values[scriptKey{}] = w
	return nil
}

func mustAbs(p string) string {
	abs, err := filepath.Abs(p)
	if err != nil {
		panic(err)
	}
	return abs
}

// load replaces what the group is.
func (w *world) load(name string) bool {
	g, ok := fixtureGroup(name)
	if !ok {
		return false
	}
	w.group.mu.Lock()
	defer w.group.mu.Unlock()
	w.group.get, w.group.status, w.group.probe = g.get, g.status, g.probe
	w.group.events, w.group.snapshot = g.events, g.snapshot
	w.group.fail, w.group.last = g.fail, map[string]proto.Message{}
	if w.group.fail == nil {
		w.group.fail = map[string]error{}
	}
	return true
}

// fakeCmd steers the fake group:
//
//	fake load healthy|broken|empty
//	fake fail METHOD CODE MESSAGE [PATH=PROBLEM...]
//	fake stop|down|up MEMBER
//	fake last METHOD        prints the last request to stdout
//	fake breaks N           a follower's stream breaks once, after N facts
func fakeCmd(ts *testscript.TestScript, neg bool, args []string) {
	w := ts.Value(scriptKey{}).(*world)
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fake VERB ARG...")
	}
	switch verb, arg := args[0], args[1]; verb {
	case "load":
		if !w.load(arg) {
			ts.Fatalf("there is no group %q", arg)
		}
	case "fail":
		err, ok := plannedError(args[2], args[3], args[4:])
		if !ok {
			ts.Fatalf("there is no code %q", args[2])
		}
		w.group.mu.Lock()
		w.group.fail[arg] = err
		w.group.mu.Unlock()
	case "stop":
		w.members[arg].stop()
	case "down", "up":
		w.members[arg].down.Store(verb == "down")
	case "last":
		w.group.mu.Lock()
		m := w.group.last[arg]
		w.group.mu.Unlock()
		if m == nil {
			ts.Fatalf("nobody called %s", arg)
		}
		// prototext puts in spaces at random, so that nobody relies on it.
		fmt.Fprintln(ts.Stdout(), strings.ReplaceAll(prototext.MarshalOptions{Multiline: true}.Format(m), ":  ", ": "))
	case "breaks":
		w.group.mu.Lock()
		_, err := fmt.Sscan(arg, &w.group.breaks)
		w.group.mu.Unlock()
		ts.Check(err)
	default:
		ts.Fatalf("unknown verb %q", verb)
	}
}

// fileCommands read or write files, whose names are relative to the script's
// directory: they need a process of their own.
var fileCommands = []string{"apply", "plan", "delete", "snapshot", "pki"}

// codeCmd runs qlbctl and expects an exit code: code 3 status
func codeCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N ARG...")
	}
	got := 0
	if slices.Contains(fileCommands, args[1]) {
		var exit *exec.ExitError
		if err := ts.Exec("qlbctl", args[1:]...); errors.As(err, &exit) {
			got = exit.ExitCode()
		} else {
			ts.Check(err)
		}
	} else {
		got = Run(context.Background(), testEnv(args[1:], strings.NewReader(""), ts.Stdout(), ts.Stderr(), ts.Getenv))
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("qlbctl ends with %d, want %s", got, args[0])
	}
}
