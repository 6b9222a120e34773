package main

import (
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/peers"
)

func TestMain(m *testing.M) {
	lab.Role(bareRole, runBare)
	lab.Main(m)
}

// TestPeers runs the peers' side of the bench once, small.
func TestPeers(t *testing.T) {
	lab.Require(t)
	o := options{repeats: 1, dir: t.TempDir()}
	times, err := bareRaft(t.Context(), o)
	if err != nil || times.median() <= 0 || len(times) != quietWrites {
		t.Errorf("bare raft: %v, %v", times.spread(), err)
	}
	t.Logf("bare raft apply: %s", times.spread())
	if err := peers.HasKeepalived(); err != nil {
		t.Skip(err)
	}
	gaps, err := keepalivedOutage(t.Context(), o, 100*time.Millisecond)
	if err != nil || len(gaps) != 1 || gaps[0] < 200*time.Millisecond || gaps[0] > 10*time.Second {
		t.Errorf("keepalived: %v, %v", gaps, err)
	}
	t.Logf("keepalived outage: %s", gaps.spread())
}
