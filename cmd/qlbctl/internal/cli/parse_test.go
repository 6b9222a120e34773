package cli

import (
	"slices"
	"testing"
	"time"
)

func TestParseSince(t *testing.T) {
	at := func(s string) int64 {
		m, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return m.UnixNano()
	}
	for text, want := range map[string]instant{
		"":                     {},
		"1234":                 {revision: 1234},
		"10m":                  {unixNano: at("2026-03-01T02:50:00Z")},
		"2d":                   {unixNano: at("2026-02-27T03:00:00Z")},
		"1d2h":                 {unixNano: at("2026-02-28T01:00:00Z")},
		"2026-02-28T01:00:00Z": {unixNano: at("2026-02-28T01:00:00Z")},
		"2026-02-28 01:00":     {unixNano: at("2026-02-28T01:00:00Z")},
		"2026-02-28":           {unixNano: at("2026-02-28T00:00:00Z")},
		"02:30":                {unixNano: at("2026-03-01T02:30:00Z")},
		// Not yet today, so yesterday.
		"23:30:05": {unixNano: at("2026-02-28T23:30:05Z")},
	} {
		if got, err := parseInstant("since", text, testNow); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "-10m", "10", "d", "1x", "99999d"} {
		if got, err := parseInstant("since", text, testNow); err == nil && text != "10" {
			t.Errorf("%q is accepted as %v", text, got)
		}
	}
}

func TestOrder(t *testing.T) {
	names := []string{"n10", "n2", "n1", "a", "n", "n02", "m1-b", "m1-a", "n2a"}
	slices.SortStableFunc(names, byName)
	want := []string{"a", "m1-a", "m1-b", "n", "n1", "n2", "n02", "n2a", "n10"}
	if !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
	addrs := []string{"2001:db8::1", "192.0.2.10", "192.0.2.9", "10.0.0.1"}
	slices.SortStableFunc(addrs, byAddress)
	if want := []string{"10.0.0.1", "192.0.2.9", "192.0.2.10", "2001:db8::1"}; !slices.Equal(addrs, want) {
		t.Errorf("%v, want %v", addrs, want)
	}
}

func TestResourcePath(t *testing.T) {
	for field, want := range map[string]struct {
		index int
		path  string
		ok    bool
	}{
		"resources[2].spec.addresses[1]": {2, "spec.addresses[1]", true},
		"resources[0]":                   {0, "", true},
		"resources[x].spec":              {},
		"resources[1":                    {},
		"resources[-1].spec":             {},
		"source":                         {},
	} {
		index, path, ok := resourcePath(field)
		if ok != want.ok || ok && (index != want.index || path != want.path) {
			t.Errorf("%s: %d, %q, %v", field, index, path, ok)
		}
	}
}

// What comes over the network cannot move the cursor of a terminal.
func TestClean(t *testing.T) {
	if got := clean("a\x1b[31mb\nc\td\u009be"); got != "a[31mb c de" {
		t.Errorf("%q", got)
	}
}
