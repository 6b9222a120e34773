package obs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/internal/obs"
)

func TestNewLogger(t *testing.T) {
	var out bytes.Buffer
	log, err := obs.NewLogger(&out, "warn", "json")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("hidden")
	log.Warn("shown", obs.KeyNode, "n1")
	if got := out.String(); strings.Contains(got, "hidden") || !strings.Contains(got, `"node":"n1"`) {
		t.Errorf("log = %q", got)
	}
	if _, err := obs.NewLogger(&out, "loud", ""); err == nil || !strings.Contains(err.Error(), "loud") {
		t.Errorf("unknown level: %v", err)
	}
	if _, err := obs.NewLogger(&out, "info", "xml"); err == nil || !strings.Contains(err.Error(), "xml") {
		t.Errorf("unknown format: %v", err)
	}
}

func TestHandler(t *testing.T) {
	behind := errors.New("37 revisions behind")
	h := obs.Handler(obs.NewRegistry("test"), obs.Checks{CaughtUp: func() error { return behind }})
	for _, tc := range []struct {
		path string
		code int
		body string
	}{
		{"/livez", http.StatusOK, "ok"},
		{"/readyz", http.StatusOK, "ok"},
		{"/readyz?caughtup", http.StatusServiceUnavailable, "37 revisions behind"},
		{"/metrics", http.StatusOK, `quorumlb_build_info{program="test"`},
		{"/else", http.StatusNotFound, ""},
	} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, tc.path, nil))
		if rec.Code != tc.code || !strings.Contains(rec.Body.String(), tc.body) {
			t.Errorf("%s: %d %.80q, want %d %q", tc.path, rec.Code, rec.Body, tc.code, tc.body)
		}
	}
}

func TestPprofOnlyWhenAskedFor(t *testing.T) {
	h := obs.Handler(obs.NewRegistry("test"), obs.Checks{})
	for _, tc := range []struct {
		handler http.Handler
		path    string
		code    int
	}{
		{h, "/debug/pprof/heap", http.StatusNotFound},
		{obs.WithPprof(h), "/debug/pprof/heap", http.StatusOK},
		{obs.WithPprof(h), "/livez", http.StatusOK},
	} {
		rec := httptest.NewRecorder()
		tc.handler.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, tc.path, nil))
		if rec.Code != tc.code {
			t.Errorf("%s: %d, want %d", tc.path, rec.Code, tc.code)
		}
	}
}

func TestServerEndsWithItsContext(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := obs.NewServer(ln, obs.Handler(obs.NewRegistry("test"), obs.Checks{}), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()

	resp, err := http.Get("http://" + ln.Addr().String() + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(body) != "ok\n" || !srv.Ready() {
		t.Errorf("body %q, ready %v", body, srv.Ready())
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run() = %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Run did not end")
	}
}
