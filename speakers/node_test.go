package speakers

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/quorumlb/quorumlb/internal/clock"
	"github.com/quorumlb/quorumlb/speakers/health"
	"github.com/quorumlb/quorumlb/speakers/host"
	"github.com/quorumlb/quorumlb/speakers/internal/nettest"
	"github.com/quorumlb/quorumlb/speakers/layer2"
	"github.com/quorumlb/quorumlb/speakers/links"
	"github.com/quorumlb/quorumlb/speakers/session"
	"github.com/quorumlb/quorumlb/speakers/system"
)

// fakeConntrack counts what the test says.
type fakeConntrack struct {
	mu     sync.Mutex
	counts map[netip.Addr]int
	err    error
	asked  [][]netip.Addr
	closed bool
}

func (f *fakeConntrack) Count(addrs []netip.Addr) (map[netip.Addr]int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, addrs)
	if f.err != nil && addrs[0].Is6() {
		return nil, f.err
	}
	out := map[netip.Addr]int{}
	for _, a := range addrs {
		out[a] = f.counts[a]
	}
	return out, nil
}

func (f *fakeConntrack) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
}

func (f *fakeConntrack) set(addr netip.Addr, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[addr] = n
}

// startNode makes a node with one link, whose tasks run, apart from layer 2's.
func startNode(t *testing.T, dir string, counts *fakeConntrack) *node {
	t.Helper()
	h := nettest.NewSegment(t).NewHost("192.0.2.11/24")
	log := slog.New(slog.DiscardHandler)
	var l2 *layer2.Layer2
	var kernel host.Kernel
	h.Do(func() (err error) {
		if l2, err = layer2.Open(layer2.Config{Clock: clock.Boottime, Log: log, Rate: layer2.DefaultRate}); err != nil {
			return err
		}
		kernel, err = host.OpenKernel()
		return err
	})
	t.Cleanup(kernel.Close)
	n := newNode(l2, log)
	var err error
	if n.host, err = host.New(kernel, filepath.Join(dir, hostFile), "boot", nil, log); err != nil {
		t.Fatal(err)
	}
	n.health = health.New("", log)
	n.memory = newMemory(filepath.Join(dir, memoryFile), n.announcing, log)
	n.memory.settle = 100 * time.Millisecond
	n.tracked = newTracker(counts, l2, log)
	n.tracked.interval = n.memory.settle
	n.setLinks(links.Set{
		Links: []links.Link{{Index: h.Link, Name: "eth0", MAC: system.MAC(h.MAC), Up: true}},
		Own:   map[system.MAC]struct{}{system.MAC(h.MAC): {}},
	})
	now := clock.Boottime.Now()
	n.Confirm(session.Confirmation{Sent: now, Until: now + nettest.Patience, Fresh: now + nettest.Patience})
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = n.memory.Run(t.Context()) })
	tasks.Go(func() { _ = n.tracked.Run(t.Context()) })
	t.Cleanup(tasks.Wait)
	return n
}

func view(vips, soft []session.Vip) session.View {
	return session.View{Cluster: "c", Session: 10, Revision: 20, Vips: vips, Soft: soft}
}

// Connections are counted by family, while addresses move away softly and at no other
// time. What cannot be counted stays unknown.
func TestConnectionsOfSoftMovesAreCounted(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr("2001:db8::100")
	counts := &fakeConntrack{counts: map[netip.Addr]int{a: 7, b: 5}, err: errors.New("not tracked")}
	n := startNode(t, t.TempDir(), counts)
	n.Apply(view([]session.Vip{{Addr: a, Epoch: 5}, {Addr: b, Epoch: 6}}, nil))
	connections := func(addr netip.Addr, want int) {
		t.Helper()
		nettest.Eventually(t, "counted", func() bool {
			all, _, _, _ := n.layer2.Statuses(0)
			for _, s := range all {
				if s.Addr == addr {
					return s.Connections == want
				}
			}
			return false
		})
	}
	connections(a, -1)
	n.Apply(view(nil, []session.Vip{{Addr: a, Epoch: 5}, {Addr: b, Epoch: 6}}))
	connections(a, 7)
	connections(b, -1)
	counts.set(a, 3)
	connections(a, 3)
	counts.mu.Lock()
	for _, asked := range counts.asked {
		if len(asked) != 1 {
			t.Errorf("asked for %v at once", asked)
		}
	}
	counts.err = nil
	counts.mu.Unlock()
	connections(b, 5)
	n.Apply(view(nil, nil))
	t.Cleanup(func() {
		nettest.Eventually(t, "closed with its task", func() bool {
			counts.mu.Lock()
			defer counts.mu.Unlock()
			return counts.closed
		})
	})
}

// While the node owns an address quietly, a restart announces in full: the soft move may
// be over before the next process hears of the address, and nobody would have claimed it.
func TestNothingIsInheritedBesideAPredecessor(t *testing.T) {
	dir := t.TempDir()
	n := startNode(t, dir, &fakeConntrack{})
	macs := n.links.MACs()
	recorded := func() bool {
		got, err := readMACs(filepath.Join(dir, memoryFile))
		return err == nil && len(got) == 1
	}
	a := netip.MustParseAddr("192.0.2.100")
	n.Apply(view([]session.Vip{{Addr: a, Epoch: 15}}, nil))
	nettest.Eventually(t, "recorded", recorded)
	n.Apply(view([]session.Vip{{Addr: a, Epoch: 15}, {Addr: a.Next(), Epoch: 16, Predecessor: "n2"}}, nil))
	nettest.Eventually(t, "forgotten", func() bool {
		_, err := os.Stat(filepath.Join(dir, memoryFile))
		return errors.Is(err, os.ErrNotExist) && !n.memory.knows(macs)
	})
	n.memory.changed()
	n.setLinks(n.links)
	if recorded() {
		t.Error("recorded while it is quiet")
	}
	n.Apply(view([]session.Vip{{Addr: a, Epoch: 15}, {Addr: a.Next(), Epoch: 16}}, nil))
	nettest.Eventually(t, "recorded again", recorded)
}
