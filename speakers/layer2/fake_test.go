package layer2

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"

	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/speakers/links"
	"github.com/quorumlb/quorumlb/speakers/system"
)

// fakeConn is a wire that records what is sent.
type fakeConn struct {
	clock  *clock.Manual
	frames []sentFrame
	err    error
}

type sentFrame struct {
	at    time.Duration
	link  int
	frame []byte
}

func (c *fakeConn) Receive() (int, error)  { return 0, net.ErrClosed }
func (c *fakeConn) Frame(int) system.Frame { return system.Frame{} }
func (c *fakeConn) Lost() (uint32, error)  { return 0, nil }
func (c *fakeConn) Close() error           { return nil }

func (c *fakeConn) Send(link int, frame []byte) error {
	if c.err != nil {
		return c.err
	}
	c.frames = append(c.frames, sentFrame{c.clock.Now(), link, slices.Clone(frame)})
	return nil
}

// describe names a frame shortly, for example "who-has 192.0.2.254 tell 192.0.2.100".
func (f sentFrame) describe() string {
	var p arp.Packet
	if f.frame[12] == 0x08 && p.UnmarshalBinary(f.frame[14:]) == nil {
		switch {
		case p.Operation == arp.OperationReply && p.SenderIP == p.TargetIP:
			return fmt.Sprintf("garp-reply %v", p.SenderIP)
		case p.Operation == arp.OperationReply:
			return fmt.Sprintf("reply %v to %v", p.SenderIP, p.TargetIP)
		case p.SenderIP == p.TargetIP:
			return fmt.Sprintf("garp %v", p.SenderIP)
		default:
			return fmt.Sprintf("who-has %v tell %v", p.TargetIP, p.SenderIP)
		}
	}
	from, _ := netip.AddrFromSlice(f.frame[ip6Source:ip6Target])
	m, err := ndp.ParseMessage(f.frame[icmpType:])
	if err != nil {
		return "garbage"
	}
	switch m := m.(type) {
	case *ndp.NeighborAdvertisement:
		return fmt.Sprintf("na %v s=%t", m.TargetAddress, m.Solicited)
	case *ndp.NeighborSolicitation:
		return fmt.Sprintf("ns %v from %v", m.TargetAddress, from)
	}
	return "garbage"
}

// rig is a Layer2 without a kernel, whose time stands still until it is moved.
type rig struct {
	*Layer2
	t      *testing.T
	clock  *clock.Manual
	wire4  *fakeConn
	wire6  *fakeConn
	groups *fakeGroups
	mark4  int
	mark6  int
}

type fakeGroups struct {
	wire         *fakeConn
	err          error
	joined       map[string]int
	framesBefore int    // sent when a group was joined
	joining      func() // what happens while one is
}

func (g *fakeGroups) Join(link int, group netip.Addr) error {
	if g.err != nil {
		return g.err
	}
	if g.joining != nil {
		g.joining()
	}
	g.joined[fmt.Sprint(link, " ", group)]++
	g.framesBefore = len(g.wire.frames)
	return nil
}
func (g *fakeGroups) Leave(link int, group netip.Addr) {
	delete(g.joined, fmt.Sprint(link, " ", group))
}
func (g *fakeGroups) Close() {}

func eth(index int, mac system.MAC, up bool) links.Link {
	return links.Link{Index: index, Name: fmt.Sprintf("eth%d", index), MAC: mac, Up: up,
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}}
}

func newRig(t *testing.T, cfg Config) *rig {
	c := &clock.Manual{}
	c.Set(time.Hour)
	r := &rig{t: t, clock: c, wire4: &fakeConn{clock: c}, wire6: &fakeConn{clock: c}, groups: &fakeGroups{joined: map[string]int{}}}
	cfg.Clock, cfg.Log = c, slog.New(slog.DiscardHandler)
	if cfg.Rate == 0 {
		cfg.Rate = DefaultRate
	}
	r.groups.wire = r.wire6
	r.Layer2 = newLayer2(cfg, r.wire4, r.wire6, r.groups)
	r.links(eth(1, macA, true))
	return r
}

func (r *rig) links(l ...links.Link) {
	set := links.Set{Links: l, Own: map[system.MAC]struct{}{}}
	for _, k := range l {
		set.Own[k.MAC] = struct{}{}
	}
	r.SetLinks(set)
}

// confirm acks a heartbeat that was sent just now, with the default times.
func (r *rig) confirm() {
	now := r.clock.Now()
	r.Confirm(Confirmation{Sent: now, Until: now + 1475*time.Millisecond, Fresh: now + 732*time.Millisecond})
}

// run moves the time on in small steps, confirmed all the while if confirm is set.
func (r *rig) run(d time.Duration, confirm bool) {
	for end := r.clock.Now() + d; ; {
		if confirm {
			r.confirm()
		}
		for len(r.responder.events) > 0 {
			r.hear(<-r.responder.events)
		}
		wait := r.tick()
		if r.clock.Now() >= end {
			return
		}
		r.clock.Advance(min(max(wait, time.Millisecond), 100*time.Millisecond, end-r.clock.Now()))
	}
}

// sent returns what was sent since the last call.
func (r *rig) sent() (out []string) {
	frames := append(slices.Clone(r.wire4.frames[r.mark4:]), r.wire6.frames[r.mark6:]...)
	r.mark4, r.mark6 = len(r.wire4.frames), len(r.wire6.frames)
	for _, f := range frames {
		out = append(out, f.describe())
	}
	return out
}

// receive lets the responder handle a frame that came in on link 1.
func (r *rig) receive(b []byte, typ uint8) Verdict { return r.receiveOn(1, b, typ) }

func (r *rig) receiveOn(link int, b []byte, typ uint8) Verdict {
	ear := r.responder.ears[0]
	if b[12] == 0x86 {
		ear = r.responder.ears[1]
	}
	f := system.Frame{Data: append(make([]byte, 0, 512), b...), Link: link, Type: typ, Time: time.Now().UnixNano()}
	return r.responder.handle(ear, f)
}

func (r *rig) status(addr netip.Addr) Status {
	r.t.Helper()
	all, _, _, _ := r.Statuses(0)
	for _, s := range all {
		if s.Addr == addr {
			return s
		}
	}
	r.t.Fatalf("no status of %v", addr)
	return Status{}
}

func must(t testing.TB) func([]byte, error) []byte {
	return func(b []byte, err error) []byte { return buffer(t, b, err) }
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("sent\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}
