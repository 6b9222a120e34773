package host

import (
	"errors"
	"fmt"
	"slices"
)

// setting is a sysctl that keeps the kernel from answering for, or speaking as,
// an address of the loopback device. The kernel takes the greater of the value
// for "all" and for the link, so "all" covers links that do not exist yet.
type setting struct {
	key  string
	want string
	// also are other values that do as well.
	also []string
}

var settings = []setting{
	// Answer only for addresses of the link that was asked on. 2 is stricter, 3 spares
	// addresses of scope host, which ours are, and 8 answers for none.
	{key: "net/ipv4/conf/all/arp_ignore", want: "1", also: []string{"2", "3", "8"}},
	// Ask only with an address of the link that is asked on.
	{key: "net/ipv4/conf/all/arp_announce", want: "2"},
}

// needsSilence reports whether an IPv4 address is, or is to be, on the device.
func (h *Host) needsSilence() bool {
	for a := range h.wanted {
		if a.Is4() {
			return true
		}
	}
	for a := range h.state.Addresses {
		if a.Is4() {
			return true
		}
	}
	return false
}

// silence makes sure that the kernel does not answer ARP for our addresses.
func (h *Host) silence() error {
	if !h.needsSilence() {
		return nil
	}
	var errs []error
	for _, s := range settings {
		if err := h.set(s); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.key, err))
		}
	}
	return errors.Join(errs...)
}

func (h *Host) set(s setting) error {
	now, err := h.sys.Sysctl(s.key)
	if err != nil {
		return err
	}
	if now == s.want || slices.Contains(s.also, now) {
		return nil
	}
	if _, known := h.state.Sysctls[s.key]; known {
		h.log.Warn("somebody changed a sysctl that local delivery needs", "key", s.key, "value", now, "want", s.want)
	} else {
		h.state.Sysctls[s.key] = now
		if err := h.save(); err != nil {
			delete(h.state.Sysctls, s.key)
			return err
		}
	}
	return h.sys.SetSysctl(s.key, s.want)
}

// restore sets back what silence has set, unless somebody changed it since.
func (h *Host) restore() error {
	if len(h.state.Sysctls) == 0 {
		return nil
	}
	var errs []error
	for _, s := range settings {
		old, ok := h.state.Sysctls[s.key]
		if !ok {
			continue
		}
		now, err := h.sys.Sysctl(s.key)
		if err == nil && now == s.want {
			err = h.sys.SetSysctl(s.key, old)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.key, err))
			continue
		}
		delete(h.state.Sysctls, s.key)
	}
	return errors.Join(append(errs, h.save())...)
}
