package service

import (
	"net/netip"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
	"github.com/quorumlb/quorumlb/raftnode/decider"
)

// unprovenAfter is how long an owner may take to see a neighbour reach the address,
// where its predecessor has seen one.
const unprovenAfter = 10 * time.Second

// proofs remembers what was seen of each address at its owners. It is what this leader
// has heard, and no more: another one begins anew, and at worst leaves an address where
// nobody was seen to reach it.
type proofs map[netip.Addr]proof

type proof struct {
	// epoch in which a neighbour was last seen to reach it.
	epoch uint64
	// soft is when it was last seen to move softly, nanoseconds since 1970 UTC.
	soft int64
}

// note takes in what a node says of the addresses that it owns.
func (p proofs) note(s *fsm.State, r report) {
	for addr, st := range r.vips {
		rec := s.Addresses[addr]
		if rec != nil && rec.Owner == r.node && rec.Epoch == st.GetEpoch() && st.GetAnnounced() == speakerv1.Announced_ANNOUNCED_PROVEN {
			p[addr] = proof{epoch: rec.Epoch}
		}
	}
}

// unproven lists the addresses of a node that nobody was seen to reach there for too
// long, while somebody had reached them at the owner before. Only a report of the open
// session counts. As the epoch before is then unproven itself, it happens once. In a soft
// move an owner asks nobody, so its time begins when that is over.
func (p proofs) unproven(s *fsm.State, r report, now int64) (cmds []decider.Command) {
	n := s.Nodes[r.node]
	if n == nil || n.Session != r.session || n.SessionState != fsm.SessionOpen {
		return nil
	}
	for addr, st := range r.vips {
		rec := s.Addresses[addr]
		if rec == nil || rec.Owner != r.node || rec.SoftNode != "" || rec.Epoch != st.GetEpoch() || st.GetAnnounced() != speakerv1.Announced_ANNOUNCED_UNPROVEN {
			continue
		}
		before, known := p[addr]
		if known && before.epoch == rec.PriorEpoch && rec.Prior != r.node && now-max(rec.OwnerTime, before.soft) > int64(unprovenAfter) {
			cmds = append(cmds, &decider.MoveUnproven{Node: r.node, Address: addr, Epoch: rec.Epoch})
		}
	}
	return cmds
}

// settle drops what is remembered of addresses that are no more, and notes those that
// move softly.
func (p proofs) settle(s *fsm.State, now int64) {
	for addr, known := range p {
		switch rec := s.Addresses[addr]; {
		case rec == nil:
			delete(p, addr)
		case rec.SoftNode != "":
			known.soft = now
			p[addr] = known
		}
	}
}
