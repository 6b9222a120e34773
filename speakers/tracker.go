package speakers

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/quorumlb/quorumlb/internal/obs"
	"github.com/quorumlb/quorumlb/speakers/layer2"
)

// trackInterval is how often connections are counted while addresses move away
// softly. A node may track some hundred thousand.
const trackInterval = 5 * time.Second

// conntrack counts connections to addresses of one family.
type conntrack interface {
	Count(addrs []netip.Addr) (map[netip.Addr]int, error)
	Close()
}

// tracker tells layer 2 how many connections clients still have to the addresses
// that move away softly. What the kernel does not tell stays unknown, and only the
// grace time ends the move then.
type tracker struct {
	conntrack conntrack
	layer2    *layer2.Layer2
	log       *slog.Logger
	interval  time.Duration
	soft      atomic.Bool
	kick      chan struct{}
	// told: the log knows that they cannot be counted.
	told bool
}

func newTracker(c conntrack, l2 *layer2.Layer2, log *slog.Logger) *tracker {
	return &tracker{conntrack: c, layer2: l2, log: log, interval: trackInterval, kick: make(chan struct{}, 1)}
}

// changed says whether there are such addresses.
func (t *tracker) changed(soft bool) {
	if t.soft.Swap(soft) == soft {
		return
	}
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// Run counts until ctx ends.
func (t *tracker) Run(ctx context.Context) error {
	defer t.conntrack.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.kick:
		case <-timer.C:
		}
		if t.soft.Load() {
			t.count()
			timer.Reset(t.interval)
		}
	}
}

func (t *tracker) count() {
	var families [2][]netip.Addr
	for _, a := range t.layer2.Soft() {
		f := 0
		if a.Is6() {
			f = 1
		}
		families[f] = append(families[f], a)
	}
	for _, addrs := range families {
		if len(addrs) == 0 {
			continue
		}
		counts, err := t.conntrack.Count(addrs)
		if err != nil {
			if !t.told {
				t.log.Info("connections cannot be counted, so a soft move lasts for its whole grace time", obs.KeyError, err)
				t.told = true
			}
			continue
		}
		t.layer2.SetConnections(counts)
	}
}
