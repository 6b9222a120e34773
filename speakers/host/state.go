package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"

	"github.com/quorumlb/quorumlb/speakers/system"
)

// state is what this package has changed, or was about to change.
type state struct {
	bootID    string
	Addresses map[netip.Addr]bool
	// Sysctls are the values from before.
	Sysctls map[string]string
}

// stateFile is its form on disk.
type stateFile struct {
	// BootID is the boot of the machine that the rest is about.
	BootID    string            `json:"bootID"`
	Addresses []netip.Addr      `json:"addresses"`
	Sysctls   map[string]string `json:"sysctls"`
}

// loadState reads the file. One that does not exist, or is from before the
// machine was booted, is an empty state.
func loadState(name, bootID string) (state, error) {
	s := state{bootID: bootID, Addresses: make(map[netip.Addr]bool), Sysctls: make(map[string]string)}
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read local addresses: %w", err)
	}
	var f stateFile
	if err := json.Unmarshal(b, &f); err != nil {
		return s, fmt.Errorf("read local addresses from %s: %w", name, err)
	}
	if f.BootID != bootID {
		return s, nil
	}
	for _, a := range f.Addresses {
		s.Addresses[a] = true
	}
	maps.Copy(s.Sysctls, f.Sysctls)
	return s, nil
}

func (s *state) save(name string) error {
	b, err := json.MarshalIndent(stateFile{
		BootID:    s.bootID,
		Addresses: slices.SortedFunc(maps.Keys(s.Addresses), netip.Addr.Compare),
		Sysctls:   s.Sysctls,
	}, "", "  ")
	if err != nil {
		return err
	}
	return system.ReplaceFile(name, append(b, '\n'))
}

// BootID names the present boot of the machine.
func BootID() (string, error) { return system.ReadSysctl("kernel/random/boot_id") }
