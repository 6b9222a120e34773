package links

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/quorumlb/quorumlb/speakers/internal/nettest"
	"github.com/quorumlb/quorumlb/speakers/system"
)

func names(s Set) string {
	var out []string
	for _, l := range s.Links {
		out = append(out, l.Name)
	}
	return strings.Join(out, " ")
}

func TestSelect(t *testing.T) {
	mac := func(b byte) system.MAC { return system.MAC{2, 0, 0, 0, 0, b} }
	devices := []system.Device{
		{Index: 1, Name: "lo"},
		{Index: 2, Name: "eth0", MAC: mac(2), Ethernet: true, Up: true},
		{Index: 3, Name: "eth1", MAC: mac(3), Ethernet: true, Up: false},
		{Index: 4, Name: "br0", Kind: "bridge", MAC: mac(4), Ethernet: true, Up: true},
		{Index: 5, Name: "port", Kind: "veth", MAC: mac(5), Ethernet: true, Up: true, Master: 4},
		{Index: 6, Name: "bond0", Kind: "bond", MAC: mac(6), Ethernet: true, Up: true},
		{Index: 7, Name: "slave", MAC: mac(6), Ethernet: true, Up: true, Master: 6},
		{Index: 8, Name: "red", Kind: "vrf", MAC: mac(8), Ethernet: true, NoARP: true, Up: true},
		{Index: 9, Name: "eth2", MAC: mac(9), Ethernet: true, Up: true, Master: 8},
		{Index: 10, Name: "cali12ab", MAC: mac(10), Ethernet: true, Up: true},
		{Index: 11, Name: "gre0", Up: true, NoARP: true},
		{Index: 12, Name: "veth7", MAC: mac(12), Ethernet: true, Up: true},
	}
	for name, tc := range map[string]struct {
		include, exclude []string
		want             string
	}{
		"all":             {nil, nil, "eth0 eth1 br0 bond0 eth2 cali12ab veth7"},
		"default exclude": {nil, DefaultExclude(), "eth0 eth1 br0 bond0 eth2"},
		"include":         {[]string{"eth0", "veth*"}, nil, "eth0 veth7"},
		"both":            {[]string{"eth*"}, []string{"1$"}, "eth0 eth2"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := NewSelector(tc.include, tc.exclude)
			if err != nil {
				t.Fatal(err)
			}
			set := s.Select(devices)
			if got := names(set); got != tc.want {
				t.Errorf("selected %q, want %q", got, tc.want)
			}
			if len(set.Own) != 9 {
				t.Errorf("%d own addresses, want 9: of all devices, also those not selected", len(set.Own))
			}
		})
	}
}

// What a switch has learned of a link's place is wrong when the frames take
// another way, though nothing of the link itself has changed.
func TestPath(t *testing.T) {
	devices := []system.Device{
		{Index: 1, Name: "eth1", Kind: "", Ethernet: true, Up: true, Master: 3},
		{Index: 2, Name: "eth2", Kind: "", Ethernet: true, Up: true, Master: 3, Backup: true},
		{Index: 3, Name: "bond0", Kind: "bond", Ethernet: true, Up: true},
		{Index: 4, Name: "bond0.7", Kind: "vlan", Ethernet: true, Up: true, Parent: 3},
		{Index: 5, Name: "br0", Kind: "bridge", Ethernet: true, Up: true},
		{Index: 6, Name: "eth3", Ethernet: true, Up: true, Master: 5},
		{Index: 7, Name: "eth4", Ethernet: true, Up: false, Master: 5},
		{Index: 8, Name: "vnet0", Kind: "tun", Ethernet: true, Up: true, Master: 5},
		{Index: 9, Name: "cali1", Kind: "veth", Ethernet: true, Up: true, Master: 5},
		{Index: 10, Name: "red", Kind: "vrf", Ethernet: true, Up: true},
		{Index: 11, Name: "eth5", Ethernet: true, Up: true, Master: 10},
		{Index: 12, Name: "br1", Kind: "bridge", Ethernet: true, Up: true},
		{Index: 13, Name: "bond1", Kind: "bond", Ethernet: true, Up: true, Master: 12},
		{Index: 14, Name: "eth6", Ethernet: true, Up: true, Master: 13},
		{Index: 15, Name: "eth7", Ethernet: true, Up: true, Master: 13},
	}
	for i := range devices {
		devices[i].MAC = system.MAC{2, 0, 0, 0, 0, byte(devices[i].Index)}
	}
	s, err := NewSelector(nil, DefaultExclude())
	if err != nil {
		t.Fatal(err)
	}
	expect := func(what, link, want string) {
		t.Helper()
		for _, l := range s.Select(devices).Links {
			if l.Name == link && l.Path != want {
				t.Errorf("%s: path of %s is %q, want %q", what, link, l.Path, want)
			}
		}
	}
	before := s.Select(devices)
	if got := names(before); got != "bond0 bond0.7 br0 red eth5 br1" {
		t.Fatalf("selected %q", got)
	}
	expect("the active slave", "bond0", "eth1")
	expect("as its parent", "bond0.7", "eth1")
	expect("ports with carrier, and none of containers or virtual machines", "br0", "eth3")
	expect("a VRF is no switch", "red", "")
	expect("no device beneath", "eth5", "")
	expect("one on the other", "br1", "bond1 (eth6 eth7)")

	for what, change := range map[string]func(){
		"the other slave is active": func() { devices[0].Backup, devices[1].Backup = true, false },
		"a port's carrier returns":  func() { devices[6].Up = true },
		"a slave under a bridge":    func() { devices[13].Up = false },
	} {
		before := s.Select(devices)
		change()
		if after := s.Select(devices); before.equal(after) {
			t.Errorf("%s: no change", what)
		}
	}
	expect("failover", "bond0", "eth2")
	expect("failover", "bond0.7", "eth2")
	expect("carrier", "br0", "eth3 eth4")
	expect("slave down", "br1", "bond1 (eth7)")

	same := s.Select(devices)
	devices[7].Up, devices[8].Up, devices[0].Up = false, false, false
	if !same.equal(s.Select(devices)) {
		t.Error("a container's end, or a slave that carries nothing, is no change of a link")
	}
}

func TestNewSelectorNamesTheMistake(t *testing.T) {
	_, err := NewSelector([]string{"eth0", "["}, nil)
	if err == nil || !strings.Contains(err.Error(), "interfaces[1]") {
		t.Errorf("error %v does not name interfaces[1]", err)
	}
	_, err = NewSelector(nil, []string{"("})
	if err == nil || !strings.Contains(err.Error(), "excludeInterfaces[0]") {
		t.Errorf("error %v does not name excludeInterfaces[0]", err)
	}
}

// recorder keeps the newest set.
type recorder struct {
	mu  sync.Mutex
	set Set
}

func (r *recorder) changed(s Set) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set = s
}

func (r *recorder) link(name string) (Link, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.set.Links, func(l Link) bool { return l.Name == name })
	if i < 0 {
		return Link{}, false
	}
	return r.set.Links[i], true
}

func runMonitor(t *testing.T, open func() (Source, error)) *recorder {
	t.Helper()
	selector, err := NewSelector(nil, DefaultExclude())
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	m := NewMonitor(open, selector, r.changed, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	nettest.Eventually(t, "ready", m.Ready)
	return r
}

func TestMonitorFollowsTheKernel(t *testing.T) {
	seg := nettest.NewSegment(t)
	h := seg.NewHost("192.0.2.1/24", "2001:db8::1/64")
	r := runMonitor(t, func() (s Source, err error) {
		err = h.Try(func() error { s, err = OpenSystem(); return err })
		return s, err
	})
	until := func(what string, ok func(l Link, exists bool) bool, name string) {
		t.Helper()
		nettest.Eventually(t, what, func() bool {
			l, exists := r.link(name)
			return ok(l, exists)
		})
	}
	until("eth0 up", func(l Link, _ bool) bool { return l.Up && l.Index == h.Link && l.MAC == system.MAC(h.MAC) }, "eth0")

	h.IP("route", "add", "default", "via", "192.0.2.254")
	h.IP("route", "add", "default", "via", "2001:db8::fe")
	until("both gateways", func(l Link, _ bool) bool { return len(l.Gateways) == 2 }, "eth0")

	h.SetPort(false)
	until("carrier gone", func(l Link, ok bool) bool { return ok && !l.Up }, "eth0")
	h.SetPort(true)
	until("carrier back", func(l Link, _ bool) bool { return l.Up }, "eth0")

	h.IP("link", "set", "eth0", "down")
	until("no gateway of IPv4 on a dead link", func(l Link, _ bool) bool { return !l.Up && len(l.Gateways) == 0 }, "eth0")
	h.IP("link", "set", "eth0", "up")
	until("up again", func(l Link, _ bool) bool { return l.Up }, "eth0")

	h.IP("addr", "add", "198.51.100.1/24", "dev", "eth0")
	until("new prefix", func(l Link, _ bool) bool {
		return slices.Contains(l.Prefixes, netip.MustParsePrefix("198.51.100.1/24"))
	}, "eth0")

	seg.Attach(h, "eth9")
	until("new link", func(l Link, ok bool) bool { return ok && !l.Up }, "eth9")
	h.IP("link", "set", "eth9", "up")
	until("new link up", func(l Link, _ bool) bool { return l.Up }, "eth9")

	h.Do(func() error {
		la := netlink.NewLinkAttrs()
		la.Name = "br1"
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: la})
	})
	h.IP("link", "set", "eth9", "master", "br1")
	until("a bridge's port cannot announce", func(_ Link, ok bool) bool { return !ok }, "eth9")
	h.IP("link", "set", "eth9", "nomaster")
	until("free again", func(_ Link, ok bool) bool { return ok }, "eth9")
	h.IP("link", "set", "eth9", "name", "veth9")
	until("renamed", func(_ Link, ok bool) bool { return !ok }, "eth9")
	if _, ok := r.link("veth9"); ok {
		t.Error("veth9 is excluded by default")
	}
	h.IP("link", "set", "br1", "up")
	h.IP("link", "add", "link", "br1", "name", "mac7", "up", "type", "macvlan")
	port := seg.Attach(h, "eth8")
	h.IP("link", "set", "eth8", "master", "br1", "up")
	path := func(want string) func(Link, bool) bool {
		return func(l Link, ok bool) bool { return ok && l.Path == want }
	}
	until("a port of the bridge", path("eth8"), "br1")
	until("and of what lies on it", path("eth8"), "mac7")
	seg.SetPort(port, false)
	until("its carrier gone", path(""), "br1")
	seg.SetPort(port, true)
	until("its carrier back", path("eth8"), "mac7")
	h.IP("link", "set", "eth8", "nomaster")
	until("no port any more", path(""), "mac7")
	h.IP("link", "del", "br1")
	until("deleted", func(_ Link, ok bool) bool { return !ok }, "br1")
}

type scriptedSource struct {
	devices []system.Device
	err     error
}

func (s *scriptedSource) Watch(ctx context.Context, changed func([]system.Device)) error {
	changed(s.devices)
	if s.err != nil {
		return s.err
	}
	<-ctx.Done()
	return nil
}

func (s *scriptedSource) Close() {}

// What was missed while the subscription was gone must be noticed.
func TestMonitorOpensALostSourceAgain(t *testing.T) {
	eth := func(up bool) []system.Device {
		return []system.Device{{Index: 2, Name: "eth0", MAC: system.MAC{2, 0, 0, 0, 0, 1}, Ethernet: true, Up: up}}
	}
	scripts := []func() (Source, error){
		func() (Source, error) { return &scriptedSource{devices: eth(true), err: system.ErrNetworkLost}, nil },
		func() (Source, error) { return nil, errors.New("no netlink today") },
		func() (Source, error) { return &scriptedSource{devices: eth(false)}, nil },
	}
	opened := 0
	r := runMonitor(t, func() (Source, error) {
		opened++
		return scripts[min(opened, len(scripts))-1]()
	})
	nettest.Eventually(t, "the change behind our back", func() bool {
		l, ok := r.link("eth0")
		return ok && !l.Up
	})
}
