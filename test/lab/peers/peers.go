package peers

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
)

// ErrMissing says that a program is not installed.
var ErrMissing = errors.New("not installed")

// find looks for a program where Debian puts it, too.
func find(program, debian string) (string, error) {
	for _, name := range []string{program, filepath.Join("/usr/sbin", program), filepath.Join("/sbin", program)} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w (apt-get install %s)", program, ErrMissing, debian)
}

// KeepalivedVersion is what the installed keepalived says; "" without one.
func KeepalivedVersion(ctx context.Context) string {
	return version(ctx, "keepalived", "keepalived")
}

// EtcdVersion is what the installed etcd says; "" without one.
func EtcdVersion(ctx context.Context) string {
	return version(ctx, "etcd", "etcd-server")
}

var versionWord = regexp.MustCompile(`\d+\.\d+\.\d+`)

func version(ctx context.Context, program, debian string) string {
	path, err := find(program, debian)
	if err != nil {
		return ""
	}
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return ""
	}
	return string(versionWord.Find(out))
}
