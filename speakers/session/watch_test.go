package session

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/speakers/system"
)

func raw(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

func delta(revision uint64, d *speakerv1.ViewDelta) *speakerv1.WatchResponse {
	return &speakerv1.WatchResponse{Revision: revision, Change: &speakerv1.WatchResponse_Delta{Delta: d}}
}

func TestMergeWholeAndDeltas(t *testing.T) {
	whole := &speakerv1.View{
		ClusterId: []byte("c"), LeaseTimes: &logv1.LeaseTimes{DetectionNanos: int64(time.Second), HeartbeatNanos: int64(time.Second / 5)},
		Vips:          []*speakerv1.Vip{{Address: raw("192.0.2.1"), Epoch: 3}, {Address: raw("2001:db8::1"), Epoch: 4}},
		HostAddresses: [][]byte{raw("192.0.2.9")},
		Nodes:         []*speakerv1.NodeMacs{{Node: "n2", Macs: [][]byte{{2, 0, 0, 0, 0, 2}, {1}}}},
	}
	v := newViewState(whole)
	yes := true
	for _, m := range []*speakerv1.WatchResponse{
		{Revision: 5, Change: &speakerv1.WatchResponse_View{View: whole}},
		delta(6, &speakerv1.ViewDelta{Vips: []*speakerv1.Vip{{Address: raw("192.0.2.2"), Epoch: 6, Interfaces: []string{"eth0"}}}, GoneVips: [][]byte{raw("192.0.2.1")}}),
		delta(8, &speakerv1.ViewDelta{HostAddresses: [][]byte{raw("192.0.2.8")}, GoneHostAddresses: [][]byte{raw("192.0.2.9"), raw("192.0.2.7")}, Drained: &yes}),
		delta(9, &speakerv1.ViewDelta{Nodes: &speakerv1.NodeMacsList{Nodes: []*speakerv1.NodeMacs{{Node: "n3", Macs: [][]byte{{2, 0, 0, 0, 0, 3}}}}}}),
		// Given and taken in one message: a new epoch of the same address.
		delta(9, &speakerv1.ViewDelta{Vips: []*speakerv1.Vip{{Address: raw("2001:db8::1"), Epoch: 9}}, GoneVips: [][]byte{raw("2001:db8::1")}}),
		delta(10, &speakerv1.ViewDelta{LeaseTimes: &logv1.LeaseTimes{DetectionNanos: 1, HeartbeatNanos: int64(time.Hour)}}),
	} {
		if err := v.merge(m); err != nil {
			t.Fatal(err)
		}
	}
	got := v.snapshot(5)
	if got.Revision != 10 || !got.Drained || got.Cluster != "c" || got.Session != 5 {
		t.Errorf("view %+v", got)
	}
	if len(got.Vips) != 2 || got.Vips[0].Epoch != 6 || got.Vips[0].Interfaces[0] != "eth0" || got.Vips[1].Epoch != 9 {
		t.Errorf("vips %+v", got.Vips)
	}
	if !slices.Equal(got.HostAddresses, []netip.Addr{netip.MustParseAddr("192.0.2.8")}) {
		t.Errorf("host addresses %v", got.HostAddresses)
	}
	if len(got.Peers) != 1 || got.Peers[system.MAC{2, 0, 0, 0, 0, 3}] != "n3" {
		t.Errorf("peers %v", got.Peers)
	}
	if v.times.detection != 100*time.Millisecond || v.times.heartbeat != 20*time.Second {
		t.Errorf("times %+v are not within the contract", v.times)
	}
}

func TestMergeFollowsOtherNodes(t *testing.T) {
	mac := func(last byte) []byte { return []byte{2, 0, 0, 0, 0, last} }
	nodes := func(list ...*speakerv1.NodeMacs) []*speakerv1.NodeMacs { return list }
	whole := &speakerv1.View{ClusterId: []byte("c"), Nodes: nodes(
		&speakerv1.NodeMacs{Node: "n2", Macs: [][]byte{mac(2), mac(9)}}, &speakerv1.NodeMacs{Node: "n3", Macs: [][]byte{mac(3)}})}
	v := newViewState(whole)
	if err := v.merge(&speakerv1.WatchResponse{Revision: 5, Change: &speakerv1.WatchResponse_View{View: whole}}); err != nil {
		t.Fatal(err)
	}
	before := v.snapshot(5).Peers
	// n2 has one card less, n4 is new, and a clone of n3.
	err := v.merge(delta(6, &speakerv1.ViewDelta{ChangedNodes: nodes(
		&speakerv1.NodeMacs{Node: "n2", Macs: [][]byte{mac(2)}}, &speakerv1.NodeMacs{Node: "n4", Macs: [][]byte{mac(3), mac(4)}})}))
	if err != nil {
		t.Fatal(err)
	}
	want := map[system.MAC]string{system.MAC(mac(2)): "n2", system.MAC(mac(3)): "n4", system.MAC(mac(4)): "n4"}
	if got := v.snapshot(5).Peers; !maps.Equal(got, want) {
		t.Errorf("peers %v, want %v", got, want)
	}
	if err := v.merge(delta(7, &speakerv1.ViewDelta{GoneNodes: []string{"n4", "n7"}})); err != nil {
		t.Fatal(err)
	}
	want = map[system.MAC]string{system.MAC(mac(2)): "n2", system.MAC(mac(3)): "n3"}
	if got := v.snapshot(5).Peers; !maps.Equal(got, want) {
		t.Errorf("peers %v, want %v", got, want)
	}
	if len(before) != 3 {
		t.Errorf("what was handed out has changed: %v", before)
	}
}

func TestMergeRefusesNonsense(t *testing.T) {
	for name, m := range map[string]*speakerv1.WatchResponse{
		"older revision": delta(4, &speakerv1.ViewDelta{}),
		"vip":            delta(6, &speakerv1.ViewDelta{Vips: []*speakerv1.Vip{{Address: []byte{1, 2, 3}}}}),
		"gone vip":       delta(6, &speakerv1.ViewDelta{GoneVips: [][]byte{{}}}),
		"host address":   delta(6, &speakerv1.ViewDelta{HostAddresses: [][]byte{make([]byte, 5)}}),
		"gone host":      delta(6, &speakerv1.ViewDelta{GoneHostAddresses: [][]byte{make([]byte, 17)}}),
	} {
		v := newViewState(&speakerv1.View{})
		v.revision = 5
		if err := v.merge(m); !errors.Is(err, errProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Both slots begin at once; each watches another member, so that the death of one
// delays nothing.
func TestSlotsNeverChooseTheSameMember(t *testing.T) {
	cfg := config(t)
	cfg.Members = []string{"192.0.2.1:7400", "192.0.2.2:7400", "192.0.2.3:7400"}
	s, err := New(cfg, newNode())
	if err != nil {
		t.Fatal(err)
	}
	defer s.roster.close()
	for range 5000 {
		l := newLive(s, nil, &speakerv1.OpenSessionResponse{})
		var chosen [watches]*member
		var both sync.WaitGroup
		begin := make(chan struct{})
		for i, w := range l.slots {
			both.Go(func() {
				<-begin
				chosen[i], _ = l.choose(w, nil)
			})
		}
		close(begin)
		both.Wait()
		if chosen[0] == chosen[1] {
			t.Fatalf("both are at %s", chosen[0].address)
		}
	}
}
