package layer2

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"

	"github.com/quorumlb/quorumlb/speakers/system"
)

func checked4() Vip { return Vip{Addr: vip4, Epoch: 1, Mode: Hold, Check: true} }
func checked6() Vip { return Vip{Addr: vip6, Epoch: 1, Mode: Hold, Check: true} }

// station answers questions on the wire, as the test says.
type station struct {
	mac system.MAC
	// has tells for which addresses.
	has func(netip.Addr) bool
}

// with lets stations answer what the rig asks, for a time.
func (r *rig) with(d time.Duration, stations ...station) {
	r.t.Helper()
	answered4, answered6 := len(r.wire4.frames), len(r.wire6.frames)
	for end := r.clock.Now() + d; r.clock.Now() < end; {
		r.run(10*time.Millisecond, true)
		for ; answered4 < len(r.wire4.frames); answered4++ {
			var p arp.Packet
			if err := p.UnmarshalBinary(r.wire4.frames[answered4].frame[14:]); err != nil {
				r.t.Fatal(err)
			}
			for _, s := range stations {
				if p.Operation == arp.OperationRequest && p.SenderIP.IsUnspecified() && s.has(p.TargetIP) {
					r.receive(must(r.t)(marshalARP(macA, arp.OperationReply, s.mac, p.TargetIP, macA, p.SenderIP)), system.ToHost)
				}
			}
		}
		for ; answered6 < len(r.wire6.frames); answered6++ {
			m, err := ndp.ParseMessage(r.wire6.frames[answered6].frame[icmpType:])
			if err != nil {
				r.t.Fatal(err)
			}
			ns, ok := m.(*ndp.NeighborSolicitation)
			if !ok {
				continue
			}
			for _, s := range stations {
				if s.has(ns.TargetAddress) {
					r.receive(must(r.t)(announceAdvert(s.mac, ns.TargetAddress)), system.ToGroup)
				}
			}
		}
	}
}

func only(addrs ...netip.Addr) func(netip.Addr) bool {
	return func(a netip.Addr) bool { return slices.Contains(addrs, a) }
}

func everything(netip.Addr) bool { return true }

// claims counts the frames that claim an address.
func claims(sent []string) (n int) {
	for _, s := range sent {
		if strings.HasPrefix(s, "garp") || strings.HasPrefix(s, "na ") && strings.HasSuffix(s, "s=false") {
			n++
		}
	}
	return n
}

func TestFirstUseFindings(t *testing.T) {
	gateway := netip.MustParseAddr("192.0.2.254")
	for name, c := range map[string]struct {
		stations []station
		want     Check
		// claims for how long the members say nothing: during the question, and after.
		early, late bool
	}{
		"nobody":                  {want: Check{Finding: Clear}, early: true, late: true},
		"a station":               {[]station{{otherMAC, only(vip4, vip6)}}, Check{Finding: Foreign, MAC: otherMAC}, false, true},
		"a router with proxy ARP": {[]station{{otherMAC, everything}}, Check{Finding: Proxy, MAC: otherMAC}, false, true},
		"the gateway":             {[]station{{otherMAC, only(vip4, vip6, gateway, gateway6)}}, Check{Finding: Proxy, MAC: otherMAC}, false, true},
		"a node's kernel":         {[]station{{peerMAC, only(vip4, vip6)}}, Check{Finding: Kernel, MAC: peerMAC, Node: "n2"}, false, true},
		"a node whose kernel answers for all": {
			[]station{{peerMAC, everything}}, Check{Finding: Kernel, MAC: peerMAC, Node: "n2"}, false, true,
		},
		"a station beside a router": {
			[]station{{otherMAC, only(vip4, vip6)}, {system.MAC{0x52, 7}, everything}}, Check{Finding: Foreign, MAC: otherMAC}, false, true,
		},
		"another router's answers for the others": {
			[]station{{otherMAC, only(vip4, vip6)}, {system.MAC{0x52, 7}, func(a netip.Addr) bool { return a != vip4 && a != vip6 }}},
			Check{Finding: Foreign, MAC: otherMAC}, false, true,
		},
	} {
		for _, vip := range []Vip{checked4(), checked6()} {
			t.Run(name+" "+vip.Addr.String(), func(t *testing.T) {
				r := newRig(t, Config{Gateways: []netip.Addr{gateway, gateway6}})
				r.confirm()
				r.apply(vip)
				asker := system.MAC{2, 0, 0, 0, 0, 0x77}
				frame, typ := requestFrame(t, asker, client4, vip4), system.ToAll
				if vip.Addr.Is6() {
					frame, typ = must(t)(probeSolicit(asker, client6, vip6)), system.ToGroup
				}
				if v := r.receive(frame, uint8(typ)); v != Replied {
					t.Errorf("a client is not answered at once: %v", v)
				}
				r.sent()
				r.with(450*time.Millisecond, c.stations...)
				if got := r.sent(); claims(got) > 0 != c.early {
					t.Errorf("early: sent %v", got)
				}
				r.with(1200*time.Millisecond, c.stations...)
				if s := r.status(vip.Addr); s.Check != c.want {
					t.Errorf("found %+v, want %+v", s.Check, c.want)
				}
				if s := r.status(vip.Addr); s.Foreign != (system.MAC{}) {
					t.Errorf("an answer is taken for a claim: %+v", s)
				}
				r.with(2*time.Second, c.stations...)
				if got := r.sent(); claims(got) > 0 != c.late {
					t.Errorf("late: sent %v", got)
				}
			})
		}
	}
}

// The members take the address away from who reports a foreign station: it has
// claimed nothing until then.
func TestNoClaimAgainstAForeignStationThatIsDecidedAbout(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.apply(checked4())
	r.with(700*time.Millisecond, station{otherMAC, only(vip4)})
	if s := r.status(vip4); s.Check.Finding != Foreign {
		t.Fatalf("found %+v", s.Check)
	}
	r.apply()
	r.with(15*time.Second, station{otherMAC, only(vip4)})
	if got := r.sent(); claims(got) > 0 {
		t.Errorf("sent %v", got)
	}
	if len(r.checks)+len(r.holding)+len(r.rechecks) > 0 {
		t.Error("something is left of the question")
	}
}

// The group of an address is held from when it is answered, not from when it is claimed:
// a switch that snoops would not let its clients' questions through.
func TestHeldAddressIsInItsGroup(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.tick()
	r.apply(checked6())
	if len(r.groups.joined) != 1 {
		t.Errorf("groups %v", r.groups.joined)
	}
	r.links(eth(1, macA, true), eth(2, system.MAC{2, 0, 0, 0, 0, 0xa2}, true))
	if len(r.groups.joined) != 2 {
		t.Errorf("groups with another link %v", r.groups.joined)
	}
}

// What a gateway answers to a takeover counts as proof, also while the gateway is
// asked for itself.
func TestAnswerThatAProbeWantsIsProofAsWell(t *testing.T) {
	r := newRig(t, Config{Gateways: []netip.Addr{gateway4, gateway6}})
	r.confirm()
	r.tick()
	r.Apply(view(hold4, hold6))
	r.run(0, true)
	r.mu.Lock()
	for _, a := range []netip.Addr{gateway4, gateway6} {
		r.probes[&probe{addr: a}] = struct{}{}
	}
	r.install()
	r.mu.Unlock()
	if v := r.receive(must(t)(marshalARP(macA, arp.OperationReply, macB, gateway4, macA, vip4)), system.ToHost); v != Found {
		t.Errorf("ARP: %v", v)
	}
	advert := must(t)(marshalNDP(macA, macB, gateway6, vip6, &ndp.NeighborAdvertisement{Solicited: true, TargetAddress: gateway6}))
	if v := r.receive(advert, system.ToHost); v != Found {
		t.Errorf("NDP: %v", v)
	}
	r.run(0, true)
	for _, a := range []netip.Addr{vip4, vip6} {
		if s := r.status(a); s.State != Proven {
			t.Errorf("%+v", s)
		}
	}
	for p := range r.probes {
		if len(p.hits) != 1 {
			t.Errorf("%v: %v", p.addr, p.hits)
		}
	}
}

// A failover does not ask, and waits for nothing.
func TestOnlyAFirstUseIsAskedFor(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.apply(Vip{Addr: vip4, Epoch: 1, Mode: Hold})
	r.run(time.Millisecond, true)
	expect(t, r.sent(), "garp 192.0.2.100", "garp-reply 192.0.2.100")
}

// A restarted speaker asks again where somebody answered, and says at once what it
// has to say.
func TestInheritedAddressIsClaimedAtOnce(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	v := checked4()
	v.Inherited = true
	r.apply(v)
	r.run(time.Millisecond, true)
	if got := r.sent(); claims(got) == 0 {
		t.Errorf("sent %v", got)
	}
	r.with(2*time.Second, station{peerMAC, only(vip4)})
	if s := r.status(vip4); s.Check.Finding != Kernel {
		t.Errorf("found %+v", s.Check)
	}
}

// While somebody answers, the question is asked again and again; what is in use is
// claimed meanwhile.
func TestFindingIsForgottenWhenNobodyAnswersAnyMore(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.apply(checked4())
	r.with(2*time.Second, station{otherMAC, everything})
	if s := r.status(vip4); s.Check.Finding != Proxy {
		t.Fatalf("found %+v", s.Check)
	}
	r.with(2*recheckInterval, station{otherMAC, everything})
	if s := r.status(vip4); s.Check.Finding != Proxy {
		t.Errorf("it goes on: %+v", s.Check)
	}
	r.with(recheckInterval + 2*time.Second)
	if s := r.status(vip4); s.Check.Finding != Clear || len(r.rechecks) > 0 {
		t.Errorf("it is over: %+v", s.Check)
	}
}

// A foreign station answers late, when the claims have begun: they stop.
func TestLateAnswerStopsTheClaims(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.apply(checked4())
	r.with(280 * time.Millisecond)
	if got := r.sent(); claims(got) == 0 {
		t.Fatalf("sent %v", got)
	}
	r.with(time.Second, station{otherMAC, only(vip4)}) // hears the second question
	if s := r.status(vip4); s.Check.Finding != Foreign {
		t.Errorf("found %+v", s.Check)
	}
	first := r.sent()
	r.with(decideFor/2, station{otherMAC, only(vip4)})
	if got := r.sent(); claims(got) > 0 {
		t.Errorf("sent %v after %v", got, first)
	}
}

// firstUses makes addresses that nobody owned before.
func firstUses(n int) (vips []Vip) {
	for a := netip.MustParseAddr("198.51.100.1"); len(vips) < n; a = a.Next() {
		vips = append(vips, Vip{Addr: a, Epoch: 1, Mode: Hold, Check: true})
	}
	return vips
}

// Many addresses are asked for in turn. Whatever the rate, no second carries more
// frames, and each address is claimed when its own question has had time for an answer.
func TestManyFirstUses(t *testing.T) {
	for _, c := range []struct {
		vips, rate int
		claimed    time.Duration // the last of them
	}{{200, DefaultRate, 700 * time.Millisecond}, {1000, DefaultRate, 8 * time.Second}, {40, 20, 10 * time.Second}} {
		r := newRig(t, Config{Rate: c.rate})
		r.confirm()
		r.apply(firstUses(c.vips)...)
		start := r.clock.Now()
		r.run(2*c.claimed, true)
		asked, claimed := map[string]time.Duration{}, map[string]time.Duration{}
		for i, f := range r.wire4.frames {
			if i >= c.rate && f.at-r.wire4.frames[i-c.rate].at < time.Second {
				t.Fatalf("%+v: more than %d frames in the second before %v", c, c.rate, f.at-start)
			}
			what := strings.Fields(f.describe())
			first := asked
			if what[0] != "who-has" {
				first = claimed
			}
			if _, ok := first[what[1]]; !ok {
				first[what[1]] = f.at
			}
		}
		for addr, at := range claimed {
			if wait := at - asked[addr]; wait < claimWait {
				t.Fatalf("%+v: %s is claimed %v after its question", c, addr, wait)
			}
			if at-start > c.claimed {
				t.Fatalf("%+v: %s is claimed only after %v", c, addr, at-start)
			}
		}
		if len(claimed) != c.vips {
			t.Errorf("%+v: %d are claimed", c, len(claimed))
		}
		r.run(time.Minute, true)
		all, _, _, _ := r.Statuses(0)
		for _, s := range all {
			if s.Check.Finding != Clear {
				t.Errorf("%+v: %v: %+v", c, s.Addr, s.Check)
			}
		}
	}
}

// The first round of a takeover does not wait for questions, and questions do not
// wait for the later rounds.
func TestTakeoverPrecedesQuestions(t *testing.T) {
	const takeovers, rate = 60, 50
	r := newRig(t, Config{Rate: rate})
	r.confirm()
	r.tick()
	vips := firstUses(30)
	for a := netip.MustParseAddr("192.0.2.100"); len(vips) < 30+takeovers; a = a.Next() {
		vips = append(vips, Vip{Addr: a, Epoch: 1, Mode: Hold})
	}
	r.apply(vips...)
	r.run(5*time.Second, true)
	seen, questions := map[string]int{}, 0
	for i, s := range r.sent() {
		seen[s]++
		switch {
		case strings.HasPrefix(s, "who-has") && seen[s] == 1:
			if questions++; i < 2*takeovers {
				t.Fatalf("frame %d is %s", i, s)
			}
		case strings.HasPrefix(s, "garp 192.0.2") && seen[s] == 2 && questions < 30:
			t.Fatalf("%s for the second time after %d questions", s, questions)
		}
	}
	if questions < 30 {
		t.Errorf("only %d questions", questions)
	}
}

// A probe keeps to the rate as well, and waits for answers from when it has asked.
func TestProbeKeepsToTheRate(t *testing.T) {
	r := newRig(t, Config{Rate: 10})
	r.confirm()
	r.tick()
	r.Apply(view(hold4))
	r.run(0, true)
	r.sent() // the bucket's one token is used up
	hits := make(chan []Hit, 1)
	go func() {
		h, err := r.Probe(t.Context(), client4, 60*time.Millisecond)
		if err != nil {
			t.Error(err)
		}
		hits <- h
	}()
	deadline := time.Now().Add(10 * time.Second)
	poll := func(done func() bool) {
		t.Helper()
		for !done() {
			if time.Now().After(deadline) {
				t.Fatal("it does not happen")
			}
			time.Sleep(time.Millisecond)
		}
	}
	poll(func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.pacer.waiting) > 0 && slices.ContainsFunc(r.pacer.waiting, func(b *burst) bool { return b.kind == KindProbe })
	})
	r.tick()
	for _, s := range r.sent() {
		if strings.HasPrefix(s, "who-has") {
			t.Errorf("sent %s beyond the rate", s)
		}
	}
	var found []Hit
	poll(func() bool {
		r.with(100*time.Millisecond, station{otherMAC, only(client4)})
		select {
		case found = <-hits:
			return true
		default:
			return false
		}
	})
	if len(found) != 1 || found[0].MAC != otherMAC {
		t.Errorf("found %v", found)
	}
	if len(r.probes) != 0 {
		t.Error("something is left of the probe")
	}
}

func TestRandomAddresses(t *testing.T) {
	for _, text := range []string{"192.0.2.0/24", "192.0.2.8/29", "10.0.0.0/8", "2001:db8::/64", "2001:db8::8/125"} {
		p := netip.MustParsePrefix(text)
		seen := map[netip.Addr]bool{}
		for range 200 {
			a := randomIn(p)
			if !p.Contains(a) || a == p.Addr() || !p.Contains(a.Next()) {
				t.Fatalf("%v is no host of %v", a, p)
			}
			seen[a] = true
		}
		if len(seen) < 5 {
			t.Errorf("%v: only %d addresses", p, len(seen))
		}
	}
}
