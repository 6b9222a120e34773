package service

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
)

func TestGetTheWayItWas(t *testing.T) {
	s := newSolo(t)
	_, epoch := s.owned() // revisions 1 to 4
	before := s.log[3].Batch.GetTimeUnixNano()
	s.apply(&logv1.Event{Fact: &logv1.Event_OwnerReleased{OwnerReleased: &logv1.OwnerReleased{Address: []byte{192, 0, 2, 1}, Node: "n1", Epoch: epoch}}})

	kinds := []string{"pools", "services", "vips", "nodes"}
	for name, req := range map[string]*adminv1.GetRequest{
		"revision": {Kinds: kinds, AtRevision: 4},
		"time":     {Kinds: kinds, AtUnixNano: before},
	} {
		resp, err := s.admin.Get(t.Context(), req)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if v := resp.GetVips(); resp.GetRevision() != 4 || len(v) != 1 || v[0].GetOwner() != "n1" || len(resp.GetServices()) != 1 || len(resp.GetPools()) != 1 {
			t.Errorf("%s: %v", name, resp)
		}
		if n := resp.GetNodes(); len(n) != 2 || n[0].GetState() != "Ready" {
			t.Errorf("%s: nodes %v", name, n)
		}
	}
	if resp, err := s.admin.Get(t.Context(), &adminv1.GetRequest{Kinds: kinds, AtRevision: 1}); err != nil || len(resp.GetVips()) != 0 || len(resp.GetPools()) != 1 {
		t.Errorf("at the beginning: %v, %v", resp, err)
	}
	for name, req := range map[string]*adminv1.GetRequest{
		"kinds[0]: members":                {Kinds: []string{"members"}, AtRevision: 2},
		"at_revision: 99 is not there yet": {Kinds: kinds, AtRevision: 99},
		"at_unix_nano: the group was not":  {Kinds: kinds, AtUnixNano: 1},
		"at_unix_nano: a revision":         {Kinds: kinds, AtRevision: 2, AtUnixNano: 1},
	} {
		if _, err := s.admin.Get(t.Context(), req); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), name) {
			t.Errorf("want %q: %v", name, err)
		}
	}
	s.change(func() { s.oldest = 5 })
	if _, err := s.admin.Get(t.Context(), &adminv1.GetRequest{Kinds: kinds, AtRevision: 2}); status.Code(err) != codes.OutOfRange {
		t.Errorf("before history begins: %v", err)
	}
}

func TestSaveThePast(t *testing.T) {
	s := newSolo(t)
	s.owned()
	down, err := s.admin.SnapshotSave(t.Context(), &adminv1.SnapshotSaveRequest{AtRevision: 2})
	if err != nil {
		t.Fatal(err)
	}
	var backup strings.Builder
	for {
		m, err := down.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		backup.Write(m.GetChunk())
	}
	st, err := fsm.ReadSnapshot(strings.NewReader(backup.String()))
	if err != nil || st.Revision != 2 || len(st.Nodes) != 2 || len(st.Services) != 0 {
		t.Errorf("%v, %v", st, err)
	}
}

// A member whose disk was lost tells the whole history all the same, as far as
// some other member has it.
func TestHistoryOfOthers(t *testing.T) {
	g := newTrio(t)
	g.lead(0)
	m1, m2, m3 := g.members[0], g.members[1], g.members[2]
	m1.apply(founded())
	for range 9 {
		m1.apply(poolDefined("p", "192.0.2.0/24"))
	}
	var all []consensus.Member
	for _, m := range g.members {
		all = append(all, consensus.Member{ID: m.id, Address: m.addr, Voter: true})
	}
	for _, m := range g.members {
		m.change(func() { m.members = all })
	}
	m2.replicate(m1, 4)
	m1.change(func() { m1.oldest = 3 })
	events := func(i int, req *adminv1.EventsRequest) (revisions []uint64, err error) {
		stream, err := g.admins[i].Events(t.Context(), req)
		for err == nil {
			var ev *adminv1.EventsResponse
			if ev, err = stream.Recv(); err == nil {
				revisions = append(revisions, ev.GetRevision())
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return revisions, err
	}
	for name, oldest := range map[string]uint64{"some": 8, "nothing": 11} {
		m3.replicate(m1, oldest)
		got, err := events(2, &adminv1.EventsRequest{Stale: true})
		if want := []uint64{3, 4, 5, 6, 7, 8, 9, 10}; err != nil || !slices.Equal(got, want) {
			t.Errorf("%s kept: %v, %v; want %v", name, got, err, want)
		}
		got, err = events(2, &adminv1.EventsRequest{Stale: true, SinceUnixNano: m1.log[5].Batch.GetTimeUnixNano()})
		if want := []uint64{6, 7, 8, 9, 10}; err != nil || !slices.Equal(got, want) {
			t.Errorf("%s kept, since a time: %v, %v; want %v", name, got, err, want)
		}
	}

	// Another group's history, or a forged one, does not lead to ours.
	forged := newFakeMember(t, newAuthority(t), "m9")
	forged.apply(founded())
	for range 9 {
		forged.apply(poolDefined("p", "192.0.2.0/24"))
	}
	m1.change(func() { m1.log = forged.log })
	if got, err := events(2, &adminv1.EventsRequest{Stale: true}); status.Code(err) != codes.DataLoss {
		t.Errorf("a history that does not lead here: %v, %v", got, err)
	}

	// Nobody there to ask: what there is.
	m1.stop()
	m2.stop()
	m3.change(func() { m3.oldest = 8 })
	begin := time.Now()
	if got, err := events(2, &adminv1.EventsRequest{Stale: true}); err != nil || !slices.Equal(got, []uint64{8, 9, 10}) {
		t.Errorf("alone: %v, %v", got, err)
	}
	if took := time.Since(begin); took > 3*peerPatience {
		t.Errorf("it took %v", took)
	}
}
