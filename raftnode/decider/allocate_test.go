package decider

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quorumlb/quorumlb/fsm"
	adminv1 "github.com/quorumlb/quorumlb/proto/quorumlb/admin/v1"
	logv1 "github.com/quorumlb/quorumlb/proto/quorumlb/log/v1"
)

// Services that a batch had no room for get their addresses in the next one, also
// when that one begins with a command that is taken back.
func TestServicesForWhichABatchHasNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, func(c *Config) { c.MaxBatchBytes, c.MaxInFlight = 256, 1 })
		defer h.stop()
		h.log.lead()
		synctest.Wait()
		h.must(&Found{ClusterID: [16]byte{1}, Version: 1})
		h.must(apply(pool("p", "10.0.0.0/24")))
		h.settle()
		h.log.set(func(l *memLog) { l.delay = func() time.Duration { return 10 * time.Millisecond } })
		var many []*adminv1.Resource
		for i := range 50 {
			many = append(many, service(fmt.Sprintf("s%02d", i)))
		}
		var both sync.WaitGroup
		both.Go(func() { h.must(apply(many...)) })
		time.Sleep(time.Millisecond) // it is in flight
		both.Go(func() { h.must(dryRun(apply(service("dry")))) })
		both.Wait()
		h.settle()
		for i := range 50 {
			if name := fmt.Sprintf("s%02d", i); h.addressesOf(name) != 1 {
				t.Fatalf("%s has no address", name)
			}
		}
		h.nothingMissed()
		h.checkHead()
	})
}

// A leader that dies before it has given a declared service its address, or another
// to one whose pool lets it go, leaves that to the next.
func TestNewLeaderServesTheDeclared(t *testing.T) {
	inBubble(t, func(h *harness) {
		h.must(apply(pool("p", "10.0.0.0-10.0.0.9"), service("a")))
		h.settle()
		h.log.lose(0)
		h.log.foreign(serviceDeclared(service("s").GetService(), DefaultSource, 1), serviceDeclared(service("r").GetService(), DefaultSource, 1),
			poolDefined(&logv1.Pool{Name: "p", Addresses: []string{"10.0.0.1-10.0.0.9"}, Reallocate: true}))
		h.log.lead()
		h.settle()
		if h.addressesOf("s") != 1 || h.addressesOf("r") != 1 {
			t.Errorf("s has %d addresses, r %d", h.addressesOf("s"), h.addressesOf("r"))
		}
		h.log.Read(func(s *fsm.State) {
			if got := s.Services[fsm.KeyOf("default", "a")].Addresses; len(got) != 1 || got[0].String() == "10.0.0.0" {
				t.Errorf("a has %v", got)
			}
		})
		h.nothingMissed()
		h.checkHead()
	})
}

// A resource of more than a megabyte is refused by its name.
func TestHugeResource(t *testing.T) {
	inBubble(t, func(h *harness) {
		huge := service("huge", func(s *logv1.Service) { s.Labels = map[string]string{"a": strings.Repeat("x", MaxResource)} })
		_, err := h.submit(apply(pool("p", "10.0.0.0/24"), huge))
		if err == nil || !strings.Contains(err.Error(), `resources[1]: VirtualService "default/huge" has 10486`) {
			t.Errorf("%.200v", err)
		}
	})
}
