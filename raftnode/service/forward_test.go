package service

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/internal/testaddr"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
)

// trio is three members and an administrator of each.
type trio struct {
	members [3]*fakeMember
	admins  [3]adminv1.AdminServiceClient
}

func newTrio(t *testing.T) *trio {
	ca := newAuthority(t)
	cert := ca.issue("admin/alice", time.Now())
	g := &trio{}
	for i, id := range []string{"m1", "m2", "m3"} {
		g.members[i] = newFakeMember(t, ca, id)
		g.admins[i] = adminv1.NewAdminServiceClient(ca.dial(g.members[i].addr, &cert))
	}
	return g
}

// lead makes all members think that the i-th leads.
func (g *trio) lead(i int) {
	for _, m := range g.members {
		m.setLeader(g.members[i].id, g.members[i].addr)
	}
}

// decideDrains makes the i-th member answer Drain and tell who asked.
func (g *trio) decideDrains(i int) <-chan string {
	asked := make(chan string, 16)
	g.members[i].setDecide(func(_ context.Context, cmd decider.Command) (decider.Result, error) {
		asked <- cmd.(*decider.Drain).Actor
		return decider.Result{Revision: 7, Owned: 3}, nil
	})
	return asked
}

func TestWriteOnAFollowerReachesTheLeaderInTheCallersName(t *testing.T) {
	g := newTrio(t)
	g.lead(1)
	asked := g.decideDrains(1)
	for i, admin := range g.admins {
		resp, err := admin.Drain(t.Context(), &adminv1.DrainRequest{Node: "n1"})
		if err != nil || resp.GetRevision() != 7 || resp.GetOwned() != 3 {
			t.Errorf("through m%d: %v, %v", i+1, resp, err)
		}
		if actor := <-asked; actor != "admin:alice" {
			t.Errorf("through m%d: actor %q", i+1, actor)
		}
	}
}

func TestRefusalsKeepTheirDetails(t *testing.T) {
	g := newTrio(t)
	g.lead(1)
	g.members[1].setDecide(func(context.Context, decider.Command) (decider.Result, error) {
		return decider.Result{}, &decider.InvalidError{Fields: []decider.FieldError{{Path: "resources[0].pool.addresses[1]", Message: "reversed"}}}
	})
	_, err := g.admins[0].Apply(t.Context(), &adminv1.ApplyRequest{})
	st := status.Convert(err)
	if st.Code() != codes.InvalidArgument || len(st.Details()) != 1 {
		t.Fatalf("%v with details %v", err, st.Details())
	}
	br, ok := st.Details()[0].(*errdetails.BadRequest)
	if !ok || br.GetFieldViolations()[0].GetField() != "resources[0].pool.addresses[1]" {
		t.Errorf("details: %v", st.Details())
	}
}

func TestCallIsHeldWhileNobodyLeads(t *testing.T) {
	g := newTrio(t)
	g.decideDrains(2)
	done := make(chan error, 1)
	go func() {
		_, err := g.admins[0].Drain(t.Context(), &adminv1.DrainRequest{Node: "n1"})
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("answered without a leader: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	g.lead(2)
	if err := <-done; err != nil {
		t.Errorf("after the election: %v", err)
	}
}

func TestHoldIsBounded(t *testing.T) {
	g := newTrio(t)
	start := time.Now()
	_, err := g.admins[0].Drain(t.Context(), &adminv1.DrainRequest{Node: "n1"})
	if status.Code(err) != codes.Unavailable || reasonOf(err) != ReasonNotLeader {
		t.Errorf("%v (reason %q)", err, reasonOf(err))
	}
	if took := time.Since(start); took < 2*time.Second || took > 15*time.Second {
		t.Errorf("held for %v, want about 2s", took)
	}
}

// TestNoLoop: members that disagree about who leads do not pass a call round.
func TestNoLoop(t *testing.T) {
	g := newTrio(t)
	g.members[0].setLeader("m2", g.members[1].addr)
	g.members[1].setLeader("m1", g.members[0].addr)
	_, err := g.admins[0].Drain(t.Context(), &adminv1.DrainRequest{Node: "n1"})
	if status.Code(err) != codes.Unavailable || reasonOf(err) != ReasonNotLeader {
		t.Errorf("%v (reason %q)", err, reasonOf(err))
	}
}

func TestUnreachableLeaderIsTriedAgain(t *testing.T) {
	g := newTrio(t)
	asked := g.decideDrains(2)
	g.members[0].setLeader("m9", testaddr.New(t))
	done := make(chan error, 1)
	go func() {
		_, err := g.admins[0].Drain(t.Context(), &adminv1.DrainRequest{Node: "n1"})
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("answered without a leader: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	g.lead(2)
	if err := <-done; err != nil {
		t.Errorf("%v", err)
	}
	if n := len(asked); n != 1 {
		t.Errorf("decided %d times", n)
	}
}

// TestUnknownOutcomeIsNotRepeated: a call that the leader may have executed is
// not made again behind the caller's back.
func TestUnknownOutcomeIsNotRepeated(t *testing.T) {
	for name, lose := range map[string]func(g *trio){
		"connection breaks": func(g *trio) { g.members[1].stop() },
		"leadership moves":  func(g *trio) { g.lead(2) },
	} {
		t.Run(name, func(t *testing.T) {
			g := newTrio(t)
			g.lead(1)
			taken := make(chan struct{}, 16)
			block := func(ctx context.Context, _ decider.Command) (decider.Result, error) {
				taken <- struct{}{}
				<-ctx.Done()
				return decider.Result{}, errors.Join(decider.ErrUnknownOutcome, ctx.Err())
			}
			g.members[1].setDecide(block)
			g.members[2].setDecide(block)
			done := make(chan error, 1)
			go func() {
				_, err := g.admins[0].Drain(t.Context(), &adminv1.DrainRequest{Node: "n1"})
				done <- err
			}()
			<-taken
			lose(g)
			if err := <-done; reasonOf(err) != ReasonUnknownOutcome {
				t.Errorf("%v (reason %q)", err, reasonOf(err))
			}
			if n := len(taken); n != 0 {
				t.Errorf("decided %d times more", n)
			}
		})
	}
}

func founded() *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_ClusterFounded{ClusterFounded: &logv1.ClusterFounded{
		ClusterId: []byte("0123456789abcdef"), ClusterVersion: 1,
	}}}
}

func poolDefined(name, addresses string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_PoolDefined{PoolDefined: &logv1.PoolDefined{Pool: &logv1.Pool{Name: name, Addresses: []string{addresses}}}}}
}

// TestReadOnAFollowerIsLinearizable: it waits until it has what the leader had
// when it was asked.
func TestReadOnAFollowerIsLinearizable(t *testing.T) {
	g := newTrio(t)
	g.lead(1)
	leader, follower := g.members[1], g.members[0]
	for _, m := range g.members {
		m.apply(founded())
	}
	leader.apply(poolDefined("p", "192.0.2.0/24"))

	stale, err := g.admins[0].Get(t.Context(), &adminv1.GetRequest{Kinds: []string{"pools"}, Stale: true})
	if err != nil || len(stale.GetPools()) != 0 {
		t.Fatalf("stale read: %v, %v", stale, err)
	}
	got := make(chan *adminv1.GetResponse, 1)
	go func() {
		resp, err := g.admins[0].Get(t.Context(), &adminv1.GetRequest{Kinds: []string{"pools"}})
		if err != nil {
			t.Error(err)
		}
		got <- resp
	}()
	select {
	case resp := <-got:
		t.Fatalf("answered from an old state: %v", resp)
	case <-time.After(100 * time.Millisecond):
	}
	follower.apply(poolDefined("p", "192.0.2.0/24"))
	if resp := <-got; len(resp.GetPools()) != 1 || resp.GetRevision() != 2 {
		t.Errorf("linearizable read: %v", resp)
	}
	if leader.readCount() == 0 {
		t.Error("the leader was not asked")
	}
}

func TestFollowerThatStaysBehindSaysSo(t *testing.T) {
	g := newTrio(t)
	g.lead(1)
	g.members[1].apply(founded())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := g.admins[0].Get(ctx, &adminv1.GetRequest{Kinds: []string{"pools"}})
	if code := status.Code(err); code != codes.DeadlineExceeded && code != codes.Unavailable {
		t.Errorf("%v", err)
	}
}

// TestStaleReadsWorkWithoutALeader: what is left when the majority is lost.
func TestStaleReadsWorkWithoutALeader(t *testing.T) {
	g := newTrio(t)
	g.members[0].apply(founded())
	events, err := g.admins[0].Events(t.Context(), &adminv1.EventsRequest{Stale: true})
	if err != nil {
		t.Fatal(err)
	}
	if ev, err := events.Recv(); err != nil || ev.GetRevision() != 1 {
		t.Errorf("events: %v, %v", ev, err)
	}
	save, err := g.admins[0].SnapshotSave(t.Context(), &adminv1.SnapshotSaveRequest{Stale: true})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := save.Recv(); err != nil || len(m.GetChunk()) == 0 {
		t.Errorf("backup: %v, %v", m, err)
	}
	st, err := g.admins[0].Status(t.Context(), &adminv1.StatusRequest{Stale: true})
	if err != nil || len(st.GetProblems()) == 0 {
		t.Errorf("status: %v, %v", st, err)
	}
}
