package service

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
)

var foreignMAC = []byte{0x52, 9, 9, 9, 9, 9}

func conflictObserved(kind logv1.ConflictKind, mac []byte, holder string) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_AddressConflictObserved{AddressConflictObserved: &logv1.AddressConflictObserved{
		Address: netip.MustParseAddr("192.0.2.1").AsSlice(), Node: "n1", Mac: mac, Kind: kind, Holder: holder}}}
}

// What a speaker found before the first use becomes a fact, and stops being one
// when the speaker says that it is over, but not when it says nothing.
func TestFirstUseDifferences(t *testing.T) {
	const (
		foreign = logv1.ConflictKind_CONFLICT_KIND_FOREIGN
		proxy   = logv1.ConflictKind_CONFLICT_KIND_PROXY
		kernel  = logv1.ConflictKind_CONFLICT_KIND_KERNEL
		claim   = logv1.ConflictKind_CONFLICT_KIND_UNSPECIFIED
	)
	n2 := []byte{2, 0, 0, 0, 0, 2}
	for name, c := range map[string]struct {
		given *logv1.Event
		found speakerv1.FirstUse
		mac   []byte
		claim []byte
		want  decider.Command
	}{
		"nobody":               {found: speakerv1.FirstUse_FIRST_USE_CLEAR},
		"a foreign station":    {found: speakerv1.FirstUse_FIRST_USE_FOREIGN, mac: foreignMAC, want: &decider.ConflictObserved{Kind: foreign}},
		"a router":             {found: speakerv1.FirstUse_FIRST_USE_PROXY, mac: foreignMAC, want: &decider.ConflictObserved{Kind: proxy}},
		"a node":               {found: speakerv1.FirstUse_FIRST_USE_KERNEL, mac: n2, want: &decider.ConflictObserved{Kind: kernel, Holder: "n2"}},
		"a node just come":     {found: speakerv1.FirstUse_FIRST_USE_FOREIGN, mac: n2, want: &decider.ConflictObserved{Kind: kernel, Holder: "n2"}},
		"a claim beside it":    {found: speakerv1.FirstUse_FIRST_USE_PROXY, mac: foreignMAC, claim: []byte{0x52, 1, 1, 1, 1, 1}, want: &decider.ConflictObserved{Kind: claim}},
		"a claim of the same":  {found: speakerv1.FirstUse_FIRST_USE_FOREIGN, mac: foreignMAC, claim: foreignMAC, want: &decider.ConflictObserved{Kind: foreign}},
		"known":                {given: conflictObserved(foreign, foreignMAC, ""), found: speakerv1.FirstUse_FIRST_USE_FOREIGN, mac: foreignMAC},
		"known of a node":      {given: conflictObserved(kernel, n2, "n2"), found: speakerv1.FirstUse_FIRST_USE_KERNEL, mac: n2},
		"over":                 {given: conflictObserved(proxy, foreignMAC, ""), found: speakerv1.FirstUse_FIRST_USE_CLEAR, want: &decider.ConflictCleared{}},
		"restarted":            {given: conflictObserved(proxy, foreignMAC, "")},
		"a claim that is over": {given: conflictObserved(claim, foreignMAC, ""), want: &decider.ConflictCleared{}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSolo(t)
			session, epoch := s.owned()
			if c.given != nil {
				s.apply(c.given)
			}
			addr := netip.MustParseAddr("192.0.2.1")
			r := report{node: "n1", session: session, vips: map[netip.Addr]*speakerv1.VipStatus{addr: {
				Address: addr.AsSlice(), Epoch: epoch, Announced: speakerv1.Announced_ANNOUNCED_PROVEN,
				FirstUse: c.found, FirstUseMac: c.mac, FirstUseNode: map[bool]string{true: "n2"}[c.found == speakerv1.FirstUse_FIRST_USE_KERNEL], ForeignMac: c.claim,
			}}}
			var got []decider.Command
			s.Read(func(state *fsm.State) { got = differences(state, r, time.Now().UnixNano()) })
			switch want := c.want.(type) {
			case nil:
				if len(got) != 0 {
					t.Errorf("%+v", got[0])
				}
			case *decider.ConflictObserved:
				if len(got) != 1 || !sameType(got[0], want) {
					t.Fatalf("%v", got)
				}
				if o := got[0].(*decider.ConflictObserved); o.Kind != want.Kind || o.Holder != want.Holder {
					t.Errorf("%+v", o)
				}
			default:
				if len(got) != 1 || !sameType(got[0], want) {
					t.Errorf("%v", got)
				}
			}
		})
	}
}

// softMoved gives an address that moves softly from n1 to n2.
func (s *solo) softMoved() (session, epoch uint64) {
	session, epoch = s.owned()
	addr := netip.MustParseAddr("192.0.2.1").AsSlice()
	s.apply(&logv1.Event{Fact: &logv1.Event_NodeDrained{NodeDrained: &logv1.NodeDrained{
		Node: "n1", Reason: logv1.DrainReason_DRAIN_REASON_ADMIN, GraceNanos: int64(time.Hour)}}},
		&logv1.Event{Fact: &logv1.Event_OwnerReleased{OwnerReleased: &logv1.OwnerReleased{Address: addr, Node: "n1", Epoch: epoch, Soft: true}}})
	s.apply(&logv1.Event{Fact: &logv1.Event_OwnerAssigned{OwnerAssigned: &logv1.OwnerAssigned{Address: addr, Node: "n2", Predecessor: "n1"}}})
	return session, epoch
}

func TestSoftMoveWithoutConnectionsEnds(t *testing.T) {
	s := newSolo(t)
	session, epoch := s.softMoved()
	addr := netip.MustParseAddr("192.0.2.1")
	n := func(n uint32) *uint32 { return &n }
	for name, c := range map[string]struct {
		node        string
		announced   speakerv1.Announced
		epoch       uint64
		connections *uint32
		ends        bool
	}{
		"none left":          {"n1", speakerv1.Announced_ANNOUNCED_SOFT, epoch, n(0), true},
		"some left":          {"n1", speakerv1.Announced_ANNOUNCED_SOFT, epoch, n(3), false},
		"not told":           {"n1", speakerv1.Announced_ANNOUNCED_SOFT, epoch, nil, false},
		"of another epoch":   {"n1", speakerv1.Announced_ANNOUNCED_SOFT, epoch + 1, n(0), false},
		"of another node":    {"n2", speakerv1.Announced_ANNOUNCED_SOFT, epoch, n(0), false},
		"of an owner's time": {"n1", speakerv1.Announced_ANNOUNCED_PROVEN, epoch, n(0), false},
	} {
		r := report{node: c.node, session: session, vips: map[netip.Addr]*speakerv1.VipStatus{addr: {
			Address: addr.AsSlice(), Epoch: c.epoch, Announced: c.announced, Connections: c.connections}}}
		var got []decider.Command
		s.Read(func(state *fsm.State) { got = differences(state, r, time.Now().UnixNano()) })
		if ends := len(got) == 1 && sameType(got[0], &decider.SoftIdle{}); ends != c.ends || len(got) > 1 {
			t.Errorf("%s: %v", name, got)
		}
	}
	resp, err := s.admin.Get(t.Context(), &adminv1.GetRequest{Kinds: []string{"vips", "nodes"}})
	if err != nil {
		t.Fatal(err)
	}
	if v := resp.GetVips()[0]; v.GetPredecessor() != "n1" || v.GetSoftUntilUnixNano() < time.Now().Add(time.Minute).UnixNano() {
		t.Errorf("%v", v)
	}
	if n := resp.GetNodes()[0]; n.GetSoft() != 1 || n.GetGraceUntilUnixNano() == 0 {
		t.Errorf("%v", n)
	}
}

// quarantined gives an address in quarantine whose time is over.
func (s *solo) quarantined() {
	_, epoch := s.owned()
	addr := netip.MustParseAddr("192.0.2.1").AsSlice()
	s.apply(&logv1.Event{Fact: &logv1.Event_OwnerReleased{OwnerReleased: &logv1.OwnerReleased{Address: addr, Node: "n1", Epoch: epoch}}},
		&logv1.Event{Fact: &logv1.Event_AddressReleased{AddressReleased: &logv1.AddressReleased{Address: addr, Namespace: "ns", Name: "web"}}},
		&logv1.Event{Fact: &logv1.Event_AddressQuarantined{AddressQuarantined: &logv1.AddressQuarantined{
			Address: addr, Mac: foreignMAC, Node: "n1", UntilUnixNano: 1}}})
}

func TestQuarantineIsListedAndLookedAt(t *testing.T) {
	for name, c := range map[string]struct {
		hits []*speakerv1.ProbeHit
		err  string
		want decider.Command
	}{
		"it still answers":    {hits: []*speakerv1.ProbeHit{{Mac: foreignMAC}}, want: &decider.QuarantineSeen{}},
		"nobody answers":      {want: &decider.EndQuarantine{}},
		"only a router does":  {hits: []*speakerv1.ProbeHit{{Mac: []byte{0x52, 1, 1, 1, 1, 1}}}, want: &decider.EndQuarantine{}},
		"the node cannot ask": {err: "no link is up"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSolo(t)
			s.quarantined()
			got := make(chan decider.Command, 16)
			s.setDecide(func(_ context.Context, cmd decider.Command) (decider.Result, error) {
				got <- cmd
				return decider.Result{}, nil
			})
			var session uint64
			s.Read(func(state *fsm.State) { session = state.Nodes["n1"].Session })
			stream := s.attach(t, &speakerv1.AttachRequest{Hello: &speakerv1.AttachHello{Node: "n1", Session: session}})
			asked := make(chan struct{}, 16)
			go func() {
				for {
					msg, err := stream.Recv()
					if err != nil {
						return
					}
					if q := msg.GetProbe(); q != nil {
						_ = stream.Send(&speakerv1.AttachRequest{ProbeAnswers: []*speakerv1.ProbeAnswer{{
							Id: q.GetId(), Address: q.GetAddress(), Hits: c.hits, Error: c.err}}})
						asked <- struct{}{}
					}
				}
			}()
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- s.Observe(ctx) }()
			<-asked
			if c.want != nil {
				if cmd := <-got; !sameType(cmd, c.want) {
					t.Errorf("%T, want %T", cmd, c.want)
				}
			} else {
				<-asked // it is tried again
				select {
				case cmd := <-got:
					t.Errorf("%T", cmd)
				default:
				}
			}
			cancel()
			<-ended
			resp, err := s.admin.Get(t.Context(), &adminv1.GetRequest{Kinds: []string{"quarantine"}})
			if err != nil || len(resp.GetQuarantine()) != 1 || resp.GetQuarantine()[0].GetNode() != "n1" || resp.GetQuarantine()[0].GetPool() != "p" {
				t.Errorf("%v, %v", resp, err)
			}
			st, err := s.admin.Status(t.Context(), &adminv1.StatusRequest{})
			if err != nil || !strings.Contains(strings.Join(st.GetProblems(), "; "), "quarantine") {
				t.Errorf("%v, %v", st.GetProblems(), err)
			}
		})
	}
}
