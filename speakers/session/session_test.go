package session

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/internal/leasetime"
	"github.com/quorumlb/quorumlb/internal/testaddr"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/speakers/internal/membertest"
	"github.com/quorumlb/quorumlb/speakers/internal/nettest"
)

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	nettest.Eventually(t, what, ok)
}

func TestOpenWatchBeatConfirm(t *testing.T) {
	g := newGroup()
	g.Own("192.0.2.100")
	g.Nodes = []*speakerv1.NodeMacs{{Node: "n2", Macs: [][]byte{{2, 0, 0, 0, 0, 2}}}}
	g.Hosts = [][]byte{netip.MustParseAddr("192.0.2.200").AsSlice()}
	members := three(t, g)
	n := newNode()
	s, _ := startSession(t, config(t, members...), n)
	eventually(t, "confirmed", n.confirmed)
	eventually(t, "ready", s.Ready)
	n.mu.Lock()
	view := n.views[len(n.views)-1]
	conf := n.conf
	n.mu.Unlock()
	if session, _ := g.Now(); view.Cluster != "0123456789abcdef" || view.Session != session || len(view.Vips) != 1 || len(view.HostAddresses) != 1 || len(view.Peers) != 1 {
		t.Errorf("view %+v", view)
	}
	if got, want := conf.Until-conf.Sent, leasetime.Shorten(membertest.Fence); got != want {
		t.Errorf("confirmed for %v, want %v", got, want)
	}
	if got, want := conf.Fresh-conf.Sent, fresh(membertest.Detection); got != want {
		t.Errorf("fresh for %v, want %v", got, want)
	}
	for _, m := range members {
		eventually(t, "every member hears heartbeats with what is seen", func() bool {
			hb := m.LastBeat()
			return hb != nil && hb.GetSeen() >= view.Revision
		})
	}
	eventually(t, "two watches", func() bool {
		return members[0].Watched()+members[1].Watched()+members[2].Watched() == watches
	})
	m := members[0]
	m.Lock()
	defer m.Unlock()
	for i := range m.Beats {
		if i > 0 && m.Beats[i].GetSeq() <= m.Beats[i-1].GetSeq() {
			t.Fatalf("heartbeat %d after %d", m.Beats[i].GetSeq(), m.Beats[i-1].GetSeq())
		}
	}
}

// Seen must not move before the rest of the speaker has the view in force.
func TestSeenFollowsApply(t *testing.T) {
	g := newGroup()
	g.Own("192.0.2.100", "192.0.2.101")
	members := three(t, g)
	n := newNode()
	startSession(t, config(t, members...), n)
	eventually(t, "first view", func() bool { return len(n.owns()) == 2 })
	entered, release := make(chan struct{}), make(chan struct{})
	n.mu.Lock()
	n.applying = func(v View) {
		if len(v.Vips) == 1 {
			close(entered)
			<-release
		}
	}
	n.mu.Unlock()
	lost := g.Own("192.0.2.100")
	<-entered
	before := members[0].LastBeat().GetSeq()
	eventually(t, "two more heartbeats", func() bool { return members[0].LastBeat().GetSeq() > before+2 })
	if seen := members[0].LastBeat().GetSeen(); seen >= lost {
		t.Errorf("seen %d while the view of %d is not in force", seen, lost)
	}
	close(release)
	eventually(t, "seen", func() bool { return members[0].LastBeat().GetSeen() >= lost })
}

// The next owner waits for the heartbeat that follows a loss.
func TestHeartbeatAtOnceAfterALoss(t *testing.T) {
	g := newGroup()
	g.Own("192.0.2.100")
	members := three(t, g)
	n := newNode()
	cfg := config(t, members...)
	s, _ := startSession(t, cfg, n)
	eventually(t, "confirmed", n.confirmed)
	slow := times{detection: time.Minute, heartbeat: 20 * time.Second}
	n.mu.Lock()
	n.applying = func(View) {}
	n.mu.Unlock()
	// Stretch h, so that only the extra heartbeat can come soon.
	eventually(t, "slow heartbeats", func() bool {
		s.times.Store(&slow)
		before := members[0].LastBeat().GetSeq()
		time.Sleep(4 * membertest.Heartbeat)
		return members[0].LastBeat().GetSeq() == before
	})
	start := time.Now()
	lost := g.Own()
	eventually(t, "the loss is seen", func() bool { return members[0].LastBeat().GetSeen() >= lost })
	if d := time.Since(start); d > slow.heartbeat/2 {
		t.Errorf("only after %v", d)
	}
}

func TestMemberDiesAndReturns(t *testing.T) {
	g := newGroup()
	g.Fence = 3 * time.Second // this machine may be busy
	g.Own("192.0.2.100")
	members := three(t, g)
	n := newNode()
	s, _ := startSession(t, config(t, members...), n)
	eventually(t, "confirmed", n.confirmed)
	eventually(t, "two watches", func() bool {
		return members[0].Watched()+members[1].Watched()+members[2].Watched() == watches
	})
	for _, m := range members {
		address := m.Address
		m.Stop()
		start := time.Now()
		g.Own("192.0.2.100", "192.0.2.101")
		nettest.Eventually(t, "the other watch tells", func() bool { return len(n.owns()) == 2 })
		t.Logf("view without %s after %v", address, time.Since(start))
		g.Own("192.0.2.100")
		eventually(t, "told of the loss", func() bool { return len(n.owns()) == 1 })
		if !n.confirmed() {
			t.Error("confirmation lost with one member of three")
		}
		m.Start(address)
		before := time.Now()
		m.Lock()
		m.Beats = nil
		m.Unlock()
		nettest.Eventually(t, "heartbeats again", func() bool { return m.LastBeat() != nil })
		t.Logf("heartbeat %v after its return", time.Since(before))
	}
	if session, opens := g.Now(); opens != 1 || s.State().Session != session {
		t.Errorf("%d sessions opened", opens)
	}
}

// A member that hangs keeps its connections, and is noticed by its silence.
func TestHangingMemberIsNotWatched(t *testing.T) {
	g := newGroup()
	g.Own("192.0.2.100")
	members := three(t, g)
	n := newNode()
	startSession(t, config(t, members...), n)
	eventually(t, "confirmed", n.confirmed)
	for _, m := range members {
		m.Lock()
		m.Hang, m.Frozen = true, 1
		m.Unlock()
		eventually(t, "not watched while it hangs", func() bool { return m.Watched() == 0 })
		m.Lock()
		m.Hang, m.Frozen = false, 0
		m.Unlock()
		eventually(t, "heard again", func() bool {
			hb := m.LastBeat()
			g.Lock()
			defer g.Unlock()
			return hb != nil && g.Acked-hb.GetSeq() < 3
		})
	}
}

// Members that are behind are left for one that is not.
func TestBehindRotatesTheWatch(t *testing.T) {
	g := newGroup()
	g.Own("192.0.2.100", "192.0.2.101")
	members := three(t, g)
	n := newNode()
	startSession(t, config(t, members...), n)
	eventually(t, "confirmed", n.confirmed)
	eventually(t, "two watches", func() bool {
		return members[0].Watched()+members[1].Watched()+members[2].Watched() == watches
	})
	for _, m := range members {
		if m.Watched() > 0 {
			m.Lock()
			m.Frozen = 1 << 40 // set below to the present revision
			m.Unlock()
		}
	}
	g.Lock()
	now := g.Revision
	g.Unlock()
	for _, m := range members {
		m.Lock()
		if m.Frozen != 0 {
			m.Frozen = now
		}
		m.Unlock()
	}
	start := time.Now()
	g.Own("192.0.2.100")
	eventually(t, "the loss is seen at the third member", func() bool { return len(n.owns()) == 1 })
	t.Logf("after %v", time.Since(start))
	eventually(t, "confirmed again", n.confirmed)
}

// D has become shorter, and no watch has told the node so.
func TestFreshByTheAck(t *testing.T) {
	g := newGroup()
	g.Times.DetectionNanos = int64(time.Minute)
	members := three(t, g)
	n := newNode()
	startSession(t, config(t, members...), n)
	eventually(t, "confirmed", n.confirmed)
	n.mu.Lock()
	defer n.mu.Unlock()
	if got, want := n.conf.Fresh-n.conf.Sent, fresh(membertest.Detection); got != want {
		t.Errorf("fresh for %v, want %v", got, want)
	}
}

// A speaker whose clock is 1 % slow must not count as fresh any more when a member
// whose clock is 1 % fast takes it for dead.
func TestFreshEndsBeforeDetection(t *testing.T) {
	for d := 100 * time.Millisecond; d <= time.Minute; d += 50 * time.Millisecond {
		speaker, member := float64(fresh(d))/0.99, float64(d)/1.01
		if speaker >= member {
			t.Fatalf("D = %v: fresh for %v of true time, dead after %v", d, time.Duration(speaker), time.Duration(member))
		}
	}
}

func TestSessionOverOpensAnother(t *testing.T) {
	g := newGroup()
	g.Own("192.0.2.100")
	members := three(t, g)
	n := newNode()
	s, _ := startSession(t, config(t, members...), n)
	eventually(t, "confirmed", n.confirmed)
	first := s.State()
	g.Change(func() { g.Session = 0 })
	eventually(t, "another session", func() bool { st := s.State(); return st.Session > first.Session })
	eventually(t, "confirmed in it", func() bool { return s.Ready() && n.confirmed() })
	if got := s.State().Incarnation; got != first.Incarnation {
		t.Errorf("incarnation %d, was %d", got, first.Incarnation)
	}
}

func TestReplacedEndsTheProcess(t *testing.T) {
	for name, when := range map[string]bool{"by heartbeat": true, "when opening": false} {
		t.Run(name, func(t *testing.T) {
			g := newGroup()
			members := three(t, g)
			n := newNode()
			replace := func() {
				g.Change(func() { g.Refuse = speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_REPLACED })
			}
			if !when {
				replace()
			}
			_, result := startSession(t, config(t, members...), n)
			if when {
				eventually(t, "confirmed", n.confirmed)
				replace()
			}
			select {
			case err := <-result:
				if !errors.Is(err, ErrReplaced) {
					t.Errorf("Run returned %v", err)
				}
			case <-time.After(nettest.Patience):
				t.Fatal("still running")
			}
		})
	}
}

func TestPredecessorIsWaitedFor(t *testing.T) {
	g := newGroup()
	g.Own("192.0.2.100")
	g.Refuse = speakerv1.HeartbeatRefusal_HEARTBEAT_REFUSAL_PREDECESSOR
	members := three(t, g)
	n := newNode()
	s, _ := startSession(t, config(t, members...), n)
	eventually(t, "a view", func() bool { return len(n.owns()) == 1 })
	eventually(t, "heartbeats", func() bool { return members[0].LastBeat() != nil && members[0].LastBeat().GetSeq() > 3 })
	if n.until() != 0 || s.Ready() {
		t.Error("confirmed beside the predecessor")
	}
	g.Change(func() { g.Refuse = 0 })
	eventually(t, "confirmed", n.confirmed)
}

// While nobody acks, the confirmation ends by itself and the session goes on.
func TestConfirmationRunsOut(t *testing.T) {
	g := newGroup()
	members := three(t, g)
	n := newNode()
	s, _ := startSession(t, config(t, members...), n)
	eventually(t, "confirmed", n.confirmed)
	g.Change(func() { g.Mute = true })
	eventually(t, "unconfirmed", func() bool { return !n.confirmed() })
	until := n.until()
	g.Change(func() { g.Mute = false })
	eventually(t, "confirmed again", func() bool { return n.confirmed() && n.until() > until })
	if _, opens := g.Now(); opens != 1 || s.State().Session == 0 {
		t.Errorf("%d sessions opened", opens)
	}
}

func TestAnotherClusterBeginsAnew(t *testing.T) {
	g := newGroup()
	g.Own("192.0.2.100")
	members := three(t, g)
	n := newNode()
	s, _ := startSession(t, config(t, members...), n)
	eventually(t, "confirmed", n.confirmed)
	g.Change(func() { // restored into a new group, whose revisions begin again
		g.Cluster, g.Revision, g.Session, g.Taken = "fedcba9876543210", 3, 0, 0
		g.Vips = []*speakerv1.Vip{{Address: g.Vips[0].Address, Epoch: 2, OnControlLoss: g.Vips[0].OnControlLoss}}
	})
	eventually(t, "a view of the new cluster", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.views) > 0 && n.views[len(n.views)-1].Cluster == "fedcba9876543210"
	})
	eventually(t, "confirmed in it", func() bool { return s.Ready() && s.State().Seen < 10 })
}

func TestAttachReportsAndAnswers(t *testing.T) {
	g := newGroup()
	g.Own("192.0.2.100")
	members := three(t, g)
	n := newNode()
	n.report(&speakerv1.VipStatus{Address: []byte{192, 0, 2, 100}, Announced: speakerv1.Announced_ANNOUNCED_UNPROVEN})
	startSession(t, config(t, members...), n)
	for _, m := range members {
		eventually(t, "attached with everything", func() bool {
			session, _ := g.Now()
			m.Lock()
			defer m.Unlock()
			return len(m.Reported) == 1 && m.Reported[0].GetHello().GetSession() == session &&
				len(m.Reported[0].GetVips()) == 1 && len(m.Reported[0].GetLinks().GetLinks()) == 1
		})
	}
	n.report(&speakerv1.VipStatus{Address: []byte{192, 0, 2, 100}, Announced: speakerv1.Announced_ANNOUNCED_PROVEN})
	for _, m := range members {
		eventually(t, "the change alone", func() bool {
			m.Lock()
			defer m.Unlock()
			last := m.Reported[len(m.Reported)-1]
			return len(m.Reported) == 2 && last.Hello == nil && last.Links == nil && last.Vips[0].Announced == speakerv1.Announced_ANNOUNCED_PROVEN
		})
	}
	m := members[1]
	for id, tc := range map[uint64]struct{ addr, err string }{7: {"192.0.2.1", ""}, 8: {"2001:db8::1", "no link is up"}} {
		m.Ask <- &speakerv1.Probe{Id: id, Address: netip.MustParseAddr(tc.addr).AsSlice(), TimeoutNanos: int64(time.Second)}
		eventually(t, "answered", func() bool {
			m.Lock()
			defer m.Unlock()
			for _, r := range m.Reported {
				for _, a := range r.GetProbeAnswers() {
					if a.GetId() == id {
						return a.GetError() == tc.err && (tc.err != "") == (len(a.GetHits()) == 0)
					}
				}
			}
			return false
		})
	}
	n.mu.Lock()
	close(n.links)
	n.links = make(chan struct{})
	n.mu.Unlock()
	eventually(t, "links told again", func() bool {
		m.Lock()
		defer m.Unlock()
		return m.Reported[len(m.Reported)-1].GetLinks() != nil
	})
}

func TestMemberListFollowsAndIsRemembered(t *testing.T) {
	g := newGroup()
	members := three(t, g)
	n := newNode()
	cfg := config(t, members[0]) // knows one
	for _, m := range members {
		m.Tell(members...)
	}
	s, _ := startSession(t, cfg, n)
	for _, m := range members {
		eventually(t, "heartbeats to all", func() bool { return m.LastBeat() != nil })
	}
	file := filepath.Join(cfg.StateDir, rosterFile)
	eventually(t, "remembered", func() bool {
		b, err := os.ReadFile(file)
		return err == nil && strings.Count(string(b), `"address"`) == 3 && strings.Count(string(b), `"dialed"`) == 3
	})
	for _, m := range members {
		m.Tell(members[0], members[1])
	}
	eventually(t, "one was removed", func() bool { list, _ := s.roster.get(); return len(list) == 2 })
	for _, m := range members {
		m.Tell(members...)
	}
	eventually(t, "and came back", func() bool { list, _ := s.roster.get(); return len(list) == 3 })
}

// While the disk stalls, heartbeats go on: the members would take the node for dead.
func TestDiskStallHoldsUpNoHeartbeat(t *testing.T) {
	g := newGroup()
	members := three(t, g)
	n := newNode()
	cfg := config(t, members...)
	s, err := New(cfg, n)
	if err != nil {
		t.Fatal(err)
	}
	stalled, release := make(chan struct{}, 1), make(chan struct{})
	s.roster.replace = func(string, []byte) error {
		select {
		case stalled <- struct{}{}:
		default:
		}
		<-release
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		cancel()
		close(release)
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	for _, m := range members {
		m.Tell(members...)
	}
	select {
	case <-stalled:
	case <-time.After(nettest.Patience):
		t.Fatal("nothing is remembered")
	}
	eventually(t, "confirmed", n.confirmed)
	for _, m := range members {
		before := m.LastBeat().GetSeq()
		eventually(t, "heartbeats", func() bool { return m.LastBeat().GetSeq() > before+3 })
	}
	if list, _ := s.roster.get(); len(list) != len(members) {
		t.Errorf("%d members", len(list))
	}
}

// A name that does not resolve now is dialed where it was the last time.
func TestStartWhileNamesDoNotResolve(t *testing.T) {
	g := newGroup()
	members := three(t, g)
	_, port, _ := net.SplitHostPort(members[0].Address)
	name := net.JoinHostPort("member-0.quorumlb.invalid", port)
	cfg := config(t)
	cfg.Members = []string{"also-unknown.invalid:7400"}
	content := `[{"id":"m1","address":"` + name + `","dialed":"` + members[0].Address + `"}]`
	if err := os.WriteFile(filepath.Join(cfg.StateDir, rosterFile), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	n := newNode()
	startSession(t, cfg, n)
	eventually(t, "confirmed", n.confirmed)
}

func TestBrokenRosterFileIsNoObstacle(t *testing.T) {
	g := newGroup()
	cfg := config(t, three(t, g)...)
	if err := os.WriteFile(filepath.Join(cfg.StateDir, rosterFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := newNode()
	startSession(t, cfg, n)
	eventually(t, "confirmed", n.confirmed)
}

func TestLeave(t *testing.T) {
	g := newGroup()
	g.Own("192.0.2.100")
	n := newNode()
	s, result := startSession(t, config(t, three(t, g)...), n)
	eventually(t, "confirmed", n.confirmed)
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() { done <- s.Leave(ctx) }()
	eventually(t, "asked", func() bool { g.Lock(); defer g.Unlock(); return len(g.Left) > 0 })
	select {
	case err := <-done:
		t.Fatalf("left while it owns an address: %v", err)
	case <-time.After(2 * leavePoll):
	}
	g.Own()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	g.Lock()
	if last := len(g.Left) - 1; !g.Left[last] || slices.Contains(g.Left[:last], true) {
		t.Errorf("Leave calls (done) %v", g.Left)
	}
	g.Unlock()
	if got := n.owns(); len(got) != 0 {
		t.Errorf("still in force: %v", got)
	}
	g.Change(func() { g.Session = 0 }) // as the members do when it is closed
	select {
	case err := <-result:
		if err != nil {
			t.Errorf("Run returned %v", err)
		}
	case <-time.After(nettest.Patience):
		t.Error("another session was opened after Leave")
	}
}

func TestLeaveIsBounded(t *testing.T) {
	g := newGroup()
	g.Own("192.0.2.100")
	n := newNode()
	s, _ := startSession(t, config(t, three(t, g)...), n)
	eventually(t, "confirmed", n.confirmed)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Leave(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Leave returned %v", err)
	}
}

// With all members down nothing is in force, and nothing ends.
func TestStartWithoutMembers(t *testing.T) {
	address := testaddr.New(t)
	cfg := config(t)
	cfg.Members = []string{address}
	n := newNode()
	s, result := startSession(t, cfg, n)
	select {
	case err := <-result:
		t.Fatalf("Run returned %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	if n.owns() != nil || n.until() != 0 || s.Ready() {
		t.Error("something is in force without members")
	}
	g := newGroup()
	g.Own("192.0.2.100")
	membertest.StartMember(t, g, address)
	start := time.Now()
	eventually(t, "confirmed", n.confirmed)
	t.Logf("confirmed %v after the first member came", time.Since(start))
}

func TestNewRefusesBadMembers(t *testing.T) {
	cfg := Config{Node: "n1", Members: []string{"a:1", "b"}, Clock: clock.Boottime}
	if _, err := New(cfg, newNode()); err == nil || !strings.Contains(err.Error(), "members: [1]") {
		t.Errorf("error %v", err)
	}
	if _, err := New(Config{Node: "n1"}, newNode()); err == nil {
		t.Error("no members at all were accepted")
	}
}
