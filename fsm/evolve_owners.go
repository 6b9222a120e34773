package fsm

import (
	"maps"
	"net/netip"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// ownerReleased takes the address from its owner. Who comes next has to wait
// for what Prior says.
func (f *folding) ownerReleased(e *logv1.OwnerReleased) error {
	rec, err := f.address("OwnerReleased", e.GetAddress())
	if err != nil {
		return err
	}
	if rec.Owner == "" || rec.Owner != e.GetNode() || rec.Epoch != e.GetEpoch() {
		return corruptf("%s released by %q in epoch %d, but owned by %q in epoch %d",
			rec.Addr, e.GetNode(), e.GetEpoch(), rec.Owner, rec.Epoch)
	}
	c := f.editAddress(rec)
	f.endSoft(c)
	f.takeFromOwner(c)
	f.s.idx.ownerSet("").Set(keyOf(c.Addr))
	if e.GetSoft() {
		f.beginSoft(c, rec.Owner, rec.Epoch)
	}
	c.Owner, c.Epoch, c.OwnerTime, c.OwnerWhy = "", 0, f.s.Time, e.GetReason()
	c.FirstUse, c.OnLink = false, false
	return nil
}

// takeFromOwner notes in rec, a fresh copy, that its owner lost it.
func (f *folding) takeFromOwner(rec *Address) {
	n := f.editNode(f.s.Nodes[rec.Owner])
	n.Owned--
	n.TakenAt = f.revision
	rec.Prior, rec.PriorAt, rec.PriorSession, rec.PriorEpoch = n.Name, f.revision, n.Session, rec.Epoch
	f.s.idx.dropOwner(n.Name, keyOf(rec.Addr))
	f.countOwned(rec.Addr, n.Name, -1)
}

func (f *folding) countOwned(a netip.Addr, node string, delta int) {
	var buf [1]*poolIndex
	for _, p := range f.s.idx.containing(buf[:0], a) {
		p.addOwned(node, delta)
	}
}

// ownerAssigned gives the address to a node. An owner with an open session must
// have been released before.
func (f *folding) ownerAssigned(e *logv1.OwnerAssigned) error {
	rec, err := f.address("OwnerAssigned", e.GetAddress())
	if err != nil {
		return err
	}
	n, err := f.node("OwnerAssigned", e.GetNode())
	if err != nil {
		return err
	}
	if n.SessionState != SessionOpen {
		return corruptf("%s assigned to %s, which has no open session", rec.Addr, n.Name)
	}
	if rec.Owner != "" && f.s.Nodes[rec.Owner].SessionState == SessionOpen {
		return corruptf("%s assigned to %s while %s owns it with an open session", rec.Addr, n.Name, rec.Owner)
	}
	if p := e.GetPredecessor(); p != "" && (p != rec.SoftNode || p == n.Name || rec.Owner != "") {
		return corruptf("%s assigned to %s with predecessor %s, but %q moves softly and %q owns it",
			rec.Addr, n.Name, p, rec.SoftNode, rec.Owner)
	}
	c := f.editAddress(rec)
	f.countFlap(c, n.Name, e.GetReason())
	if e.GetPredecessor() == "" {
		f.endSoft(c)
	}
	if rec.Owner != "" {
		f.takeFromOwner(c)
	} else {
		f.s.idx.dropOwner("", keyOf(c.Addr))
	}
	c.Owner, c.Epoch, c.OwnerTime, c.OwnerWhy = n.Name, f.revision, f.s.Time, e.GetReason()
	c.FirstUse, c.OnLink = e.GetFirstUse(), e.GetOnLink()
	f.editNode(f.s.Nodes[n.Name]).Owned++
	f.s.idx.ownerSet(n.Name).Set(keyOf(c.Addr))
	f.countOwned(c.Addr, n.Name, 1)
	return nil
}

func (f *folding) announceFailed(e *logv1.AnnounceFailed) error {
	rec, err := f.address("AnnounceFailed", e.GetAddress())
	if err != nil {
		return err
	}
	if _, err := f.node("AnnounceFailed", e.GetNode()); err != nil {
		return err
	}
	c := f.editAddress(rec)
	c.Failures = maps.Clone(rec.Failures)
	if c.Failures == nil {
		c.Failures = map[string]Failure{}
	}
	c.Failures[e.GetNode()] = Failure{
		Count:  c.Failures[e.GetNode()].Count + 1,
		Time:   f.s.Time,
		Reason: e.GetReason(),
	}
	return nil
}

func (f *folding) announceRecovered(e *logv1.AnnounceRecovered) error {
	rec, err := f.address("AnnounceRecovered", e.GetAddress())
	if err != nil {
		return err
	}
	c := f.editAddress(rec)
	c.Failures = maps.Clone(rec.Failures)
	delete(c.Failures, e.GetNode())
	if len(c.Failures) == 0 {
		c.Failures = nil
	}
	return nil
}

func (f *folding) conflictObserved(e *logv1.AddressConflictObserved) error {
	rec, err := f.address("AddressConflictObserved", e.GetAddress())
	if err != nil {
		return err
	}
	if len(e.GetMac()) != len(MAC{}) {
		return corruptf("conflict for %s: MAC of %d bytes", rec.Addr, len(e.GetMac()))
	}
	c := f.editAddress(rec)
	c.Conflict, c.ConflictNode = MAC(e.GetMac()), e.GetNode()
	c.ConflictKind, c.ConflictHolder = e.GetKind(), e.GetHolder()
	return nil
}

func (f *folding) conflictCleared(e *logv1.AddressConflictCleared) error {
	rec, err := f.address("AddressConflictCleared", e.GetAddress())
	if err != nil {
		return err
	}
	c := f.editAddress(rec)
	c.Conflict, c.ConflictNode, c.ConflictKind, c.ConflictHolder = MAC{}, "", 0, ""
	return nil
}
