package fsm_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func TestGuardLeavesNoTrace(t *testing.T) {
	l := fsmtest.NewLog(t)
	l.Apply(fsmtest.PoolDefined("a", "192.0.2.0/24"))
	before := l.S.Digest()
	good := l.S.NextBatch(l.Now, []string{"x"}, []*logv1.Event{fsmtest.PoolDefined("b", "198.51.100.0/24")})

	older := proto.CloneOf(good)
	older.Revision--
	newer := proto.CloneOf(good)
	newer.Revision++
	other := proto.CloneOf(good)
	other.Prev = slices.Clone(other.Prev)
	other.Prev[0] ^= 1
	for name, c := range map[string]struct {
		batch *logv1.Batch
		want  error
	}{
		"older":         {older, fsm.ErrRevision},
		"newer":         {newer, fsm.ErrRevision},
		"other history": {other, fsm.ErrChain},
	} {
		if _, _, err := l.S.Apply(fsm.EncodeBatch(c.batch)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if l.S.Digest() != before {
			t.Fatalf("%s: left a trace", name)
		}
	}
	if _, _, err := l.S.Apply(fsm.EncodeBatch(good)); err != nil {
		t.Fatalf("the state does not go on: %v", err)
	}
	if want := l.S.Chain; l.S.Revision != 3 || want == (fsm.Hash{}) {
		t.Errorf("revision %d, chain %x", l.S.Revision, want)
	}
}

func TestChainIsSHA256OfPreviousAndRaw(t *testing.T) {
	l := fsmtest.NewLog(t)
	l.Apply(fsmtest.PoolDefined("a", "192.0.2.0/24"))
	var h fsm.Hash
	for _, raw := range l.Raw {
		h = h.NextChain(raw)
	}
	if h != l.S.Chain {
		t.Errorf("chain %x, want %x", l.S.Chain, h)
	}
}

func TestBrokenStateRefusesEverything(t *testing.T) {
	l := fsmtest.NewLog(t)
	s := l.S.Clone()
	next := fsm.EncodeBatch(s.NextBatch(l.Now, []string{"x"}, []*logv1.Event{fsmtest.PoolDefined("a", "192.0.2.0/24")}))
	if _, _, err := s.Apply([]byte{0xff}); !errors.Is(err, fsm.ErrCorrupt) {
		t.Fatalf("garbage: %v", err)
	}
	if _, _, err := s.Apply(next); !errors.Is(err, fsm.ErrCorrupt) {
		t.Fatalf("a broken state goes on: %v", err)
	}
	if _, _, err := l.S.Apply(next); err != nil {
		t.Fatalf("its source does not: %v", err)
	}
}

func TestTimeNeverGoesBack(t *testing.T) {
	l := fsmtest.NewLog(t)
	b := l.S.NextBatch(0, []string{"x"}, []*logv1.Event{fsmtest.PoolDefined("a", "192.0.2.0/24")})
	if b.GetTimeUnixNano() != l.S.Time {
		t.Errorf("time %d, want the previous batch's %d", b.GetTimeUnixNano(), l.S.Time)
	}
	b.TimeUnixNano--
	if _, _, err := l.S.Apply(fsm.EncodeBatch(b)); !errors.Is(err, fsm.ErrCorrupt) {
		t.Errorf("an earlier time: %v", err)
	}
}

// Every message that a batch can hold, with one unknown field put in, is refused.
func TestUnknownFieldAnywhere(t *testing.T) {
	full := &logv1.Batch{
		Revision: 1, Prev: make([]byte, 32), TimeUnixNano: 1, Actors: []string{"x"},
		Events: []*logv1.Event{
			fsmtest.Pool(&logv1.Pool{Name: "a", Labels: map[string]string{"k": "v"}, Addresses: []string{"192.0.2.0/24"}}),
			fsmtest.Ad(&logv1.L2Advertisement{Name: "a", NodeSelectors: []*logv1.LabelSelector{{
				MatchLabels:      map[string]string{"k": "v"},
				MatchExpressions: []*logv1.LabelRequirement{{Key: "k", Operator: "Exists"}},
			}}}),
			fsmtest.Declared(&logv1.Service{Namespace: "n", Name: "s", Ports: []*logv1.Port{{Port: 1}},
				IpFamilies: []logv1.IPFamily{logv1.IPFamily_IP_FAMILY_IPV4, logv1.IPFamily_IP_FAMILY_IPV6}}),
			fsmtest.Opened("n", 1, nil),
			{Fact: &logv1.Event_LeaseTimesSet{LeaseTimesSet: &logv1.LeaseTimesSet{Times: &logv1.LeaseTimes{DetectionNanos: 5}}}},
		},
	}
	raw := fsm.EncodeBatch(full)
	if _, err := fsm.DecodeBatch(raw); err != nil {
		t.Fatal(err)
	}
	n := 0
	mutate(full.ProtoReflect(), func(where string) {
		n++
		if _, err := fsm.DecodeBatch(fsm.EncodeBatch(full)); !errors.Is(err, fsm.ErrUnknown) {
			t.Errorf("unknown field in %s: %v", where, err)
		}
	})
	if n < 14 {
		t.Errorf("only %d messages were tried", n)
	}
}

func TestStrictDecoding(t *testing.T) {
	base := fsm.EncodeBatch(&logv1.Batch{Revision: 1, Prev: make([]byte, 32), Actors: []string{"x"},
		Events: []*logv1.Event{fsmtest.Founded()}})
	event := func(b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(slices.Clone(base), 5, protowire.BytesType), b)
	}
	fact := func(num protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), b)
	}
	enum := protowire.AppendVarint(protowire.AppendTag(fact(1, []byte("n")), 2, protowire.VarintType), 99)
	packed := protowire.AppendBytes(protowire.AppendTag(nil, 8, protowire.BytesType), []byte{1, 77})
	deep := []byte{}
	for range 40 {
		deep = fact(22, deep)
	}
	for name, c := range map[string]struct {
		raw  []byte
		want error
		text string
	}{
		"event type 63":          {event(fact(63, nil)), fsm.ErrUnknown, "field 63"},
		"event type 900":         {event(fact(900, nil)), fsm.ErrUnknown, "field 900"},
		"wire type":              {protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.VarintType), 1), fsm.ErrUnknown, "wire type"},
		"enum value":             {event(fact(44, enum)), fsm.ErrUnknown, "value 99"},
		"enum value in a list":   {event(fact(24, fact(1, packed))), fsm.ErrUnknown, "value 77"},
		"two facts in an event":  {event(append(fact(45, nil), fact(46, nil)...)), fsm.ErrCorrupt, "twice"},
		"revision twice":         {append(slices.Clone(base), base...), fsm.ErrCorrupt, "twice"},
		"no fact":                {event(nil), fsm.ErrCorrupt, "no fact"},
		"actor out of range":     {event(append([]byte{0x08, 0x07}, fact(45, nil)...)), fsm.ErrCorrupt, "actor 7"},
		"truncated":              {base[:len(base)-1], fsm.ErrCorrupt, ""},
		"not UTF-8":              {event(fact(45, fact(1, []byte{0xff}))), fsm.ErrCorrupt, "UTF-8"},
		"prev too short":         {fsm.EncodeBatch(&logv1.Batch{Revision: 1, Prev: []byte{1}}), fsm.ErrCorrupt, "prev of 1 bytes"},
		"empty":                  {nil, fsm.ErrCorrupt, "prev of 0 bytes"},
		"field number 0":         {append(slices.Clone(base), 0), fsm.ErrCorrupt, ""},
		"group":                  {append(slices.Clone(base), 5<<3|3, 5<<3|4), fsm.ErrUnknown, "wire type"},
		"nested without an end":  {event(deep), fsm.ErrUnknown, "field 22"},
		"length beyond the end":  {append(slices.Clone(base), 5<<3|2, 0x7f), fsm.ErrCorrupt, ""},
		"varint without an end":  {append(slices.Clone(base), 3<<3, 0xff), fsm.ErrCorrupt, ""},
		"unknown field at level": {protowire.AppendVarint(protowire.AppendTag(slices.Clone(base), 17, protowire.VarintType), 1), fsm.ErrUnknown, "field 17"},
	} {
		_, err := fsm.DecodeBatch(c.raw)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecodeBatch(f *testing.F) {
	w := fsmtest.NewLog(f)
	w.Apply(fsmtest.PoolDefined("a", "192.0.2.0/24", "2001:db8::/64"), fsmtest.Ad(&logv1.L2Advertisement{Name: "x"}))
	w.Apply(fsmtest.Declared(fsmtest.Service("s", 80)), fsmtest.Allocated(fsm.KeyOf("default", "s"), "192.0.2.1", "a"))
	w.Apply(fsmtest.Opened("n1", 1, map[string]string{"k": "v"}))
	for _, raw := range w.Raw {
		f.Add(raw)
	}
	s := w.S
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := fsm.DecodeBatch(raw)
		if err != nil {
			if !errors.Is(err, fsm.ErrUnknown) && !errors.Is(err, fsm.ErrCorrupt) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		if again, err := fsm.DecodeBatch(fsm.EncodeBatch(b)); err != nil || !proto.Equal(b, again) {
			t.Fatalf("what was decoded does not survive: %v", err)
		}
		// Whatever the events say, folding them ends in a state or an error.
		b.Revision, b.Prev, b.TimeUnixNano = s.Revision+1, s.Chain[:], s.Time
		c := s.Clone()
		if _, _, err := c.Apply(fsm.EncodeBatch(b)); err == nil {
			if err := c.CheckRows(); err != nil {
				t.Fatalf("a batch was folded that leaves: %v", err)
			}
			if err := c.CheckIndexes(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
