package fsm_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/quorumlb/quorumlb/fsm"
	"github.com/quorumlb/quorumlb/fsm/fsmtest"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// A service has as many addresses of each family as it asks for at most, in the order in
// which they were given.
func TestAddressCount(t *testing.T) {
	l := fsmtest.NewLog(t)
	spec := fsmtest.Service("web", 80)
	spec.AddressCount = 2
	key := fsm.KeyOf("default", "web")
	l.Apply(fsmtest.PoolDefined("a", "192.0.2.0/24", "2001:db8::/64"), fsmtest.Declared(spec))
	l.Apply(fsmtest.Allocated(key, "2001:db8::2", "a"), fsmtest.Allocated(key, "192.0.2.9", "a"), fsmtest.Allocated(key, "192.0.2.1", "a"))
	if got := fmt.Sprint(l.S.Services[key].Addresses); got != "[192.0.2.9 192.0.2.1 2001:db8::2]" {
		t.Errorf("it has %s", got)
	}
	for _, a := range []string{"192.0.2.2", "2001:db8::2"} {
		if err := l.Refuse(fsmtest.Allocated(key, a, "a")); err == nil {
			t.Errorf("it was given %s as well", a)
		}
	}
	l.Apply(fsmtest.Allocated(key, "2001:db8::1", "a"))
}

// Fresh goes through the ranges of a pool as one who takes the next one again and again.
func TestFreshAddresses(t *testing.T) {
	l := fsmtest.NewLog(t)
	l.Apply(fsmtest.Reservation(&logv1.Reservation{Name: "r", Addresses: []string{"192.0.2.5-192.0.2.6"}}),
		fsmtest.Pool(&logv1.Pool{Name: "a", Addresses: []string{"192.0.2.0-192.0.2.9", "198.51.100.254-198.51.101.2", "203.0.113.7/32"}, AvoidBuggyIps: true}))
	for i, a := range []string{"192.0.2.3", "192.0.2.9", "198.51.101.1"} {
		l.Apply(fsmtest.Declared(fsmtest.Service(fmt.Sprint("s", i), 80)), fsmtest.Allocated(fsm.KeyOf("default", fmt.Sprint("s", i)), a, "a"))
	}
	var all []netip.Addr
	for a := range l.S.Fresh("a", true) {
		all = append(all, a)
	}
	var one []netip.Addr
	for i := range all {
		a := l.S.NextFresh("a", true)
		one = append(one, a)
		key := fsm.KeyOf("default", fmt.Sprint("t", i))
		l.Apply(fsmtest.Declared(fsmtest.Service(key.Name, 80)), fsmtest.Allocated(key, a.String(), "a"))
	}
	if fmt.Sprint(all) != fmt.Sprint(one) || len(all) != 8 || l.S.NextFresh("a", true).IsValid() {
		t.Errorf("%v, not %v", all, one)
	}
}
