package layer2

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/speakers/system"
)

var (
	peerMAC  = system.MAC{2, 0, 0, 0, 0, 0xbb}
	otherMAC = system.MAC{0x52, 0, 0, 0, 0, 0x99}
)

func softVip(addr netip.Addr) Vip { return Vip{Addr: addr, Epoch: 1, Mode: Release, Soft: true} }

// unicastRequest asks this host alone, as a client does whose entry is old.
func unicastRequest(t *testing.T, target netip.Addr) []byte {
	return must(t)(directedRequest(system.MAC{2, 0, 0, 0, 0, 0x77}, client4, macA, target))
}

// settled gives a rig that owns the address with all its rounds behind it.
func settled(t *testing.T, vips ...Vip) *rig {
	r := newRig(t, Config{})
	r.confirm()
	r.Apply(View{Cluster: "c", Vips: vips, Peers: map[system.MAC]string{peerMAC: "n2"}})
	r.run(12*time.Second, true)
	r.sent()
	return r
}

func (r *rig) apply(vips ...Vip) {
	r.Apply(View{Cluster: "c", Vips: vips, Peers: map[system.MAC]string{peerMAC: "n2"}})
}

func TestSoftAnswersOnlyWhoAskThisHostAlone(t *testing.T) {
	r := settled(t, Vip{Addr: vip4, Epoch: 1, Mode: Hold}, Vip{Addr: vip6, Epoch: 1, Mode: Hold})
	r.apply(softVip(vip4), softVip(vip6))
	if s := r.status(vip4); s.State != Softly || s.Epoch != 1 || s.Connections != -1 {
		t.Fatalf("status %+v", s)
	}
	if len(r.groups.joined) != 0 {
		t.Errorf("still in %v", r.groups.joined)
	}
	asker := system.MAC{2, 0, 0, 0, 0, 0x77}
	for _, c := range []struct {
		name  string
		frame []byte
		typ   uint8
		want  Verdict
	}{
		{"broadcast", requestFrame(t, asker, client4, vip4), system.ToAll, Elsewhere},
		{"unicast", unicastRequest(t, vip4), system.ToHost, Replied},
		{"group", must(t)(probeSolicit(asker, client6, vip6)), system.ToGroup, Elsewhere},
		{"unicast NS", must(t)(solicit(asker, client6, macA, vip6, vip6)), system.ToHost, Replied},
		{"duplicate address detection", must(t)(probeSolicit(asker, netip.IPv6Unspecified(), vip6)), system.ToGroup, Elsewhere},
	} {
		if v := r.receive(c.frame, c.typ); v != c.want {
			t.Errorf("%s: %v, want %v", c.name, v, c.want)
		}
	}
	expect(t, r.sent(), "reply 192.0.2.100 to "+client4.String(), "na 2001:db8::100 s=true")
	// Nothing is said unasked, however long it lasts.
	r.run(5*time.Minute, true)
	expect(t, r.sent())
	r.SetConnections(map[netip.Addr]int{vip4: 7, client4: 1})
	if s := r.status(vip4); s.Connections != 7 {
		t.Errorf("connections %d", s.Connections)
	}
	if got := r.Soft(); !slices.Equal(got, []netip.Addr{vip4, vip6}) {
		t.Errorf("soft %v", got)
	}
}

// Whatever the address's mode, the right to answer softly ends with the confirmation.
func TestSoftNeedsAConfirmation(t *testing.T) {
	r := settled(t, Vip{Addr: vip4, Epoch: 1, Mode: Hold})
	r.apply(softVip(vip4))
	r.run(1470*time.Millisecond, false)
	if v := r.receive(unicastRequest(t, vip4), system.ToHost); v != Replied {
		t.Errorf("in time: %v", v)
	}
	r.run(10*time.Millisecond, false)
	if v := r.receive(unicastRequest(t, vip4), system.ToHost); v != Unconfirmed {
		t.Errorf("after the confirmation: %v", v)
	}
	r.run(time.Second, true)
	if v := r.receive(unicastRequest(t, vip4), system.ToHost); v != Replied {
		t.Errorf("confirmed again: %v", v)
	}
}

// The new owner's first claim says that the soft move is over, perhaps before the
// members do.
func TestSoftEndsWithAClaimOfTheNewOwner(t *testing.T) {
	r := settled(t, Vip{Addr: vip4, Epoch: 1, Mode: Hold})
	r.apply(softVip(vip4))
	r.receive(must(t)(announceRequest(otherMAC, vip4)), system.ToAll)
	r.run(time.Millisecond, true)
	if v := r.receive(unicastRequest(t, vip4), system.ToHost); v != Replied {
		t.Errorf("after a stranger's claim: %v", v)
	}
	r.sent()
	r.receive(must(t)(announceRequest(peerMAC, vip4)), system.ToAll)
	if v := r.receive(unicastRequest(t, vip4), system.ToHost); v != Yielded {
		t.Errorf("after the new owner's claim: %v", v)
	}
	r.run(2*time.Minute, true)
	expect(t, r.sent())
	if s := r.status(vip4); s.State != Silenced {
		t.Errorf("status %+v", s)
	}
	r.apply()
	if all, _, _, _ := r.Statuses(0); len(all) != 0 {
		t.Errorf("statuses %v", all)
	}
}

// An owner beside a predecessor answers everybody and claims nothing, not even
// when links change or the confirmation comes back; then all its rounds follow.
func TestOwnerIsQuietBesideAPredecessor(t *testing.T) {
	quiet := Vip{Addr: vip4, Epoch: 2, Mode: Hold, Predecessor: "n2"}
	quiet6 := Vip{Addr: vip6, Epoch: 2, Mode: Hold, Predecessor: "n2"}
	r := newRig(t, Config{Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.254")}})
	r.confirm()
	r.apply(quiet, quiet6)
	if len(r.groups.joined) != 1 {
		t.Errorf("groups %v", r.groups.joined)
	}
	if v := r.receive(requestFrame(t, system.MAC{2, 0, 0, 0, 0, 0x77}, client4, vip4), system.ToAll); v != Replied {
		t.Errorf("broadcast: %v", v)
	}
	if s := r.status(vip4); s.State != Unproven || !strings.Contains(s.Reason, "n2") {
		t.Errorf("status %+v", s)
	}
	r.sent()
	r.run(3*time.Minute, true)
	r.run(5*time.Second, false)
	r.run(time.Second, true)
	r.links(eth(1, macA, true), eth(2, system.MAC{2, 0, 0, 0, 0, 0xa2}, true))
	r.run(20*time.Second, true)
	expect(t, r.sent())
	if len(r.groups.joined) != 2 {
		t.Errorf("groups %v", r.groups.joined)
	}
	if v := r.receive(unicastRequest(t, vip4), system.ToHost); v != Replied {
		t.Errorf("unicast: %v", v)
	}
	r.run(time.Millisecond, true)
	if s := r.status(vip4); s.State != Proven {
		t.Errorf("a client that came here proves it: %+v", s)
	}
	r.sent()
	quiet.Predecessor, quiet6.Predecessor = "", ""
	r.apply(quiet, quiet6)
	r.run(12*time.Second, true)
	got := r.sent()
	count := func(what string) (n int) {
		for _, s := range got {
			if s == what {
				n++
			}
		}
		return n
	}
	if n := count("garp 192.0.2.100"); n != 2*allRounds {
		t.Errorf("%d claims on two links, want %d: %v", n, 2*allRounds, got)
	}
	if n := count("na 2001:db8::100 s=false"); n != 2*allRounds {
		t.Errorf("%d claims on two links, want %d", n, 2*allRounds)
	}
}

// A client that asked everybody before a soft move asks the old owner alone while it
// lasts. At its end it is asked itself, for it may ignore gratuitous frames.
func TestOldClientIsAskedAtTheEndOfALongSoftMove(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.apply()
	client := system.MAC{2, 0, 0, 0, 0, 0x77}
	r.responder.handle(r.responder.ears[0], system.Frame{
		Data: requestFrame(t, client, client4, vip4), Link: 1, Type: system.ToAll, Time: time.Now().Add(-24*time.Hour - time.Minute).UnixNano(),
	})
	r.apply(Vip{Addr: vip4, Epoch: 2, Mode: Hold, Predecessor: "n2"})
	r.run(time.Second, true)
	expect(t, r.sent())
	r.apply(Vip{Addr: vip4, Epoch: 2, Mode: Hold})
	r.run(50*time.Millisecond, true)
	expect(t, r.sent(), "garp 192.0.2.100", "garp-reply 192.0.2.100", "who-has "+client4.String()+" tell 192.0.2.100")
}

// A stranger is defended against even then: it has taken the address from all.
func TestQuietOwnerDefends(t *testing.T) {
	r := newRig(t, Config{})
	r.confirm()
	r.apply(Vip{Addr: vip4, Epoch: 2, Mode: Hold, Predecessor: "n2"})
	r.receive(must(t)(announceRequest(otherMAC, vip4)), system.ToAll)
	r.run(time.Second, true)
	expect(t, r.sent(), "garp 192.0.2.100")
}

func TestSoftAddressThatComesBack(t *testing.T) {
	r := settled(t, Vip{Addr: vip4, Epoch: 1, Mode: Hold})
	r.apply(softVip(vip4))
	r.apply(Vip{Addr: vip4, Epoch: 3, Mode: Hold})
	r.run(100*time.Millisecond, true)
	if v := r.receive(requestFrame(t, system.MAC{2, 0, 0, 0, 0, 0x77}, client4, vip4), system.ToAll); v != Replied {
		t.Errorf("broadcast: %v", v)
	}
	if got := r.sent(); !slices.Contains(got, "garp 192.0.2.100") {
		t.Errorf("sent %v", got)
	}
}
