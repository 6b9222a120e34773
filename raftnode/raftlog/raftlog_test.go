package raftlog

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

func TestMessagesAndLevels(t *testing.T) {
	var b bytes.Buffer
	l := New(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelInfo})), "raft")
	l.Debug("not this")
	l.With("id", 7).Named("sub").Info("servers", "list", hclog.Fmt("%d of %d", 1, 3))
	if got := b.String(); !strings.Contains(got, `component=raft id=7 list="1 of 3"`) || strings.Contains(got, "not this") {
		t.Fatalf("wrote %s", got)
	}
	if l.IsDebug() || !l.IsInfo() || l.GetLevel() != hclog.Info {
		t.Fatalf("level %v", l.GetLevel())
	}
	New(nil, "raft").Error("to nobody")
}

func TestRepeatsAreHeldBack(t *testing.T) {
	var b bytes.Buffer
	l := New(slog.New(slog.NewTextHandler(&b, nil)), "raft").(*logger)
	now := time.Now()
	l.limit.now = func() time.Time { return now }
	for range 10 {
		l.Error("failed to heartbeat to", "peer", "a", "error", "refused")
	}
	l.Error("failed to heartbeat to", "peer", "b", "error", "refused")
	if n := strings.Count(b.String(), "\n"); n != 2 {
		t.Fatalf("%d lines, want one for each peer:\n%s", n, b.String())
	}
	now = now.Add(quiet)
	b.Reset()
	l.Error("failed to heartbeat to", "peer", "a", "error", "refused")
	if !strings.Contains(b.String(), "repeated=9") {
		t.Fatalf("wrote %s", b.String())
	}
}
