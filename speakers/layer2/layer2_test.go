package layer2

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/speakers/system"
)

func view(vips ...Vip) View {
	return View{Cluster: "c1", Vips: vips, Peers: map[system.MAC]string{macC: "n2"}}
}

var (
	hold4    = Vip{Addr: vip4, Epoch: 5, Mode: Hold}
	release4 = Vip{Addr: vip4, Epoch: 5, Mode: Release}
	hold6    = Vip{Addr: vip6, Epoch: 6, Mode: Hold}

	gateway4 = netip.MustParseAddr("192.0.2.254")
	gateway6 = netip.MustParseAddr("2001:db8::fe")
)

func TestTakeoverScheduleAndFrames(t *testing.T) {
	r := newRig(t, Config{Gateways: []netip.Addr{gateway4, gateway6}})
	r.confirm()
	r.tick()
	r.receive(requestFrame(t, macB, client4, vip4), system.ToAll) // a client of the owner before us
	if got := r.Apply(view(hold4, hold6)); got != 0 {
		t.Fatalf("%d refused", got)
	}
	start := r.clock.Now()
	r.run(0, true)
	expect(t, r.sent(),
		"who-has 192.0.2.254 tell 192.0.2.100", "garp 192.0.2.100", "garp-reply 192.0.2.100", "who-has 192.0.2.2 tell 192.0.2.100",
		"ns 2001:db8::fe from 2001:db8::100", "na 2001:db8::100 s=false")
	r.run(12*time.Second, true)
	var at []time.Duration
	for _, f := range r.wire4.frames {
		if f.describe() == "garp 192.0.2.100" {
			at = append(at, (f.at - start).Round(time.Millisecond))
		}
	}
	if !slices.Equal(at, schedule[:]) {
		t.Errorf("gratuitous requests at %v, want %v", at, schedule)
	}
	r.sent()
	r.run(75*time.Second, true)
	if got := r.sent(); len(got) != 1 || got[0] != "garp 192.0.2.100" {
		t.Errorf("refresh sent %v, want one frame", got)
	}
}

func TestProofStopsTheQuestion(t *testing.T) {
	r := newRig(t, Config{Gateways: []netip.Addr{gateway4}})
	r.confirm()
	r.tick()
	r.Apply(view(hold4))
	r.run(0, true)
	if s := r.status(vip4); s.State != Unproven {
		t.Errorf("state %v before the answer", s.State)
	}
	// The gateway answers to our MAC.
	f := must(t)(marshalARP(macA, 2, macB, gateway4, macA, vip4))
	if v := r.receive(f, system.ToAll); v == Answered {
		t.Error("an answer to all proves nothing")
	}
	if v := r.receive(f, system.ToHost); v != Answered {
		t.Errorf("verdict %v", v)
	}
	r.sent()
	r.run(150*time.Millisecond, true)
	expect(t, r.sent(), "garp 192.0.2.100", "garp-reply 192.0.2.100")
	if s := r.status(vip4); s.State != Proven || !slices.Equal(s.ProvenBy, []netip.Addr{gateway4}) {
		t.Errorf("status %+v", s)
	}
}

// A gateway's answer counts though more clients than are remembered came first.
func TestClientsLeaveRoomForGateways(t *testing.T) {
	r := newRig(t, Config{Gateways: []netip.Addr{gateway4}})
	r.confirm()
	r.tick()
	r.Apply(view(hold4))
	r.run(0, true)
	answer := func(from netip.Addr) {
		r.receive(must(t)(marshalARP(macA, arpReply, macB, from, macA, vip4)), system.ToHost)
		r.run(0, true)
	}
	client := client4
	for range maxProven + 3 {
		answer(client)
		client = client.Next()
	}
	if s := r.status(vip4); len(s.ProvenBy) != maxProven {
		t.Errorf("%d clients remembered, want %d", len(s.ProvenBy), maxProven)
	}
	answer(gateway4)
	if s := r.status(vip4); !slices.Contains(s.ProvenBy, gateway4) {
		t.Errorf("the gateway is not among %v", s.ProvenBy)
	}
	r.sent()
	r.run(150*time.Millisecond, true)
	expect(t, r.sent(), "garp 192.0.2.100", "garp-reply 192.0.2.100")
	if r.vips[vip4].entry.curious.Load() {
		t.Error("still curious when nobody's answer matters")
	}
}

func TestInheritedIsNoNews(t *testing.T) {
	r := newRig(t, Config{})
	inherited := hold4
	inherited.Inherited = true
	r.Apply(view(inherited))
	r.run(time.Second, false)
	expect(t, r.sent())
	if v := r.receive(requestFrame(t, macB, client4, vip4), system.ToAll); v != Unconfirmed {
		t.Errorf("before the first ack: %v", v)
	}
	r.run(20*time.Second, true)
	expect(t, r.sent(), "garp 192.0.2.100", "garp-reply 192.0.2.100", "who-has 192.0.2.2 tell 192.0.2.100")
	r.Apply(view(inherited))
	r.run(20*time.Second, true)
	expect(t, r.sent()) // replay is not news
}

func TestLossCancelsAtOnce(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.tick()
	r.Apply(view(hold4))
	r.run(0, true)
	r.sent()
	r.Apply(view())
	r.run(20*time.Second, true)
	expect(t, r.sent())
	if v := r.receive(requestFrame(t, macB, client4, vip4), system.ToAll); v != NotOurs {
		t.Errorf("verdict %v", v)
	}
	_, gone, _, _ := r.Statuses(1)
	if !slices.Equal(gone, []netip.Addr{vip4}) {
		t.Errorf("gone %v", gone)
	}
}

func TestOldEpochIsIgnoredInItsClusterOnly(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.tick()
	r.Apply(view(hold4))
	r.Apply(view())
	old := hold4
	old.Epoch--
	if got := r.Apply(view(old)); got != 1 {
		t.Errorf("%d refused, want 1", got)
	}
	if v := r.receive(requestFrame(t, macB, client4, vip4), system.ToAll); v != NotOurs {
		t.Errorf("answered with an old epoch: %v", v)
	}
	other := view(old)
	other.Cluster = "c2"
	if got := r.Apply(other); got != 0 {
		t.Errorf("%d refused in another cluster", got)
	}
	if v := r.receive(requestFrame(t, macB, client4, vip4), system.ToAll); v != Replied {
		t.Errorf("verdict %v", v)
	}
}

func TestReleaseStopsAtTheDeadline(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.tick()
	r.Apply(view(release4))
	ask := func() Verdict { return r.receive(requestFrame(t, macB, client4, vip4), system.ToAll) }
	r.clock.Advance(1475*time.Millisecond - 1)
	if v := ask(); v != Replied {
		t.Fatalf("just before the deadline: %v", v)
	}
	r.clock.Advance(1)
	// No tick in between: the deadline holds also when nothing else of the process runs.
	if v := ask(); v != Unconfirmed {
		t.Fatalf("at the deadline: %v", v)
	}
	r.sent()
	r.run(30*time.Second, false)
	expect(t, r.sent())
	if s := r.status(vip4); s.State != Released {
		t.Errorf("state %v", s.State)
	}
	r.run(50*time.Millisecond, true)
	if v := ask(); v != Replied {
		t.Errorf("confirmed again: %v", v)
	}
	if got := r.sent(); !slices.Contains(got, "garp 192.0.2.100") {
		t.Errorf("no announcement after the silence: %v", got)
	}
}

func TestHoldAnswersButClaimsNothing(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.tick()
	r.Apply(view(hold4))
	r.run(200*time.Millisecond, true)
	r.run(1500*time.Millisecond, false)
	r.sent()
	if s := r.status(vip4); s.State != Held {
		t.Errorf("state %v", s.State)
	}
	r.run(5*time.Minute, false)
	expect(t, r.sent())
	if v := r.receive(requestFrame(t, macB, client4, vip4), system.ToAll); v != Replied {
		t.Errorf("verdict %v", v)
	}
	r.sent()
	// The burst was cut short, so it is made good.
	r.run(11*time.Second, true)
	if got := r.sent(); len(got) < 2*allRounds {
		t.Errorf("sent only %v", got)
	}
}

func TestUnconfirmedYieldsInTheSameLoop(t *testing.T) {
	claims := map[string]func(system.MAC) ([]byte, error){
		"gratuitous request": func(m system.MAC) ([]byte, error) { return announceRequest(m, vip4) },
		"gratuitous reply":   func(m system.MAC) ([]byte, error) { return announceReply(m, vip4) },
		"reply to us":        func(m system.MAC) ([]byte, error) { return marshalARP(macA, 2, m, vip4, macA, client4) },
		"advert":             func(m system.MAC) ([]byte, error) { return announceAdvert(m, vip6) },
	}
	for name, claim := range claims {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			r.confirm()
			r.tick()
			r.Apply(view(hold4, hold6))
			r.clock.Advance(2 * time.Second)
			ask, addr := requestFrame(t, macB, client4, vip4), vip4
			if name == "advert" {
				ask, addr = solicitFrame(t, macB, client6, vip6), vip6
			}
			if v := r.receive(ask, system.ToAll); v != Replied {
				t.Fatalf("before: %v", v)
			}
			if v := r.receive(must(t)(claim(macC)), system.ToAll); v != Claimed {
				t.Fatalf("claim: %v", v)
			}
			// Nothing of Layer2 has run since.
			if v := r.receive(ask, system.ToAll); v != Yielded {
				t.Fatalf("after: %v", v)
			}
			r.run(3*time.Minute, false)
			if s := r.status(addr); s.State != Silenced || s.Foreign != macC || s.ForeignNode != "n2" {
				t.Errorf("status %+v", s)
			}
			if v := r.receive(ask, system.ToAll); v != Yielded {
				t.Errorf("to another speaker until confirmed again: %v", v)
			}
			r.sent()
			r.run(time.Second, true)
			if v := r.receive(ask, system.ToAll); v != Replied {
				t.Errorf("confirmed again as owner: %v", v)
			}
		})
	}
}

// The rounds that a yield has cut short follow when it is over, also if the confirmation
// came and went meanwhile.
func TestAllRoundsAfterAYield(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.tick()
	r.Apply(view(hold4))
	r.run(12*time.Second, true)
	r.run(2*time.Second, false)
	r.receive(must(t)(announceRequest(macB, vip4)), system.ToAll) // a stranger
	r.run(time.Second, true)
	if s := r.status(vip4); s.State != Silenced {
		t.Fatalf("status %+v", s)
	}
	r.sent()
	r.run(silence+12*time.Second, true)
	if n := claims(r.sent()); n < 2*allRounds {
		t.Errorf("%d claims, want %d", n, 2*allRounds)
	}
}

// An ack that was under way when the claim was heard says nothing about it.
func TestOnlyALaterHeartbeatEndsAYield(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.tick()
	r.Apply(view(hold4))
	r.clock.Advance(2 * time.Second)
	sent := r.clock.Now()
	r.clock.Advance(10 * time.Millisecond)
	r.receive(must(t)(announceRequest(macC, vip4)), system.ToAll)
	r.clock.Advance(10 * time.Millisecond)
	r.Confirm(Confirmation{Sent: sent, Until: sent + 1475*time.Millisecond, Fresh: sent + 732*time.Millisecond})
	r.run(100*time.Millisecond, false)
	ask := requestFrame(t, macB, client4, vip4)
	if v := r.receive(ask, system.ToAll); v != Yielded {
		t.Fatalf("after an older heartbeat's ack: %v", v)
	}
	r.confirm()
	r.run(time.Millisecond, false)
	if v := r.receive(ask, system.ToAll); v != Replied {
		t.Fatalf("after a newer heartbeat's ack: %v", v)
	}
}

func TestYieldToAnUnknownStationLastsAMinuteOfItsSilence(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.tick()
	r.Apply(view(hold4))
	r.clock.Advance(2 * time.Second)
	claim := must(t)(announceRequest(macB, vip4))
	ask := requestFrame(t, system.MAC{2, 0, 0, 0, 0, 0x77}, client4, vip4)
	r.receive(claim, system.ToAll)
	r.run(40*time.Second, true) // confirmed again does not help against a stranger
	r.receive(claim, system.ToAll)
	r.run(40*time.Second, true)
	// Using the address is not silence.
	r.receive(must(t)(directedRequest(macB, vip4, system.Broadcast, gateway4)), system.ToAll)
	r.run(59*time.Second, true)
	if v := r.receive(ask, system.ToAll); v != Yielded {
		t.Fatalf("before a minute of silence: %v", v)
	}
	r.sent()
	r.run(2*time.Second, true)
	if v := r.receive(ask, system.ToAll); v != Replied {
		t.Fatalf("after a minute of silence: %v", v)
	}
	if got := r.sent(); !slices.Contains(got, "garp 192.0.2.100") {
		t.Errorf("no announcement: %v", got)
	}
}

// Between D and F the members may have given a Hold address to another node,
// so its speaker is believed; a stranger is not.
func TestBetweenFreshAndUntil(t *testing.T) {
	for mac, want := range map[system.MAC]Verdict{macC: Yielded, macB: Replied} {
		r := newRig(t, Config{})
		r.confirm()
		r.tick()
		r.Apply(view(hold4))
		r.clock.Advance(time.Second)
		r.receive(must(t)(announceRequest(mac, vip4)), system.ToAll)
		if v := r.receive(requestFrame(t, system.MAC{2, 0, 0, 0, 0, 0x77}, client4, vip4), system.ToAll); v != want {
			t.Errorf("claim by %v: %v, want %v", mac, v, want)
		}
	}
}

func TestConfirmedOwnerDefendsOncePerTenSeconds(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.tick()
	r.Apply(view(hold4))
	r.run(15*time.Second, true)
	r.sent()
	claim := must(t)(announceReply(macB, vip4))
	var defences int
	for range 300 { // 30 s, ten claims a second
		r.receive(claim, system.ToAll)
		r.run(100*time.Millisecond, true)
		for _, s := range r.sent() {
			if s != "garp 192.0.2.100" {
				t.Fatalf("sent %q", s)
			}
			defences++
		}
	}
	if defences != 3 {
		t.Errorf("%d defences in 30 s, want 3", defences)
	}
	if v := r.receive(requestFrame(t, macC, client4, vip4), system.ToAll); v != Replied {
		t.Errorf("verdict %v", v)
	}
	if s := r.status(vip4); s.Foreign != macB || s.ForeignNode != "" {
		t.Errorf("status %+v", s)
	}
	r.run(61*time.Second, true)
	if s := r.status(vip4); !s.Foreign.IsZero() {
		t.Errorf("still in conflict with %v after its silence", s.Foreign)
	}
}

func TestOwnFramesAreNoClaims(t *testing.T) {
	r := newRig(t, Config{})
	r.links(eth(1, macA, true), eth(2, macB, true))
	r.confirm()
	r.tick()
	r.Apply(view(hold4, hold6))
	r.clock.Advance(2 * time.Second)
	for _, mac := range []system.MAC{macA, macB} {
		if v := r.receive(must(t)(announceRequest(mac, vip4)), system.ToAll); v != OwnFrame {
			t.Errorf("ARP of %v: %v", mac, v)
		}
		if v := r.receive(must(t)(announceAdvert(mac, vip6)), system.ToGroup); v != OwnFrame {
			t.Errorf("NDP of %v: %v", mac, v)
		}
	}
	// A proxy that tells our own MAC is on our side.
	proxied := must(t)(announceAdvert(macA, vip6))
	copy(proxied[ethSource:], macC[:])
	if v := r.receive(proxied, system.ToGroup); v != OwnFrame {
		t.Errorf("advert with our MAC: %v", v)
	}
	if s := r.status(vip4); !s.Foreign.IsZero() {
		t.Errorf("conflict with %v", s.Foreign)
	}
}

func TestLateRequestsAreDropped(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.tick()
	r.Apply(view(hold4))
	ask := func(waited time.Duration) Verdict {
		f := system.Frame{Data: requestFrame(t, macB, client4, vip4), Link: 1, Type: system.ToAll, Time: time.Now().Add(-waited).UnixNano()}
		return r.responder.handle(r.responder.ears[0], f)
	}
	if now, later := ask(300*time.Millisecond), ask(time.Second); now != Replied || later != Late {
		t.Errorf("confirmed: %v, %v", now, later)
	}
	r.clock.Advance(time.Second) // the successor's claim may stand behind it
	if now, later := ask(0), ask(300*time.Millisecond); now != Replied || later != Late {
		t.Errorf("unsure: %v, %v", now, later)
	}
}

// slowConn is a wire whose Send waits.
type slowConn struct {
	*fakeConn
	entered, release chan struct{}
}

func (c *slowConn) Send(int, []byte) error {
	close(c.entered)
	<-c.release
	return nil
}

// What the members are told after Apply must be true: a reply that an older view
// caused may not still be on its way.
func TestApplyWaitsForAReplyInHand(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.tick()
	r.Apply(view(hold4))
	slow := &slowConn{r.wire4, make(chan struct{}), make(chan struct{})}
	ear := r.responder.ears[0]
	ear.conn = slow
	question := system.Frame{Data: requestFrame(t, macB, client4, vip4), Link: 1, Type: system.ToAll, Time: time.Now().UnixNano()}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		ear.busy.Lock()
		defer ear.busy.Unlock()
		r.responder.handle(ear, question)
	}()
	<-slow.entered
	applied := make(chan struct{})
	go func() {
		defer close(applied)
		r.Apply(view())
	}()
	select {
	case <-applied:
		t.Error("in force while a reply of the older view is in hand")
	case <-time.After(50 * time.Millisecond):
	}
	close(slow.release)
	<-answered
	<-applied
}

func TestInterfacesOfAVip(t *testing.T) {
	r := newRig(t, Config{})
	r.links(eth(1, macA, true), eth(2, macB, true))
	r.confirm()
	r.tick()
	only2 := hold4
	only2.Interfaces = []string{"eth2"}
	r.Apply(view(only2))
	if v := r.receive(requestFrame(t, macC, client4, vip4), system.ToAll); v != OtherLink && v != NotOurs {
		t.Errorf("on eth1: %v", v)
	}
	if v := r.receive(must(t)(announceRequest(macC, vip4)), system.ToAll); v == Claimed {
		t.Error("a claim on a link where it is not announced is nothing to us")
	}
	r.run(0, true)
	for _, f := range r.wire4.frames {
		if f.link != 2 {
			t.Errorf("%s on link %d", f.describe(), f.link)
		}
	}
	r.links(eth(1, macA, true), eth(2, macB, false))
	if s := r.status(vip4); s.State != Failed || s.Reason != "link eth2 is down" {
		t.Errorf("status %+v", s)
	}
	r.links(eth(1, macA, true))
	if s := r.status(vip4); s.State != Failed || s.Reason != "no link eth2" {
		t.Errorf("status %+v", s)
	}
}

// gatewayAnswers lets the gateway answer on a link to one of our MACs, and expects
// that this proves the address there.
func gatewayAnswers(r *rig, link int, to system.MAC) {
	r.t.Helper()
	const gatewayMAC = 0x99
	f := must(r.t)(marshalARP(to, arpReply, system.MAC{2, 0, 0, 0, 0, gatewayMAC}, gateway4, to, vip4))
	if v := r.receiveOn(link, f, system.ToHost); v != Answered {
		r.t.Fatalf("the gateway's answer: %v", v)
	}
	r.run(0, true)
	if s := r.status(vip4); s.State != Proven || !slices.Equal(s.ProvenBy, []netip.Addr{gateway4}) {
		r.t.Errorf("after the gateway's answer: %+v", s)
	}
}

// Neighbours have to learn a link's MAC anew, and switches its place, whenever
// the link is another than before: each of its frames, also the question that a
// gateway answers that ignores gratuitous ones, and nothing is proven until then.
func TestCarrierReturnAndNewLinkAnnounceThere(t *testing.T) {
	r := newRig(t, Config{Gateways: []netip.Addr{gateway4}})
	r.confirm()
	r.tick()
	r.Apply(view(hold4))
	r.run(0, true)
	gatewayAnswers(r, 1, macA)
	r.run(15*time.Second, true)
	announced := func(what string, link int, mac system.MAC) {
		t.Helper()
		if s := r.status(vip4); s.State != Unproven || len(s.ProvenBy) != 0 {
			t.Errorf("%s: %+v before anybody has answered", what, s)
		}
		r.wire4.frames, r.mark4 = nil, 0
		r.run(0, true)
		for _, f := range r.wire4.frames {
			if f.link != link || system.MAC(f.frame[6:12]) != mac {
				t.Errorf("%s: %s on link %d by %v", what, f.describe(), f.link, system.MAC(f.frame[6:12]))
			}
		}
		expect(t, r.sent(), "who-has 192.0.2.254 tell 192.0.2.100", "garp 192.0.2.100", "garp-reply 192.0.2.100")
		gatewayAnswers(r, link, mac)
		r.run(15*time.Second, true)
	}
	r.sent()
	r.links(eth(1, macA, false))
	r.run(time.Second, true)
	expect(t, r.sent())
	if s := r.status(vip4); s.State != Failed || s.Reason != "no link is up" {
		t.Errorf("status %+v", s)
	}
	r.links(eth(1, macA, true))
	announced("carrier return", 1, macA)
	r.links(eth(1, macB, true))
	announced("another MAC, as of a bond", 1, macB)
	r.links(eth(1, macB, false))
	r.links(eth(1, macA, true))
	announced("another MAC after the carrier was away", 1, macA)
	other := eth(1, macA, true)
	other.Path = "eth8"
	r.links(other)
	announced("another active slave or port beneath", 1, macA)
	r.links()
	r.links(eth(3, macA, true))
	announced("under another index", 3, macA)

	// What is proven by way of one link stays proven when there is another.
	r.wire4.frames, r.mark4 = nil, 0
	r.links(eth(3, macA, true), eth(4, macB, true))
	r.run(0, true)
	if got := r.sent(); len(got) != 3 || r.wire4.frames[0].link != 4 {
		t.Errorf("new link: %v", got)
	}
	if s := r.status(vip4); s.State != Proven {
		t.Errorf("new link: %+v", s)
	}
	r.links(eth(4, macB, true))
	if s := r.status(vip4); s.State != Unproven {
		t.Errorf("the link that was proven is gone: %+v", s)
	}
}

func TestAnswerToAnOldMACProvesNothing(t *testing.T) {
	r := newRig(t, Config{Gateways: []netip.Addr{gateway4}})
	r.confirm()
	r.tick()
	r.Apply(view(hold4))
	r.run(0, true)
	f := must(t)(marshalARP(macA, arpReply, macC, gateway4, macA, vip4))
	r.receive(f, system.ToHost) // heard, but not handled yet
	r.links(eth(1, macB, true))
	r.run(0, true)
	if s := r.status(vip4); s.State != Unproven {
		t.Errorf("status %+v", s)
	}
}

// An owner that is not confirmed claims nothing; what its neighbours have to be
// told is told once it is.
func TestRenumberedWhileUnconfirmed(t *testing.T) {
	r := newRig(t, Config{Gateways: []netip.Addr{gateway4}})
	r.confirm()
	r.tick()
	r.Apply(view(hold4))
	r.run(0, true)
	gatewayAnswers(r, 1, macA)
	r.run(15*time.Second, true)
	r.run(2*time.Second, false)
	r.sent()
	r.links(eth(1, macB, true))
	r.run(time.Second, false)
	expect(t, r.sent())
	if s := r.status(vip4); s.State != Held || len(s.ProvenBy) != 0 {
		t.Errorf("status %+v", s)
	}
	r.run(0, true)
	expect(t, r.sent(), "who-has 192.0.2.254 tell 192.0.2.100", "garp 192.0.2.100", "garp-reply 192.0.2.100")
}

func TestGroupsAreSharedAndFailuresReported(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.tick()
	twin := Vip{Addr: netip.MustParseAddr("2001:db8:1::100"), Epoch: 6, Mode: Hold}
	r.Apply(view(hold6, twin))
	r.run(0, true)
	if n := r.groups.joined["1 ff02::1:ff00:100"]; n != 1 {
		t.Errorf("joined %d times", n)
	}
	if r.groups.framesBefore != 0 || len(r.wire6.frames) == 0 {
		t.Errorf("joined after %d announcements", r.groups.framesBefore)
	}
	r.Apply(view(hold6))
	if len(r.groups.joined) != 1 {
		t.Error("left a group that another address needs")
	}
	r.Apply(view())
	if len(r.groups.joined) != 0 {
		t.Error("still in a group")
	}
	r.groups.err = errors.New("no IPv6 here")
	r.sent()
	r.Apply(view(Vip{Addr: vip6, Epoch: 9, Mode: Hold}))
	r.run(time.Millisecond, true)
	expect(t, r.sent())
	if s := r.status(vip6); s.State != Failed || s.Reason != "eth1: no IPv6 here" {
		t.Errorf("status %+v", s)
	}
	if v := r.receive(solicitFrame(t, macB, client6, vip6), system.ToGroup); v == Replied {
		t.Error("answered without the group")
	}
	r.groups.err = nil
	r.run(1100*time.Millisecond, true)
	if s := r.status(vip6); s.State != Unproven {
		t.Errorf("status %+v", s)
	}
	if got := r.sent(); len(got) == 0 {
		t.Error("not announced after the group was joined")
	}
}

// A join waits for the kernel, perhaps until the confirmation is over, or for so long
// that another station's claim has been heard: nothing is claimed then.
func TestNothingIsClaimedAfterALongJoin(t *testing.T) {
	for name, joining := range map[string]func(*rig){
		"the confirmation is over": func(r *rig) { r.clock.Advance(2 * time.Second) },
		"somebody else claims it": func(r *rig) {
			r.clock.Advance(time.Second) // another node may own it
			r.receive(must(t)(announceAdvert(macC, vip6)), system.ToAll)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{Gateways: []netip.Addr{gateway6}})
			r.confirm()
			r.tick()
			r.groups.joining = func() { joining(r) }
			r.Apply(view(hold6))
			r.tick()
			expect(t, r.sent())
			if len(r.groups.joined) != 1 {
				t.Fatal("the group is not joined")
			}
			r.run(12*time.Second, true)
			if n := claims(r.sent()); n != allRounds {
				t.Errorf("%d claims once confirmed again, want %d", n, allRounds)
			}
		})
	}
}

// What the kernel itself reports when it joins has the same form.
func TestRefreshRepeatsGroupReports(t *testing.T) {
	r := newRig(t, Config{})
	k := eth(1, macA, true)
	k.Prefixes = append(k.Prefixes, netip.MustParsePrefix("fe80::a/64"))
	r.links(k)
	r.confirm()
	r.tick()
	var many []Vip
	for a := netip.MustParseAddr("2001:db8::1"); len(many) < mldRecords+1; a = a.Next() {
		many = append(many, Vip{Addr: a, Epoch: 1, Mode: Hold, Inherited: true})
	}
	r.Apply(view(many...))
	r.run(10*time.Second, true)
	r.wire6.frames, r.mark6 = nil, 0
	r.run(80*time.Second, true)
	var reports [][]byte
	for _, f := range r.wire6.frames {
		if f.frame[ip6Next] == 0 {
			reports = append(reports, f.frame)
		}
	}
	if len(reports) != 2 || r.responder.sent[KindGroups].Load() != 2 {
		t.Fatalf("%d reports for %d groups", len(reports), len(many))
	}
	f := reports[1]
	want := "333300000016" + "02000000000a" + "86dd" + // Ethernet
		"60000000" + "0024" + "00" + "01" + // IPv6: 36 bytes, hop-by-hop options, one hop
		"fe80000000000000000000000000000a" + "ff020000000000000000000000000016" +
		"3a00050200000100" + // router alert
		"8f00xxxx00000001" + "02000000" + "ff0200000000000000000001ff00003d"
	got := hex.EncodeToString(f)
	sum := strings.Index(want, "xxxx")
	if got[:sum] != want[:sum] || got[sum+4:] != want[sum+4:] {
		t.Errorf("report\n%s\nwant\n%s", got, want)
	}
	if c := checksum(slices.Concat(f[:icmpType], f[icmpType+8:])); c != 0 {
		t.Errorf("checksum is off by %#x", c)
	}
}

func TestHinderedIsNotAnswered(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.tick()
	hindered := hold4
	hindered.Hindered = "no local delivery"
	r.Apply(view(hindered))
	r.run(time.Second, true)
	expect(t, r.sent())
	if s := r.status(vip4); s.State != Failed || s.Reason != "no local delivery" {
		t.Errorf("status %+v", s)
	}
	r.Apply(view(hold4))
	r.run(0, true)
	expect(t, r.sent(), "garp 192.0.2.100", "garp-reply 192.0.2.100")
	r.Apply(view(hindered))
	if v := r.receive(requestFrame(t, macB, client4, vip4), system.ToAll); v == Replied {
		t.Error("answered")
	}
}

func TestSendFailureIsReported(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.tick()
	r.wire4.err = errors.New("operation not permitted")
	r.Apply(view(hold4))
	r.run(0, true)
	if s := r.status(vip4); s.State != Failed || s.Reason != "cannot send on eth1: operation not permitted" {
		t.Errorf("status %+v", s)
	}
	r.wire4.err = nil
	r.run(200*time.Millisecond, true)
	if s := r.status(vip4); s.State != Unproven {
		t.Errorf("status %+v", s)
	}
}

func TestStatusesTellOnlyWhatChanged(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.tick()
	r.Apply(view(hold4, hold6))
	all, _, seq, more := r.Statuses(0)
	if len(all) != 2 {
		t.Fatalf("%d statuses", len(all))
	}
	select {
	case <-more:
		t.Fatal("more without a change")
	default:
	}
	r.Apply(view(hold6))
	select {
	case <-more:
	default:
		t.Fatal("not told of a change")
	}
	changed, gone, _, _ := r.Statuses(seq)
	if len(changed) != 0 || !slices.Equal(gone, []netip.Addr{vip4}) {
		t.Errorf("changed %v gone %v", changed, gone)
	}
}
