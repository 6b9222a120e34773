package storage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func open(t *testing.T, dir string, opts Options) *Store {
	t.Helper()
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestIdentityIsWrittenOnce(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	if id, ok := s.Identity(); ok {
		t.Fatalf("an empty directory has the identity %v", id)
	}
	want := FoundingIdentity("m1")
	for range 2 {
		if err := s.SetIdentity(want); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetIdentity(JoiningIdentity("m1")); !errors.Is(err, ErrOtherName) {
		t.Fatalf("changed the identity: %v", err)
	}
	if !s.Admitted() {
		t.Fatal("a founder is not admitted")
	}
	cluster := [16]byte{1, 2, 3}
	if err := s.SetClusterID(cluster); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	if id, ok := s.Identity(); !ok || id != want {
		t.Fatalf("read back %v, %v", id, ok)
	}
	if id, ok := s.ClusterID(); !ok || id != cluster {
		t.Fatalf("read back %x, %v", id, ok)
	}
	if err := s.SetClusterID([16]byte{9}); !errors.Is(err, ErrOtherCluster) {
		t.Fatalf("changed the cluster: %v", err)
	}
}

func TestJoiningIdentityIsNew(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		id := JoiningIdentity("m1")
		if seen[id.ID] || id.ID == "m1" || MemberName(id.ID) != "m1" {
			t.Fatalf("id %q", id.ID)
		}
		seen[id.ID] = true
	}
}

func TestAdmissionIsRemembered(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	if err := s.SetIdentity(JoiningIdentity("m1")); err != nil {
		t.Fatal(err)
	}
	if s.Admitted() {
		t.Fatal("admitted before anybody was asked")
	}
	for range 2 {
		if err := s.SetAdmitted(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s = open(t, dir, Options{}); !s.Admitted() {
		t.Fatal("forgotten")
	}
}

func TestBadIdentities(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	for _, id := range []Identity{{}, {"a.b", "a.b"}, {"M1", "M1"}, {"m1", "m2"}, {"m1", "m1x.2"}, {"-", "-"}, {strings.Repeat("a", 64), strings.Repeat("a", 64)}} {
		if err := s.SetIdentity(id); !errors.Is(err, ErrBadName) {
			t.Errorf("%v: %v, want ErrBadName", id, err)
		}
	}
	for name, content := range map[string]string{identityFile: `{"name":"m1","id":"m2"}`, clusterFile: "zz"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Open(dir, Options{}); err == nil {
			_ = s.Close()
			t.Errorf("opened a directory whose %s is %q", name, content)
		}
	}
}

func TestOneProcessPerDirectory(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	// flock is per open file, so the same process is refused just as well.
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Fatalf("second Open: %v, want ErrLocked with the process id", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir, Options{})
}

func TestLeftoversAreRemoved(t *testing.T) {
	dir := t.TempDir()
	half := filepath.Join(dir, snapshotDir, "2-10-123"+tmpSuffix)
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, identityFile+tmpSuffix), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir, Options{})
	if left, _ := filepath.Glob(filepath.Join(dir, "*"+tmpSuffix)); len(left) > 0 {
		t.Fatalf("left: %v", left)
	}
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("half a snapshot is still there: %v", err)
	}
}

func TestHasState(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	if has, err := s.HasState(); err != nil || has {
		t.Fatalf("empty: %v, %v", has, err)
	}
	// A vote counts: it comes with a term.
	if err := s.Stable().SetUint64([]byte("CurrentTerm"), 1); err != nil {
		t.Fatal(err)
	}
	if has, err := s.HasState(); err != nil || !has {
		t.Fatalf("with a term: %v, %v", has, err)
	}
}

// appendLogs appends entries from first to last.
func appendLogs(t *testing.T, s *Store, first, last uint64) {
	t.Helper()
	var logs []*raft.Log
	for i := first; i <= last; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: 1, Data: []byte("x")})
	}
	if err := s.Logs().StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
}

// snapshot makes a snapshot at an index.
func snapshot(t *testing.T, s *Store, index uint64) {
	t.Helper()
	_, trans := raft.NewInmemTransport("")
	sink, err := s.Snapshots().Create(1, index, 1, raft.Configuration{}, 1, trans)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(sink, "state"); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
}

func snapshotIndexes(t *testing.T, s *Store) []uint64 {
	t.Helper()
	all, err := s.Snapshots().List()
	if err != nil {
		t.Fatal(err)
	}
	var out []uint64
	for _, m := range all {
		out = append(out, m.Index)
	}
	return out
}

// The log always starts where a kept snapshot ends, so that every state since
// then can be rebuilt.
func TestCompactionStopsAtSnapshot(t *testing.T) {
	s := open(t, t.TempDir(), Options{Snapshots: 3})
	const tail = 100
	last := uint64(0)
	for range 12 {
		appendLogs(t, s, last+1, last+37)
		last += 37
		snapshot(t, s, last-2)
		if last > tail {
			// What Raft asks for after a snapshot.
			if err := s.Logs().DeleteRange(1, min(last-2, last-tail)); err != nil {
				t.Fatal(err)
			}
		}
		first, err := s.Logs().FirstIndex()
		if err != nil {
			t.Fatal(err)
		}
		kept := snapshotIndexes(t, s)
		if first > 1 && !slices.Contains(kept, first-1) {
			t.Fatalf("log starts at %d, snapshots at %v", first, kept)
		}
		if last > tail && last-first+1 < tail {
			t.Fatalf("tail from %d to %d is shorter than %d", first, last, tail)
		}
	}
	if kept := snapshotIndexes(t, s); len(kept) < 3 || len(kept) > 5 {
		t.Fatalf("snapshots kept: %v", kept)
	}
}

func TestConflictingEndIsRemovedWhole(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	appendLogs(t, s, 1, 3*deleteChunk)
	if err := s.Logs().DeleteRange(11, 3*deleteChunk); err != nil {
		t.Fatal(err)
	}
	if last, err := s.Logs().LastIndex(); err != nil || last != 10 {
		t.Fatalf("last %d, %v; want 10", last, err)
	}
}

func TestCompactionInChunks(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	appendLogs(t, s, 1, 2*deleteChunk+10)
	snapshot(t, s, 2*deleteChunk+5)
	if err := s.Logs().DeleteRange(1, 2*deleteChunk+5); err != nil {
		t.Fatal(err)
	}
	if first, err := s.Logs().FirstIndex(); err != nil || first != 2*deleteChunk+6 {
		t.Fatalf("first %d, %v", first, err)
	}
}

func TestWatchReportsHangingWrite(t *testing.T) {
	slow := make(chan time.Duration)
	ended := make(chan struct{})
	w := newWatch(time.Millisecond, func(d time.Duration) {
		select {
		case slow <- d:
		case <-ended:
		}
	})
	done := w.begin()
	for range 3 { // again and again: who could do better may change meanwhile
		select {
		case <-slow:
		case <-time.After(10 * time.Second):
			t.Fatal("a hanging write was not reported")
		}
	}
	close(ended)
	if w.take() < time.Millisecond {
		t.Fatal("a write that still runs does not count")
	}
	done()
	if w.take() < time.Millisecond {
		t.Fatal("a finished write does not count")
	}
	if d := w.take(); d != 0 {
		t.Fatalf("counted twice: %s", d)
	}
}

func TestAppendIsMeasured(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	s.SlowestAppend()
	appendLogs(t, s, 1, 1)
	if s.SlowestAppend() <= 0 {
		t.Fatal("not measured")
	}
}

func TestProbeDisk(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	if took, err := s.ProbeDisk(); err != nil || took <= 0 {
		t.Fatalf("%v, %v", took, err)
	}
	if left, err := filepath.Glob(filepath.Join(s.Dir(), "probe*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := os.RemoveAll(s.Dir()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ProbeDisk(); err == nil {
		t.Error("a disk that cannot be written is well")
	}
}

// A vote that cannot be written is reported, and Raft's goroutine goes no further.
func TestBrokenStableStore(t *testing.T) {
	reported := make(chan error, 1)
	s := open(t, t.TempDir(), Options{OnBroken: func(err error) { reported <- err }})
	if err := s.bolt.Close(); err != nil {
		t.Fatal(err)
	}
	returned := make(chan struct{})
	go func() {
		_ = s.Stable().SetUint64([]byte("CurrentTerm"), 7)
		close(returned)
	}()
	select {
	case err := <-reported:
		if !strings.Contains(err.Error(), "CurrentTerm") {
			t.Fatalf("reported %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("not reported")
	}
	select {
	case <-returned:
		t.Fatal("the writer went on")
	default:
	}
}

// A lock dies with its process, however that ends.
func TestLockDiesWithProcess(t *testing.T) {
	if dir := os.Getenv("QLB_TEST_HOLD"); dir != "" {
		if _, err := Open(dir, Options{}); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println("locked")
		_, _ = io.Copy(io.Discard, os.Stdin) // until killed
		return
	}
	dir := t.TempDir()
	holder := exec.Command(os.Args[0], "-test.run=^TestLockDiesWithProcess$")
	holder.Env = append(os.Environ(), "QLB_TEST_HOLD="+dir)
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 6)
	if _, err := io.ReadFull(out, said); err != nil || string(said) != "locked" {
		t.Fatalf("holder said %q, %v", said, err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Fatalf("opened beside a running process: %v", err)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	open(t, dir, Options{})
}
