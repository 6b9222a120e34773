package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// Programs of the project.
const (
	nodeProgram    = "quorumlb-node"
	speakerProgram = "quorumlb-speaker"
	ctlProgram     = "qlbctl"
)

var built struct {
	once sync.Once
	dir  string
	err  error
}

// Build builds the three programs, once in the life of this process, and gives
// the directory that they are in. QUORUMLB_BIN names a directory with programs
// that are used as they are.
func Build(ctx context.Context) (dir string, err error) {
	built.once.Do(func() { built.dir, built.err = build(ctx) })
	return built.dir, built.err
}

func build(ctx context.Context) (string, error) {
	if dir := os.Getenv("QUORUMLB_BIN"); dir != "" {
		return filepath.Abs(dir)
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	return buildInto(ctx, root, filepath.Join(root, ".cache", "lab", "bin"))
}

// BuildWith builds the programs with build tags, which no released program has,
// and gives the directory that they are in.
func BuildWith(ctx context.Context, tags string) (dir string, err error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	return buildInto(ctx, root, filepath.Join(root, ".cache", tags, "bin"), "-tags", tags)
}

func buildInto(ctx context.Context, root, dir string, flags ...string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	args := append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", dir + "/"}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/"+nodeProgram, "./cmd/"+speakerProgram, "./cmd/"+ctlProgram)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return dir, nil
}

// moduleRoot is the directory of go.mod, found upwards from here.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod found: run it in the project's tree")
		}
	}
}
