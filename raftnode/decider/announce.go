package decider

import (
	"net/netip"
	"strings"

	"github.com/quorumlb/quorumlb/allocator"
	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// AnnounceFailed reports that a node cannot announce an address that it owns.
// Reports of an older epoch are passed over.
type AnnounceFailed struct {
	Node    string
	Address netip.Addr
	Epoch   uint64
	Reason  string
}

func (c *AnnounceFailed) kind() string  { return "AnnounceFailed" }
func (c *AnnounceFailed) actor() string { return "speaker:" + c.Node }
func (c *AnnounceFailed) observed()     {}
func (c *AnnounceFailed) urgent()       {}

func (c *AnnounceFailed) decide(t *tx) (answer, error) {
	rec := t.s.Addresses[c.Address]
	if rec == nil || rec.Owner != c.Node || rec.Epoch != c.Epoch {
		return nil, nil
	}
	if FailureStands(rec, c.Node, t.now) {
		return nil, nil
	}
	t.emit(&logv1.Event{Fact: &logv1.Event_AnnounceFailed{AnnounceFailed: &logv1.AnnounceFailed{
		Address: fsm.FromAddr(c.Address), Node: c.Node, Epoch: c.Epoch, Reason: strings.ToValidUTF8(c.Reason, "?"),
	}}})
	return nil, nil
}

// FailureStands tells whether another report that a node cannot announce an address, now,
// says nothing new: it counts once for each ownership, and again when its back-off has
// passed and the node goes on failing, which is ever more seldom.
func FailureStands(rec *fsm.Address, node string, now int64) bool {
	f, failed := rec.Failures[node]
	return failed && f.Time >= rec.OwnerTime && now < f.Time+int64(allocator.Backoff(f.Count))
}

// AnnounceRecovered reports that a node can announce an address again.
type AnnounceRecovered struct {
	Node    string
	Address netip.Addr
}

func (c *AnnounceRecovered) kind() string  { return "AnnounceRecovered" }
func (c *AnnounceRecovered) actor() string { return "speaker:" + c.Node }
func (c *AnnounceRecovered) observed()     {}

func (c *AnnounceRecovered) decide(t *tx) (answer, error) {
	rec := t.s.Addresses[c.Address]
	if rec == nil {
		return nil, nil
	}
	if _, failed := rec.Failures[c.Node]; failed {
		t.emit(&logv1.Event{Fact: &logv1.Event_AnnounceRecovered{AnnounceRecovered: &logv1.AnnounceRecovered{
			Address: fsm.FromAddr(c.Address), Node: c.Node,
		}}})
	}
	return nil, nil
}

// MoveUnproven reports that no neighbour was seen to reach an address at its owner,
// although one had reached it at the owner before. The address moves on, once, if
// another node may have it. In a soft move it stays: its owner asks nobody, and another
// would cut off those whom the owner before still serves.
type MoveUnproven struct {
	Node    string
	Address netip.Addr
	Epoch   uint64
}

func (c *MoveUnproven) kind() string  { return "MoveUnproven" }
func (c *MoveUnproven) actor() string { return "speaker:" + c.Node }
func (c *MoveUnproven) observed()     {}

func (c *MoveUnproven) decide(t *tx) (answer, error) {
	rec := t.s.Addresses[c.Address]
	if rec == nil || rec.Owner != c.Node || rec.Epoch != c.Epoch || rec.SoftNode != "" || rec.OwnerWhy == logv1.OwnerReason_OWNER_REASON_UNPROVEN {
		return nil, nil
	}
	owner := t.s.Nodes[rec.Owner]
	opt := allocator.Options{Preferred: t.heard, Exclude: rec.Owner, Now: t.now, Serving: true}
	if to, ok := t.work.choose(t.s).ChooseOwner(rec.Addr, opt); ok && t.heard(to) && owner.SessionState == fsm.SessionOpen {
		t.emit(ownerReleased(rec, logv1.OwnerReason_OWNER_REASON_UNPROVEN))
	}
	return nil, nil
}
