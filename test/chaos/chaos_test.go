package chaos

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// TestChaos is a short run with a fresh seed, or what `make chaos` asks for.
func TestChaos(t *testing.T) {
	lab.Require(t)
	o := options(t)
	t.Logf("seed %d: repeat with: make chaos SEED=%d TIME=%v", o.Seed, o.Seed, o.Time)
	res, err := Run(t.Context(), o)
	if res != nil {
		if err := res.Write(o.Dir); err != nil {
			t.Error(err)
		}
		for _, d := range res.Distributions {
			t.Logf("%-32s %3d faults %4d gaps  p50 %8v  p90 %8v  max %8v", d.Class, d.Faults, d.Gaps,
				d.P50.Round(time.Millisecond), d.P90.Round(time.Millisecond), d.Max.Round(time.Millisecond))
		}
		for _, n := range res.Notes {
			t.Log(n)
		}
		for _, v := range res.Violations {
			t.Error(v)
		}
		t.Logf("%d faults, %d operations (%d of unknown outcome), history %s, %d claims judged, report in %s",
			res.Faults, sum(res.Operations), res.Unknown, res.Linearizable.Result, res.Frames, o.Dir)
	}
	if err != nil {
		t.Error(err)
	}
	if t.Failed() {
		t.Logf("repeat with: make chaos SEED=%d TIME=%v; logs, captures and report are in %s", o.Seed, o.Time, o.Dir)
	}
}

// options come from the environment, as make chaos sets it.
func options(t *testing.T) Options {
	t.Helper()
	o := Options{Seed: uint64(time.Now().UnixNano()), Time: 3 * time.Minute, Progress: t.Logf}
	var err error
	if s := os.Getenv("QUORUMLB_CHAOS_SEED"); s != "" {
		if o.Seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	if s := os.Getenv("QUORUMLB_CHAOS_TIME"); s != "" {
		if o.Time, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	if s := os.Getenv("QUORUMLB_CHAOS_FAULTS"); s != "" {
		o.Faults = Named(Faults(), strings.Split(s, ","))
	}
	if s := os.Getenv("QUORUMLB_CHAOS_TOGETHER"); s != "" {
		if o.Together, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	o.Keep = os.Getenv("QUORUMLB_CHAOS_KEEP") != ""
	o.LogLevel = os.Getenv("QUORUMLB_CHAOS_LOG")
	o.Dir = os.Getenv("QUORUMLB_CHAOS_DIR")
	if o.Dir == "" { // not t.TempDir: a failed run's files are to be looked at
		o.Dir = filepath.Join("..", "..", ".cache", "chaos", strconv.FormatUint(o.Seed, 10))
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return o
}
