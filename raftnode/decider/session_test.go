package decider

import (
	"fmt"
	"testing"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func TestOpenSession(t *testing.T) {
	inBubble(t, func(h *harness) {
		first := h.must(openSession("n1", 1))
		if s := first.Session; s.Session != first.Revision || s.Incarnation != 1 || s.ClusterID != [16]byte{1} || s.Lease != fsm.DefaultLeaseTimes {
			t.Errorf("answer %+v at revision %d", s, first.Revision)
		}
		// A repeated request is the same session, with or without its number.
		for _, incarnation := range []uint64{0, 1} {
			again := openSession("n1", 1)
			again.Incarnation = incarnation
			if r := h.must(again); r.Changed || *r.Session != *first.Session {
				t.Errorf("repeated: %+v", r.Session)
			}
		}
		// Unless its links have changed meanwhile.
		again := openSession("n1", 1)
		again.Links = links("eth1", true)
		if r := h.must(again); !r.Changed || *r.Session != *first.Session {
			t.Errorf("with other links: %+v", r.Session)
		}
		// A new process replaces it, and the old one may not come back.
		second := h.must(openSession("n1", 2))
		if second.Session.Incarnation != 2 || second.Session.Session == first.Session.Session {
			t.Errorf("second process: %+v", second.Session)
		}
		old := openSession("n1", 1)
		old.Incarnation = 1
		h.refused(old, ErrReplaced)
		// After an expiry the same process opens a new session.
		h.must(h.expire("n1"))
		same := openSession("n1", 2)
		same.Incarnation = 2
		if r := h.must(same); !r.Changed || r.Session.Incarnation != 2 || r.Session.Session == second.Session.Session {
			t.Errorf("after expiry: %+v", r.Session)
		}
		// Another process with the number of this one is an impostor.
		impostor := openSession("n1", 3)
		impostor.Incarnation = 2
		h.refused(impostor, ErrReplaced)
		// Who said good-bye stays away.
		h.must(&Leave{Node: "n1", Session: h.session("n1"), Done: true})
		h.refused(same, ErrSessionClosed)
		if r := h.must(openSession("n1", 4)); r.Session.Incarnation != 3 {
			t.Errorf("after good-bye: %+v", r.Session)
		}
	})
}

func TestTwoProcessesAtOnceTakeTwoBatches(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.log.set(func(l *memLog) { l.stalled = true })
		// Fills the pipe, so that the next ones are decided together.
		var cmds []Command
		for i := range 70 {
			cmds = append(cmds, openSession("n1", byte(i+1)))
		}
		a := h.send(cmds...)
		h.log.set(func(l *memLog) { l.stalled = false })
		a.wg.Wait()
		seen := map[uint64]bool{}
		for i, r := range a.res {
			if a.errs[i] != nil || seen[r.Session.Session] {
				t.Fatalf("process %d: %+v, %v", i, r.Session, a.errs[i])
			}
			seen[r.Session.Session] = true
		}
		h.checkHead()
	})
}

// A process that repeats its request in the very batch that admits its successor is
// told its own session, never the other's.
func TestARepeatedOpenBesideASuccessor(t *testing.T) {
	inBubble(t, func(h *harness) {
		first := h.must(openSession("n1", 1))
		h.log.set(func(l *memLog) { l.stalled = true })
		var fill []Command // the pipe, so that what follows is decided together
		for i := range 64 {
			fill = append(fill, openSession(fmt.Sprintf("f%d", i), 1))
		}
		a := h.send(fill...)
		b := h.send(openSession("n1", 1), openSession("n1", 2))
		h.log.set(func(l *memLog) { l.stalled = false })
		a.wg.Wait()
		b.wg.Wait()
		again, second := b.res[0].Session, b.res[1].Session
		if b.errs[0] != nil || b.errs[1] != nil || *again != *first.Session || second.Session == first.Session.Session || second.Incarnation != 2 {
			t.Errorf("repeated: %+v, %v; successor: %+v, %v; first: %+v", again, b.errs[0], second, b.errs[1], first.Session)
		}
	})
}

func TestAForgottenNodeCountsOn(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.open("n1")
		h.refused(&ForgetNode{Node: "n1"}, new(*PreconditionError))
		h.must(h.expire("n1"))
		h.must(&ForgetNode{Node: "n1"})
		h.refused(&ForgetNode{Node: "n1"}, new(*NotFoundError))
		cmd := openSession("n1", 1)
		cmd.Incarnation = 7
		if r := h.must(cmd); r.Session.Incarnation != 7 {
			t.Errorf("%+v", r.Session)
		}
	})
}

func TestForgetNodeThatOwns(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), ad("a")))
		h.open("n1")
		h.must(apply(service("web")))
		h.must(h.expire("n1"))
		h.refused(&ForgetNode{Node: "n1"}, new(*PreconditionError))
		h.open("n2")
		h.settle()
		h.must(&ForgetNode{Node: "n1"})
	})
}

func TestDrainAndLeave(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		h.refused(&Drain{Node: "n9"}, new(*NotFoundError))
		h.refused(&Undrain{Node: "n9"}, new(*NotFoundError))
		h.refused(&Leave{Node: "n1", Session: 1}, ErrNoSession)
		h.refused(&LinksChanged{Node: "n1", Session: 1}, ErrNoSession)
		leave := &Leave{Node: "n1", Session: h.session("n1")}
		// The release is in the same batch, so the node owns nothing any more.
		if r := h.must(leave); !r.Changed || r.Owned != 0 {
			t.Errorf("leave: %+v", r)
		}
		if r := h.must(leave); r.Changed {
			t.Error("left twice")
		}
		// A new process ends a leave, but not an administrator's drain.
		h.must(openSession("n1", 2))
		h.must(&Drain{Node: "n1", Actor: "admin:test"})
		if r := h.must(&Drain{Node: "n1", Actor: "admin:test"}); r.Changed {
			t.Error("drained twice")
		}
		h.must(&Leave{Node: "n1", Session: h.session("n1")})
		h.must(openSession("n1", 3))
		h.log.Read(func(s *fsm.State) {
			if d := s.Nodes["n1"].Drained; d != logv1.DrainReason_DRAIN_REASON_ADMIN {
				t.Errorf("drained: %v", d)
			}
		})
		if !h.must(&Undrain{Node: "n1"}).Changed || h.must(&Undrain{Node: "n1"}).Changed {
			t.Error("undrain: once")
		}
	})
}

func TestMoveAnswers(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		h.refused(&Move{Address: vipAddr.Next()}, new(*NotFoundError))
		h.refused(&Move{Address: vipAddr, To: "n9"}, new(*NotFoundError))
		if r := h.must(&Move{Address: vipAddr, To: "n1"}); r.Changed || r.From != "n1" || r.To != "n1" {
			t.Errorf("to where it is: %+v", r)
		}
		h.must(&Drain{Node: "n2"})
		h.refused(&Move{Address: vipAddr, To: "n2"}, new(*PreconditionError))
		h.refused(&Move{Address: vipAddr}, new(*PreconditionError))
		h.must(&Undrain{Node: "n2"})
		if r := h.must(&Move{Address: vipAddr}); r.From != "n1" || r.To != "n2" {
			t.Errorf("anywhere: %+v", r)
		}
		// While it waits the wish may change.
		h.open("n3")
		if r := h.must(&Move{Address: vipAddr, To: "n3"}); r.To != "n3" {
			t.Errorf("elsewhere: %+v", r)
		}
		h.then(h.when(func() {
			h.leases.set(func(l *fakeLeases) { l.over["n1"] = true })
			h.d.Wake()
		}), "OwnerAssigned 10.0.0.1 n3 MOVE")
	})
}

func TestConflicts(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		mac := fsm.MAC{2, 9, 9, 9, 9, 9}
		h.refused(&ConflictObserved{Node: "n1", Address: vipAddr}, new(*InvalidError))
		seen := &ConflictObserved{Node: "n1", Address: vipAddr, MAC: mac}
		if !h.must(seen).Changed || h.must(seen).Changed {
			t.Error("observed: once")
		}
		if h.must(&ConflictCleared{Node: "n2", Address: vipAddr}).Changed {
			t.Error("cleared by a node that did not report it")
		}
		clear := &ConflictCleared{Node: "n1", Address: vipAddr}
		if !h.must(clear).Changed || h.must(clear).Changed {
			t.Error("cleared: once")
		}
	})
}

func TestAnnounceRecovered(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		if h.must(&AnnounceFailed{Node: "n1", Address: vipAddr, Epoch: 1}).Changed {
			t.Error("a failure of an old epoch counts")
		}
		h.must(&Drain{Node: "n2"})
		h.must(&AnnounceFailed{Node: "n1", Address: vipAddr, Epoch: h.epoch(vip), Reason: "bad \xff text"})
		if !h.must(&AnnounceRecovered{Node: "n1", Address: vipAddr}).Changed || h.must(&AnnounceRecovered{Node: "n1", Address: vipAddr}).Changed {
			t.Error("recovered: once")
		}
		// It has recovered, so there is no reason to move.
		h.then(h.when(func() { h.must(&Undrain{Node: "n2"}) }), "NodeUndrained n2")
	})
}
