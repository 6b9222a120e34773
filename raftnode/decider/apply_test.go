package decider

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// paths lists the fields that an error names.
func paths(err error) []string {
	var invalid *InvalidError
	var inUse *InUseError
	var stale *StaleError
	var fields []FieldError
	switch {
	case errors.As(err, &invalid):
		fields = invalid.Fields
	case errors.As(err, &inUse):
		fields = inUse.Fields
	case errors.As(err, &stale):
		fields = stale.Fields
	}
	var out []string
	for _, f := range fields {
		out = append(out, f.Path)
	}
	return out
}

func TestBadInput(t *testing.T) {
	unknown := pool("new", "10.5.0.0/24")
	unknown.GetPool().ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	for name, c := range map[string]struct {
		cmd  Command
		want []string
	}{
		"overlapping pools": {
			apply(pool("new", "10.5.0.0/24"), pool("newer", "10.5.0.128-10.5.1.5")), []string{"resources[1].spec.addresses[0]"},
		},
		"overlap with a pool that is there": {
			apply(pool("new", "10.5.0.0/24", "10.0.0.9-10.0.0.12")), []string{"resources[0].spec.addresses[1]"},
		},
		"overlap within a pool": {
			apply(pool("new", "10.5.0.0/24", "10.5.0.7-10.5.0.8")), []string{"resources[0].spec.addresses[1]"},
		},
		"reversed range": {
			apply(pool("new", "10.5.0.9-10.5.0.1")), []string{"resources[0].spec.addresses[0]"},
		},
		"mixed families in a range": {
			apply(pool("new", "10.5.0.9-2001:db8::1")), []string{"resources[0].spec.addresses[0]"},
		},
		"pool without addresses": {
			apply(pool("new")), []string{"resources[0].spec.addresses"},
		},
		"unknown field": {
			apply(unknown), []string{"resources[0]"},
		},
		"unknown kind": {
			apply(&adminv1.Resource{}), []string{"resources[0]"},
		},
		"unknown enum value": {
			apply(ad("new", func(a *logv1.L2Advertisement) { a.Placement = 77 })), nil,
		},
		"duplicate name": {
			apply(service("new"), service("new")), []string{"resources[1].metadata.name"},
		},
		"bad name": {
			apply(service("New Service")), []string{"resources[0].metadata.name"},
		},
		"address outside every pool": {
			apply(service("new", at("192.0.2.1"))), []string{"resources[0].spec.addresses[0]"},
		},
		"address outside every pool, beside a pool": {
			apply(pool("new", "10.5.0.0/24"), service("new", at("192.0.2.1"))), []string{"resources[1].spec.addresses[0]"},
		},
		"address in another pool": {
			apply(service("new", at("10.0.0.5"), inPool("empty"))), []string{"resources[0].spec.addresses[0]"},
		},
		"address in use": {
			apply(service("new", at("10.0.0.1"))), []string{"resources[0].spec.addresses[0]"},
		},
		"address in use within the command": {
			apply(service("new", at("10.0.0.5")), service("newer", at("10.0.0.5"))), []string{"resources[1].spec.addresses[0]"},
		},
		"not an address": {
			apply(service("new", at("10.0.0"))), []string{"resources[0].spec.addresses[0]"},
		},
		"delete of a used pool": {
			remove(KindPool, "empty", "p"), []string{"names[1]"},
		},
		"delete of an unknown kind": {
			&Delete{Names: []*adminv1.ResourceName{{Kind: "Pool", Name: "p"}}}, []string{"names[0].kind"},
		},
		"lease times": {
			&SetLeaseTimes{Times: fsm.LeaseTimes{Detection: 90 * time.Second, Heartbeat: 5 * time.Millisecond, Settle: -1}},
			[]string{"times.detection", "times.heartbeat", "times.settle"},
		},
		"heartbeat too slow": {
			&SetLeaseTimes{Times: fsm.LeaseTimes{Detection: time.Second, Heartbeat: 400 * time.Millisecond}}, []string{"times.heartbeat"},
		},
		"retention": {
			&SetRetention{Retention: -1}, []string{"settings.retention"},
		},
		"session without a process": {
			&OpenSession{Node: "n1"}, []string{"process"},
		},
		"session of a node with a strange name": {
			&OpenSession{Node: "n1/../x", Process: [16]byte{1}}, []string{"node"},
		},
		"session with a group address": {
			&OpenSession{Node: "n1", Process: [16]byte{1}, MACs: []fsm.MAC{{1, 0, 0x5e}}}, []string{"macs[0]"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(h *harness) {
				h.must(apply(pool("p", "10.0.0.1-10.0.0.9"), pool("empty", "10.1.0.0/24"), ad("a"),
					service("web", at("10.0.0.1")), service("pinned", at("10.0.0.2"), inPool("p"))))
				before := h.log.revision()
				_, err := h.submit(c.cmd)
				if err == nil {
					t.Fatal("accepted")
				}
				if got := paths(err); c.want != nil && !slices.Equal(got, c.want) {
					t.Errorf("fields %q, want %q (%v)", got, c.want, err)
				} else if len(got) == 0 {
					t.Errorf("no field named: %v", err)
				}
				h.settle()
				if h.log.revision() != before {
					t.Errorf("something has changed: %q", h.log.events(before))
				}
				h.checkHead()
			})
		})
	}
}

func TestApplyAnswers(t *testing.T) {
	inBubble(t, func(h *harness) {
		r := h.must(apply(service("c"), pool("p", "10.0.0.1-10.0.0.2"), ad("a"), service("a"), service("b", at("10.0.0.1"))))
		want := []ResourceResult{
			{Kind: KindService, Name: "default/c", Outcome: Created, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}},
			{Kind: KindPool, Name: "p", Outcome: Created},
			{Kind: KindAd, Name: "a", Outcome: Created},
			{Kind: KindService, Name: "default/a", Outcome: Created, Pending: "no IPv4 address: pool p: full"},
			{Kind: KindService, Name: "default/b", Outcome: Created, Addresses: []netip.Addr{vipAddr}},
		}
		equal := func(a, b ResourceResult) bool {
			return a.Kind == b.Kind && a.Name == b.Name && a.Outcome == b.Outcome && a.Pending == b.Pending &&
				slices.Equal(a.Addresses, b.Addresses)
		}
		if !slices.EqualFunc(r.Resources, want, equal) {
			t.Errorf("got  %+v\nwant %+v", r.Resources, want)
		}
		if r.Revision != h.log.revision() || !r.Changed {
			t.Errorf("at revision %d (changed %v), the log is at %d", r.Revision, r.Changed, h.log.revision())
		}
		// Again: nothing changes, and it says so.
		again := h.must(apply(pool("p", "10.0.0.1-10.0.0.2"), service("a")))
		if again.Changed || again.Revision != r.Revision || again.Resources[0].Outcome != Unchanged || again.Resources[1].Outcome != Unchanged {
			t.Errorf("the second time: %+v", again)
		}
		// One more address, and the one that waits has it.
		got := h.when(func() { r = h.must(apply(pool("p", "10.0.0.1-10.0.0.3"))) })
		h.then(got, "PoolDefined p", "AddressAllocated 10.0.0.3 a FRESH", `AllocationRefused a ""`)
		if r.Resources[0].Outcome != Configured {
			t.Errorf("outcome %v", r.Resources[0].Outcome)
		}
	})
}

func TestPendingServicesAreServedInOrder(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.1-10.0.0.1"), service("first")))
		h.must(&SetRetention{Retention: time.Hour})
		for _, name := range []string{"z", "y", "x"} {
			h.must(apply(service(name)))
		}
		// It is kept for its name, so nobody is tried.
		h.then(h.when(func() { h.must(remove(KindService, "first")) }), "AddressReleased 10.0.0.1 first", "ServiceDeleted first")
		got := h.when(func() { time.Sleep(time.Hour) })
		if len(got) == 0 || got[0] != "AddressAllocated 10.0.0.1 z REUSED" {
			t.Errorf("when the time is over: %q", got)
		}
	})
}

func TestForcedPoolChange(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.leases.auto = 10 * time.Millisecond
		oneVip(h)
		cmd := apply(pool("p", "10.0.0.4-10.0.0.9"))
		cmd.Force = true
		var r Result
		got := h.when(func() { r = h.must(cmd) })
		h.then(got[:4], "OwnerReleased 10.0.0.1 n1 ADDRESS_DELETED", "AddressReleased 10.0.0.1 web", "PoolDefined p",
			"AddressAllocated 10.0.0.4 web FRESH")
		if !r.Changed || h.owner("10.0.0.4") == "" {
			t.Errorf("the new address is owned by %q", h.owner("10.0.0.4"))
		}
		del := remove(KindPool, "p")
		del.Force = true
		h.must(del)
		h.settle()
		h.log.Read(func(s *fsm.State) {
			if svc := s.Services[fsm.KeyOf("default", "web")]; len(svc.Addresses) != 0 || svc.Pending == "" {
				t.Errorf("after the pool is gone: %+v", svc)
			}
		})
		h.checkHead()
	})
}

func TestDeletePoolTogetherWithItsServices(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		cmd := remove(KindPool, "p")
		cmd.Names = append(cmd.Names, &adminv1.ResourceName{Kind: KindService, Namespace: "default", Name: "web"},
			&adminv1.ResourceName{Kind: KindAd, Name: "nothing"})
		r := h.must(cmd)
		if !slices.Equal(r.Deleted, []bool{true, true, false}) {
			t.Errorf("deleted %v", r.Deleted)
		}
		if again := h.must(cmd); again.Changed || !slices.Equal(again.Deleted, []bool{false, false, false}) {
			t.Errorf("the second time: %+v", again)
		}
		h.checkHead()
	})
}

func TestChangedRequestMovesTheService(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		got := h.when(func() { h.must(apply(service("web", at("10.0.0.7")))) })
		h.then(got, "ServiceDeclared web", "OwnerReleased 10.0.0.1 n1 ADDRESS_DELETED", "AddressReleased 10.0.0.1 web",
			"AddressAllocated 10.0.0.7 web REQUESTED", "OwnerAssigned 10.0.0.7 "+h.owner("10.0.0.7")+" NEW_ADDRESS")
	})
}

func TestSharedAddress(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		share := func(port uint32) func(*logv1.Service) {
			return func(s *logv1.Service) { s.SharingKey = "k"; s.Ports[0].Port = port }
		}
		h.must(apply(service("a", share(80)), service("b", share(443))))
		var addr netip.Addr
		h.log.Read(func(s *fsm.State) { addr = s.Services[fsm.KeyOf("default", "a")].Addresses[0] })
		h.refused(apply(service("c", share(443), at(addr.String()))), new(*InvalidError))
		// The last one takes the address away.
		h.then(h.when(func() { h.must(remove(KindService, "a")) }), "AddressReleased "+addr.String()+" a", "ServiceDeleted a")
		owner := h.owner(addr.String())
		h.then(h.when(func() { h.must(remove(KindService, "b")) }),
			"OwnerReleased "+addr.String()+" "+owner+" ADDRESS_DELETED", "AddressReleased "+addr.String()+" b", "ServiceDeleted b")
	})
}

func TestDryRun(t *testing.T) {
	inBubble(t, func(h *harness) {
		oneVip(h)
		cmd := apply(pool("p2", "10.7.0.0/24"), service("new", at("10.7.0.9")), service("web", at("10.0.0.3")))
		cmd.DryRun = true
		before := h.log.revision()
		r := h.must(cmd)
		h.settle()
		if h.log.revision() != before || r.Changed {
			t.Errorf("it changed something: %q", h.log.events(before))
		}
		if len(r.Resources) != 3 || r.Resources[1].Addresses[0].String() != "10.7.0.9" || r.Resources[2].Outcome != Configured {
			t.Errorf("answer %+v", r.Resources)
		}
		h.checkHead()
	})
}

func TestGenerations(t *testing.T) {
	inBubble(t, func(h *harness) {
		declare := func(generation uint64, source, label string) *Apply {
			c := apply(service("web", func(s *logv1.Service) { s.Labels = map[string]string{"v": label} }))
			c.Source, c.Generation = source, generation
			return c
		}
		label := func() (v string) {
			h.log.Read(func(s *fsm.State) { v = s.Services[fsm.KeyOf("default", "web")].Spec.GetLabels()["v"] })
			return v
		}
		h.must(declare(4, "k8s", "a"))
		// A newer one that says the same is recorded ...
		if r := h.must(declare(6, "k8s", "a")); r.Resources[0].Outcome != Unchanged || !r.Changed {
			t.Errorf("%+v", r)
		}
		// ... so that one in between comes too late.
		h.refused(declare(5, "k8s", "b"), new(*StaleError))
		h.must(declare(6, "k8s", "c"))
		// Another source, or none counted, is the newest.
		h.must(declare(1, "apply", "d"))
		h.must(declare(0, "apply", "e"))
		if label() != "e" {
			t.Errorf("label %q", label())
		}
	})
}

func TestSettings(t *testing.T) {
	inBubble(t, func(h *harness) {
		times := fsm.LeaseTimes{Detection: time.Second, Heartbeat: 100 * time.Millisecond, Settle: time.Second}
		if !h.must(&SetLeaseTimes{Times: times}).Changed || h.must(&SetLeaseTimes{Times: times}).Changed {
			t.Error("lease times: once")
		}
		h.leases.set(func(l *fakeLeases) { l.changing = l.clock.Now() + time.Second })
		h.refused(&SetLeaseTimes{Times: fsm.DefaultLeaseTimes}, new(*PreconditionError))
		time.Sleep(2 * time.Second)
		h.must(&SetLeaseTimes{Times: fsm.DefaultLeaseTimes})
		if !h.must(&SetRetention{Retention: time.Hour}).Changed || h.must(&SetRetention{Retention: time.Hour}).Changed {
			t.Error("retention: once")
		}
	})
}
