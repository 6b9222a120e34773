package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/internal/testaddr"
)

// identity makes a CA and a certificate for a role.
func identity(t *testing.T, role pki.Role) pki.Files {
	t.Helper()
	dir := t.TempDir()
	if err := pki.Init(dir); err != nil {
		t.Fatal(err)
	}
	files, err := pki.Issue(dir, role, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func tlsFlags(f pki.Files) []string {
	return []string{"--tls-ca", f.CA, "--tls-cert", f.Cert, "--tls-key", f.Key}
}

func TestSampleIsRead(t *testing.T) {
	o, err := loadOptions([]string{"--node", "other", "--config", "testdata/speaker.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	cmd := newCommand(o, env{})
	if err := cmd.ParseFlags([]string{"--config", "testdata/speaker.yaml", "--node", "n2", "--gateways", "192.0.2.1", "--labels", "rack=7"}); err != nil {
		t.Fatal(err)
	}
	if o.Node != "n2" || !slices.Equal(o.Gateways, []string{"192.0.2.1"}) || o.Labels["rack"] != "7" {
		t.Errorf("flags do not override the file: %+v", o)
	}
	if len(o.Members) != 3 || o.GratuitousRate != 10 || !slices.Equal(o.Interfaces, []string{"eth0", "bond*"}) ||
		!slices.Equal(o.ExcludeInterfaces, []string{"^eth9$"}) || o.LogFormat != "json" {
		t.Errorf("file not read: %+v", o)
	}
}

func TestMistakesAreNamedTogether(t *testing.T) {
	file := filepath.Join(t.TempDir(), "speaker.yaml")
	if err := os.WriteFile(file, []byte("node: n1\ninterface: eth0\ngratuitous-rate: fast\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"flags":          {[]string{"--node", "n1", "--gateways", "x,192.0.2.1,y", "--gratuitous-rate", "0"}, []string{"members:", "tls-ca:", "gateways[0]", "gateways[2]", "gratuitous-rate"}},
		"file":           {[]string{"--config", file}, []string{file, "interface", "gratuitous-rate"}},
		"no file":        {[]string{"--config", file + "x"}, []string{file + "x"}},
		"unknown flag":   {[]string{"--nod", "n1"}, []string{"--nod"}},
		"argument":       {[]string{"n1"}, []string{"n1"}},
		"log level":      {[]string{"--node", "n1", "--log-level", "loud"}, []string{"loud"}},
		"no certificate": {[]string{"--node", "n1", "--members", "a:1", "--tls-ca", "a", "--tls-cert", "b", "--tls-key", "c"}, []string{"a: no such file"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := run(t.Context(), env{args: tc.args, stdout: io.Discard, stderr: io.Discard})
			if err == nil {
				t.Fatal("accepted")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not name %q", err, w)
				}
			}
		})
	}
}

func TestCertificateMustBeTheNodes(t *testing.T) {
	for _, role := range []pki.Role{{Kind: pki.KindSpeaker, Name: "n2"}, {Kind: pki.KindMember, Name: "n1"}} {
		args := append(tlsFlags(identity(t, role)), "--node", "n1", "--members", "127.0.0.1:1", "--state-dir", t.TempDir())
		err := run(t.Context(), env{args: args, stdout: io.Discard, stderr: io.Discard})
		if err == nil || !strings.Contains(err.Error(), "tls-cert") || !strings.Contains(err.Error(), "speaker/n1") {
			t.Errorf("role %v: %v", role, err)
		}
	}
}

func TestVersionAndHelp(t *testing.T) {
	for arg, want := range map[string]string{"version": "quorumlb-speaker ", "--help": "--gratuitous-rate"} {
		var out bytes.Buffer
		if err := run(t.Context(), env{args: []string{arg}, stdout: &out, stderr: &out}); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v, %q", arg, err, out.String())
		}
	}
}

// Without any member the speaker runs, says that it is not ready and why, and
// ends at once when it is told to.
func TestRunsWithoutMembers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("packet sockets need root")
	}
	started, ended := make(chan net.Addr, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	args := append(tlsFlags(identity(t, pki.Role{Kind: pki.KindSpeaker, Name: "n1"})),
		"--node", "n1", "--members", testaddr.New(t), "--state-dir", t.TempDir(), "--http", "127.0.0.1:0", "--interfaces", "none*")
	go func() {
		ended <- run(ctx, env{args: args, stdout: io.Discard, stderr: io.Discard, started: func(a net.Addr) { started <- a }})
	}()
	var at netip.AddrPort
	select {
	case a := <-started:
		at = a.(*net.TCPAddr).AddrPort()
	case err := <-ended:
		t.Fatal(err)
	}
	get := func(path string) (int, string) {
		resp, err := http.Get(fmt.Sprintf("http://%v%s", at, path))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if code, body := get("/livez"); code != http.StatusOK {
		t.Errorf("/livez %d %s", code, body)
	}
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "no session with the members") {
		t.Errorf("/readyz %d %s", code, body)
	}
	for _, metric := range []string{
		`quorumlb_speaker_frames_sent_total{kind="arp_reply"} 0`, `quorumlb_speaker_frames_received_total{protocol="ndp",verdict="replied"} 0`,
		`quorumlb_speaker_vips{state="proven"} 0`, "quorumlb_speaker_confirmation_seconds", "quorumlb_speaker_session 0",
	} {
		if _, body := get("/metrics"); !strings.Contains(body, metric) {
			t.Errorf("/metrics does not have %s", metric)
		}
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("does not end")
	}
}
