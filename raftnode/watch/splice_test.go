package watch_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

func expire(node string, session uint64) *logv1.Event {
	return &logv1.Event{Fact: &logv1.Event_SessionExpired{SessionExpired: &logv1.SessionExpired{Node: node, Session: session}}}
}

// between calls f once, after the state has advanced by the next batch and
// before the hub is told: a reader may come there.
func (g *group) between(f func()) {
	g.meanwhile = func() {
		g.meanwhile = nil
		f()
	}
}

// TestReaderBetweenStateAndApply: an address goes over from one node to another
// in one batch, and the new owner's first reader comes when the state has that
// batch and the views have not.
func TestReaderBetweenStateAndApply(t *testing.T) {
	for name, of := range map[string]struct {
		events func(g *group) []*logv1.Event // of the batch
		want   string                        // who has the address after it
	}{
		"expired and assigned": {func(g *group) []*logv1.Event {
			return []*logv1.Event{expire("a", g.session("a")), assign("192.0.2.1", "b")}
		}, "b"},
		"with new settings": {func(g *group) []*logv1.Event {
			return []*logv1.Event{expire("a", g.session("a")), assign("192.0.2.1", "b"), advertise("eth1")}
		}, "b"},
		"only expired": {func(g *group) []*logv1.Event { return []*logv1.Event{expire("a", g.session("a"))} }, "a"},
	} {
		for order, closes := range map[string]bool{"the old owner reads on": false, "the old owner's reader goes before it is told": true} {
			t.Run(name+"/"+order, func(t *testing.T) {
				g := newGroup(t, 0)
				g.apply(open("a", 1, 1, nil), open("b", 1, 2, nil), open("c", 1, 3, nil))
				g.apply(declare("s", logv1.Delivery_DELIVERY_HOST), allocate("s", "192.0.2.1"))
				g.apply(assign("192.0.2.1", "a"))
				ra, rc := g.subscribe("a"), g.subscribe("c")
				ra.next()
				var rb *reader
				g.between(func() {
					rb = g.subscribe("b")
					if closes {
						ra.sub.Close()
					}
				})
				moved := g.apply(of.events(g)...)
				rb.next()
				if of.want == "b" {
					rb.until(moved) // acks say that it has to see this
				}
				if of.want == "b" && !closes {
					ra.until(moved)
					if n := len(ra.view.GetVips()); n != 0 {
						t.Errorf("a has seen its loss and still has %d addresses", n)
					}
				}
				ra.sub.Close()
				for name, r := range map[string]*reader{"b": rb, "c": rc} {
					r.until(g.settle())
					if diff := cmp.Diff(g.fresh(name), r.view, protocmp.Transform()); diff != "" {
						t.Errorf("view of %s (-fresh +folded):\n%s", name, diff)
					}
				}
				if of.want != "b" {
					return
				}
				var epoch uint64
				g.Read(func(s *fsm.State) {
					for _, rec := range s.Addresses {
						epoch = rec.Epoch
					}
				})
				taken := g.apply(release("192.0.2.1", "b", epoch))
				rb.until(taken)
				if n := len(rb.view.GetVips()); n != 0 {
					t.Errorf("b has seen the release and still has %d addresses", n)
				}
			})
		}
	}
}

// TestLastViewEndsAsABatchIsApplied: the one node that is watched is forgotten in
// a batch that has more in it.
func TestLastViewEndsAsABatchIsApplied(t *testing.T) {
	g := newGroup(t, 0)
	g.apply(open("a", 1, 1, nil), open("b", 1, 2, nil))
	r := g.subscribe("a")
	r.next()
	g.apply(expire("a", g.session("a")))
	g.apply(&logv1.Event{Fact: &logv1.Event_NodeForgotten{NodeForgotten: &logv1.NodeForgotten{Node: "a"}}},
		declare("s", logv1.Delivery_DELIVERY_HOST), allocate("s", "192.0.2.1"))
	r = g.subscribe("b")
	r.next()
	if diff := cmp.Diff(g.fresh("b"), r.view, protocmp.Transform()); diff != "" {
		t.Errorf("(-fresh +view):\n%s", diff)
	}
}
