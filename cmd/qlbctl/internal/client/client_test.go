package client

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/internal/pki"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
)

// soon is what a call may take that does not wait for anything slow.
const soon = 3 * time.Second

var certs string // directory of the identities

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "qlbctl-client-")
	if err != nil {
		panic(err)
	}
	certs = dir
	err = pki.Init(dir)
	for _, r := range []pki.Role{{Kind: pki.KindMember, Name: "m1"}, {Kind: pki.KindAdmin, Name: "alice"}} {
		_, more := pki.Issue(dir, r, nil, time.Hour)
		err = errors.Join(err, more)
	}
	if err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func files(base string) pki.Files {
	dir := certs
	return pki.Files{CA: filepath.Join(dir, pki.CACertFile), Cert: filepath.Join(dir, base+".crt"), Key: filepath.Join(dir, base+".key")}
}

// member answers Version by what is planned.
type member struct {
	adminv1.UnimplementedAdminServiceServer
	addr  string
	calls atomic.Int32
	// answer is asked with the number of the call, from 1.
	answer func(ctx context.Context, call int32) error
}

func (m *member) Version(ctx context.Context, _ *adminv1.VersionRequest) (*adminv1.VersionResponse, error) {
	if err := m.answer(ctx, m.calls.Add(1)); err != nil {
		return nil, err
	}
	return &adminv1.VersionResponse{Version: m.addr}, nil
}

func startMember(t *testing.T, answer func(context.Context, int32) error) *member {
	t.Helper()
	identity, err := pki.NewReloader(files("member-m1"), nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &member{addr: l.Addr().String(), answer: answer}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServerTLS("h2"))))
	adminv1.RegisterAdminServiceServer(s, m)
	go s.Serve(l) // ends with Stop
	t.Cleanup(s.Stop)
	return m
}

func fine(context.Context, int32) error { return nil }

// mute is a machine that accepts connections and never says a word.
func mute(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

func newClient(t *testing.T, timeout time.Duration, endpoints ...string) *Client {
	t.Helper()
	c, err := New(Config{Endpoints: endpoints, TLS: files("admin-alice"), Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// ask calls Version and gives the address of the member that answered.
func ask(t *testing.T, c *Client) (string, error) {
	t.Helper()
	var who string
	err := c.Call(t.Context(), func(ctx context.Context, api adminv1.AdminServiceClient) error {
		resp, err := api.Version(ctx, &adminv1.VersionRequest{})
		who = resp.GetVersion()
		return err
	})
	return who, err
}

func TestCallGoesRoundWhatIsDown(t *testing.T) {
	good := startMember(t, fine)
	for name, bad := range map[string]string{"refused": "127.0.0.1:1", "mute": mute(t), "unknown": "no-such-host.invalid:1"} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, 20*time.Second, bad, good.addr)
			start := time.Now()
			who, err := ask(t, c)
			if err != nil || who != good.addr || c.Member() != good.addr {
				t.Fatalf("%s answered, %v", who, err)
			}
			if took := time.Since(start); took > soon {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestCallGoesOnWhenAMemberCannotServe(t *testing.T) {
	down := startMember(t, func(context.Context, int32) error { return status.Error(codes.Unavailable, "no leader") })
	good := startMember(t, fine)
	c := newClient(t, 20*time.Second, down.addr, good.addr)
	if who, err := ask(t, c); err != nil || who != good.addr {
		t.Fatalf("%s answered, %v", who, err)
	}
	// The connection is kept.
	if who, err := ask(t, c); err != nil || who != good.addr || down.calls.Load() != 1 {
		t.Errorf("%s answered, %v; the other was asked %d times", who, err, down.calls.Load())
	}
}

// An election takes less time than a person would to repeat the command.
func TestCallWaitsForALeader(t *testing.T) {
	m := startMember(t, func(_ context.Context, call int32) error {
		if call < 3 {
			return status.Error(codes.Unavailable, "no leader")
		}
		return nil
	})
	if who, err := ask(t, newClient(t, 20*time.Second, m.addr)); err != nil || who != m.addr {
		t.Errorf("%s answered, %v", who, err)
	}
}

func TestCallLeavesTimeForAnother(t *testing.T) {
	hangs := startMember(t, func(ctx context.Context, _ int32) error { <-ctx.Done(); return ctx.Err() })
	good := startMember(t, fine)
	if who, err := ask(t, newClient(t, 4*time.Second, hangs.addr, good.addr)); err != nil || who != good.addr {
		t.Errorf("%s answered, %v", who, err)
	}
}

func TestCallEndsInTime(t *testing.T) {
	hangs := startMember(t, func(ctx context.Context, _ int32) error { <-ctx.Done(); return ctx.Err() })
	silent := mute(t)
	for name, ep := range map[string]string{"hangs": hangs.addr, "mute": silent} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := ask(t, newClient(t, 300*time.Millisecond, ep))
			if err == nil {
				t.Fatal("answered")
			}
			if took := time.Since(start); took > soon {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestCallEndsWhenInterrupted(t *testing.T) {
	c := newClient(t, 20*time.Second, mute(t))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	err := c.Call(ctx, func(context.Context, adminv1.AdminServiceClient) error { return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("have %v", err)
	}
}

func TestRefusalIsNotTriedAgain(t *testing.T) {
	m := startMember(t, func(context.Context, int32) error { return status.Error(codes.InvalidArgument, "no") })
	_, err := ask(t, newClient(t, 20*time.Second, m.addr, m.addr))
	if status.Code(err) != codes.InvalidArgument || m.calls.Load() != 1 {
		t.Errorf("%v after %d calls", err, m.calls.Load())
	}
}

func TestUnreachableNamesEveryEndpoint(t *testing.T) {
	start := time.Now()
	_, err := ask(t, newClient(t, 20*time.Second, "127.0.0.1:1", "no-such-host.invalid:1"))
	var u *Unreachable
	if !errors.As(err, &u) || u.Timeout {
		t.Fatalf("have %v", err)
	}
	for _, want := range []string{"127.0.0.1:1: connection refused (is quorumlb-node running there?)", "no-such-host.invalid:1: the name"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwants %s", err, want)
		}
	}
	if took := time.Since(start); took > soon {
		t.Errorf("took %v although nobody is there", took)
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := files("admin-alice")
	for name, cfg := range map[string]Config{
		"no endpoint": {TLS: good}, "no port": {Endpoints: []string{"host"}, TLS: good}, "empty port": {Endpoints: []string{"host:"}, TLS: good},
		"no key": {Endpoints: []string{"host:1"}, TLS: pki.Files{CA: good.CA, Cert: good.Cert}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
