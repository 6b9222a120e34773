package decider

import (
	"fmt"
	"net/netip"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Move makes a planned move of one address. Errors: *NotFoundError for an
// address that no service has, *PreconditionError when the node may not have it
// or no node may.
//
// The wish is kept in the leader's memory: when leadership changes in the middle
// of the move, the next leader completes it to the node of its own choice.
type Move struct {
	Address netip.Addr
	// To is the node to move to; empty: the allocator chooses.
	To    string
	Actor string
}

func (c *Move) kind() string  { return "Move" }
func (c *Move) actor() string { return c.Actor }

func (c *Move) decide(t *tx) (answer, error) {
	rec := t.s.Addresses[c.Address]
	if rec == nil {
		return nil, &NotFoundError{Kind: "address", Name: c.Address.String()}
	}
	to, err := c.target(t, rec)
	if err != nil {
		return nil, err
	}
	from := rec.Owner
	ans := func(_ *fsm.State, r *Result) { r.From, r.To = from, to }
	if to == from {
		return ans, nil
	}
	if owner := t.s.Nodes[from]; owner != nil && owner.SessionState == fsm.SessionOpen {
		t.emit(ownerReleased(rec, logv1.OwnerReason_OWNER_REASON_MOVE))
	}
	addr := c.Address
	t.whenDecided(func() {
		t.targets.set(addr, to)
		t.work.dirty.push(addr)
	})
	return ans, nil
}

// target is the node to move to.
func (c *Move) target(t *tx, rec *fsm.Address) (string, error) {
	if c.To == "" {
		opt := allocator.Options{Preferred: t.heard, Exclude: rec.Owner, Now: t.now, Serving: true}
		to, ok := t.work.choose(t.s).ChooseOwner(rec.Addr, opt)
		if !ok {
			return "", &PreconditionError{Reason: fmt.Sprintf("no other node may own %s", rec.Addr)}
		}
		return to, nil
	}
	if t.s.Nodes[c.To] == nil {
		return "", &NotFoundError{Kind: "node", Name: c.To}
	}
	if c.To == rec.Owner {
		return c.To, nil
	}
	if why := t.work.choose(t.s).Eligible(rec.Addr, c.To, t.now); why != allocator.OK {
		return "", &PreconditionError{Reason: fmt.Sprintf("node %q may not own %s: %s", c.To, rec.Addr, why)}
	}
	return c.To, nil
}
