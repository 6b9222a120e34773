package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/quorumlb/quorumlb/test/lab/peers"
)

// setup is what a result was measured with.
type setup struct {
	Version    string `json:"version"` // of QuorumLB
	Go         string `json:"go"`
	Kernel     string `json:"kernel"`
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	MemoryMB   int64  `json:"memory_mb"`
	Keepalived string `json:"keepalived,omitempty"`
	Etcd       string `json:"etcd,omitempty"`
}

// result is what one part measured: raw samples, so that any table or plot can be
// made of them later. Times are in seconds, sizes in bytes.
type result struct {
	Part    string    `json:"part"`
	Setup   setup     `json:"setup"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	// Want is how many samples of each kind were asked for.
	Want int `json:"want"`
	// Load is the highest load average (1 minute) seen.
	Load float64 `json:"load,omitempty"`
	// Error is why the part ended before it had them.
	Error   string               `json:"error,omitempty"`
	Samples map[string][]float64 `json:"samples"`
	// Curves are samples over something else: time, clients.
	Curves map[string][]point `json:"curves,omitempty"`
	// Texts are what is no number.
	Texts map[string]string `json:"texts,omitempty"`
}

// point is x and y.
type point [2]float64

// count is the number of samples of the kind that has the most.
func (r *result) count() (n int) {
	for _, s := range r.Samples {
		n = max(n, len(s))
	}
	return n
}

// get gives the samples of a kind.
func (r *result) get(kind string) samples {
	if r == nil {
		return nil
	}
	return r.Samples[kind]
}

func resultFile(dir, part string) string { return filepath.Join(dir, part+".json") }

func loadResult(dir, part string) (*result, error) {
	raw, err := os.ReadFile(resultFile(dir, part))
	if err != nil {
		return nil, err
	}
	r := &result{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("%s: %w", resultFile(dir, part), err)
	}
	return r, nil
}

// recorder writes a part's result, after every sample.
type recorder struct {
	*result
	o        options
	progress io.Writer
	began    bool
}

// newRecorder goes on with the part's last result, if it was measured with the same
// build on the same machine.
func newRecorder(o options, part string, s setup, progress io.Writer) *recorder {
	r := &recorder{o: o, progress: progress}
	old, err := loadResult(o.results, part)
	switch {
	case err == nil && old.Setup == s && !o.again:
		r.result, r.began = old, true
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		fmt.Fprintf(progress, "  %v: measuring anew\n", err)
	}
	if r.result == nil {
		r.result = &result{Part: part, Setup: s, Samples: map[string][]float64{}}
	}
	return r
}

// complete tells whether there is nothing left to measure.
func (r *recorder) complete() bool {
	return r.began && r.Error == "" && !r.Ended.IsZero() && r.Want >= r.o.repeats
}

// clear forgets what an earlier run has measured, for parts that measure all or nothing.
func (r *recorder) clear() {
	r.Samples, r.Curves, r.Texts = map[string][]float64{}, nil, nil
}

// add records one sample of several kinds.
func (r *recorder) add(sample map[string]float64) error {
	for kind, v := range sample {
		r.Samples[kind] = append(r.Samples[kind], v)
	}
	return r.save()
}

// curve records a point of a curve.
func (r *recorder) curve(name string, x, y float64) {
	if r.Curves == nil {
		r.Curves = map[string][]point{}
	}
	r.Curves[name] = append(r.Curves[name], point{x, y})
}

func (r *recorder) text(name, value string) {
	if r.Texts == nil {
		r.Texts = map[string]string{}
	}
	r.Texts[name] = value
}

// say tells whoever waits.
func (r *recorder) say(format string, args ...any) {
	fmt.Fprintf(r.progress, "  "+format+"\n", args...)
}

func (r *recorder) save() error {
	if r.Started.IsZero() {
		r.Started = time.Now().UTC().Truncate(time.Second)
	}
	r.Load = max(r.Load, loadAverage())
	raw, err := json.MarshalIndent(r.result, "", " ")
	if err != nil {
		return err
	}
	path := resultFile(r.o.results, r.Part)
	return errors.Join(os.WriteFile(path+".new", raw, 0o644), os.Rename(path+".new", path))
}

// end records that the part has ended, and how.
func (r *recorder) end(err error) error {
	r.Ended, r.Want, r.Error = time.Now().UTC().Truncate(time.Second), r.o.repeats, ""
	if err != nil {
		r.Error = err.Error()
	}
	return r.save()
}

// describe says what is measured, and on what.
func describe(ctx context.Context, bin string) (setup, error) {
	s := setup{Go: runtime.Version(), Cores: runtime.NumCPU(), Kernel: kernel(), CPU: fieldOf("/proc/cpuinfo", "model name")}
	if kb := strings.Fields(fieldOf("/proc/meminfo", "MemTotal")); len(kb) > 0 {
		_, _ = fmt.Sscan(kb[0], &s.MemoryMB)
		s.MemoryMB >>= 10
	}
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "quorumlb-node"), "version").Output()
	if err != nil {
		return s, fmt.Errorf("version of quorumlb-node: %w", err)
	}
	if words := strings.Fields(string(out)); len(words) > 1 {
		s.Version = words[1]
	}
	s.Keepalived, s.Etcd = peers.KeepalivedVersion(ctx), peers.EtcdVersion(ctx)
	return s, nil
}

// fieldOf reads "name : value" from a file of /proc.
func fieldOf(path, name string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(raw)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func loadAverage() (load float64) {
	raw, _ := os.ReadFile("/proc/loadavg")
	_, _ = fmt.Sscan(string(raw), &load)
	return load
}

func kernel() string {
	var u syscall.Utsname
	if syscall.Uname(&u) != nil {
		return "?"
	}
	var b strings.Builder
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}
