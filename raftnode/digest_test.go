package raftnode

import (
	"testing"

	memberv1 "github.com/quorumlb/quorumlb/proto/quorumlb/member/v1"
	"github.com/quorumlb/quorumlb/raftnode/consensus"
)

func at(revision uint64, sum byte) *memberv1.RevisionDigest {
	d := make([]byte, 32)
	d[0] = sum
	return &memberv1.RevisionDigest{Revision: revision, Digest: d}
}

func TestCompareDigests(t *testing.T) {
	voters := []string{"m1", "m2", "m3"}
	type reports = map[string][]*memberv1.RevisionDigest
	for _, tc := range []struct {
		name            string
		reports         reports
		diverged, alarm bool
		others          int
	}{
		{"all equal", reports{"m1": {at(1, 1)}, "m2": {at(1, 1)}, "m3": {at(1, 1)}}, false, false, 0},
		{"nothing in common", reports{"m1": {at(1, 1)}, "m2": {at(2, 2)}, "m3": {at(3, 3)}}, false, false, 0},
		{"alone", reports{"m1": {at(1, 1)}}, false, false, 0},
		{"self differs", reports{"m1": {at(1, 9)}, "m2": {at(1, 1)}, "m3": {at(1, 1)}}, true, false, 0},
		{"another differs", reports{"m1": {at(1, 1)}, "m2": {at(1, 9)}, "m3": {at(1, 1)}}, false, false, 1},
		{"two of three answer and differ", reports{"m1": {at(1, 1)}, "m2": {at(1, 9)}}, false, true, 0},
		{"three differ", reports{"m1": {at(1, 1)}, "m2": {at(1, 2)}, "m3": {at(1, 3)}}, false, true, 0},
		{"one without a vote differs", reports{"m1": {at(1, 1)}, "m2": {at(1, 1)}, "m4": {at(1, 9)}}, false, false, 1},
		{"differed before and again", reports{"m1": {at(1, 9), at(2, 9)}, "m2": {at(1, 1), at(2, 1)}, "m3": {at(1, 1)}}, true, false, 0},
		{"damaged report", reports{"m1": {at(1, 1)}, "m2": {{Revision: 1, Digest: []byte{1}}}, "m3": {at(1, 1)}}, false, false, 0},
	} {
		v := compareDigests("m1", voters, tc.reports)
		if v.diverged != tc.diverged || v.alarm != tc.alarm || len(v.others) != tc.others {
			t.Errorf("%s: %+v", tc.name, v)
		}
	}
}

type fakeDigests struct {
	revision uint64
	computed int
}

func (f *fakeDigests) Revision() uint64            { return f.revision }
func (f *fakeDigests) Digests() []consensus.Digest { return []consensus.Digest{{Revision: 4096}} }
func (f *fakeDigests) DigestNow() consensus.Digest {
	f.computed++
	return consensus.Digest{Revision: f.revision}
}

func TestIdleStateIsDigestedOnce(t *testing.T) {
	f := &fakeDigests{revision: 5000}
	d := &digests{source: f}
	for range 5 {
		d.tick()
	}
	if f.computed != 1 {
		t.Errorf("computed %d times, want once", f.computed)
	}
	if l := d.list(); len(l) != 2 || l[0].GetRevision() != 4096 || l[1].GetRevision() != 5000 {
		t.Errorf("list: %v", l)
	}
	for f.revision < 5020 {
		f.revision++
		d.tick() // changes all the time
	}
	if f.computed != 1 {
		t.Errorf("a busy state was digested")
	}
}
