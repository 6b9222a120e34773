package system

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// dumpTries is how often a list is asked for that changes while it is read. A node
// that starts many pods at once changes it all the time.
const dumpTries = 10

// whole reads a list of the kernel's until it did not change meanwhile: one that did
// may lack what was there all the time.
func whole[T any](read func() ([]T, error)) (list []T, err error) {
	for range dumpTries {
		if list, err = read(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
	return nil, err
}
