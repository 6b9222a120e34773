package decider

import (
	"net/netip"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// A soft move: the old owner goes on answering those who ask it alone, because
// they know it, and the new one answers everybody else without a claim.
// DESIGN.md says why two nodes may answer, and when it ends.

// softly tells whether an address leaves its living owner in a soft move. One that
// the owner's process has inherited does not: what that process reports says nothing
// of the one before it, which may still run, cut off, and answer until it hears a claim.
func (o *owners) softly(rec *fsm.Address, why logv1.OwnerReason) bool {
	owner := o.s.Nodes[rec.Owner]
	return why == logv1.OwnerReason_OWNER_REASON_DRAIN && owner.GraceUntil > o.now && owner.Session < rec.Epoch
}

// settleSoft ends the soft move of an address when it is over, and returns the
// record as it is then.
func (o *owners) settleSoft(rec *fsm.Address) *fsm.Address {
	if rec.SoftNode == "" {
		return rec
	}
	why, over := o.softOver(rec)
	if !over {
		left := time.Duration(o.s.Nodes[rec.SoftNode].GraceUntil - o.now)
		o.w.retries.add(o.boot+max(left, minAgain), rec.Addr)
		return rec
	}
	addr := rec.Addr
	o.emit(softMoveEnded(rec, why))
	return o.s.Addresses[addr]
}

// softOver tells whether the old owner must stop altogether, and why.
func (o *owners) softOver(rec *fsm.Address) (logv1.OwnerReason, bool) {
	old := o.s.Nodes[rec.SoftNode]
	switch {
	case old.SessionState == fsm.SessionClosed:
		return logv1.OwnerReason_OWNER_REASON_LEAVE, true
	case old.SessionState != fsm.SessionOpen:
		return logv1.OwnerReason_OWNER_REASON_OWNER_EXPIRED, true
	case old.GraceUntil <= o.now:
		return logv1.OwnerReason_OWNER_REASON_GRACE_OVER, true
	}
	if o.choose().Forbids(rec.Addr, rec.SoftNode) {
		return logv1.OwnerReason_OWNER_REASON_NOT_ELIGIBLE, true
	}
	return 0, false
}

// predecessor names the old owner that may go on answering while another owns the
// address; empty when none may. The new owner makes no claim then, so the old one
// must have said itself, the very process that had it, that it has stopped answering
// everybody: that its time has run out is not enough, for with Hold it answers until
// it hears a claim.
func (o *owners) predecessor(rec *fsm.Address) string {
	if rec.SoftNode != "" && rec.SoftNode == rec.Prior && o.s.Nodes[rec.SoftNode].Session == rec.PriorSession &&
		o.d.leases.HasSeen(rec.Prior, rec.PriorSession, rec.PriorAt) {
		return rec.SoftNode
	}
	return ""
}

// firstUse tells whether whoever gets the address is to ask the wire for foreign
// stations. A former owner of the cluster's own that has not seen its loss would
// be taken for one.
func (o *owners) firstUse(rec *fsm.Address) bool {
	return rec.Prior == "" || o.s.Nodes[rec.Prior] != nil && o.d.leases.HasSeen(rec.Prior, rec.PriorSession, rec.PriorAt)
}

// SoftIdle reports that the kernel of the old owner of a soft move tracks no
// connection to the address any more.
type SoftIdle struct {
	Node    string
	Address netip.Addr
	// Epoch that the node had.
	Epoch uint64
}

func (c *SoftIdle) kind() string  { return "SoftIdle" }
func (c *SoftIdle) actor() string { return "speaker:" + c.Node }
func (c *SoftIdle) observed()     {}

func (c *SoftIdle) decide(t *tx) (answer, error) {
	rec := t.s.Addresses[c.Address]
	if rec == nil || rec.SoftNode != c.Node || rec.SoftEpoch != c.Epoch || rec.Owner == "" {
		return nil, nil
	}
	t.emit(softMoveEnded(rec, logv1.OwnerReason_OWNER_REASON_NO_CONNECTIONS))
	return nil, nil
}
