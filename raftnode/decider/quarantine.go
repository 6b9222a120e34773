package decider

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// An address stays in quarantine for FirstQuarantine before the wire is asked
// again. As long as the foreign station answers it stays for as long again as it
// has been there, up to LongestQuarantine.
const (
	FirstQuarantine   = 10 * time.Minute
	LongestQuarantine = 6 * time.Hour
)

// ConflictObserved reports another station that has an address. One that is found
// before the first use puts an address that nobody asked for in quarantine, and
// its services get others.
type ConflictObserved struct {
	Node    string
	Address netip.Addr
	MAC     fsm.MAC
	// Kind tells how it was found; Holder is the node whose kernel it is, with
	// CONFLICT_KIND_KERNEL.
	Kind   logv1.ConflictKind
	Holder string
}

func (c *ConflictObserved) kind() string  { return "ConflictObserved" }
func (c *ConflictObserved) actor() string { return "speaker:" + c.Node }
func (c *ConflictObserved) observed()     {}

func (c *ConflictObserved) decide(t *tx) (answer, error) {
	if c.MAC == (fsm.MAC{}) {
		var f faults
		f.add("mac", "must not be zero")
		return nil, f.err()
	}
	rec := t.s.Addresses[c.Address]
	if rec == nil || rec.Conflict == c.MAC && rec.ConflictNode == c.Node && rec.ConflictKind == c.Kind && rec.ConflictHolder == c.Holder {
		return nil, nil
	}
	if c.quarantines(t.s, rec) {
		t.quarantine(rec, c.Node, c.MAC)
		return nil, nil
	}
	t.emit(&logv1.Event{Fact: &logv1.Event_AddressConflictObserved{
		AddressConflictObserved: &logv1.AddressConflictObserved{
			Address: fsm.FromAddr(c.Address), Node: c.Node, Mac: bytes.Clone(c.MAC[:]), Kind: c.Kind, Holder: c.Holder,
		},
	}})
	return nil, nil
}

// ConflictCleared reports that the foreign station has gone silent. Only the
// node whose report is recorded clears it.
type ConflictCleared struct {
	Node    string
	Address netip.Addr
}

func (c *ConflictCleared) kind() string  { return "ConflictCleared" }
func (c *ConflictCleared) actor() string { return "speaker:" + c.Node }
func (c *ConflictCleared) observed()     {}

func (c *ConflictCleared) decide(t *tx) (answer, error) {
	rec := t.s.Addresses[c.Address]
	if rec == nil || rec.Conflict == (fsm.MAC{}) || rec.ConflictNode != c.Node {
		return nil, nil
	}
	t.emit(&logv1.Event{Fact: &logv1.Event_AddressConflictCleared{
		AddressConflictCleared: &logv1.AddressConflictCleared{Address: fsm.FromAddr(c.Address)},
	}})
	return nil, nil
}

// quarantines tells whether the address goes into quarantine: a foreign station
// answered before the first use, and no service asked for this very address. Who
// asks for one gets it and is warned; and what was found later moves nobody.
func (c *ConflictObserved) quarantines(s *fsm.State, rec *fsm.Address) bool {
	return c.Kind == logv1.ConflictKind_CONFLICT_KIND_FOREIGN && rec.FirstUse && rec.Owner == c.Node &&
		rec.ConflictKind == logv1.ConflictKind_CONFLICT_KIND_UNSPECIFIED && !askedFor(s, rec)
}

// askedFor tells whether a service that has the address asks for it by name.
func askedFor(s *fsm.State, rec *fsm.Address) bool {
	return slices.ContainsFunc(rec.Services, func(key fsm.ServiceKey) bool {
		return slices.ContainsFunc(s.Services[key].Spec.GetAddresses(), func(text string) bool {
			a, err := fsm.ParseAddr(text)
			return err == nil && a == rec.Addr
		})
	})
}

// quarantine takes the address from its owner and its services; they get others
// in the same batch. It does not rest as after use: when the foreign station has gone
// anybody may have it.
func (t *tx) quarantine(rec *fsm.Address, node string, mac fsm.MAC) {
	addr, keys := rec.Addr, slices.Clone(rec.Services)
	if rec.Owner != "" {
		t.emit(ownerReleased(rec, logv1.OwnerReason_OWNER_REASON_CONFLICT))
	}
	for _, key := range keys {
		t.letGo(addr, key, 0, 0)
	}
	t.emit(addressQuarantined(addr, node, mac, t.now+int64(FirstQuarantine)))
}

// QuarantineSeen reports that the foreign station still answered when the wire
// was asked again.
type QuarantineSeen struct {
	Address netip.Addr
	// Node that heard it.
	Node string
}

func (c *QuarantineSeen) kind() string  { return "QuarantineSeen" }
func (c *QuarantineSeen) actor() string { return "speaker:" + c.Node }
func (c *QuarantineSeen) observed()     {}

func (c *QuarantineSeen) decide(t *tx) (answer, error) {
	free := t.s.Free[c.Address]
	if free == nil || !free.Quarantined() || t.now < free.QuarantineUntil {
		return nil, nil
	}
	again := min(max(time.Duration(t.now-free.QuarantineSince), FirstQuarantine), LongestQuarantine)
	t.emit(addressQuarantined(c.Address, c.Node, free.Conflict, t.now+int64(again)))
	return nil, nil
}

// EndQuarantine lets an address be given away again. Errors: *NotFoundError.
type EndQuarantine struct {
	Address netip.Addr
	// Actor is empty when this member ends it because nobody answers any more.
	Actor string
}

func (c *EndQuarantine) kind() string  { return "EndQuarantine" }
func (c *EndQuarantine) actor() string { return c.Actor }

func (c *EndQuarantine) decide(t *tx) (answer, error) {
	if free := t.s.Free[c.Address]; free == nil || !free.Quarantined() {
		return nil, &NotFoundError{Kind: "quarantine of", Name: c.Address.String()}
	}
	t.emit(&logv1.Event{Fact: &logv1.Event_QuarantineEnded{QuarantineEnded: &logv1.QuarantineEnded{
		Address: fsm.FromAddr(c.Address),
	}}})
	return nil, nil
}
