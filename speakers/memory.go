package speakers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quorumlb/quorumlb/internal/obs"
	"github.com/quorumlb/quorumlb/speakers/system"
)

// memoryFile is the name of the record of the MACs that the node announced.
const memoryFile = "macs.json"

// settleTime is how long MACs have been announced before they are remembered: the
// rounds of a takeover are over, with some to spare.
const settleTime = 15 * time.Second

// memory remembers, over the process's end, by which MACs the neighbours know
// the node's addresses. Whoever has the same ones continues what the process
// before did, and need not announce that as news. A clone of the machine or a new network card
// has others, and so has who lost the record: they announce in full. While the node
// owns an address that it does not announce yet, because another node answers its old
// clients, there is no record: that may be over before the next process asks.
type memory struct {
	file   string
	settle time.Duration
	log    *slog.Logger
	// present returns the MACs in use, and whether the addresses are announced
	// by them at present.
	present func() ([]system.MAC, bool)
	// kick has a token when the MACs may have changed.
	kick chan struct{}
	// quiet is whether there is such an address.
	quiet atomic.Bool

	mu   sync.Mutex
	macs []system.MAC // what the record says; sorted
}

func newMemory(file string, present func() ([]system.MAC, bool), log *slog.Logger) *memory {
	m := &memory{file: file, settle: settleTime, log: log, present: present, kick: make(chan struct{}, 1)}
	macs, err := readMACs(file)
	if err != nil {
		log.Warn("cannot read by which MACs the neighbours know this node, announcing everything anew", obs.KeyError, err)
	}
	m.macs = macs
	return m
}

// knows reports whether the neighbours know the node by exactly these MACs.
func (m *memory) knows(macs []system.MAC) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(macs) > 0 && slices.Equal(m.macs, macs)
}

// changed says that the MACs, or whether they are announced, may have changed.
func (m *memory) changed() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// setQuiet says whether there is an address that is not announced yet.
func (m *memory) setQuiet(quiet bool) {
	if m.quiet.Swap(quiet) != quiet {
		m.changed()
	}
}

// Run writes the MACs down once they have been announced for long enough, until
// ctx ends.
func (m *memory) Run(ctx context.Context) error {
	timer := time.NewTimer(m.settle)
	defer timer.Stop()
	var seen []system.MAC
	var quiet bool
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.kick:
			was := quiet
			if quiet = m.quiet.Load(); quiet {
				m.forget()
			}
			if macs, _ := m.present(); !slices.Equal(macs, seen) || was != quiet {
				seen = macs
				timer.Reset(m.settle)
			}
			continue
		case <-timer.C:
		}
		macs, announced := m.present()
		switch {
		case len(macs) == 0 || m.knows(macs):
			continue // until they change
		case announced && slices.Equal(macs, seen) && !m.quiet.Load():
			if err := m.write(macs); err != nil {
				m.log.Warn("cannot remember the MACs, a restart will announce everything anew", obs.KeyError, err)
			}
		}
		seen = macs
		timer.Reset(m.settle)
	}
}

// forget makes the next process announce in full.
func (m *memory) forget() {
	m.mu.Lock()
	m.macs = nil
	m.mu.Unlock()
	if err := os.Remove(m.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.log.Warn("cannot forget the MACs, a restart may not announce everything", obs.KeyError, err)
	}
}

func (m *memory) write(macs []system.MAC) error {
	names := make([]string, 0, len(macs))
	for _, mac := range macs {
		names = append(names, mac.String())
	}
	b, err := json.Marshal(names)
	if err != nil {
		return err
	}
	if err := system.ReplaceFile(m.file, append(b, '\n')); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.macs = macs
	return nil
}

// readMACs reads the record; one that does not exist is empty.
func readMACs(file string) ([]system.MAC, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	if err := json.Unmarshal(b, &names); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var macs []system.MAC
	for _, name := range names {
		raw, err := net.ParseMAC(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		mac, err := system.MACFrom(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		macs = append(macs, mac)
	}
	return macs, nil
}
