package transport

import (
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/internal/pki"
	"github.com/quorumlb/quorumlb/internal/testaddr"
	"github.com/quorumlb/quorumlb/raftnode/storage"
)

// answering starts a member whose Raft answers everything with a term.
func answering(t *testing.T, ca *pki.CA, name string, term uint64) *Mux {
	t.Helper()
	m := startMux(t, ca, storage.MemberName(name), nil)
	r := NewRaft(m, RaftConfig{})
	r.SetID(name)
	stop := make(chan struct{})
	answer := func(rpc raft.RPC) {
		switch rpc.Command.(type) {
		case *raft.AppendEntriesRequest:
			rpc.Respond(&raft.AppendEntriesResponse{Term: term, Success: true}, nil)
		case *raft.RequestVoteRequest:
			rpc.Respond(&raft.RequestVoteResponse{Term: term, Granted: true}, nil)
		case *raft.RequestPreVoteRequest:
			rpc.Respond(&raft.RequestPreVoteResponse{Term: term, Granted: true}, nil)
		default:
			rpc.Respond(nil, errors.New("unexpected"))
		}
	}
	r.SetHeartbeatHandler(answer)
	go func() {
		for {
			select {
			case rpc := <-r.Consumer():
				answer(rpc)
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		_ = r.Close()
	})
	return m
}

func heartbeat(term uint64) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: 3, Addr: []byte("x")}, Term: term}
}

func entries(term uint64) *raft.AppendEntriesRequest {
	r := heartbeat(term)
	r.Entries = []*raft.Log{{Index: 1, Term: term}}
	return r
}

func TestAnswered(t *testing.T) {
	ca := newCA(t)
	peer := answering(t, ca, "m2.abc", 7)
	var now clock.Manual
	now.Set(time.Second)
	r := NewRaft(startMux(t, ca, "m1", nil), RaftConfig{Clock: &now})
	defer r.Close()
	addr := raft.ServerAddress(peer.Advertised())
	var resp raft.AppendEntriesResponse
	send := func(req *raft.AppendEntriesRequest) {
		t.Helper()
		if err := r.AppendEntries("m2.abc", addr, req, &resp); err != nil {
			t.Fatal(err)
		}
	}
	send(heartbeat(6))
	if a := r.Answered("m2.abc"); a != (Answer{}) {
		t.Fatalf("an answer of a later term counts: %v", a)
	}
	send(heartbeat(7))
	if a := r.Answered("m2.abc"); a != (Answer{Sent: time.Second, Term: 7}) {
		t.Fatalf("got %v", a)
	}
	now.Advance(time.Second)
	send(entries(7))
	if a := r.Answered("m2.abc"); a.Sent != 2*time.Second {
		t.Fatalf("got %v", a)
	}
}

func TestFaults(t *testing.T) {
	ca := newCA(t)
	peer := answering(t, ca, "m2", 7)
	var f Faults
	r := NewRaft(startMux(t, ca, "m1", nil), RaftConfig{Fault: &f})
	defer r.Close()
	addr := raft.ServerAddress(peer.Advertised())
	beat := func() error {
		var resp raft.AppendEntriesResponse
		return r.AppendEntries("m2", addr, heartbeat(7), &resp)
	}
	vote := func() error {
		var resp raft.RequestVoteResponse
		return r.RequestVote("m2", addr, &raft.RequestVoteRequest{Term: 8}, &resp)
	}
	preVote := func() error {
		var resp raft.RequestPreVoteResponse
		return r.RequestPreVote("m2", addr, &raft.RequestPreVoteRequest{Term: 8}, &resp)
	}
	for _, request := range []func() error{beat, vote, preVote} {
		if err := request(); err != nil {
			t.Fatal(err)
		}
	}
	heal := f.Drop(OpRequestVote, "m2")
	if err := vote(); !errors.Is(err, ErrLost) {
		t.Fatalf("vote: %v, want ErrLost", err)
	}
	if err := beat(); err != nil {
		t.Fatalf("heartbeat: %v", err)
	}
	heal()
	if err := vote(); err != nil {
		t.Fatal(err)
	}
	other := f.Drop(OpInvalid, "m3")
	if err := preVote(); err != nil {
		t.Fatalf("lost another member's message: %v", err)
	}
	other()

	held, release := f.HoldAnswers(OpHeartbeat, "")
	before := r.Answered("m2")
	done := make(chan error, 1)
	go func() { done <- beat() }()
	select {
	case <-held:
	case <-time.After(patience):
		t.Fatal("nothing was held")
	}
	if r.Answered("m2") != before {
		t.Fatal("a held answer counts")
	}
	release()
	release() // a second time does no harm
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if r.Answered("m2") == before {
		t.Fatal("a released answer does not count")
	}
}

func TestPipelineGoesOnWithoutAReader(t *testing.T) {
	ca := newCA(t)
	peer := answering(t, ca, "m2", 7)
	r := NewRaft(startMux(t, ca, "m1", nil), RaftConfig{})
	defer r.Close()
	p, err := r.AppendEntriesPipeline("m2", raft.ServerAddress(peer.Advertised()))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	sent := make(chan error, 1)
	go func() { // ends with the last send
		for range 10 {
			if _, err := p.AppendEntries(entries(7), new(raft.AppendEntriesResponse)); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	select {
	case err := <-sent:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("blocked: nobody reads the answers")
	}
}

func TestFaultsInPipeline(t *testing.T) {
	ca := newCA(t)
	peer := answering(t, ca, "m2", 7)
	var f Faults
	r := NewRaft(startMux(t, ca, "m1", nil), RaftConfig{Fault: &f})
	defer r.Close()
	p, err := r.AppendEntriesPipeline("m2", raft.ServerAddress(peer.Advertised()))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	send := func() error {
		_, err := p.AppendEntries(entries(7), new(raft.AppendEntriesResponse))
		return err
	}
	next := func() raft.AppendFuture {
		t.Helper()
		select {
		case a := <-p.Consumer():
			return a
		case <-time.After(patience):
			t.Fatal("no answer")
			return nil
		}
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
	if a := next(); a.Error() != nil || !a.Response().Success {
		t.Fatalf("answer %v, %v", a.Response(), a.Error())
	}
	heal := f.Drop(OpAppendEntries, "")
	if err := send(); !errors.Is(err, ErrLost) {
		t.Fatalf("got %v, want ErrLost", err)
	}
	heal()
	heal = f.DropAnswers(OpAppendEntries, "")
	if err := send(); err != nil {
		t.Fatal(err)
	}
	if a := next(); !errors.Is(a.Error(), ErrLost) || a.Response().Success {
		t.Fatalf("answer %v, %v", a.Response(), a.Error())
	}
	heal()
}

// A group whose members all changed address finds itself again by the addresses
// on the command line.
func TestFallsBackToConfiguredAddress(t *testing.T) {
	ca := newCA(t)
	peer := answering(t, ca, "m2", 7)
	old := raft.ServerAddress(testaddr.New(t))
	r := NewRaft(startMux(t, ca, "m1", nil), RaftConfig{Peers: map[string]string{"m2": peer.Advertised()}})
	defer r.Close()
	var resp raft.AppendEntriesResponse
	if err := r.AppendEntries("m2", old, heartbeat(7), &resp); err == nil {
		t.Fatal("the old address answers")
	}
	if err := r.AppendEntries("m2", old, heartbeat(7), &resp); err != nil {
		t.Fatalf("the configured address was not tried: %v", err)
	}
}

// A member that lost its disk has a new id. Requests for the old one reach its
// address, and must not be answered: the answer would be the old id's vote.
func TestNewDiskDoesNotAnswerForOldID(t *testing.T) {
	ca := newCA(t)
	peer := answering(t, ca, "m2.new", 7)
	r := NewRaft(startMux(t, ca, "m1", nil), RaftConfig{})
	defer r.Close()
	addr := raft.ServerAddress(peer.Advertised())
	for _, id := range []raft.ServerID{"m2", "m2.old"} {
		var vote raft.RequestVoteResponse
		if err := r.RequestVote(id, addr, &raft.RequestVoteRequest{Term: 8}, &vote); err == nil || vote.Granted {
			t.Fatalf("%s: %v, granted %v", id, err, vote.Granted)
		}
		var appended raft.AppendEntriesResponse
		if err := r.AppendEntries(id, addr, heartbeat(7), &appended); err == nil || r.Answered(id) != (Answer{}) {
			t.Fatalf("%s: %v, answered %v", id, err, r.Answered(id))
		}
	}
	var vote raft.RequestVoteResponse
	if err := r.RequestVote("m2.new", addr, &raft.RequestVoteRequest{Term: 8}, &vote); err != nil || !vote.Granted {
		t.Fatalf("new id: %v", err)
	}
}
