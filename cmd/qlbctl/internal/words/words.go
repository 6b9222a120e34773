// Package words turns what the API says into what a tired person reads: ages,
// hardware addresses, reasons, and one sentence for each event. Nothing in it
// talks to anybody.
package words

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/quorumlb/quorumlb/allocator"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
	speakerv1 "github.com/quorumlb/quorumlb/proto/quorumlb/speaker/v1"
)

// None stands for a value that is not there.
const None = "-"

// OrNone gives None for an empty text.
func OrNone(s string) string {
	if s == "" {
		return None
	}
	return s
}

// Duration gives a time span in at most two units: "350ms", "12s", "5m12s",
// "3h20m", "6d4h".
func Duration(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + Duration(-d)
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return twoUnits(d, time.Minute, "m", time.Second, "s")
	case d < 24*time.Hour:
		return twoUnits(d, time.Hour, "h", time.Minute, "m")
	}
	return twoUnits(d, 24*time.Hour, "d", time.Hour, "h")
}

func twoUnits(d, big time.Duration, bigName string, small time.Duration, smallName string) string {
	n, rest := d/big, d%big/small
	if rest == 0 {
		return fmt.Sprintf("%d%s", n, bigName)
	}
	return fmt.Sprintf("%d%s%d%s", n, bigName, rest, smallName)
}

// Setting gives a time span exactly, without zero units at its end: "750ms",
// "10s", "24h".
func Setting(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Age gives the time since a moment in nanoseconds since 1970; None for 0. A
// moment in the future (clocks differ) has age 0.
func Age(now time.Time, unixNano int64) string {
	if unixNano == 0 {
		return None
	}
	return Duration(max(0, now.Sub(time.Unix(0, unixNano))))
}

// Time gives a moment to the millisecond, in local time.
func Time(unixNano int64) string {
	return time.Unix(0, unixNano).Format("2006-01-02T15:04:05.000Z07:00")
}

// MAC gives a hardware address; None for an empty one.
func MAC(b []byte) string {
	if len(b) == 0 {
		return None
	}
	return net.HardwareAddr(b).String()
}

// MACs gives several, with commas.
func MACs(list [][]byte) string {
	var out []string
	for _, b := range list {
		out = append(out, MAC(b))
	}
	return OrNone(strings.Join(out, ","))
}

// Addr gives an address of 4 or 16 bytes.
func Addr(b []byte) string {
	if a, ok := netip.AddrFromSlice(b); ok {
		return a.String()
	}
	return "0x" + hex.EncodeToString(b)
}

// Addrs gives several, with commas.
func Addrs(list [][]byte) string {
	var out []string
	for _, b := range list {
		out = append(out, Addr(b))
	}
	return OrNone(strings.Join(out, ","))
}

// Hex gives the first bytes of a digest or an id.
func Hex(b []byte, most int) string {
	return OrNone(hex.EncodeToString(b[:min(len(b), most)]))
}

// Labels gives "a=b,c=d", sorted.
func Labels(m map[string]string) string {
	var out []string
	for _, k := range SortedKeys(m) {
		out = append(out, k+"="+m[k])
	}
	return OrNone(strings.Join(out, ","))
}

// Announced says what a speaker does for an address.
func Announced(a speakerv1.Announced) string {
	return enumWord(a.String(), "ANNOUNCED_")
}

// Answering tells whether a node in that state answers for the address.
func Answering(a speakerv1.Announced) bool {
	switch a {
	case speakerv1.Announced_ANNOUNCED_PROVEN, speakerv1.Announced_ANNOUNCED_UNPROVEN, speakerv1.Announced_ANNOUNCED_UNCONFIRMED:
		return true
	}
	return false
}

// OwnerReason says why an address has the owner that it has.
func OwnerReason(r logv1.OwnerReason) string {
	switch r {
	case logv1.OwnerReason_OWNER_REASON_UNSPECIFIED:
		return None
	case logv1.OwnerReason_OWNER_REASON_NEW_ADDRESS:
		return "new address"
	case logv1.OwnerReason_OWNER_REASON_OWNER_EXPIRED:
		return "old owner fell silent"
	case logv1.OwnerReason_OWNER_REASON_DRAIN:
		return "node was drained"
	case logv1.OwnerReason_OWNER_REASON_LEAVE:
		return "speaker shut down"
	case logv1.OwnerReason_OWNER_REASON_MOVE:
		return "moved by an administrator"
	case logv1.OwnerReason_OWNER_REASON_NOT_ELIGIBLE:
		return "node may not have it any more"
	case logv1.OwnerReason_OWNER_REASON_LINK_DOWN:
		return "link went down"
	case logv1.OwnerReason_OWNER_REASON_ANNOUNCE_FAILED:
		return "node could not announce it"
	case logv1.OwnerReason_OWNER_REASON_ADDRESS_DELETED:
		return "address was deleted"
	case logv1.OwnerReason_OWNER_REASON_IDEAL:
		return "returned to its ideal node"
	case logv1.OwnerReason_OWNER_REASON_NODE_AVAILABLE:
		return "a node became available"
	case logv1.OwnerReason_OWNER_REASON_REBALANCE:
		return "rebalanced"
	case logv1.OwnerReason_OWNER_REASON_NOT_SERVING:
		return "node cannot serve it"
	case logv1.OwnerReason_OWNER_REASON_UNPROVEN:
		return "no neighbour was seen to reach it"
	case logv1.OwnerReason_OWNER_REASON_OFF_SUBNET:
		return "another node has its subnet"
	case logv1.OwnerReason_OWNER_REASON_GRACE_OVER:
		return "grace time is over"
	case logv1.OwnerReason_OWNER_REASON_NO_CONNECTIONS:
		return "no connection is left"
	case logv1.OwnerReason_OWNER_REASON_CONFLICT:
		return "a foreign station has it"
	}
	return fmt.Sprintf("reason %d of a newer version", r)
}

// AllocationReason says how an address was found.
func AllocationReason(r logv1.AllocationReason) string {
	switch r {
	case logv1.AllocationReason_ALLOCATION_REASON_REQUESTED:
		return "asked for"
	case logv1.AllocationReason_ALLOCATION_REASON_RETAINED:
		return "had it before"
	case logv1.AllocationReason_ALLOCATION_REASON_FRESH:
		return "never used before"
	case logv1.AllocationReason_ALLOCATION_REASON_REUSED:
		return "longest unused"
	case logv1.AllocationReason_ALLOCATION_REASON_SHARED:
		return "shared"
	case logv1.AllocationReason_ALLOCATION_REASON_RESERVED:
		return "reserved for it"
	}
	return fmt.Sprintf("reason %d of a newer version", r)
}

// RefusalReason says why a pool gives nothing, or an address cannot be had.
func RefusalReason(r logv1.RefusalReason) string {
	if r == logv1.RefusalReason_REFUSAL_REASON_UNSPECIFIED {
		return None
	}
	if _, known := logv1.RefusalReason_name[int32(r)]; !known {
		return fmt.Sprintf("reason %d of a newer version", r)
	}
	return allocator.Why(r).String()
}

// WhyRefused gives the reason and, when the first address falls free by time, when.
func WhyRefused(r *logv1.Refusal) string {
	if r.GetUntilUnixNano() == 0 {
		return RefusalReason(r.GetReason())
	}
	return RefusalReason(r.GetReason()) + ", the first until " + Time(r.GetUntilUnixNano())
}

// Refusal gives "pool p: IPv4: full" or "address 192.0.2.1: in use".
func Refusal(r *logv1.Refusal) string {
	subject := "pool " + r.GetPool()
	switch {
	case len(r.GetAddress()) > 0:
		subject = "address " + Addr(r.GetAddress())
	case r.GetPool() == "":
		return RefusalReason(r.GetReason())
	case r.GetFamily() != 0:
		subject += ": " + Family(r.GetFamily())
	}
	return subject + ": " + WhyRefused(r)
}

// Family gives "IPv4" or "IPv6".
func Family(f logv1.IPFamily) string {
	switch f {
	case logv1.IPFamily_IP_FAMILY_IPV4:
		return "IPv4"
	case logv1.IPFamily_IP_FAMILY_IPV6:
		return "IPv6"
	}
	return None
}

// DrainReason says who drained a node.
func DrainReason(r logv1.DrainReason) string {
	switch r {
	case logv1.DrainReason_DRAIN_REASON_UNSPECIFIED:
		return None
	case logv1.DrainReason_DRAIN_REASON_ADMIN:
		return "by an administrator"
	case logv1.DrainReason_DRAIN_REASON_LEAVE:
		return "its speaker shuts down"
	}
	return fmt.Sprintf("reason %d of a newer version", r)
}

// ControlLoss gives "Hold" or "Release".
func ControlLoss(c logv1.ControlLoss) string { return enumWord(c.String(), "CONTROL_LOSS_") }

// Placement gives "Sticky" or "Ideal".
func Placement(p logv1.Placement) string { return enumWord(p.String(), "PLACEMENT_") }

// Rebalance gives "Never" or "Gradual, 6 moves per minute".
func Rebalance(r logv1.Rebalance, perMinute uint32) string {
	if r == logv1.Rebalance_REBALANCE_GRADUAL {
		return "Gradual, " + Count(perMinute, "move") + " per minute"
	}
	return "Never"
}

// Ports gives "80/TCP,53/UDP".
func Ports(ports []*logv1.Port) string {
	var out []string
	for _, p := range ports {
		out = append(out, fmt.Sprintf("%d/%s", p.GetPort(), strings.TrimPrefix(p.GetProtocol().String(), "PROTOCOL_")))
	}
	return OrNone(strings.Join(out, ","))
}

// enumWord gives "Proven" for "ANNOUNCED_PROVEN", and None for the unset value.
func enumWord(name, prefix string) string {
	w := strings.TrimPrefix(name, prefix)
	if w == "UNSPECIFIED" || w == "" {
		return None
	}
	return w[:1] + strings.ToLower(w[1:])
}

// Some gives the first few of a list and how many more there are.
func Some(list []string, most int) string {
	if len(list) <= most {
		return OrNone(strings.Join(list, ","))
	}
	return fmt.Sprintf("%s,+%d more", strings.Join(list[:most], ","), len(list)-most)
}

// Count gives "1 node", "2 nodes", "3 addresses".
func Count[T ~int | ~uint32 | ~uint64](n T, noun string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(noun, "s"):
		noun += "es"
	default:
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
