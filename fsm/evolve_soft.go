package fsm

import (
	"iter"

	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// beginSoft notes in rec, a fresh copy, that its former owner goes on answering
// those who ask it alone.
func (f *folding) beginSoft(rec *Address, node string, epoch uint64) {
	rec.SoftNode, rec.SoftEpoch = node, epoch
	f.s.idx.setSoft(node, keyOf(rec.Addr))
	for _, p := range f.s.idx.containing(nil, rec.Addr) {
		p.addSoft(node, 1)
	}
}

// endSoft notes in rec, a fresh copy, that its former owner must stop answering
// altogether; it is not acked before it has seen that.
func (f *folding) endSoft(rec *Address) {
	if rec.SoftNode == "" {
		return
	}
	f.taken(rec.SoftNode)
	f.s.idx.dropSoft(rec.SoftNode, keyOf(rec.Addr))
	for _, p := range f.s.idx.containing(nil, rec.Addr) {
		p.addSoft(rec.SoftNode, -1)
	}
	rec.SoftNode, rec.SoftEpoch = "", 0
}

func (f *folding) softMoveEnded(e *logv1.SoftMoveEnded) error {
	rec, err := f.address("SoftMoveEnded", e.GetAddress())
	if err != nil {
		return err
	}
	if e.GetNode() == "" || rec.SoftNode != e.GetNode() {
		return corruptf("%s: soft move of %q ended, but %q moves softly", rec.Addr, e.GetNode(), rec.SoftNode)
	}
	f.endSoft(f.editAddress(rec))
	return nil
}

func (x *indexes) setSoft(node string, a addrKey) {
	t := x.soft[node]
	if t == nil {
		t = newTree(addrKey.less)
		x.soft[node] = t
	}
	t.Set(a)
}

func (x *indexes) dropSoft(node string, a addrKey) {
	if t := x.soft[node]; t != nil {
		t.Delete(a)
		if t.Len() == 0 {
			delete(x.soft, node)
		}
	}
}

func (p *poolIndex) addSoft(node string, delta int) {
	if node == "" {
		return
	}
	p.soft[node] += delta
	if p.soft[node] == 0 {
		delete(p.soft, node)
	}
}

// SoftAt iterates over the addresses that move away from a node softly, in a
// fixed order.
func (s *State) SoftAt(node string) iter.Seq[*Address] {
	return func(yield func(*Address) bool) {
		if t := s.idx.soft[node]; t != nil {
			t.Scan(func(k addrKey) bool { return yield(s.Addresses[k.addr()]) })
		}
	}
}

// SoftCount counts the addresses that move away from a node softly.
func (s *State) SoftCount(node string) int {
	if t := s.idx.soft[node]; t != nil {
		return t.Len()
	}
	return 0
}
