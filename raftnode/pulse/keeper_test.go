package pulse

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
	"github.com/quorumlb/quorumlb/raftnode/lease"
)

// A node that reaches one follower only is acked, over that follower.
func TestAcksTravelOverEveryMember(t *testing.T) {
	tr := newTrio(t)
	tr.node("n1", 4)
	k := tr.lead()
	direct, stop := k.Acks("n1")
	defer stop()
	through, stop2 := tr.cells[2].keeper.Load().Acks("n1")
	defer stop2()
	tr.speaker("n1", 4, tr.cells[2])
	for name, acks := range map[string]<-chan lease.Ack{"leader": direct, "follower": through} {
		a := await(t, acks, "ack over the "+name, isAck)
		if a.Session != 4 || a.Seq == 0 || a.Fence != testTimes.Fence() {
			t.Errorf("ack over the %s: %+v", name, a)
		}
	}
	if d, ok := k.Unheard("n1", 4); !ok || d > testTimes.Detection {
		t.Errorf("the leader has heard it %v ago (%v)", d, ok)
	}
	if k.Seen("n1") != 0 || tr.cells[2].keeper.Load().Seen("n1") != 10 {
		t.Error("Seen is what a member heard itself")
	}
	v := k.View()
	if !v.Leading || len(v.Peers) != 2 || v.Peers[0].Answered < 0 {
		t.Errorf("view %+v", v)
	}
}

func TestNoAckWithoutAMajority(t *testing.T) {
	tr := newTrio(t)
	tr.node("n1", 4)
	tr.cells[1].group.term.Store(6) // they vote for somebody else already
	tr.cells[2].group.term.Store(6)
	k := tr.lead()
	acks, stop := k.Acks("n1")
	defer stop()
	tr.speaker("n1", 4, tr.cells...)
	eventually(t, "answers", func() bool { return k.Stats().Reports.Load() > 20 })
	select {
	case a := <-acks:
		t.Fatalf("answer %+v", a)
	default:
	}
	// One follower in the leader's term is enough.
	tr.cells[1].group.term.Store(5)
	await(t, acks, "ack", isAck)
}

func TestNothingIsAckedAfterTheTerm(t *testing.T) {
	for name, end := range map[string]func(tr *trio, k *Keeper){
		"the decider says so": func(_ *trio, k *Keeper) { k.Follow() },
		"Raft has moved on":   func(tr *trio, _ *Keeper) { tr.cells[0].group.term.Store(6) },
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTrio(t)
			tr.node("n1", 4)
			k := tr.lead()
			acks, stop := k.Acks("n1")
			defer stop()
			tr.speaker("n1", 4, tr.cells...)
			await(t, acks, "ack", isAck)
			end(tr, k)
			before := k.Stats().Acked.Load()
			eventually(t, "the end of the term", func() bool { return !k.View().Leading })
			heard := k.Stats().Heard.Load()
			eventually(t, "more heartbeats", func() bool { return k.Stats().Heard.Load() > heard+5 })
			if after := k.Stats().Acked.Load(); after != before {
				t.Fatalf("%d acks after the end of the term", after-before)
			}
			if over, _ := k.ReleaseWait(lease.Release{Node: "n1", Session: 4, At: 1}); over {
				t.Error("a wait ended")
			}
			if passed, _ := k.FencePassed("n1"); passed || k.HeardLately("n1") {
				t.Error("the former leader still judges")
			}
		})
	}
}

func TestSilentNodesAreExpired(t *testing.T) {
	tr := newTrio(t)
	for i, n := range []string{"n1", "n2", "n3"} {
		tr.node(n, uint64(i+1))
	}
	tr.speaker("n1", 1, tr.cells...)
	tr.speaker("n2", 2, tr.cells[1]) // only one follower hears it
	dies := tr.speaker("n3", 3, tr.cells...)
	k := tr.lead()
	eventually(t, "n3 heard", func() bool { _, ok := k.Unheard("n3", 3); return ok })
	dies.end()
	select {
	case id := <-tr.cells[0].decider.expired:
		if id.Node != "n3" || id.Session != 3 {
			t.Fatalf("expired %+v", id)
		}
		if d := time.Since(dies.last); d < testTimes.Detection {
			t.Errorf("only %v after its last heartbeat", d)
		}
	case <-time.After(patience):
		t.Fatal("nobody was expired")
	}
	// While nothing is decided it is named again, and nobody else is.
	for range 3 {
		select {
		case id := <-tr.cells[0].decider.expired:
			if id.Node != "n3" {
				t.Fatalf("expired %+v", id)
			}
		case <-time.After(patience):
			t.Fatal("not named again")
		}
	}
}

// What a follower heard is not lost with its stream, and a member that restarts is
// polled again.
func TestStreamsBreakAndComeBack(t *testing.T) {
	tr := newTrio(t)
	tr.node("n1", 4)
	k := tr.lead()
	acks, stop := k.Acks("n1")
	defer stop()
	tr.speaker("n1", 4, tr.cells[2])
	await(t, acks, "ack", isAck)
	for range 3 {
		tr.cells[2].restart(tr.state)
		a := await(t, acks, "ack", isAck)
		await(t, acks, "newer ack", func(b lease.Ack) bool { return isAck(b) && b.Seq > a.Seq })
	}
	// A member that hangs loses its connection and is tried again when it runs.
	tr.cells[2].hang.Store(true)
	tr.cells[1].hang.Store(true)
	tr.cells[2].restart(tr.state)
	broken := k.Stats().Broken.Load()
	eventually(t, "the stream is given up", func() bool { return k.Stats().Broken.Load() > broken+1 })
	tr.cells[2].hang.Store(false)
	last := k.Stats().Acked.Load()
	eventually(t, "acks again", func() bool { return k.Stats().Acked.Load() > last })
}

// Two ids that lead to one machine are not two answers.
func TestAnswersOfAnotherMemberDoNotCount(t *testing.T) {
	tr := newTrio(t)
	tr.node("n1", 4)
	tr.cells[0].group.set(
		consensus.Member{ID: "m0", Address: tr.cells[0].addr, Voter: true},
		consensus.Member{ID: "mx", Address: tr.cells[1].addr, Voter: true},
		consensus.Member{ID: "my", Address: tr.cells[1].addr, Voter: true},
	)
	k := tr.lead()
	tr.speaker("n1", 4, tr.cells...)
	eventually(t, "streams that are refused", func() bool { return k.Stats().Broken.Load() > 5 })
	if n := k.Stats().Acked.Load(); n != 0 {
		t.Fatalf("%d acks", n)
	}
}

func TestMembersComeAndGo(t *testing.T) {
	tr := newTrio(t)
	tr.node("n1", 4)
	g := tr.cells[0].group
	all := g.Members()
	g.set(all[:1]...)
	k := tr.lead()
	acks, stop := k.Acks("n1")
	defer stop()
	tr.speaker("n1", 4, tr.cells...)
	await(t, acks, "ack of a single member", isAck)
	g.set(all...)
	eventually(t, "answers of new members", func() bool { return len(k.View().Peers) == 2 })
	await(t, acks, "ack of three", isAck)
}

// The decider is woken by the report that an address waits for.
func TestReportWakesTheDecider(t *testing.T) {
	tr := newTrio(t)
	tr.node("n1", 4)
	k := tr.lead()
	s := tr.speaker("n1", 4, tr.cells[1])
	acks, stop := k.Acks("n1")
	defer stop()
	await(t, acks, "ack", isAck)

	head := tr.state.Clone()
	head.Revision = 11
	n := *head.Nodes["n1"]
	n.TakenAt = 11
	head.Nodes["n1"] = &n
	k.Decided(head, fsm.Changes{Nodes: []string{"n1"}})
	await(t, acks, "refusal", func(a lease.Ack) bool { return a.Refusal == lease.Behind && a.Need == 11 })
	release := lease.Release{Node: "n1", Session: 4, At: 11}
	if over, _ := k.ReleaseWait(release); over {
		t.Fatal("over before anybody has seen it")
	}
	s.seen.Store(11)
	select {
	case <-tr.cells[0].decider.woken:
	case <-time.After(patience):
		t.Fatal("not woken")
	}
	await(t, acks, "ack", isAck)
}

func TestSlowReadersGetTheNewest(t *testing.T) {
	tr := newTrio(t)
	k := tr.cells[1].keeper.Load()
	acks, stop := k.Acks("n1")
	k.mu.Lock()
	for i := range uint64(100) {
		k.deliver(lease.Ack{Node: "n1", Seq: i})
	}
	k.mu.Unlock()
	var last lease.Ack
	for range ackBuffer {
		last = <-acks
	}
	if last.Seq != 99 {
		t.Fatalf("newest %+v", last)
	}
	stop()
	if len(k.subs) != 0 {
		t.Fatal("the subscription stays")
	}
}

func TestStateAsAWholeReplacesNodes(t *testing.T) {
	tr := newTrio(t)
	tr.node("n1", 4)
	k := tr.cells[1].keeper.Load()
	k.Heard(lease.Heartbeat{Node: "n1", Session: 4, Seq: 1, Seen: 3})
	k.Heard(lease.Heartbeat{Node: "n2", Session: 9, Seq: 1, Seen: 3}) // its session is not applied yet
	delete(tr.state.Nodes, "n1")
	tr.node("n3", 5)
	if _, ok := k.Unheard("n1", 4); ok {
		t.Error("n1 is not in the state any more")
	}
	if _, ok := k.Unheard("n2", 9); !ok {
		t.Error("n2 was forgotten")
	}
}

// Decided with addresses tells a node that it lacks a gain.
func TestGainsAreNamedInAcks(t *testing.T) {
	tr := newTrio(t)
	tr.node("n1", 4)
	k := tr.lead()
	acks, stop := k.Acks("n1")
	defer stop()
	tr.speaker("n1", 4, tr.cells...)
	await(t, acks, "ack", isAck)
	head := tr.state.Clone()
	head.Revision = 11
	addr := addrOf(t, "192.0.2.1")
	head.Addresses[addr] = &fsm.Address{Addr: addr, Owner: "n1", Epoch: 11}
	k.Decided(head, fsm.Changes{Nodes: []string{"n1"}, Addresses: []netip.Addr{addr}})
	await(t, acks, "ack that names the gain", func(a lease.Ack) bool { return isAck(a) && a.Need == 11 })
}

func BenchmarkHeartbeats(b *testing.B) {
	for _, role := range []string{"leader", "follower"} {
		b.Run(role, func(b *testing.B) {
			tr := newTrio(b)
			const nodes = 200
			var hbs []lease.Heartbeat
			for i := range nodes {
				name := fmt.Sprintf("n%d", i)
				tr.state.Nodes[name] = &fsm.Node{Name: name, Session: uint64(i + 1), SessionState: fsm.SessionOpen}
				hbs = append(hbs, lease.Heartbeat{Node: name, Session: uint64(i + 1), Seen: 10})
			}
			tr.node("last", nodes+1)
			k := tr.cells[1].keeper.Load()
			if role == "leader" {
				k = tr.lead()
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				hb := &hbs[i%nodes]
				hb.Seq++
				k.Heard(*hb)
				i++
			}
		})
	}
}
