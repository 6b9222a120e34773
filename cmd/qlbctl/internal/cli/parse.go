package cli

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// parseAddress reads an address and writes it as the group does.
func parseAddress(s string) (string, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return "", usagef("%q is not an IP address", s)
	}
	return a.Unmap().String(), nil
}

// instant is a place in history: a revision or a time, or nothing.
type instant struct {
	revision uint64
	unixNano int64
}

// parseInstant reads a revision ("1234"), a time span until now ("10m", "2d") or a
// moment ("2026-03-01T04:05:06Z", "2026-03-01 04:05", "04:05" of today, local
// time).
func parseInstant(flag, s string, now time.Time) (instant, error) {
	if s == "" {
		return instant{}, nil
	}
	if rev, err := strconv.ParseUint(s, 10, 64); err == nil {
		return instant{revision: rev}, nil
	}
	if d, err := parseSpan(s); err == nil && d >= 0 {
		return instant{unixNano: now.Add(-d).UnixNano()}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return instant{unixNano: t.UnixNano()}, nil
		}
	}
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			y, m, d := now.In(time.Local).Date()
			t = time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, time.Local)
			if t.After(now) {
				t = t.AddDate(0, 0, -1)
			}
			return instant{unixNano: t.UnixNano()}, nil
		}
	}
	return instant{}, usagef("--%s %q is no revision (1234), time span (10m, 2d) or time (2026-03-01T04:05:06Z, 04:05)", flag, s)
}

// parseSpan is time.ParseDuration that knows days.
func parseSpan(s string) (time.Duration, error) {
	if days, rest, ok := strings.Cut(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			d := time.Duration(n) * 24 * time.Hour
			if rest == "" {
				return d, nil
			}
			more, err := time.ParseDuration(rest)
			return d + more, err
		}
	}
	return time.ParseDuration(s)
}
