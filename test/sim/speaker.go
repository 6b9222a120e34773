package sim

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/speakers/session"
)

// speaker is one process of a node's speaker: the real session, and in place of
// layer 2 a table of what it would answer for.
type speaker struct {
	w    *World
	p    *proc
	sess *session.Session

	// The rest is guarded by check.mu.
	exited bool
	// vips are in force. until and fresh are of the newest confirmation, in the
	// machine's time.
	vips         map[netip.Addr]session.Vip
	revision     uint64
	until, fresh time.Duration
	// sent is the true time at which the newest acked heartbeat was sent.
	sent        time.Duration
	epochs      map[netip.Addr]uint64
	linkDown    bool
	linkChanged chan struct{}
}

// startSpeaker starts a process on a machine. World.mu is held.
func (w *World) startSpeaker(mach *machine) *speaker {
	w.check.mu.Lock()
	num := len(w.speakers)
	s := &speaker{
		w: w, p: w.newProc(mach, fmt.Sprintf("%s/p%d", mach.node, num)),
		vips: make(map[netip.Addr]session.Vip), epochs: make(map[netip.Addr]uint64), linkChanged: make(chan struct{}),
	}
	w.speakers = append(w.speakers, s)
	w.check.mu.Unlock()
	w.logf("%s starts on machine %d", s.p.name, mach.id)
	s.p.run(s.run)
	return s
}

func (s *speaker) run(ctx context.Context) {
	var seeds []string
	for _, m := range s.w.members[:s.w.voters] {
		seeds = append(seeds, m.addr)
	}
	sess, err := session.New(session.Config{
		Node: s.p.mach.node, Members: seeds, Labels: map[string]string{"name": s.p.mach.node}, Version: "sim",
		Dial: s.dial, Clock: s.p, Log: s.w.logger(s.p.name),
	}, s)
	if err != nil {
		s.w.check.fail("%s: %v", s.p.name, err)
		return
	}
	s.w.check.mu.Lock()
	s.sess = sess
	s.w.check.mu.Unlock()
	err = sess.Run(ctx)
	s.exit(err)
	if err != nil && !errors.Is(err, session.ErrReplaced) {
		s.w.check.fail("%s ended with %v", s.p.name, err)
	}
}

// exit is the end of the process: nothing is answered any more.
func (s *speaker) exit(why error) {
	s.w.mu.Lock()
	s.w.check.mu.Lock()
	if !s.exited {
		s.exited = true
		s.w.logf("%s exits: %v", s.p.name, why)
	}
	s.w.check.mu.Unlock()
	s.p.kill()
	s.w.mu.Unlock()
}

// leave is what SIGTERM does.
func (s *speaker) leave() {
	s.p.run(func(ctx context.Context) {
		s.w.check.mu.Lock()
		sess := s.sess
		s.w.check.mu.Unlock()
		if sess != nil {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			_ = sess.Leave(ctx)
		}
		s.exit(errors.New("terminated"))
	})
}

func (s *speaker) dial(addr string) (session.Conn, error) {
	for _, m := range s.w.members {
		if m.addr == addr {
			return &conn{p: s.p, to: m}, nil
		}
	}
	return nil, fmt.Errorf("no member at %s", addr)
}

// mac is the machine's only one.
func (m *machine) mac() []byte { return []byte{2, 0, 0, 0, 0, byte(m.id)} }

// Links tells the session what there is; see session.Node.
func (s *speaker) Links() ([]*logv1.Link, [][]byte, <-chan struct{}) {
	s.w.check.mu.Lock()
	defer s.w.check.mu.Unlock()
	mac := s.p.mach.mac()
	return []*logv1.Link{{Name: "eth0", Mac: mac, Up: !s.linkDown, Prefixes: []string{"10.0.0.0/16"}}}, [][]byte{mac}, s.linkChanged
}

// setLink takes the link down or up.
func (s *speaker) setLink(down bool) {
	s.w.check.mu.Lock()
	defer s.w.check.mu.Unlock()
	if s.linkDown != down {
		s.linkDown = down
		close(s.linkChanged)
		s.linkChanged = make(chan struct{})
	}
}

// Apply puts a view in force; see session.Node.
func (s *speaker) Apply(v session.View) { s.w.check.inForce(s, v) }

// Confirm takes the newest confirmation; see session.Node.
func (s *speaker) Confirm(c session.Confirmation) { s.w.check.confirmed(s, c) }

// Statuses has nothing to tell: see docs/simulation.md.
func (s *speaker) Statuses(uint64) ([]*speakerv1.VipStatus, []netip.Addr, uint64, <-chan struct{}) {
	return nil, nil, 1, nil
}

// Probe finds nobody; see session.Node.
func (s *speaker) Probe(context.Context, netip.Addr, time.Duration) ([]*speakerv1.ProbeHit, error) {
	return nil, nil
}

// claims tells whether the process answers for an address of its own right now,
// in the machine's time: under Release while it is confirmed; under Hold while the
// members cannot have given it away. check.mu is held.
func (s *speaker) claims(v session.Vip, now time.Duration) bool {
	if v.OnControlLoss == logv1.ControlLoss_CONTROL_LOSS_RELEASE {
		return now < s.until
	}
	return now < s.fresh
}

// alive tells whether the process runs. check.mu is held.
func (s *speaker) alive() bool { return !s.exited && !s.p.dead.Load() }
