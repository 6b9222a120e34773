package watch_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

func mac(last byte) []byte { return []byte{2, 0, 0, 0, 0, last} }

func links(node string, links ...*logv1.Link) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_NodeLinksChanged{NodeLinksChanged: &logv1.NodeLinksChanged{Node: node, Links: links}}}
}

// TestLinksThatChangeTheirAddress: a bond that takes another port's address is
// the same station still, and the others must know it.
func TestLinksThatChangeTheirAddress(t *testing.T) {
	g := newGroup(t, 0)
	g.apply(open("n1", 1, 1, nil), open("n2", 1, 2, nil))
	r := g.subscribe("n1")
	r.next()
	for _, tc := range []struct {
		name  string
		links []*logv1.Link
		want  [][]byte
	}{
		{"as opened", []*logv1.Link{{Name: "bond0", Mac: mac(2), Up: true}}, nil},
		{"another address", []*logv1.Link{{Name: "bond0", Mac: mac(9), Up: true}}, [][]byte{mac(2), mac(9)}},
		{"one more, out of order, and a link without", []*logv1.Link{
			{Name: "bond0", Mac: mac(9), Up: true}, {Name: "eth7", Mac: mac(1)}, {Name: "tun0"}, {Name: "ib0", Mac: make([]byte, 20)},
		}, [][]byte{mac(1), mac(2), mac(9)}},
		{"back", []*logv1.Link{{Name: "bond0", Mac: mac(2), Up: true}}, [][]byte{mac(2)}},
	} {
		rev := g.apply(links("n2", tc.links...))
		if tc.want == nil {
			continue // no news: no message
		}
		if msg := r.next(); msg.GetRevision() != rev {
			t.Errorf("%s: message of revision %d, want %d", tc.name, msg.GetRevision(), rev)
		}
		want := []*speakerv1.NodeMacs{{Node: "n2", Macs: tc.want}}
		if diff := cmp.Diff(want, r.view.GetNodes(), protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +told):\n%s", tc.name, diff)
		}
		if diff := cmp.Diff(g.fresh("n1"), r.view, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-fresh +told):\n%s", tc.name, diff)
		}
	}
}
