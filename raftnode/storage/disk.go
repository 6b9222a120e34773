//go:build !chaos

package storage

// A sick disk is played only in programs built with the tag chaos.
func beforeWrite() error { return nil }
func afterWrite() error  { return nil }
