package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// checkInterval is how often the sysctls are looked at; the kernel tells nobody
// when they change.
const checkInterval = time.Second

// lingerTime is how long an address stays that is wanted no more: frames arrive
// until every neighbour has learned of the next owner.
const lingerTime = 10 * time.Second

// watchAgain is how long to wait before the device is watched anew.
const watchAgain = 250 * time.Millisecond

// System is what is needed of the operating system.
type System interface {
	// Add puts an address on the loopback device; one that is there is no error.
	Add(netip.Addr) error
	// Remove takes it off; one that is not there is no error.
	Remove(netip.Addr) error
	// Addresses lists the host addresses on the device.
	Addresses() ([]netip.Addr, error)
	// Sysctl reads, SetSysctl writes a kernel setting.
	Sysctl(key string) (string, error)
	SetSysctl(key, value string) error
	// WatchRemoved calls removed once it would notice, and then when an address has gone
	// from the device, until ctx ends (nil) or it can tell no more.
	WatchRemoved(ctx context.Context, removed func()) error
}

// Host keeps addresses on the loopback device.
type Host struct {
	sys  System
	file string
	log  *slog.Logger

	mu sync.Mutex
	// wanted is nil until Apply has been called.
	wanted map[netip.Addr]bool
	// seen is wanted as it was when the device could last be looked at, and unsure is
	// whether it could not since.
	seen   map[netip.Addr]bool
	unsure bool
	state  state
	failed map[netip.Addr]error
	// told is failed once it is complete; it is read without the lock, which is held
	// while the disk is written to.
	told atomic.Pointer[map[netip.Addr]error]
	// leaving are addresses that are wanted no more, and until when they stay.
	leaving map[netip.Addr]time.Time
	linger  time.Duration
	// changed is told when failed has changed outside of Apply.
	changed func()
}

// New takes over from the process before this one, if the file has anything of
// it. It changes nothing yet. Changed is called, from Run's goroutine, when Failed
// would return something else.
func New(sys System, file, bootID string, changed func(), log *slog.Logger) (*Host, error) {
	st, err := loadState(file, bootID)
	if err != nil {
		return nil, err
	}
	return &Host{
		sys: sys, file: file, log: log, state: st, changed: changed,
		leaving: make(map[netip.Addr]time.Time), linger: lingerTime,
	}, nil
}

// Apply makes the loopback device have exactly the wanted addresses, apart from
// those that this package has not added. What fails is tried again by Run, and
// told by Failed.
func (h *Host) Apply(wanted []netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wanted = make(map[netip.Addr]bool, len(wanted))
	for _, a := range wanted {
		h.wanted[a] = true
	}
	h.reconcile()
}

// Failed returns the addresses that are wanted and not delivered, and why. It does
// not wait; the map is not to be changed.
func (h *Host) Failed() map[netip.Addr]error {
	if told := h.told.Load(); told != nil {
		return *told
	}
	return nil
}

// Run keeps everything as it should be until ctx ends, and then leaves it so.
func (h *Host) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	removed := make(chan struct{}, 1)
	group.Go(func() error {
		h.watch(ctx, func() {
			select {
			case removed <- struct{}{}:
			default:
			}
		})
		return nil
	})
	group.Go(func() error {
		ticker := time.NewTicker(checkInterval)
		defer ticker.Stop()
		h.check(true)
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-removed:
				h.check(true)
			case <-ticker.C:
				h.check(false)
			}
		}
	})
	return group.Wait()
}

// watch calls removed when an address may have gone, until ctx ends.
func (h *Host) watch(ctx context.Context, removed func()) {
	for {
		err := h.sys.WatchRemoved(ctx, removed)
		if ctx.Err() != nil {
			return
		}
		h.log.Warn("lost sight of the loopback device, looking again", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchAgain):
		}
	}
}

// check mends what others have changed, and does what is due. Unless thorough, it
// looks at the sysctls only, which the kernel tells nobody about.
func (h *Host) check(thorough bool) {
	h.mu.Lock()
	before := h.failed
	if thorough || h.unsure || len(h.failed) > 0 || h.lingering(time.Now()) || h.silence() != nil {
		h.reconcile()
	}
	differs := !maps.EqualFunc(before, h.failed, func(a, b error) bool { return a.Error() == b.Error() })
	h.mu.Unlock()
	if differs && h.changed != nil {
		h.changed()
	}
}

// lingering reports whether the time of an address that is wanted no more is over.
func (h *Host) lingering(now time.Time) bool {
	for _, until := range h.leaving {
		if !now.Before(until) {
			return true
		}
	}
	return false
}

// Ready is always true: what fails is told for each address.
func (h *Host) Ready() bool { return true }

// String names the task.
func (h *Host) String() string { return "host" }

// reconcile makes the device as it should be.
func (h *Host) reconcile() {
	before := h.failed
	h.failed = make(map[netip.Addr]error)
	defer func() {
		failed := h.failed
		h.told.Store(&failed)
	}()
	quiet := h.silence()
	list, err := h.sys.Addresses()
	if h.unsure = err != nil; h.unsure {
		h.assume(before, quiet, err)
		return
	}
	h.seen = h.wanted
	there := make(map[netip.Addr]bool, len(list))
	for _, a := range list {
		there[a] = true
	}
	var missing []netip.Addr
	for a := range h.wanted {
		delete(h.leaving, a)
		switch {
		case a.Is4() && quiet != nil:
			// The kernel would answer ARP for it, and nobody is better than two.
			h.failed[a] = errors.Join(quiet, h.withdraw(a))
		case !there[a]: // else it is ours, or somebody's, which is as good
			missing = append(missing, a)
		}
	}
	h.add(missing)
	if h.wanted == nil {
		return // what the process before this one left stays until the members are heard
	}
	h.removeUnwanted(time.Now())
	if len(h.state.Addresses) == 0 && len(h.wanted) == 0 {
		if err := h.restore(); err != nil {
			h.log.Warn("cannot set sysctls back", "error", err)
		}
	}
}

// assume says what fails while the device cannot be looked at: what failed before, and
// what was not wanted then. The rest is most likely where it was.
func (h *Host) assume(before map[netip.Addr]error, quiet, err error) {
	h.log.Warn("cannot look at the loopback device", "error", err)
	for a := range h.wanted {
		switch {
		case a.Is4() && quiet != nil:
			h.failed[a] = errors.Join(quiet, h.withdraw(a))
		case before[a] != nil:
			h.failed[a] = before[a]
		case !h.seen[a]:
			h.failed[a] = err
		}
	}
}

func (h *Host) failAll(addrs []netip.Addr, err error) {
	for _, a := range addrs {
		h.failed[a] = err
	}
}

// withdraw takes an address that we added off the device for the time being.
func (h *Host) withdraw(a netip.Addr) error {
	if !h.state.Addresses[a] {
		return nil
	}
	return h.sys.Remove(a)
}

// add puts addresses on the device, having remembered that first.
func (h *Host) add(addrs []netip.Addr) {
	slices.SortFunc(addrs, netip.Addr.Compare)
	var noted []netip.Addr
	for _, a := range addrs {
		if !h.state.Addresses[a] {
			h.state.Addresses[a] = true
			noted = append(noted, a)
		}
	}
	if len(noted) > 0 {
		if err := h.save(); err != nil {
			for _, a := range noted {
				delete(h.state.Addresses, a)
			}
			h.failAll(addrs, err)
			return
		}
	}
	added := 0
	for _, a := range addrs {
		if err := h.sys.Add(a); err != nil {
			h.failed[a] = err
			continue
		}
		added++
		h.log.Debug("deliver locally", "vip", a)
	}
	if added > 0 {
		h.log.Info("local delivery", "added", added)
	}
}

// removeUnwanted removes what was added by us and has been wanted no more for
// the linger time.
func (h *Host) removeUnwanted(now time.Time) {
	var gone []netip.Addr
	for a := range h.state.Addresses {
		if h.wanted[a] {
			continue
		}
		until, known := h.leaving[a]
		if !known {
			h.leaving[a] = now.Add(h.linger)
			until = h.leaving[a]
		}
		if !now.Before(until) {
			gone = append(gone, a)
		}
	}
	if err := h.remove(gone); err != nil {
		h.log.Warn("cannot end local delivery", "error", err)
	}
}

// remove takes addresses that were added by us off the device.
func (h *Host) remove(addrs []netip.Addr) error {
	slices.SortFunc(addrs, netip.Addr.Compare)
	var errs []error
	removed := 0
	for _, a := range addrs {
		if err := h.sys.Remove(a); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(h.state.Addresses, a)
		delete(h.leaving, a)
		removed++
		h.log.Debug("deliver locally no more", "vip", a)
	}
	if removed > 0 {
		h.log.Info("local delivery", "removed", removed)
		errs = append(errs, h.save())
	}
	return errors.Join(errs...)
}

// Cleanup removes all that this package has added and sets the sysctls back.
func (h *Host) Cleanup() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	err := h.remove(slices.Collect(maps.Keys(h.state.Addresses)))
	if len(h.state.Addresses) > 0 {
		return err
	}
	h.wanted = nil
	return errors.Join(err, h.restore())
}

func (h *Host) save() error {
	if err := h.state.save(h.file); err != nil {
		return fmt.Errorf("remember local addresses: %w", err)
	}
	return nil
}
