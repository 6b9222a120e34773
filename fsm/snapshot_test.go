package fsm_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// strange is a state in which every kind of row and most fields are set.
func strange(t fsmtest.TB) *fsmtest.Log {
	random := rand.New(rand.NewPCG(1, 2))
	w := fsmtest.NewWalk(t, random.IntN)
	for c := w.S.Counts(); c.Pools < 2 || c.Advertisements < 1 || c.Services < 3 || c.Addresses < 3 || c.Free < 2 || c.Nodes < 2; c = w.S.Counts() {
		w.Step()
	}
	w.Apply(fsmtest.Declared(&logv1.Service{Namespace: "default", Name: "full", Labels: map[string]string{"b": "2", "a": "1"},
		NodeSelectors: []*logv1.LabelSelector{{MatchExpressions: []*logv1.LabelRequirement{{Key: "k", Operator: "In", Values: []string{"x", "y"}}}}}}))
	return w.Log
}

func snapshot(t testing.TB, s *fsm.State) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := fsm.WriteSnapshot(&b, s); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSnapshotRoundTrip(t *testing.T) {
	l := strange(t)
	raw := snapshot(t, l.S)
	s, err := fsm.ReadSnapshot(iotest.OneByteReader(bytes.NewReader(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if digest := l.S.Digest(); s.Digest() != digest || string(digest[:]) != string(raw[len(raw)-32:]) {
		t.Error("the digest is not the checksum at the end")
	}
	if s.Revision != l.S.Revision || s.Chain != l.S.Chain || s.Time != l.S.Time || s.ClusterID != l.S.ClusterID {
		t.Errorf("%d %x %d %x", s.Revision, s.Chain, s.Time, s.ClusterID)
	}
	if !bytes.Equal(snapshot(t, s), raw) {
		t.Error("written again it is another")
	}
	h, err := fsm.InspectSnapshot(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	want := fsm.Header{Format: 1, ClusterVersion: 1, ClusterID: s.ClusterID, Revision: s.Revision,
		Chain: s.Chain, Time: s.Time, Counts: s.Counts()}
	if h != want {
		t.Errorf("header %+v, want %+v", h, want)
	}
}

func TestEmptySnapshot(t *testing.T) {
	s, err := fsm.ReadSnapshot(bytes.NewReader(snapshot(t, fsm.New())))
	if err != nil || s.Digest() != fsm.New().Digest() {
		t.Error(err)
	}
}

func TestDigestTellsStatesApart(t *testing.T) {
	l := small(t)
	before := l.S.Digest()
	l.Apply(fsmtest.Drained("n1", logv1.DrainReason_DRAIN_REASON_ADMIN))
	if l.S.Digest() == before {
		t.Error("a batch leaves the digest")
	}
	c := l.S.Clone()
	n := *c.Nodes["n1"]
	n.TakenAt++
	c.Nodes["n1"] = &n
	if c.Digest() == l.S.Digest() {
		t.Error("another record has the same digest")
	}
}

func TestTruncatedAnywhere(t *testing.T) {
	raw := snapshot(t, strange(t).S)
	for n := range raw {
		if _, err := fsm.ReadSnapshot(bytes.NewReader(raw[:n])); !errors.Is(err, fsm.ErrCorrupt) {
			t.Fatalf("%d of %d bytes: %v", n, len(raw), err)
		}
		if _, err := fsm.InspectSnapshot(bytes.NewReader(raw[:n])); !errors.Is(err, fsm.ErrCorrupt) {
			t.Fatalf("inspect: %d of %d bytes: %v", n, len(raw), err)
		}
	}
	if _, err := fsm.ReadSnapshot(io.MultiReader(bytes.NewReader(raw), strings.NewReader("x"))); !errors.Is(err, fsm.ErrCorrupt) {
		t.Errorf("a byte too many: %v", err)
	}
	broken := errors.New("disk on fire")
	if _, err := fsm.ReadSnapshot(io.MultiReader(bytes.NewReader(raw[:100]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("a reader's error: %v", err)
	}
}

func TestChangedAnywhere(t *testing.T) {
	raw := snapshot(t, strange(t).S)
	for n := range raw {
		c := bytes.Clone(raw)
		c[n] ^= 0x10
		_, err := fsm.ReadSnapshot(bytes.NewReader(c))
		if !errors.Is(err, fsm.ErrCorrupt) && !errors.Is(err, fsm.ErrUnknown) {
			t.Fatalf("byte %d of %d changed: %v", n, len(raw), err)
		}
	}
}

// seal puts the right checksum under a snapshot that was changed.
func seal(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append(bytes.Clone(body), sum[:]...)
}

func TestSnapshotOfAnotherTime(t *testing.T) {
	raw := snapshot(t, fsm.New())
	body := raw[:len(raw)-32]
	if _, err := fsm.ReadSnapshot(bytes.NewReader(seal(body))); err != nil {
		t.Fatal(err)
	}
	format := bytes.Clone(body)
	format[11] = 2
	version := bytes.Clone(body)
	version[14] = fsm.MaxClusterVersion + 1 // after magic, format, and the header's number and length
	settings := bytes.LastIndexByte(body, 1)
	for i := len(body) - 1; i > 12; i-- { // the settings row is the last: number 1, length, body
		if body[i] == 1 && int(body[i+1]) == len(body)-i-2 {
			settings = i
			break
		}
	}
	record := bytes.Clone(body)
	record[settings] = 99
	misplaced := bytes.Clone(body)
	misplaced[settings] = 2
	magic := bytes.Clone(body)
	magic[0] = 'X'
	for name, c := range map[string]struct {
		raw  []byte
		want error
		text string
	}{
		"newer format":          {seal(format), fsm.ErrUnknown, "format 2"},
		"newer cluster version": {seal(version), fsm.ErrUnknown, "cluster version 2"},
		"unknown record":        {seal(record), fsm.ErrUnknown, "record type 99"},
		"misplaced record":      {seal(misplaced), fsm.ErrCorrupt, "where a settings row belongs"},
		"not a snapshot":        {seal(magic), fsm.ErrCorrupt, "not a snapshot"},
		"checksum":              {append(bytes.Clone(body), make([]byte, 32)...), fsm.ErrCorrupt, "checksum"},
	} {
		_, err := fsm.ReadSnapshot(bytes.NewReader(c.raw))
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Rows that do not fit together are refused although the checksum is right.
func TestSnapshotOfAnImpossibleState(t *testing.T) {
	for name, spoil := range map[string]func(*fsm.State){
		"owner unknown":          func(s *fsm.State) { delete(s.Nodes, "n1") },
		"service unknown":        func(s *fsm.State) { delete(s.Services, web) },
		"address unknown":        func(s *fsm.State) { delete(s.Addresses, ip1) },
		"pool unknown":           func(s *fsm.State) { delete(s.Pools, "a") },
		"in use and free":        func(s *fsm.State) { s.Free[ip1] = &fsm.Free{Addr: ip1, Pool: "a"} },
		"free in an unknown one": func(s *fsm.State) { s.Free[ip2] = &fsm.Free{Addr: ip2, Pool: "b"} },
		"owned differs": func(s *fsm.State) {
			n := *s.Nodes["n1"]
			n.Owned = 7
			s.Nodes["n1"] = &n
		},
		"session state": func(s *fsm.State) {
			n := *s.Nodes["n1"]
			n.SessionState = fsm.SessionNone
			s.Nodes["n1"] = &n
		},
		"moves softly away from its owner": func(s *fsm.State) {
			a := *s.Addresses[ip1]
			a.SoftNode = a.Owner
			s.Addresses[ip1] = &a
		},
		"used by nobody": func(s *fsm.State) {
			a := *s.Addresses[ip1]
			a.Services = nil
			s.Addresses[ip1] = &a
			delete(s.Services, web)
		},
		"pools overlap": func(s *fsm.State) {
			p := *s.Pools["a"]
			p.Spec = &logv1.Pool{Name: "b", Addresses: []string{"192.0.2.9-192.0.2.9"}}
			s.Pools["b"] = &p
		},
	} {
		s := small(t).S
		spoil(s)
		if _, err := fsm.ReadSnapshot(bytes.NewReader(snapshot(t, s))); !errors.Is(err, fsm.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWriteSnapshotReportsErrors(t *testing.T) {
	for n := range 3 {
		if err := fsm.WriteSnapshot(&fullDisk{left: n * 20}, small(t).S); !errors.Is(err, errFull) {
			t.Errorf("after %d bytes: %v", n*20, err)
		}
	}
}

var errFull = errors.New("no space left on device")

type fullDisk struct{ left int }

func (d *fullDisk) Write(p []byte) (int, error) {
	if len(p) > d.left {
		return 0, errFull
	}
	d.left -= len(p)
	return len(p), nil
}

func FuzzReadSnapshot(f *testing.F) {
	for _, s := range []*fsm.State{fsm.New(), strange(f).S} {
		raw := snapshot(f, s)
		f.Add(raw[:len(raw)-32])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		raw := seal(body) // or the checksum would keep everything else from being tried
		s, err := fsm.ReadSnapshot(bytes.NewReader(raw))
		if err != nil {
			if !errors.Is(err, fsm.ErrUnknown) && !errors.Is(err, fsm.ErrCorrupt) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		if err := s.CheckIndexes(); err != nil {
			t.Fatal(err)
		}
		again := snapshot(t, s)
		if s2, err := fsm.ReadSnapshot(bytes.NewReader(again)); err != nil || s2.Digest() != s.Digest() {
			t.Fatalf("what was read does not survive: %v", err)
		}
	})
}

// What may be in one entry of the log can be read from a snapshot.
func TestSnapshotOfALargeRow(t *testing.T) {
	l := fsmtest.NewLog(t)
	l.Apply(fsmtest.NamespaceDefined("n", map[string]string{"a": strings.Repeat("x", 32<<20)}))
	var snap bytes.Buffer
	if err := fsm.WriteSnapshot(&snap, l.S); err != nil {
		t.Fatal(err)
	}
	if _, err := fsm.ReadSnapshot(&snap); err != nil {
		t.Error(err)
	}
}
