//go:build chaos

package storage

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sickness is a file that says how the disk behaves at this moment:
//
//	slow 300ms   every write takes so much longer
//	fail         no write is made, and the caller is told so
//	fail-late    the write is made, but its sync is said to have failed, so that
//	             what the caller takes for lost is there after a restart
//
// No file, or an empty one: the disk is well. Only programs built with the tag
// chaos look for it; bbolt has no seam at which a sync could fail.
var sickness = os.Getenv("QUORUMLB_CHAOS_DISK")

func sick() (how, by string) {
	if sickness == "" {
		return "", ""
	}
	raw, err := os.ReadFile(sickness)
	if err != nil {
		return "", ""
	}
	how, by, _ = strings.Cut(strings.TrimSpace(string(raw)), " ")
	return how, by
}

func beforeWrite() error {
	switch how, by := sick(); how {
	case "slow":
		if d, err := time.ParseDuration(by); err == nil {
			time.Sleep(d)
		}
	case "fail":
		return fmt.Errorf("chaos: write: %w", unix.EIO)
	}
	return nil
}

func afterWrite() error {
	if how, _ := sick(); how == "fail-late" {
		return fmt.Errorf("chaos: fdatasync: %w", unix.EIO)
	}
	return nil
}
