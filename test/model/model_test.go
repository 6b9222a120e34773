package main

import (
	"strings"
	"testing"
)

// TestRead: only a whole search proves something.
func TestRead(t *testing.T) {
	const whole = "State-vector 168 byte, depth reached 460, errors: 0\n    66153 states, stored\n"
	for _, tc := range []struct {
		name, said string
		found, ok  bool
	}{
		{"whole", whole, false, true},
		{"counterexample", "pan:1: assertion violated !((log.given))\nWarning: Search not completed\n" + strings.Replace(whole, "errors: 0", "errors: 1", 1), true, true},
		{"too deep", "error: max search depth too small\n" + whole, false, false},
		{"out of memory", "pan: reached -DMEMLIM bound\n" + whole, false, false},
		{"not completed", "Warning: Search not completed\n" + whole, false, false},
		{"stuck", "pan:1: invalid end state (at depth 3)\n" + strings.Replace(whole, "errors: 0", "errors: 1", 1), true, false},
		{"crashed", "Segmentation fault", false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var r result
			if err := r.read(tc.said); (err == nil) != tc.ok || r.found != tc.found {
				t.Errorf("found %v, error %v", r.found, err)
			}
		})
	}
}

func TestReadable(t *testing.T) {
	got := readable(`
		A1 sends #send:A1#
		      #tick#
		A1 sends #send:A1#
		m1 hears #recv:A1:0#
		A1 sends #send:A1#
		m1 acks #ack:A1:0#
spin: trail ends after 9 steps
#processes: 3
`, "it is over")
	want := `   0  A1 sends heartbeat 1
   1  A1 sends heartbeat 2
   1  m1 hears heartbeat 2 of A1
   1  A1 sends heartbeat 3
   1  m1 acks heartbeat 2 of A1
   1  WRONG: it is over
`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestChecks: every file of a trace has one check.
func TestChecks(t *testing.T) {
	of := map[string]string{}
	for _, c := range checks {
		if c.rule == "" || c.covered {
			continue
		}
		if other := of[c.file()]; other != "" {
			t.Errorf("%s is the trace of %q and of %q", c.file(), other, c.rule)
		}
		of[c.file()] = c.rule
	}
}
