package layer2

import "fmt"

// Verdict is what became of a received frame, and why. Metrics and tests use it.
type Verdict uint8

const (
	_ Verdict = iota
	// Replied: it asked for an address of ours and was answered.
	Replied
	// Claimed: another station says that it has an address of ours.
	Claimed
	// Answered: a neighbour reached an address of ours here.
	Answered
	// Found: it tells a probe who has the address.
	Found
	// NotOurs: it is about an address that is not ours.
	NotOurs
	// OtherLink: the address is not announced on the link.
	OtherLink
	// Yielded: the address is silent because another station claims it.
	Yielded
	// Unconfirmed: the address is silent because the node is not confirmed.
	Unconfirmed
	// OwnFrame: this host sent it.
	OwnFrame
	// OtherHost: it was sent to another station, or has the tag of a VLAN that
	// this host is not in.
	OtherHost
	// Late: it waited in the socket for so long that its sender has given up.
	Late
	// Malformed: it is no valid ARP packet or NDP message.
	Malformed
	// BadChecksum: the ICMPv6 checksum is wrong.
	BadChecksum
	// SourceMismatch: the Ethernet source is not the sender that the message names.
	SourceMismatch
	// SendFailed: the answer could not be sent.
	SendFailed
	// Elsewhere: it asks everybody for an address that has moved softly; its new
	// owner answers.
	Elsewhere

	verdicts
)

var verdictNames = [verdicts]string{
	Replied: "replied", Claimed: "claimed", Answered: "answered", Found: "found", NotOurs: "not_ours",
	OtherLink: "other_link", Yielded: "yielded", Unconfirmed: "unconfirmed", OwnFrame: "own_frame",
	OtherHost: "other_host", Late: "late", Malformed: "malformed", BadChecksum: "bad_checksum",
	SourceMismatch: "source_mismatch", SendFailed: "send_failed", Elsewhere: "elsewhere",
}

// String returns the name that the metrics use.
func (v Verdict) String() string {
	if v == 0 || v >= verdicts {
		return fmt.Sprintf("Verdict(%d)", uint8(v))
	}
	return verdictNames[v]
}

// Kind is what a sent frame is for.
type Kind uint8

const (
	_ Kind = iota
	// KindReply answers an ARP request.
	KindReply
	// KindAdvert answers a neighbour solicitation, also a DAD probe.
	KindAdvert
	// KindAnnounceRequest is a gratuitous ARP request.
	KindAnnounceRequest
	// KindAnnounceReply is a gratuitous ARP reply.
	KindAnnounceReply
	// KindAnnounceAdvert is an unsolicited neighbour advertisement.
	KindAnnounceAdvert
	// KindDirected asks a gateway or client from the address.
	KindDirected
	// KindDefence is an announcement against a foreign claim.
	KindDefence
	// KindRefresh is an announcement that keeps switches from forgetting.
	KindRefresh
	// KindGroups reports multicast groups to switches that snoop.
	KindGroups
	// KindProbe asks who has an address.
	KindProbe

	kinds
)

var kindNames = [kinds]string{
	KindReply: "arp_reply", KindAdvert: "neighbour_advert", KindAnnounceRequest: "gratuitous_request",
	KindAnnounceReply: "gratuitous_reply", KindAnnounceAdvert: "unsolicited_advert", KindDirected: "directed",
	KindDefence: "defence", KindRefresh: "refresh", KindGroups: "group_report", KindProbe: "probe",
}

// String returns the name that the metrics use.
func (k Kind) String() string {
	if k == 0 || k >= kinds {
		return fmt.Sprintf("Kind(%d)", uint8(k))
	}
	return kindNames[k]
}
