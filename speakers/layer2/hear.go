package layer2

import (
	"net/netip"

	"github.com/quorumlb/quorumlb/speakers/system"
)

// eventKind is what the responder reports to Layer2.
type eventKind uint8

const (
	_ eventKind = iota
	// eventClaim: another station claims an address of ours.
	eventClaim
	// eventUse: another station uses an address of ours without a claim.
	eventUse
	// eventAnswer: a neighbour reached an address of ours here.
	eventAnswer
	// eventFound: a probe's answer.
	eventFound
)

// event is one thing heard.
type event struct {
	kind  eventKind
	addr  netip.Addr
	epoch uint64     // of the entry
	mac   system.MAC // of the other station
	by    netip.Addr // eventAnswer: who reached it
	to    system.MAC // eventAnswer: of ours, that the frame was sent to
	link  int
	// yielded: the responder has silenced the address because of the claim.
	yielded bool
}

// judgement is what is to be done about a frame.
type judgement struct {
	verdict Verdict
	entry   *Entry // Replied, Claimed, Answered
	reply   []byte // Replied
	kind    Kind   // Replied
	mac     system.MAC
	by      netip.Addr
	to      system.MAC // of ours, that a unicast frame was sent to
	// found is the address that a probe asks for and that the sender has.
	found netip.Addr
	// used is the entry whose address the sender uses as its own, short of a claim.
	used *Entry
}

// judgeARP decides about a frame of the ARP socket. It builds a reply in place,
// and allocates nothing.
func judgeARP(t *Table, seen *recent, f *system.Frame) judgement {
	p, v := parseARP(f.Data)
	if v != 0 {
		return judgement{verdict: v}
	}
	if v := wrongPlace(t, f, p.src); v != 0 {
		return judgement{verdict: v}
	}
	sender := t.ours(p.senderIP, f.Link)
	if p.op == arpReply {
		j := judgement{verdict: NotOurs, mac: p.sender, to: p.dst}
		if e := t.ours(p.targetIP, f.Link); e != nil && f.Type == system.ToHost {
			j.verdict, j.entry, j.by = Answered, e, p.senderIP
		}
		if _, ok := t.wanted[p.senderIP]; ok {
			j.verdict, j.found = Found, p.senderIP
		}
		if sender != nil {
			j.verdict, j.entry = Claimed, sender
		}
		return j
	}
	if p.senderIP == p.targetIP {
		if sender != nil {
			return judgement{verdict: Claimed, entry: sender, mac: p.sender}
		}
		return judgement{verdict: NotOurs}
	}
	if !p.senderIP.IsUnspecified() {
		seen.note(p.targetIP, client{addr: p.senderIP, mac: p.sender, link: f.Link, at: f.Time})
	}
	e := t.entries[p.targetIP]
	j := judgement{entry: e, kind: KindReply, mac: p.sender, by: p.senderIP, to: p.dst, used: sender}
	if j.verdict = mayReply(e, f); j.verdict == Replied {
		j.reply = replyARP(f.Data, t.links[f.Link])
	}
	return j
}

// judgeNDP decides about a frame of the NDP socket. It builds a reply in place,
// and allocates nothing.
func judgeNDP(t *Table, seen *recent, f *system.Frame) judgement {
	m, v := parseNDP(f.Data)
	if v != 0 {
		return judgement{verdict: v}
	}
	if v := wrongPlace(t, f, m.src); v != 0 {
		return judgement{verdict: v}
	}
	if m.advert {
		return judgeAdvert(t, f, &m)
	}
	if !m.from.IsUnspecified() {
		seen.note(m.target, client{addr: m.from, mac: m.src, link: f.Link, at: f.Time})
	}
	e := t.entries[m.target]
	j := judgement{entry: e, kind: KindAdvert, mac: m.src, by: m.from, to: m.dst, used: t.ours(m.from, f.Link)}
	if j.verdict = mayReply(e, f); j.verdict == Replied {
		j.reply = replyNDP(f.Data, &m, t.links[f.Link])
	}
	return j
}

func judgeAdvert(t *Table, f *system.Frame, m *ndpMessage) judgement {
	mac := m.src
	if m.hasMAC {
		mac = m.mac
	}
	if _, ok := t.own[mac]; ok {
		return judgement{verdict: OwnFrame}
	}
	j := judgement{verdict: NotOurs, mac: mac, to: m.dst}
	if e := t.ours(m.to, f.Link); e != nil && f.Type == system.ToHost && m.flags&flagSolicited != 0 {
		j.verdict, j.entry, j.by = Answered, e, m.target
	}
	if _, ok := t.wanted[m.target]; ok {
		j.verdict, j.found = Found, m.target
	}
	if e := t.ours(m.target, f.Link); e != nil {
		if m.flags&flagOverride != 0 {
			j.verdict, j.entry = Claimed, e
		} else {
			// It replaces nobody's entry (RFC 4861 section 7.2.5).
			j.used = e
		}
	}
	return j
}

// wrongPlace sorts out frames that are not to be looked at on this link.
func wrongPlace(t *Table, f *system.Frame, src system.MAC) Verdict {
	if f.Type != system.ToHost && f.Type != system.ToAll && f.Type != system.ToGroup {
		return OtherHost // the kernel's filter drops these; see there
	}
	if _, ok := t.own[src]; ok {
		return OwnFrame
	}
	if _, ok := t.links[f.Link]; !ok {
		return OtherLink
	}
	return 0
}

// mayReply checks all but the confirmation, which is checked at the last moment.
func mayReply(e *Entry, f *system.Frame) Verdict {
	switch {
	case e == nil:
		return NotOurs
	case !e.on(f.Link):
		return OtherLink
	case e.muted.Load():
		return Yielded
	case e.Soft && f.Type != system.ToHost:
		return Elsewhere
	default:
		return Replied
	}
}
