package main

import (
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/peers"
)

func TestMain(m *testing.M) {
	addRoles()
	lab.Main(m)
}

// TestPeers runs the peers' side of the bench once, small.
func TestPeers(t *testing.T) {
	lab.Require(t)
	o := options{repeats: 1, dir: t.TempDir(), results: t.TempDir()}
	times, err := bareRaft(t.Context(), o)
	if s := samplesOf(times); err != nil || len(s) != quietWrites || s.median() <= 0 {
		t.Errorf("bare raft: %v, %v", s.spread(), err)
	}
	t.Logf("bare raft apply: %s", samplesOf(times).spread())
	if err := peers.HasKeepalived(); err != nil {
		t.Skip(err)
	}
	const advert = 100 * time.Millisecond
	r := newRecorder(o, peerPart(advert, events[0]), setup{}, t.Output())
	err = playAll(t.Context(), r, events[0], func() (field, error) { return openKeepalived(t.Context(), o, advert) })
	dark := r.get("dark")
	if err != nil || len(dark) != 1 || dark[0] < 0.2 || dark[0] > 10 {
		t.Errorf("keepalived: %v, %v", dark, err)
	}
	t.Logf("keepalived outage: %s", dark.spread())
}
