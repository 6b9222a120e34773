// Package raftlog lets hashicorp/raft and its stores write to the program's
// slog.Logger. It keeps Raft's own messages and keys. A warning or error that
// repeats, about the same peer, is written every few seconds only: Raft tries a
// member that is down several times a second.
package raftlog

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// New gives a logger for Raft; name becomes the value of the key "component".
func New(to *slog.Logger, name string) hclog.Logger {
	if to == nil {
		to = slog.New(slog.DiscardHandler)
	}
	return &logger{to: to.With("component", name), name: name, limit: &limiter{now: time.Now}}
}

type logger struct {
	to      *slog.Logger
	name    string
	implied []any
	limit   *limiter
}

var levels = map[hclog.Level]slog.Level{
	hclog.Trace: slog.LevelDebug - 4,
	hclog.Debug: slog.LevelDebug,
	hclog.Info:  slog.LevelInfo,
	hclog.Warn:  slog.LevelWarn,
	hclog.Error: slog.LevelError,
}

func (l *logger) Log(level hclog.Level, msg string, args ...any) {
	at, ok := levels[level]
	if !ok || !l.to.Enabled(context.Background(), at) {
		return
	}
	for i, a := range args {
		// A format is evaluated only when it is written.
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	if at >= slog.LevelWarn {
		write, held := l.limit.allow(repeatKey(msg, args))
		if !write {
			return
		}
		if held > 0 {
			args = append(args, "repeated", held)
		}
	}
	l.to.Log(context.Background(), at, msg, args...)
}

// quiet is how long a repeated message is held back.
const quiet = 5 * time.Second

// maxKeys bounds a limiter's memory.
const maxKeys = 256

// limiter holds back messages that repeat.
type limiter struct {
	now func() time.Time

	mu   sync.Mutex
	seen map[string]*repeat
}

type repeat struct {
	last time.Time
	held int
}

// allow tells whether to write a message now, and how many like it were held back.
func (l *limiter) allow(key string) (write bool, held int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if r := l.seen[key]; r != nil && now.Sub(r.last) < quiet {
		r.held++
		return false, 0
	} else if r != nil {
		held = r.held
	}
	if l.seen == nil || len(l.seen) >= maxKeys {
		l.seen = make(map[string]*repeat)
	}
	l.seen[key] = &repeat{last: now}
	return true, held
}

// repeatKey is what makes two messages the same: the text and whom it is about.
func repeatKey(msg string, args []any) string {
	var b strings.Builder
	b.WriteString(msg)
	for i := 0; i+1 < len(args); i += 2 {
		switch args[i] {
		case "peer", "target", "server-id", "from", "candidate":
			fmt.Fprintf(&b, " %v", args[i+1])
		}
	}
	return b.String()
}

func (l *logger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *logger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *logger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *logger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *logger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *logger) enabled(level hclog.Level) bool {
	return l.to.Enabled(context.Background(), levels[level])
}

func (l *logger) IsTrace() bool { return l.enabled(hclog.Trace) }
func (l *logger) IsDebug() bool { return l.enabled(hclog.Debug) }
func (l *logger) IsInfo() bool  { return l.enabled(hclog.Info) }
func (l *logger) IsWarn() bool  { return l.enabled(hclog.Warn) }
func (l *logger) IsError() bool { return l.enabled(hclog.Error) }

func (l *logger) ImpliedArgs() []any { return l.implied }

func (l *logger) With(args ...any) hclog.Logger {
	return &logger{
		to: l.to.With(args...), name: l.name, limit: l.limit,
		implied: append(append([]any{}, l.implied...), args...),
	}
}

func (l *logger) Name() string { return l.name }

func (l *logger) Named(name string) hclog.Logger { return l.ResetNamed(l.name + "." + name) }

func (l *logger) ResetNamed(name string) hclog.Logger {
	return &logger{to: l.to, name: name, limit: l.limit, implied: l.implied}
}

// SetLevel does nothing: the level is that of the slog handler.
func (l *logger) SetLevel(hclog.Level) {}

func (l *logger) GetLevel() hclog.Level {
	for _, level := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Info, hclog.Warn, hclog.Error} {
		if l.enabled(level) {
			return level
		}
	}
	return hclog.Off
}

func (l *logger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(l.to.Handler(), slog.LevelInfo)
}

func (l *logger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer {
	return l.StandardLogger(nil).Writer()
}
