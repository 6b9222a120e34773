package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/quorumlb/quorumlb/raftnode/raftlog"
)

// Names in the data directory.
const (
	lockFile     = "LOCK"
	identityFile = "identity.json"
	clusterFile  = "cluster"
	admittedFile = "admitted"
	logFile      = "raft.db"
	snapshotDir  = "snapshots"
	tmpSuffix    = ".tmp"
)

// initialMmap lets the log grow to this many bytes without a remap, which would
// wait for all readers. It costs address space, not memory.
const initialMmap = 256 << 20

// cacheEntries are kept in memory for replication and apply. An entry may hold
// hundreds of events, so there are not many.
const cacheEntries = 512

// DefaultSlowAppend is how long an append may take before it is reported.
const DefaultSlowAppend = time.Second

// ErrLocked means that another process uses the data directory.
var ErrLocked = errors.New("the data directory is in use by another process")

// Options of a Store.
type Options struct {
	// Logger takes messages of the stores; nil discards them.
	Logger *slog.Logger
	// Snapshots is how many are kept, at least; 0 means 5. The one after which
	// the log starts is kept in any case.
	Snapshots int
	// SlowAppend is how long a write may take before OnSlow is called; 0 means
	// DefaultSlowAppend.
	SlowAppend time.Duration
	// OnSlow is called, in a goroutine of its own, while a write has been hanging
	// for SlowAppend, with its age, and again every quarter of that until the
	// write ends. It may be nil.
	OnSlow func(time.Duration)
	// OnBroken is called once when a term or a vote cannot be written. Raft does
	// not go on after that; the owner must stop the member. It may be nil.
	OnBroken func(error)
}

// Store is an open data directory. Its methods are safe for concurrent use.
type Store struct {
	dir   string
	opts  Options
	lock  *os.File
	bolt  *raftboltdb.BoltStore
	cache *raft.LogCache
	snaps *Snapshots
	watch *watch

	mu       sync.Mutex
	identity Identity
	cluster  [16]byte
	admitted bool
	closed   bool
}

// Open opens a data directory, made if it does not exist, and locks it. It
// fails with ErrLocked if another process has it.
func Open(dir string, opts Options) (_ *Store, err error) {
	if opts.Snapshots <= 0 {
		opts.Snapshots = 5
	}
	if opts.SlowAppend <= 0 {
		opts.SlowAppend = DefaultSlowAppend
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(filepath.Join(dir, snapshotDir), 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	s := &Store{dir: dir, opts: opts, watch: newWatch(opts.SlowAppend, opts.OnSlow)}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if s.lock, err = lockDir(filepath.Join(dir, lockFile)); err != nil {
		return nil, err
	}
	if err := s.loadIdentity(); err != nil {
		return nil, err
	}
	if err := removeLeftovers(dir); err != nil {
		return nil, err
	}
	if s.bolt, err = openBolt(filepath.Join(dir, logFile)); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if s.snaps, err = openSnapshots(dir, opts.Snapshots, s.bolt.FirstIndex, raftlog.New(opts.Logger, "snapshots")); err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	logs := &logStore{bolt: s.bolt, watch: s.watch, anchor: s.snaps.anchor}
	if s.cache, err = raft.NewLogCache(cacheEntries, logs); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return s, syncDir(dir)
}

// Dir is the data directory.
func (s *Store) Dir() string { return s.dir }

// Logs is Raft's log.
func (s *Store) Logs() raft.LogStore { return s.cache }

// Stable is where Raft keeps its term and vote.
func (s *Store) Stable() raft.StableStore {
	return &stableStore{BoltStore: s.bolt, watch: s.watch, broken: s.opts.OnBroken}
}

// Snapshots is where Raft keeps its snapshots.
func (s *Store) Snapshots() *Snapshots { return s.snaps }

// HasState tells whether the member has ever taken part in a group: it has a
// term, a log entry or a snapshot.
func (s *Store) HasState() (bool, error) {
	has, err := raft.HasExistingState(s.cache, s.bolt, s.snaps)
	if err != nil {
		return false, fmt.Errorf("read data directory: %w", err)
	}
	return has, nil
}

// SlowestAppend gives the duration of the slowest write since the last call;
// one that still runs counts with its age.
func (s *Store) SlowestAppend() time.Duration { return s.watch.take() }

// ProbeDisk writes a file beside the log, waits until it is on the disk, and says
// how long that took. A member that has nothing to append knows by it whether its
// disk works.
func (s *Store) ProbeDisk() (took time.Duration, err error) {
	start := time.Now()
	f, err := os.CreateTemp(s.dir, "probe*"+tmpSuffix)
	if err != nil {
		return 0, fmt.Errorf("probe the disk: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write([]byte("probe"))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return 0, fmt.Errorf("probe the disk: %w", err)
	}
	return time.Since(start), nil
}

// LogSize is the size of the log file in bytes.
func (s *Store) LogSize() (int64, error) {
	st, err := os.Stat(filepath.Join(s.dir, logFile))
	if err != nil {
		return 0, fmt.Errorf("log size: %w", err)
	}
	return st.Size(), nil
}

// Close releases the directory. Raft must have been shut down before.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var errs []error
	if s.bolt != nil {
		errs = append(errs, s.bolt.Close())
	}
	if s.lock != nil {
		// Closing the file releases the lock.
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// lockDir takes the lock of a directory. The file stays; its content tells a
// person who had it last.
func lockDir(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := make([]byte, 32)
		n, _ := f.ReadAt(holder, 0)
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s (process %s)", ErrLocked, filepath.Dir(path), strings.TrimSpace(string(holder[:n])))
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}

// removeLeftovers removes what a crash left half written.
func removeLeftovers(dir string) error {
	for _, pattern := range []string{"*" + tmpSuffix, filepath.Join(snapshotDir, "*"+tmpSuffix)} {
		left, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return fmt.Errorf("look for leftovers: %w", err)
		}
		for _, path := range left {
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("remove leftover: %w", err)
			}
		}
	}
	return nil
}

func openBolt(path string) (*raftboltdb.BoltStore, error) {
	s, err := raftboltdb.New(raftboltdb.Options{
		Path: path,
		BoltOptions: &bbolt.Options{
			Timeout: time.Second,
			// Otherwise every commit rewrites the whole list of free pages.
			NoFreelistSync:  true,
			FreelistType:    bbolt.FreelistMapType,
			InitialMmapSize: initialMmap,
			NoStatistics:    true,
		},
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, ErrLocked
	}
	return s, err
}
