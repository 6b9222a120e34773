package lab

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Options of a lab. The zero value is good.
type Options struct {
	// Dir holds logs, data and certificates; a new directory under os.TempDir
	// that Close removes when empty.
	Dir string
	// KeepDir keeps the directory on Close (logs of failed runs).
	KeepDir bool
	// Log gets what the lab does; discarded when nil.
	Log *slog.Logger
}

// Lab is one data centre. Its methods may be called from any goroutine.
type Lab struct {
	prefix string // of all names: qlab-<pid>-<start time>-<count>
	dir    string
	log    *slog.Logger

	mu       sync.Mutex
	keepDir  bool
	closed   bool
	switches []*Switch
	hosts    []*Host
	mounts   []string
	names    map[MAC]string // of every interface ever plugged
}

var labCount atomic.Int64

// New removes what dead runs left behind and makes an empty lab.
func New(opts Options) (*Lab, error) {
	if err := canMakeNamespaces(); err != nil {
		return nil, err
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	for _, gone := range Sweep() {
		opts.Log.Info("removed a leftover of a dead run", "what", gone)
	}
	id, err := thisProcess()
	if err != nil {
		return nil, err
	}
	l := &Lab{
		prefix:  fmt.Sprintf("%s%s-%d", namePrefix, id, labCount.Add(1)),
		log:     opts.Log,
		keepDir: opts.KeepDir,
		names:   map[MAC]string{},
	}
	l.dir = opts.Dir
	if l.dir == "" {
		l.dir = filepath.Join(os.TempDir(), l.prefix)
	}
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return nil, err
	}
	return l, nil
}

// Dir holds the lab's files.
func (l *Lab) Dir() string { return l.dir }

// KeepDir makes Close leave the directory behind.
func (l *Lab) KeepDir() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keepDir = true
}

// NameOf says whose interface has the MAC: "n1", or the MAC itself.
func (l *Lab) NameOf(mac MAC) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if name, ok := l.names[mac]; ok {
		return name
	}
	return mac.String()
}

// Close removes everything. It may be called more than once.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	hosts, switches, mounts, keep := l.hosts, l.switches, l.mounts, l.keepDir
	l.mu.Unlock()

	var errs []error
	for _, h := range hosts {
		errs = append(errs, h.close())
	}
	for _, s := range switches {
		errs = append(errs, s.close())
	}
	for _, m := range mounts {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m, err))
		}
	}
	if !keep {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(errs...)
}

// SmallDisk mounts a tmpfs of so many bytes at dir/name and returns its path:
// a disk that can be filled.
func (l *Lab) SmallDisk(name string, bytes int64) (string, error) {
	path := filepath.Join(l.dir, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", err
	}
	if err := unix.Mount("qlab", path, "tmpfs", 0, fmt.Sprintf("size=%d,mode=755", bytes)); err != nil {
		return "", fmt.Errorf("mount tmpfs on %s: %w", path, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mounts = append(l.mounts, path)
	return path, nil
}

// FillDisk takes all free space below dir and returns a function that gives it back.
func FillDisk(dir string) (free func() error, err error) {
	f, err := os.CreateTemp(dir, "ballast")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	for len(block) > 0 {
		if _, err := f.Write(block); errors.Is(err, unix.ENOSPC) {
			block = block[:len(block)/2] // the last bytes too
		} else if err != nil {
			return nil, errors.Join(err, os.Remove(f.Name()))
		}
	}
	return func() error { return os.Remove(f.Name()) }, nil
}

// MAC is a link-layer address that can be a map key.
type MAC [6]byte

// String writes it in the usual form.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }
