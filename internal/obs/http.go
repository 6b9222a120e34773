package obs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/quorumlb/quorumlb/internal/version"
)

// NewRegistry makes a registry with the process' and the Go runtime's metrics
// and quorumlb_build_info{program,version} 1.
func NewRegistry(program string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "quorumlb_build_info",
		Help:        "Always 1; the labels tell which program and version this is.",
		ConstLabels: prometheus.Labels{"program": program, "version": version.String()},
	})
	info.Set(1)
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		info,
	)
	return reg
}

// Checks answer the probes. A nil function is always well. An error's text is
// the body of the answer, so it says what is missing.
type Checks struct {
	// Live fails only when a restart of the process would help.
	Live func() error
	// Ready fails when the daemon cannot do its work now.
	Ready func() error
	// CaughtUp, asked for by /readyz?caughtup, fails as well while the daemon is
	// behind: a rolling upgrade waits for it before it takes the next.
	CaughtUp func() error
}

// Handler serves /metrics, /livez and /readyz.
func Handler(reg *prometheus.Registry, checks Checks) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, checks.Live)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("caughtup") {
			answer(w, checks.Ready, checks.CaughtUp)
			return
		}
		answer(w, checks.Ready)
	})
	return mux
}

func answer(w http.ResponseWriter, checks ...func() error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	for _, check := range checks {
		if check == nil {
			continue
		}
		if err := check(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, err)
			return
		}
	}
	fmt.Fprintln(w, "ok")
}

// Server is the HTTP server as a task.
type Server struct {
	listener net.Listener
	handler  http.Handler
	log      *slog.Logger
	serving  atomic.Bool
}

// NewServer serves handler on listener once it runs. Run closes the listener.
func NewServer(listener net.Listener, handler http.Handler, log *slog.Logger) *Server {
	return &Server{listener: listener, handler: handler, log: log}
}

// Times that a client of the HTTP server may take.
const (
	httpReadTimeout  = 5 * time.Second
	httpWriteTimeout = 30 * time.Second
	httpCloseTimeout = time.Second
)

// Run serves until ctx is cancelled.
func (s *Server) Run(ctx context.Context) error {
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: httpReadTimeout,
		ReadTimeout:       httpReadTimeout,
		WriteTimeout:      httpWriteTimeout,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	eg, ectx := errgroup.WithContext(ctx)
	eg.Go(func() error {
		s.serving.Store(true)
		defer s.serving.Store(false)
		if err := srv.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve http on %s: %w", s.listener.Addr(), err)
		}
		return nil
	})
	eg.Go(func() error {
		<-ectx.Done()
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), httpCloseTimeout)
		defer cancel()
		if err := srv.Shutdown(closing); err != nil {
			return srv.Close()
		}
		return nil
	})
	return eg.Wait()
}

// Ready tells whether requests are accepted.
func (s *Server) Ready() bool { return s.serving.Load() }

// String names the server.
func (s *Server) String() string { return "http " + s.listener.Addr().String() }
