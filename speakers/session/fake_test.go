package session

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/internal/testaddr"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/speakers/internal/membertest"
	"github.com/quorumlb/quorumlb/speakers/internal/nettest"
)

func newGroup() *membertest.Group {
	g := membertest.NewGroup()
	g.Check = func(r *speakerv1.OpenSessionRequest) error {
		if r.GetNode() != "n1" || len(r.GetProcess()) != 16 || len(r.GetMacs()) != 1 || len(r.GetLinks()) != 1 || r.GetLabels()["rack"] != "a" {
			return errors.New("bad request")
		}
		return nil
	}
	return g
}

// fakeNode records what the session asks of the rest of the speaker.
type fakeNode struct {
	mu       sync.Mutex
	views    []View
	conf     Confirmation
	statuses []*speakerv1.VipStatus
	seq      uint64
	more     chan struct{}
	links    chan struct{}
	// applying, if set, is called within Apply.
	applying func(View)
}

func newNode() *fakeNode {
	return &fakeNode{more: make(chan struct{}), links: make(chan struct{})}
}

func (n *fakeNode) Links() ([]*logv1.Link, [][]byte, <-chan struct{}) {
	mac := []byte{2, 0, 0, 0, 0, 1}
	n.mu.Lock()
	defer n.mu.Unlock()
	return []*logv1.Link{{Name: "eth0", Mac: mac, Up: true}}, [][]byte{mac}, n.links
}

func (n *fakeNode) Apply(v View) {
	n.mu.Lock()
	n.views = append(n.views, v)
	applying := n.applying
	n.mu.Unlock()
	if applying != nil {
		applying(v)
	}
}

func (n *fakeNode) Confirm(c Confirmation) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conf = c
}

func (n *fakeNode) Statuses(since uint64) ([]*speakerv1.VipStatus, []netip.Addr, uint64, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if since == n.seq {
		return nil, nil, n.seq, n.more
	}
	return n.statuses, nil, n.seq, n.more
}

func (n *fakeNode) report(s ...*speakerv1.VipStatus) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.statuses = s
	n.seq++
	close(n.more)
	n.more = make(chan struct{})
}

func (n *fakeNode) Probe(_ context.Context, addr netip.Addr, _ time.Duration) ([]*speakerv1.ProbeHit, error) {
	if addr.Is6() {
		return nil, errors.New("no link is up")
	}
	return []*speakerv1.ProbeHit{{Mac: []byte{1, 2, 3, 4, 5, 6}, Interface: "eth0"}}, nil
}

func (n *fakeNode) owns() (out []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.views) == 0 {
		return nil
	}
	for _, v := range n.views[len(n.views)-1].Vips {
		out = append(out, v.Addr.String())
	}
	return out
}

func (n *fakeNode) until() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.conf.Until
}

func (n *fakeNode) confirmed() bool { return clock.Boottime.Now() < n.until() }

func config(t *testing.T, members ...*membertest.Member) Config {
	cfg := Config{
		Node: "n1", StateDir: t.TempDir(), Labels: map[string]string{"rack": "a"}, Version: "v1",
		Clock: clock.Boottime, Log: slog.New(slog.DiscardHandler),
	}
	for _, m := range members {
		cfg.Members = append(cfg.Members, m.Address)
	}
	return cfg
}

// startSession runs a session; the channel gives what Run returns.
func startSession(t *testing.T, cfg Config, n *fakeNode) (*Session, <-chan error) {
	t.Helper()
	s, err := New(cfg, n)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended, result := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(ended)
		result <- s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(nettest.Patience):
			t.Error("Run does not end")
		}
	})
	return s, result
}

func three(t *testing.T, g *membertest.Group) []*membertest.Member {
	return []*membertest.Member{membertest.StartMember(t, g, testaddr.New(t)), membertest.StartMember(t, g, testaddr.New(t)), membertest.StartMember(t, g, testaddr.New(t))}
}
