package layer2

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/quorumlb/quorumlb/speakers/system"
)

// Vip is an address that the node owns, as the members say.
type Vip struct {
	Addr netip.Addr
	// Epoch is the revision that made the node its owner.
	Epoch uint64
	Mode  Mode
	// Interfaces are the names of the links to announce on; none means all.
	Interfaces []string
	// Hindered says why the node cannot serve the address at present, though it owns
	// it; it is then not answered. "" if it can.
	Hindered string
	// Soft means that the node owns it no more: it answers only those who ask it
	// alone, while it is confirmed, and says nothing unasked.
	Soft bool
	// Predecessor is the node that answers its old clients in a soft move; until
	// there is none any more everybody is answered here but nothing is claimed.
	Predecessor string
	// Check asks the wire, when the address is gained, whether another station has it.
	Check bool
	// Inherited means that the node owned the address before this session began, with
	// the same MACs: the neighbours know, and no takeover is announced.
	Inherited bool
}

// State is what the node really does about an address that it owns.
type State uint8

const (
	_ State = iota
	// Unproven: answering; nobody was asked or has answered yet.
	Unproven
	// Proven: answering, and a neighbour has reached the address here.
	Proven
	// Held: answering without confirmation.
	Held
	// Released: silent for want of confirmation.
	Released
	// Silenced: silent because another station claims the address.
	Silenced
	// Failed: not announced; the reason says why.
	Failed
	// Softly: no longer the owner, and answering only those who ask this node alone.
	Softly
)

var stateNames = []string{Softly: "soft", Unproven: "unproven", Proven: "proven", Held: "unconfirmed", Released: "released", Silenced: "yielded", Failed: "failed"}

// States lists all states.
func States() []State { return []State{Unproven, Proven, Held, Released, Silenced, Failed, Softly} }

// String returns the name that the metrics use.
func (s State) String() string {
	if s == 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("State(%d)", uint8(s))
	}
	return stateNames[s]
}

// Status is what the node does about one address and what it has seen of it.
type Status struct {
	Addr  netip.Addr
	Epoch uint64
	State State
	// Reason says in words why the state is no better.
	Reason string
	// Interfaces are the names of the links on which the address is answered.
	Interfaces []string
	// ProvenBy are neighbours that reached the address here since the takeover.
	ProvenBy []netip.Addr
	// Foreign is another station that claimed the address within the last minute,
	// and the node that it belongs to if it is a speaker's.
	Foreign     system.MAC
	ForeignNode string
	// Check is what the question before the first use has found.
	Check Check
	// Connections is how many connections of clients the kernel tracks, with Softly;
	// negative when it does not tell.
	Connections int
}

func (s *Status) equal(o *Status) bool {
	return s.Check == o.Check && s.Connections == o.Connections && s.Epoch == o.Epoch && s.State == o.State && s.Reason == o.Reason && s.Foreign == o.Foreign &&
		s.ForeignNode == o.ForeignNode && slices.Equal(s.Interfaces, o.Interfaces) && slices.Equal(s.ProvenBy, o.ProvenBy)
}

// proof is a neighbour that has reached an address here, on a link.
type proof struct {
	by      netip.Addr
	link    int
	gateway bool
}

// foreign is another station that claims or uses an address.
type foreign struct {
	mac system.MAC
	at  time.Duration // last heard
}

// vip is one address with all that is known of it. Layer2's lock protects it.
type vip struct {
	Vip
	entry *Entry
	// on are the indexes of the links on which the address is answered, sorted.
	on []int
	// joined are the links whose solicited-node group is held for this address.
	joined []int
	// refused are the links on which it could not be joined, and why.
	refused map[int]error
	// trouble says why a link that should announce does not; "" if none.
	trouble string

	// pending is how many rounds to announce once the node is confirmed.
	pending int
	bursts  []*burst

	proven   []proof
	foreign  *foreign
	defended time.Duration // last defence; 0 for never
	// yielded is set while the address is silent for a claim, since yieldedAt.
	yielded   bool
	yieldedAt time.Duration

	// held: nothing is claimed until the wire has been asked for the address.
	held bool
	// checked is what came of that.
	checked Check
	// connections is as in Status.
	connections int

	status Status
	seq    uint64 // of the last change of status
}

// quiet reports whether nothing may be said unasked: another answers the old clients.
func (v *vip) quiet() bool { return v.Predecessor != "" }

// endBursts cancels what is still to be announced and reports whether it was anything.
func (v *vip) endBursts() bool {
	any := false
	for _, b := range v.bursts {
		any = any || !b.ended
		b.ended = true
	}
	v.bursts = nil
	return any
}

// announcing reports whether frames are still to be sent, and forgets ended bursts.
func (v *vip) announcing() bool {
	v.bursts = slices.DeleteFunc(v.bursts, func(b *burst) bool { return b.ended })
	return len(v.bursts) > 0
}

// provenBy reports whether a neighbour is known to have the address here, by way
// of a link.
func (v *vip) provenBy(by netip.Addr, link int) bool {
	return slices.ContainsFunc(v.proven, func(p proof) bool { return p.by == by && p.link == link })
}

// provenClients returns how many neighbours that are no gateways have proven it.
func (v *vip) provenClients() (n int) {
	for _, p := range v.proven {
		if !p.gateway {
			n++
		}
	}
	return n
}

// doubt forgets what was proven by way of a link.
func (v *vip) doubt(link int) {
	v.proven = slices.DeleteFunc(v.proven, func(p proof) bool { return p.link == link })
}

// describe makes the status of a vip.
func (l *Layer2) describe(v *vip) Status {
	s := Status{Addr: v.Addr, Epoch: v.Epoch, Check: v.checked, Connections: v.connections}
	for _, p := range v.proven {
		if !slices.Contains(s.ProvenBy, p.by) {
			s.ProvenBy = append(s.ProvenBy, p.by)
		}
	}
	var broken []string
	for _, index := range v.on {
		link := l.links[index]
		s.Interfaces = append(s.Interfaces, link.Name)
		if link.sendErr != nil {
			broken = append(broken, fmt.Sprintf("%s: %v", link.Name, link.sendErr))
		}
	}
	if v.foreign != nil {
		s.Foreign, s.ForeignNode = v.foreign.mac, l.peers[v.foreign.mac]
	}
	s.State, s.Reason = l.state(v, broken)
	if s.State == Silenced || s.State == Released || s.State == Failed {
		s.Interfaces = nil
	}
	return s
}

func (l *Layer2) state(v *vip, broken []string) (State, string) {
	until := l.until()
	switch {
	case v.Soft && v.yielded:
		return Silenced, "the new owner claims the address, so its old clients are no longer answered"
	case v.yielded:
		who := "an unknown station"
		if node := l.peers[v.foreign.mac]; node != "" {
			who = "node " + node
		}
		return Silenced, fmt.Sprintf("%s (%v) claims the address and this node is not confirmed as its owner", who, v.foreign.mac)
	case len(v.on) == 0:
		return Failed, v.trouble
	case len(broken) == len(v.on):
		return Failed, "cannot send on " + strings.Join(broken, ", ")
	case until == 0:
		return Released, "not confirmed by the members yet"
	case !l.confirmed && v.Mode != Hold:
		return Released, "no confirmation by the members"
	case !l.confirmed:
		return Held, "no confirmation by the members"
	case v.Soft:
		return Softly, "no longer the owner; answers only the clients that know this node"
	}
	var why []string
	if v.quiet() {
		why = append(why, "claims nothing while "+v.Predecessor+" answers its old clients")
	}
	if v.trouble != "" {
		why = append(why, v.trouble)
	}
	if len(broken) > 0 {
		why = append(why, "cannot send on "+strings.Join(broken, ", "))
	}
	if len(v.proven) > 0 {
		return Proven, strings.Join(why, "; ")
	}
	return Unproven, strings.Join(append(why, "no neighbour has answered at the new place yet"), "; ")
}

// touch publishes the status of a vip if it has changed.
func (l *Layer2) touch(v *vip) {
	s := l.describe(v)
	if v.seq != 0 && s.equal(&v.status) {
		return
	}
	v.status = s
	l.seq++
	v.seq = l.seq
	l.publish()
}

func (l *Layer2) publish() {
	close(l.news)
	l.news = make(chan struct{})
}

// removal remembers an address that has no status any more.
type removal struct {
	seq uint64
	at  time.Duration
}

// removalKept is how long; a reader that is further behind starts over.
const removalKept = 10 * time.Minute

func (l *Layer2) forget(v *vip, now time.Duration) {
	l.seq++
	l.removed[v.Addr] = removal{seq: l.seq, at: now}
	if len(l.removed) > 2*len(l.vips)+1024 {
		for addr, r := range l.removed {
			if now-r.at > removalKept {
				delete(l.removed, addr)
			}
		}
	}
	l.publish()
}

// Statuses returns what has changed after the change number since (0: all), the
// addresses that have no status any more, the number to ask with the next time,
// and a channel that is closed when there is more.
func (l *Layer2) Statuses(since uint64) (changed []Status, gone []netip.Addr, seq uint64, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range l.vips {
		if v.seq > since {
			changed = append(changed, v.status)
		}
	}
	if since > 0 {
		for addr, r := range l.removed {
			if r.seq > since {
				gone = append(gone, addr)
			}
		}
	}
	slices.SortFunc(changed, func(a, b Status) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(gone, netip.Addr.Compare)
	return changed, gone, l.seq, l.news
}
