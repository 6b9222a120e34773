package fsm_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
)

func TestDraftIsApplyInSteps(t *testing.T) {
	l := small(t)
	head := l.S.Clone()
	d := head.Begin(l.Now)
	if err := d.Add("admin:a", fsmtest.Declared(fsmtest.Service("new", 1))); err != nil {
		t.Fatal(err)
	}
	if head.Services[fsm.KeyOf("default", "new")] == nil {
		t.Error("the next decision does not see the last")
	}
	if err := d.Add("admin:b", fsmtest.PoolDeleted("none")); !errors.Is(err, fsm.ErrCorrupt) {
		t.Errorf("an impossible event: %v", err)
	}
	if err := d.Add("admin:a", fsmtest.AllocatedFor(fsm.KeyOf("default", "new"), ip2, "a", fresh)); err != nil {
		t.Fatal(err)
	}
	if err := d.Add("admin:b", fsmtest.Drained("n1", 1)); err != nil {
		t.Fatal(err)
	}
	raw, b, changes, err := d.Commit()
	if err != nil || d.Len() != 3 || d.Revision() != 6 {
		t.Fatal(err, d.Len(), d.Revision())
	}
	if !slices.Equal(b.GetActors(), []string{"admin:a", "admin:b"}) || b.GetEvents()[2].GetActor() != 1 {
		t.Errorf("actors: %v", b)
	}
	_, want, err := l.S.Apply(raw)
	if err != nil {
		t.Fatal(err)
	}
	if l.S.Digest() != head.Digest() || l.S.Chain != head.Chain {
		t.Error("head and committed state differ")
	}
	if !slices.Equal(want.Addresses, changes.Addresses) || !slices.Equal(want.Nodes, changes.Nodes) || !slices.Equal(want.Services, changes.Services) {
		t.Errorf("changes %+v, applied %+v", changes, want)
	}
}

func TestDraftWithoutEvents(t *testing.T) {
	l := small(t)
	raw, b, _, err := l.S.Begin(l.Now).Commit()
	if raw != nil || b != nil || err != nil || l.S.Revision != 5 {
		t.Error(raw, b, err, l.S.Revision)
	}
	l.Apply(fsmtest.Drained("n1", 1))
}

func TestDraftThatLeavesSomethingImpossible(t *testing.T) {
	l := small(t)
	d := l.S.Begin(l.Now)
	if err := d.Add("x", fsmtest.PoolDeleted("a")); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := d.Commit(); !errors.Is(err, fsm.ErrCorrupt) {
		t.Errorf("an address in no pool: %v", err)
	}
	if _, _, err := l.S.Apply(nil); !errors.Is(err, fsm.ErrCorrupt) {
		t.Errorf("the state goes on: %v", err)
	}
}
