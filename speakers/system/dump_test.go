package system

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestWholeReadsAgainWhatWasInterrupted(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		interrupted int
		then        error
		reads       int
		want        []int
		err         error
	}{
		"at once":    {0, nil, 1, []int{1, 2}, nil},
		"in the end": {3, nil, 4, []int{1, 2}, nil},
		"never":      {1000, nil, dumpTries, nil, netlink.ErrDumpInterrupted},
		"an error":   {1, broken, 2, nil, broken},
	} {
		reads := 0
		got, err := whole(func() ([]int, error) {
			if reads++; reads <= c.interrupted {
				return []int{1}, netlink.ErrDumpInterrupted
			}
			if c.then != nil {
				return nil, c.then
			}
			return []int{1, 2}, nil
		})
		if !slices.Equal(got, c.want) || !errors.Is(err, c.err) || reads != c.reads {
			t.Errorf("%s: %v, %v after %d reads", name, got, err, reads)
		}
	}
}
