package membership

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/raftnode/consensus/clustertest"
	"github.com/quorumlb/quorumlb/raftnode/storage"
)

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clustertest.Patience)
	t.Cleanup(cancel)
	return ctx
}

func TestFoundAndRestart(t *testing.T) {
	w := newWorld(t, "m1", "m2", "m3")
	w.start("m3", "m1")
	// Two of three are not enough to found a cluster.
	time.Sleep(300 * time.Millisecond)
	if w.members["m1"].running() != nil || w.members["m3"].running() != nil {
		t.Fatal("founded without m2")
	}
	w.start("m2")
	cluster := w.cluster("m1", "m2", "m3")
	for name, h := range w.members {
		if id := h.running().ID(); id != name {
			t.Fatalf("%s founded as %s", name, id)
		}
	}
	for _, h := range w.members {
		h.stop()
	}
	w.start("m1", "m2", "m3")
	if again := w.cluster("m1", "m2", "m3"); again != cluster {
		t.Fatalf("cluster %x after a restart, was %x", again, cluster)
	}
}

func TestSingleMember(t *testing.T) {
	w := newWorld(t, "m1")
	w.start("m1")
	w.cluster("m1")
	h := w.members["m1"]
	h.stop()
	h.addr = w.add("spare").addr
	h.start()
	clustertest.Eventually(t, "it knows its own new address", func() bool {
		n := h.running()
		if n == nil {
			return false
		}
		m, ok := n.Member("m1")
		return ok && m.Address == h.addr
	})
}

// A wiped member returns with a new id, and the group forgets the old one.
func TestWipedMemberRejoins(t *testing.T) {
	w := newWorld(t, "m1", "m2", "m3")
	w.start("m1", "m2", "m3")
	cluster := w.cluster("m1", "m2", "m3")
	victim := w.leader()
	victim.stop()
	victim.wipe()
	victim.start()
	if again := w.cluster("m1", "m2", "m3"); again != cluster {
		t.Fatalf("cluster %x, was %x", again, cluster)
	}
	node := victim.running()
	if node.ID() == victim.name || storage.MemberName(node.ID()) != victim.name {
		t.Fatalf("returned as %s", node.ID())
	}
	if _, ok := node.Member(victim.name); ok {
		t.Fatal("the old id is still a member")
	}
	if err := node.CaughtUp(within(t)); err != nil {
		t.Fatal(err)
	}
	// It keeps the new id over a restart, and may be wiped again.
	id := node.ID()
	victim.stop()
	victim.start()
	w.cluster("m1", "m2", "m3")
	if now := victim.running().ID(); now != id {
		t.Fatalf("restarted as %s, was %s", now, id)
	}
	victim.stop()
	victim.wipe()
	victim.start()
	w.cluster("m1", "m2", "m3")
	if now := victim.running().ID(); now == id {
		t.Fatalf("a wiped disk has the id %s again", id)
	}
}

// Two of three lose their disks. They wait for the third, and together they
// never found a second cluster. Its quorum is gone, so nobody is taken in.
func TestTwoWipedOfThreeFoundNothing(t *testing.T) {
	w := newWorld(t, "m1", "m2", "m3")
	w.start("m1", "m2", "m3")
	cluster := w.cluster("m1", "m2", "m3")
	for _, h := range w.members {
		h.stop()
	}
	for _, name := range []string{"m1", "m2"} {
		w.members[name].wipe()
		w.members[name].start()
	}
	time.Sleep(300 * time.Millisecond)
	if w.members["m1"].running() != nil || w.members["m2"].running() != nil {
		t.Fatal("two wiped members started a group while the third is down")
	}
	w.start("m3")
	clustertest.Eventually(t, "the wiped ones wait to be taken in", func() bool {
		return w.members["m1"].running() != nil && w.members["m2"].running() != nil
	})
	time.Sleep(time.Second) // several elections
	for name, h := range w.members {
		node := h.running()
		if node == nil {
			t.Fatalf("%s ended", name)
		}
		node.Read(func(s *fsm.State) {
			if s.ClusterID != cluster && s.ClusterID != [16]byte{} {
				t.Errorf("%s is of a second cluster %x", name, s.ClusterID)
			}
		})
		if node.LeaderID() != "" {
			t.Errorf("%s follows %s, without a quorum", name, node.LeaderID())
		}
		if name != "m3" && node.ID() == name {
			t.Errorf("%s has its old id again", name)
		}
	}
}

// A member that loses its disk while the cluster is being founded may have
// given a vote; it must not take its id again.
func TestWipedWhileFounding(t *testing.T) {
	got := answers{
		"m1": {Name: "m1", Id: "m1", HasState: true, ExpectedMembers: []string{"m1", "m2", "m3"}},
		"m2": {Name: "m2", Id: "m2", ExpectedMembers: []string{"m1", "m2", "m3"}},
	}
	m := &Membership{cfg: Config{Name: "m3", Members: map[string]string{"m1": "a", "m2": "b", "m3": "c"}}, names: []string{"m1", "m2", "m3"}}
	if plan, why := m.plan(got); plan != planWait {
		t.Fatalf("plan %d (%s), want to wait", plan, why)
	}
	got["m1"].HasState = false
	if plan, why := m.plan(got); plan != planFound {
		t.Fatalf("plan %d (%s), want to found", plan, why)
	}
}

func TestPlan(t *testing.T) {
	all := []string{"m1", "m2", "m3"}
	list := map[string]string{"m1": "a", "m2": "b", "m3": "c"}
	clusterA, clusterB := []byte("aaaaaaaaaaaaaaaa"), []byte("bbbbbbbbbbbbbbbb")
	empty := func() answers {
		return answers{"m1": {Name: "m1", ExpectedMembers: all}, "m2": {Name: "m2", ExpectedMembers: all}}
	}
	tests := []struct {
		name   string
		self   string
		change func(answers)
		want   plan
	}{
		{"all empty", "m3", func(answers) {}, planFound},
		{"one is silent", "m3", func(a answers) { a["m2"] = nil }, planWait},
		{"one has a cluster", "m3", func(a answers) { a["m1"].ClusterId = clusterA }, planJoin},
		{"one has a cluster, one is silent", "m3", func(a answers) { a["m1"].ClusterId = clusterA; a["m2"] = nil }, planJoin},
		{"two clusters", "m3", func(a answers) { a["m1"].ClusterId, a["m2"].ClusterId = clusterA, clusterB }, planFail},
		{"one has noted its id", "m3", func(a answers) { a["m1"].Id = "m1" }, planFound},
		{"one is joining", "m3", func(a answers) { a["m1"].Id = "m1.x" }, planWait},
		{"one has a term", "m3", func(a answers) { a["m2"].HasState = true }, planWait},
		{"another list", "m3", func(a answers) { a["m2"].ExpectedMembers = []string{"m1", "m2"} }, planWait},
		{"wrong address", "m3", func(a answers) { a["m2"].Name = "m1" }, planWait},
		{"not listed", "m4", func(answers) {}, planWait},
		{"not listed, but a cluster", "m4", func(a answers) { a["m1"].ClusterId = clusterA }, planJoin},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := empty()
			tt.change(a)
			m := &Membership{cfg: Config{Name: tt.self, Members: list}, names: all}
			if tt.self == "m4" {
				a["m3"] = nil
			}
			if got, why := m.plan(a); got != tt.want || why == "" {
				t.Fatalf("plan %d (%s), want %d", got, why, tt.want)
			}
		})
	}
}

// A member that no list names joins a running group.
func TestAnotherMemberJoins(t *testing.T) {
	w := newWorld(t, "m1", "m2", "m3")
	w.start("m1", "m2", "m3")
	cluster := w.cluster("m1", "m2", "m3")
	w.add("m4").start()
	if now := w.cluster("m1", "m2", "m3", "m4"); now != cluster {
		t.Fatalf("cluster %x, was %x", now, cluster)
	}
}

func TestRemovedMemberEnds(t *testing.T) {
	w := newWorld(t, "m1", "m2", "m3")
	w.start("m1", "m2", "m3")
	w.cluster("m1", "m2", "m3")
	leader := w.leader()
	var victim *host
	for _, h := range w.members {
		if h != leader {
			victim = h
		}
	}
	if err := leader.ms.Remove(within(t), victim.name); err != nil {
		t.Fatal(err)
	}
	if err := victim.wait(); !errors.Is(err, ErrRemoved) {
		t.Fatalf("ended with %v, want ErrRemoved", err)
	}
	// Also when it was down at that time and does not know.
	victim.start()
	if err := victim.wait(); !errors.Is(err, ErrRemoved) {
		t.Fatalf("ended with %v, want ErrRemoved", err)
	}
	victim.wipe()
	victim.start()
	w.cluster("m1", "m2", "m3")
}

// A second process with the name of a member that is alive is not let in.
func TestNameInUse(t *testing.T) {
	w := newWorld(t, "m1", "m2", "m3")
	w.start("m1", "m2", "m3")
	w.cluster("m1", "m2", "m3")
	leader := w.leader()
	var twin string
	for name := range w.members {
		if name != leader.name {
			twin = name
		}
	}
	err := leader.ms.Add(within(t), storage.JoiningIdentity(twin).ID, "127.0.0.1:1")
	if !errors.Is(err, errAlive) {
		t.Fatalf("got %v, want errAlive", err)
	}
	if err := leader.ms.Add(within(t), leader.name+".x", "127.0.0.1:1"); !errors.Is(err, errAlive) {
		t.Fatalf("the leader's own name: %v, want errAlive", err)
	}
}

// A member that returns at another address tells the group.
func TestAddressChange(t *testing.T) {
	w := newWorld(t, "m1", "m2", "m3")
	w.start("m1", "m2", "m3")
	w.cluster("m1", "m2", "m3")
	leader := w.leader()
	var moved *host
	for _, h := range w.members {
		if h != leader {
			moved = h
		}
	}
	moved.stop()
	moved.addr = w.add("spare").addr
	moved.start()
	clustertest.Eventually(t, "the group knows the new address", func() bool {
		m, ok := leader.running().Member(moved.name)
		return ok && m.Address == moved.addr
	})
	w.cluster("m1", "m2", "m3")
}

// All addresses change at once: the group finds itself by the command line.
func TestAllAddressesChange(t *testing.T) {
	w := newWorld(t, "m1", "m2", "m3")
	w.start("m1", "m2", "m3")
	cluster := w.cluster("m1", "m2", "m3")
	for _, h := range w.members {
		h.stop()
	}
	for name := range w.list {
		h := w.members[name]
		h.addr = w.add("spare-" + name).addr
		w.list[name] = h.addr
	}
	w.start("m1", "m2", "m3")
	if now := w.cluster("m1", "m2", "m3"); now != cluster {
		t.Fatalf("cluster %x, was %x", now, cluster)
	}
	clustertest.Eventually(t, "the group knows the new addresses", func() bool {
		for _, m := range w.leader().running().Members() {
			if m.Address != w.list[m.Name] {
				return false
			}
		}
		return true
	})
}

func TestJoinRefuses(t *testing.T) {
	w := newWorld(t, "m1")
	w.start("m1")
	w.cluster("m1")
	w.leader()
	client, err := (&conns{id: w.pki.Identity("member/m2"), all: nil}).oneShot(t, w.members["m1"].addr)
	if err != nil {
		t.Fatal(err)
	}
	other := []byte("another cluster!")
	for _, tt := range joinRefusals(other) {
		t.Run(tt.name, func(t *testing.T) {
			_, err := client.Join(within(t), tt.req, grpc.WaitForReady(true)) // a handshake may take long on a busy machine
			tt.check(t, explain(err))
		})
	}
}

func TestForeignDirectory(t *testing.T) {
	w := newWorld(t, "m1", "m2")
	w.start("m1", "m2")
	w.cluster("m1", "m2")
	h := w.members["m1"]
	h.stop()
	h.name = "m2" // the directory of m1 under another name
	h.id = w.pki.Identity("member/m2")
	h.start()
	if err := h.wait(); !errors.Is(err, storage.ErrOtherName) {
		t.Fatalf("got %v, want ErrOtherName", err)
	}
}

// Whenever the founding is interrupted, and one disk lost with it, the members
// that start again form one cluster, and no id is used with two disks.
func TestFoundingInterrupted(t *testing.T) {
	for _, after := range []time.Duration{20, 60, 120, 200, 350} {
		w := newWorld(t, "m1", "m2", "m3")
		w.start("m1", "m2", "m3")
		time.Sleep(after * time.Millisecond) // not to wait for something: to interrupt somewhere
		lost := w.members["m2"]
		var before string
		if n := lost.running(); n != nil && n.HasState() {
			before = n.ID()
		}
		for _, h := range w.members {
			h.stop()
		}
		lost.wipe()
		w.start("m1", "m2", "m3")
		w.cluster("m1", "m2", "m3")
		if now := lost.running().ID(); before != "" && now == before {
			t.Fatalf("interrupted after %dms: m2 has the id %s with a second disk", after, now)
		}
		for _, h := range w.members {
			h.stop()
		}
	}
}
