package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/cmd/qlbctl/internal/cli"
	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/internal/testaddr"
	"github.com/quorumlb/quorumlb/raftnode"
)

// patience is how long a test waits for what should take a moment.
const patience = 30 * time.Second

// group is three real members in this process, without speakers.
type group struct {
	t     *testing.T
	dir   string
	addrs map[string]string
	stop  map[string]func()
}

func startGroup(t *testing.T) *group {
	t.Helper()
	g := &group{t: t, dir: t.TempDir(), addrs: map[string]string{}, stop: map[string]func(){}}
	if err := pki.Init(g.dir); err != nil {
		t.Fatal(err)
	}
	names := []string{"m1", "m2", "m3"}
	for _, n := range names {
		g.addrs[n] = testaddr.New(t)
	}
	g.ctl(0, "pki", "issue", "admin/alice", "--dir", g.dir)
	g.ctl(0, "pki", "issue", "viewer/bob", "--dir", g.dir)
	for _, n := range names {
		g.ctl(0, "pki", "issue", "member/"+n, "--dir", g.dir)
		g.start(n)
	}
	g.eventually("a leader", func() bool {
		code, out, _ := g.run("member", "list", "--timeout", "2s")
		return code == 0 && strings.Contains(out, "leader") && strings.Count(out, "yes") == 3
	})
	return g
}

func (g *group) start(name string) {
	g.t.Helper()
	m, err := raftnode.New(raftnode.Config{
		Name: name, DataDir: filepath.Join(g.dir, name), Listen: g.addrs[name], Members: g.addrs,
		Lease: fsm.LeaseTimes{Detection: 750 * time.Millisecond, Heartbeat: 150 * time.Millisecond, Settle: time.Second},
		TLS:   pki.Files{CA: g.file("ca.crt"), Cert: g.file("member-" + name + ".crt"), Key: g.file("member-" + name + ".key")},
	})
	if err != nil {
		g.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }() // ended by stop
	stopped := false
	g.stop[name] = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil && !errors.Is(err, context.Canceled) {
				g.t.Errorf("%s: %v", name, err)
			}
		case <-time.After(patience):
			g.t.Errorf("%s does not stop", name)
		}
	}
	g.t.Cleanup(g.stop[name])
}

// sub runs a part of the test; the parts build on each other.
func (g *group) sub(name string, f func()) {
	whole := g.t
	ok := whole.Run(name, func(t *testing.T) {
		g.t = t
		f()
	})
	if g.t = whole; !ok {
		whole.FailNow()
	}
}

func (g *group) file(name string) string { return filepath.Join(g.dir, name) }

// write makes a file of documents.
func (g *group) write(name, text string) string {
	g.t.Helper()
	if err := os.WriteFile(g.file(name), []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
	return g.file(name)
}

// run is qlbctl as alice, asking all members.
func (g *group) run(args ...string) (code int, stdout, stderr string) {
	return g.runAs("admin-alice", args...)
}

func (g *group) runAs(who string, args ...string) (code int, stdout, stderr string) {
	env := map[string]string{
		"QLBCTL_ENDPOINTS": g.addrs["m1"] + "," + g.addrs["m2"] + "," + g.addrs["m3"],
		"QLBCTL_TLS_CA":    g.file("ca.crt"), "QLBCTL_TLS_CERT": g.file(who + ".crt"), "QLBCTL_TLS_KEY": g.file(who + ".key"),
	}
	var out, errs bytes.Buffer
	code = cli.Run(context.Background(), cli.Env{
		Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Now: time.Now,
		Getenv: func(k string) string { return env[k] },
	})
	return code, out.String(), errs.String()
}

// ctl runs qlbctl, expects an exit code, and gives both outputs.
func (g *group) ctl(code int, args ...string) string {
	g.t.Helper()
	got, stdout, stderr := g.run(args...)
	if got != code {
		g.t.Fatalf("qlbctl %s ends with %d, want %d\n%s%s", strings.Join(args, " "), got, code, stdout, stderr)
	}
	return stdout + stderr
}

// want runs qlbctl and expects lines that match.
func (g *group) want(code int, args string, patterns ...string) {
	g.t.Helper()
	out := g.ctl(code, strings.Fields(args)...)
	for _, p := range patterns {
		if !regexp.MustCompile("(?m)" + p).MatchString(out) {
			g.t.Errorf("qlbctl %s: no match for %s in\n%s", args, p, out)
		}
	}
}

func (g *group) eventually(what string, ok func() bool) {
	g.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	g.t.Fatalf("no %s within %v", what, patience)
}

// TestGroup plays a day of an operator's against three real members.
func TestGroup(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three members")
	}
	g := startGroup(t)
	g.sub("look at nothing", func() {
		g.want(0, "get pools,services,vips,nodes", "^No pools", "^No nodes")
		g.eventually("a group without problems", func() bool { code, _, _ := g.run("status"); return code == cli.ExitOK })
		g.want(0, "status", "^No problems", "3 of 3 healthy, leader m[123], term", "detection 750ms, heartbeat 150ms, fence 1.5s, settle 1s")
		g.want(0, "version", "^Server: .* at 127\\.")
	})
	g.sub("declare", func() {
		g.want(0, "apply -f ../../docs/samples/first.yaml --dry-run", `^virtualservice/default/web created \(dry run\): 192.0.2.10`)
		g.want(0, "get services", "^No services")
		g.want(0, "apply -f ../../docs/samples/first.yaml", "^ipaddresspool/public created$", "^l2advertisement/public created$", "^virtualservice/default/web created: 192.0.2.10$")
		g.want(0, "apply -f ../../docs/samples/first.yaml", "^virtualservice/default/web unchanged: 192.0.2.10$")
		g.want(0, "get services", `^default +web +192.0.2.10 +80/TCP .* Ready$`)
		g.want(0, "get pools", `^public +192.0.2.10-192.0.2.99 +yes +1 +89 `)
		g.want(0, "get vips", `^192.0.2.10 +default/web +- +- +- +nobody owns it: no speaker has ever connected`)
		g.want(1, "status", "^[0-9]+ problems?:", "address without owner: 192.0.2.10")
		g.want(0, "describe vip 192.0.2.10", "^Owner: +nobody", "given to service default/web from pool public")
	})
	g.sub("what is printed can be applied", func() {
		path := g.write("intent.yaml", g.ctl(0, "get", "pools,l2advertisements,services", "-o", "yaml"))
		g.want(0, "apply -f "+path, "^ipaddresspool/public unchanged$", "^l2advertisement/public unchanged$", "^virtualservice/default/web unchanged")
	})
	g.sub("history", func() {
		g.want(0, "history address 192.0.2.10", "given to service default/web")
		g.want(0, "history service web", "admin:alice .* declared by apply: ports 80/TCP")
		g.want(0, "events --since 1", "group: founded with id")
		g.want(0, "events --since 10m -o json", `"type":"AddressAllocated"`)
		g.want(0, "history node n9", "Nothing is known of n9")
	})
	g.sub("refused", g.refused)
	g.sub("settings", func() {
		// One change has to be in force everywhere before the next: the first was the founding.
		g.eventually("a second change of the lease times", func() bool {
			code, out, _ := g.run("lease-times", "set", "--profile", "fast")
			return code == 0 && strings.Contains(out, "detection 250ms, heartbeat 50ms")
		})
		g.eventually("new lease times", func() bool { return strings.Contains(g.ctl(0, "lease-times", "get"), "250ms") })
		g.want(1, "lease-times set --detection 1ms", "detection: .* is not between")
		g.want(0, "retention set 2d", "^retention set to 48h$")
		g.want(0, "retention get", "^48h$")
	})
	g.sub("backup", g.backup)
	g.sub("samples", func() { // in the order of their README
		for _, name := range []string{"first", "dual-stack", "pools", "reservations", "l2advertisements", "services", "shared-address"} {
			g.want(0, "apply -f ../../docs/samples/"+name+".yaml")
		}
		g.want(0, "get services", `^infra +dns +203.0.113.5,203.0.113.0,2001:db8:0:ff::15,2001:db8:0:ff::10 `, `^office +wiki +192.0.2.50 `)
		code, out, _ := g.run("status")
		if code != cli.ExitFound || strings.Contains(out, "does not exist") || strings.Contains(out, "waits for an address") {
			g.t.Errorf("status: %d\n%s", code, out)
		}
		all := g.write("all.yaml", g.ctl(0, "get", "namespaces,pools,reservations,l2advertisements,services", "-o", "yaml"))
		if out := g.ctl(0, "apply", "-f", all); strings.Contains(out, "configured") || strings.Contains(out, "created") {
			g.t.Errorf("what was printed is something else when it is applied:\n%s", out)
		}
		g.want(0, "describe vip 203.0.113.5", "infra/dns")
	})
	g.sub("members", g.memberChanges)
}

func (g *group) refused() {
	path := g.write("bad.yaml", `# a second pool that lies in the first
apiVersion: quorumlb.io/v1
kind: IPAddressPool
metadata: {name: other}
spec:
  addresses:
  - 198.51.100.0/24
  - 192.0.2.50/32
---
apiVersion: quorumlb.io/v1
kind: VirtualService
metadata: {name: lost}
spec:
  ports: [{port: 80}]
`)
	g.want(1, "apply -f "+path, `bad.yaml:8:5: document 1: IPAddressPool/other: spec.addresses\[1\]: "192.0.2.50/32" overlaps "192.0.2.10-192.0.2.99" of pool "public"`)
	g.want(0, "get services,pools -o name", `^virtualservice/default/web\nipaddresspool/public\n$`)
	path = g.write("taken.yaml", `apiVersion: quorumlb.io/v1
kind: VirtualService
metadata: {name: second}
spec:
  ports: [{port: 80}]
  addresses: [192.0.2.10]
`)
	g.want(1, "apply -f "+path, `taken.yaml:6:15: VirtualService/default/second: spec.addresses\[0\]: .*192.0.2.10`)
	g.write("outside.yaml", strings.ReplaceAll(g.read(path), "192.0.2.10", "203.0.113.77"))
	g.want(1, "apply -f "+g.file("outside.yaml"), `outside.yaml:6:15: .*spec.addresses\[0\]: .*203.0.113.77`)
	g.want(1, "delete pool public", "ipaddresspool/public: .*used by default/web")
	g.want(1, "drain n9", `"n9" does not exist`)
	g.want(1, "move 192.0.2.10 --to n9", "n9")
	g.want(1, "move 192.0.2.77", "192.0.2.77")
	g.want(1, "probe 192.0.2.10", "no speaker is attached")
	g.want(1, "node forget n9", `"n9" does not exist`)
	if code, _, stderr := g.runAs("viewer-bob", "delete", "service", "web"); code != 1 || !strings.Contains(stderr, "not allowed as viewer/bob") {
		g.t.Errorf("a viewer's delete ends with %d: %s", code, stderr)
	}
	if code, stdout, _ := g.runAs("viewer-bob", "get", "vips"); code != 0 || !strings.Contains(stdout, "192.0.2.10") {
		g.t.Errorf("a viewer's get ends with %d: %s", code, stdout)
	}
}

func (g *group) backup() {
	file := g.file("backup.qlb")
	g.want(0, "snapshot save "+file, "^saved revision [0-9]+ to .*: 1 service, 1 address$")
	g.want(0, "snapshot inspect "+file, "^Services: +1$", "^Addresses: +1 in use")
	g.want(0, "delete service web", "^virtualservice/default/web deleted$")
	g.want(0, "get vips", "^No vips")
	revision := regexp.MustCompile(`Revision: +([0-9]+)`).FindStringSubmatch(g.ctl(0, "snapshot", "inspect", file))[1]
	g.want(0, "get services,vips --at "+revision, `^default +web +192.0.2.10 `, `^192.0.2.10 +default/web `)
	g.want(0, "snapshot save --at "+revision+" "+g.file("before.qlb"), "^saved revision "+revision+" to .*: 1 service, 1 address$")
	g.want(0, "snapshot restore "+g.file("before.qlb")+" --dry-run", "^would revert to revision "+revision+": 1 service and 1 address would change$")
	g.want(1, "get vips --at 99999", "at_revision: 99999 is not there yet")
	g.want(2, "get vips --at yesterday", `--at "yesterday" is no revision`)
	g.want(0, "snapshot restore "+file+" --dry-run", "^would revert to revision [0-9]+: 1 service and 1 address would change$")
	g.want(0, "get vips", "^No vips")
	g.want(0, "snapshot restore "+file+" --yes", "^reverted to revision [0-9]+: 1 service and 1 address changed$")
	g.want(0, "get services", `^default +web +192.0.2.10 `)
	g.want(0, "events --since 5m", "reverts to revision")
}

func (g *group) memberChanges() {
	leader := regexp.MustCompile(`(?m)^(m\d) +\S+ +leader`)
	find := func() string {
		if m := leader.FindStringSubmatch(g.ctl(0, "member", "list")); m != nil {
			return m[1]
		}
		return ""
	}
	old := find()
	g.eventually("a leader that gives its place away", func() bool { // one busy moment is enough to refuse
		code, out, _ := g.run("member", "transfer-leadership")
		return code == 0 && regexp.MustCompile(`^member/m\d leads\n$`).MatchString(out)
	})
	g.eventually("another leader", func() bool { now := find(); return now != "" && now != old })
	// One is gone: everything still works, and status says what is missing.
	g.stop["m1"]()
	g.eventually("a status that misses m1", func() bool {
		code, out, _ := g.run("status", "--timeout", "5s")
		return code == cli.ExitFound && strings.Contains(out, "m1 (")
	})
	g.want(0, "get services", "192.0.2.10")
	// Two are gone: nothing can be asked but what one member knows.
	g.stop["m2"]()
	g.want(3, "get services --timeout 2s", "cannot reach the group", g.addrs["m1"]+": connection refused")
	g.want(0, "get services --stale", "192.0.2.10")
	g.want(1, "status --stale", "leader")
}

func (g *group) read(path string) string {
	g.t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		g.t.Fatal(err)
	}
	return string(raw)
}
