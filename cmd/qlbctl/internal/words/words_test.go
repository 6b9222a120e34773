package words

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0ms", 350*time.Millisecond + 900: "350ms", 12900 * time.Millisecond: "12s", time.Minute: "1m",
		312 * time.Second: "5m12s", 200 * time.Minute: "3h20m", 24 * time.Hour: "1d", 148*time.Hour + 59*time.Minute: "6d4h",
		-time.Second: "-1s",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%d) = %s, want %s", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		750 * time.Millisecond: "750ms", 10 * time.Second: "10s", 24 * time.Hour: "24h", 90 * time.Minute: "1h30m",
		time.Minute: "1m", 1500 * time.Millisecond: "1.5s", 0: "0s",
	} {
		if got := Setting(d); got != want {
			t.Errorf("Setting(%d) = %s, want %s", d, got, want)
		}
	}
}

func TestAge(t *testing.T) {
	now := time.Unix(1000, 0)
	if got := Age(now, 0); got != None {
		t.Errorf("age of nothing: %s", got)
	}
	if got := Age(now, now.Add(-time.Hour).UnixNano()); got != "1h" {
		t.Errorf("age of an hour: %s", got)
	}
	if got := Age(now, now.Add(time.Hour).UnixNano()); got != "0ms" {
		t.Errorf("age of the future: %s", got)
	}
}

// Every event that the log may hold has a sentence, also with nothing set.
func TestEveryEventHasASentence(t *testing.T) {
	fields := (&logv1.Event{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Kind() != protoreflect.MessageKind {
			continue
		}
		ev := &logv1.Event{}
		ev.ProtoReflect().Set(f, ev.ProtoReflect().NewField(f))
		subject, sentence := Event(ev)
		if subject == "?" || subject == "" || strings.Contains(sentence, "does not know") {
			t.Errorf("%s: %q, %q", f.Name(), subject, sentence)
		}
	}
	if s, _ := Event(&logv1.Event{}); s != "?" {
		t.Errorf("an unknown event is about %q", s)
	}
}

// Every reason has words of its own.
func TestEveryReasonHasWords(t *testing.T) {
	for n := range logv1.OwnerReason_name {
		if w := OwnerReason(logv1.OwnerReason(n)); strings.Contains(w, "newer version") {
			t.Errorf("owner reason %d: %s", n, w)
		}
	}
	for n := range logv1.AllocationReason_name {
		if w := AllocationReason(logv1.AllocationReason(n)); n != 0 && strings.Contains(w, "newer version") {
			t.Errorf("allocation reason %d: %s", n, w)
		}
	}
	for n := range logv1.DrainReason_name {
		if w := DrainReason(logv1.DrainReason(n)); strings.Contains(w, "newer version") {
			t.Errorf("drain reason %d: %s", n, w)
		}
	}
	if w := Announced(speakerv1.Announced_ANNOUNCED_UNCONFIRMED); w != "Unconfirmed" {
		t.Errorf("announced: %s", w)
	}
}

func TestLists(t *testing.T) {
	if got := Some([]string{"a", "b", "c"}, 2); got != "a,b,+1 more" {
		t.Error(got)
	}
	if got := Labels(map[string]string{"b": "2", "a": "1"}); got != "a=1,b=2" {
		t.Error(got)
	}
	for want, got := range map[string]string{
		"1 node": Count(1, "node"), "0 nodes": Count(0, "node"), "2 addresses": Count(uint32(2), "address"),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if got := Addr([]byte{1, 2}); got != "0x0102" {
		t.Error(got)
	}
	if got := Addr([]byte{192, 0, 2, 1}); got != "192.0.2.1" {
		t.Error(got)
	}
}
