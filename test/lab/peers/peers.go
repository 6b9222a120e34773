package peers

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
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
