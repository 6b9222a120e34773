package obs

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Keys of log attributes. The same thing has the same key in every part.
const (
	KeyNode     = "node"
	KeyVIP      = "vip"
	KeyEpoch    = "epoch"
	KeyRevision = "revision"
	KeySession  = "session"
	KeyMember   = "member"
	KeyError    = "error"
)

// ParseLevel reads "debug", "info", "warn" or "error".
func ParseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "debug":
		return slog.LevelDebug, nil
	case "info", "":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("log level %q is none of debug, info, warn, error", s)
}

// NewLogger writes lines of key=value pairs to w, or JSON objects when format is
// "json". An empty format means "text".
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	lvl, err := ParseLevel(level)
	if err != nil {
		return nil, err
	}
	opts := &slog.HandlerOptions{Level: lvl}
	switch format {
	case "text", "":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("log format %q is none of text, json", format)
}
