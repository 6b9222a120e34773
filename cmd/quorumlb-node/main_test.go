package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/internal/testaddr"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode/transport"
)

func TestFlagsAndFieldsHaveTheSameNames(t *testing.T) {
	o := newOptions()
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	o.bind(flags)
	var names, fields []string
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != "config" {
			names = append(names, f.Name)
		}
		if f.Usage == "" {
			t.Errorf("--%s is not explained", f.Name)
		}
	})
	for f := range reflect.TypeFor[options]().Fields() {
		if tag := f.Tag.Get("yaml"); tag != "-" {
			fields = append(fields, tag)
		}
	}
	slices.Sort(names)
	slices.Sort(fields)
	if !slices.Equal(names, fields) {
		t.Errorf("flags  %v\nfields %v", names, fields)
	}
}

// parsed is what a command line makes of the options.
func parsed(t *testing.T, args ...string) (*options, error) {
	t.Helper()
	o := newOptions()
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	o.bind(flags)
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	return o, o.load(flags)
}

func TestSampleFileIsComplete(t *testing.T) {
	o, err := parsed(t, "--config", "testdata/node.yaml")
	if err != nil {
		t.Fatal(err)
	}
	conf, err := o.member()
	if err != nil {
		t.Fatal(err)
	}
	if conf.Name != "m1" || conf.Advertise != "10.0.1.1:7400" || len(conf.Members) != 3 || conf.Members["m3"] != "10.0.1.3:7400" {
		t.Errorf("%+v", conf)
	}
	v := reflect.ValueOf(*o)
	for i, f := range reflect.VisibleFields(v.Type()) {
		if f.Name != "Advertise" && f.Name != "Config" && v.Field(i).IsZero() {
			t.Errorf("the sample does not show %s", f.Name)
		}
	}
}

func TestFlagsOverrideTheFile(t *testing.T) {
	o, err := parsed(t, "--config", "testdata/node.yaml", "--listen", "[::1]:7500", "--members", "m1=a:1,m2=b:2", "--log-level", "debug")
	if err != nil {
		t.Fatal(err)
	}
	if o.Listen != "[::1]:7500" || !slices.Equal(o.Members, []string{"m1=a:1", "m2=b:2"}) || o.LogLevel != "debug" || o.Name != "m1" {
		t.Errorf("%+v", o)
	}
}

func TestFileIsStrict(t *testing.T) {
	for text, want := range map[string]string{
		"nmae: m1\n":       "name",
		"name: [m1]\n":     "name",
		"name: m1\n---\n1": "document",
		"members: m1\n":    "members",
	} {
		path := filepath.Join(t.TempDir(), "node.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := parsed(t, "--config", path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "node.yaml") {
			t.Errorf("%q: %v, want the file and %q", text, err, want)
		}
	}
	if _, err := parsed(t, "--config", "testdata/none.yaml"); err == nil {
		t.Error("a missing file was accepted")
	}
}

func TestMistakesAreReportedTogether(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"name: must be set", "tls-ca: must be set", "members: must be set"}},
		{[]string{"--name", "m9", "--members", "m1=10.0.0.1:1,m2,m3=here,m1=10.0.0.2:2"},
			[]string{`members[1]: "m2" is not name=host:port`, `members[2]: "here" is not host:port`, `members[3]: "m1" is named twice`}},
		{[]string{"--name", "m9", "--members", "m1=10.0.0.1:1"}, []string{`does not name "m9"`}},
	} {
		o, err := parsed(t, tc.args...)
		if err != nil {
			t.Fatal(err)
		}
		_, err = o.member()
		for _, want := range tc.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: %v, want %q", tc.args, err, want)
			}
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help", "recover"}, {"version"}, {"--version"}} {
		var out bytes.Buffer
		if err := run(t.Context(), env{args: args, stdout: &out, stderr: &out}); err != nil || out.Len() == 0 {
			t.Errorf("%v: %v, %q", args, err, out.String())
		}
	}
	var out bytes.Buffer
	if err := run(t.Context(), env{args: []string{"extra"}, stdout: &out, stderr: &out}); err == nil {
		t.Error("an unknown command was accepted")
	}
}

// daemons run whole command lines.
type daemons struct {
	t       *testing.T
	ca      *pki.CA
	dir     string
	members string
	addrs   []string
}

func newDaemons(t *testing.T, n int) *daemons {
	ca, err := pki.NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	d := &daemons{t: t, ca: ca, dir: t.TempDir()}
	var list []string
	for i := range n {
		d.addrs = append(d.addrs, testaddr.New(t))
		list = append(list, fmt.Sprintf("m%d=%s", i+1, d.addrs[i]))
	}
	d.members = strings.Join(list, ",")
	return d
}

func (d *daemons) files(role string) pki.Files {
	d.t.Helper()
	r, err := pki.ParseRole(role)
	if err != nil {
		d.t.Fatal(err)
	}
	cert, key, err := d.ca.Issue(r, nil, time.Now(), time.Hour)
	if err != nil {
		d.t.Fatal(err)
	}
	base := filepath.Join(d.dir, r.Name)
	f := pki.Files{CA: filepath.Join(d.dir, "ca.crt"), Cert: base + ".crt", Key: base + ".key"}
	for path, data := range map[string][]byte{f.CA: d.ca.CertPEM(), f.Cert: cert, f.Key: key} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
	return f
}

// start runs the i-th member's command line; stop ends it and gives its error.
func (d *daemons) start(i int) (httpAddr string, stop func() error) {
	d.t.Helper()
	name := fmt.Sprintf("m%d", i+1)
	f := d.files("member/" + name)
	ctx, cancel := context.WithCancel(context.Background())
	listening := make(chan net.Addr, 1)
	ended := make(chan error, 1)
	var log syncBuffer
	go func() {
		ended <- run(ctx, env{
			args: []string{
				"--name", name, "--data-dir", filepath.Join(d.dir, name+".data"), "--listen", d.addrs[i], "--members", d.members,
				"--tls-ca", f.CA, "--tls-cert", f.Cert, "--tls-key", f.Key, "--http", "127.0.0.1:0", "--profile", "fast",
			},
			stdout: &log, stderr: &log, started: func(a net.Addr) { listening <- a },
		})
	}()
	d.t.Cleanup(func() {
		cancel()
		if d.t.Failed() {
			d.t.Logf("log of %s:\n%s", name, log.String())
		}
	})
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	select {
	case a := <-listening:
		return a.String(), stop
	case err := <-ended:
		d.t.Fatalf("%s: %v", name, err)
	}
	return "", nil
}

func (d *daemons) ready(httpAddr string) {
	d.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		resp, err := http.Get("http://" + httpAddr + "/readyz?caughtup")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			d.t.Fatal("not ready in time")
		}
	}
}

func (d *daemons) admin(i int) adminv1.AdminServiceClient {
	d.t.Helper()
	id, err := pki.NewReloader(d.files("admin/test"), nil)
	if err != nil {
		d.t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+d.addrs[i], grpc.WithTransportCredentials(transport.ClientCredentials(id)))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	return adminv1.NewAdminServiceClient(conn)
}

func TestOneMemberIsAGroup(t *testing.T) {
	d := newDaemons(t, 1)
	addr, stop := d.start(0)
	d.ready(addr)
	st, err := d.admin(0).Status(t.Context(), &adminv1.StatusRequest{})
	if err != nil || st.GetLeader() != "m1" || st.GetLeaseTimes().GetDetectionNanos() != int64(250*time.Millisecond) {
		t.Errorf("status: %v, %v", st, err)
	}
	if err := stop(); err != nil {
		t.Errorf("stopped: %v", err)
	}
}

// TestRecoverAfterTheMajorityIsLost: the one documented command.
func TestRecoverAfterTheMajorityIsLost(t *testing.T) {
	d := newDaemons(t, 3)
	var stops []func() error
	for i := range 3 {
		_, stop := d.start(i)
		stops = append(stops, stop)
	}
	pool := &adminv1.Resource{Kind: &adminv1.Resource_Pool{Pool: &logv1.Pool{Name: "p", Addresses: []string{"192.0.2.0/24"}}}}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := d.admin(0).Apply(t.Context(), &adminv1.ApplyRequest{Resources: []*adminv1.Resource{pool}})
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	command := []string{"recover", "--data-dir", filepath.Join(d.dir, "m1.data"), "--advertise", d.addrs[0], "--i-have-lost-the-majority"}
	if err := run(t.Context(), env{args: append(command, "m1"), stdout: &out, stderr: &out}); err == nil {
		t.Error("recovered a member that runs")
	}
	for i, stop := range stops {
		if err := stop(); err != nil {
			t.Errorf("m%d stopped: %v", i+1, err)
		}
	}
	if err := run(t.Context(), env{args: append(command, "m2"), stdout: &out, stderr: &out}); err == nil || !strings.Contains(err.Error(), "m1") {
		t.Errorf("recovered without confirmation: %v", err)
	}
	if err := run(t.Context(), env{args: append(command, "m1"), stdout: &out, stderr: &out}); err != nil {
		t.Fatalf("recover: %v", err)
	}
	addr, stop := d.start(0)
	d.ready(addr)
	got, err := d.admin(0).Get(t.Context(), &adminv1.GetRequest{Kinds: []string{"pools", "members"}})
	if err != nil || len(got.GetPools()) != 1 || len(got.GetMembers()) != 1 {
		t.Errorf("after the recovery: %v, %v", got, err)
	}
	// Another joins with an empty disk.
	if err := os.RemoveAll(filepath.Join(d.dir, "m2.data")); err != nil {
		t.Fatal(err)
	}
	second, stopSecond := d.start(1)
	d.ready(second)
	if got, err := d.admin(1).Get(t.Context(), &adminv1.GetRequest{Kinds: []string{"pools"}}); err != nil || len(got.GetPools()) != 1 {
		t.Errorf("the one that joined: %v, %v", got, err)
	}
	for _, s := range []func() error{stopSecond, stop} {
		if err := s(); err != nil {
			t.Errorf("stopped: %v", err)
		}
	}
}

// syncBuffer takes the log of a daemon.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
