package layer2

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/quorumlb/quorumlb/speakers/system"
)

// Mode says what becomes of an address when the node's confirmation runs out.
type Mode uint8

const (
	_ Mode = iota
	// Hold keeps answering and yields to whoever claims the address.
	Hold
	// Release stops answering.
	Release
)

// String returns the mode's name.
func (m Mode) String() string {
	switch m {
	case Hold:
		return "hold"
	case Release:
		return "release"
	default:
		return fmt.Sprintf("Mode(%d)", uint8(m))
	}
}

// Entry is what a responder has to know of one address.
type Entry struct {
	Addr  netip.Addr
	Epoch uint64
	Mode  Mode
	// Soft: only what is sent to this host alone is answered, and never without a
	// confirmation. The first claim of another node's speaker silences it.
	Soft bool
	// links are the indexes of the links to answer on.
	links []int

	// muted is set by the responder when it yields, and by Layer2 both ways.
	muted atomic.Bool
	// curious asks the responder to report who reaches the address here.
	curious atomic.Bool
}

// on reports whether the address is answered on a link.
func (e *Entry) on(link int) bool { return slices.Contains(e.links, link) }

// Table is all that a responder answers. It is never changed once installed.
type Table struct {
	entries map[netip.Addr]*Entry
	// links to answer on, by index, with the MAC to answer with.
	links map[int]system.MAC
	// own are the MACs of this host: what they send is our own frame come back.
	own map[system.MAC]struct{}
	// peers are the MACs of other nodes' speakers, and the nodes' names.
	peers map[system.MAC]string
	// wanted are addresses that a probe asks for.
	wanted map[netip.Addr]struct{}
}

// ours returns the entry of an address that is announced on a link, or nil.
func (t *Table) ours(addr netip.Addr, link int) *Entry {
	if e := t.entries[addr]; e != nil && e.on(link) {
		return e
	}
	return nil
}

var emptyTable = new(Table)

// Responder answers requests for the addresses of a table. What it hears on the
// wire it reports to the one who made it.
type Responder interface {
	// Install puts a table in force. When it returns, no reply that follows from an
	// older table is still to be sent.
	Install(t *Table)
	// Confirm says until when (boot time) the node is confirmed: Release addresses
	// are answered before that instant only. While it is 0 nothing is answered.
	// Fresh is the same against a claim of another node's speaker, see
	// Confirmation.Fresh.
	Confirm(until, fresh int64)
}
