package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/cluster"
)

// profileArgs are the daemons' arguments that -profiles needs.
func profileArgs(r *recorder) []string {
	if !r.o.profiles {
		return nil
	}
	return []string{"--pprof"}
}

// startProfile profiles the CPU of a node's "member" or "speaker" for so long, and its
// heap at the end. The function that it returns waits for both.
func startProfile(ctx context.Context, r *recorder, n *cluster.Node, daemon, name string, d time.Duration) (wait func()) {
	if !r.o.profiles {
		return func() {}
	}
	done := make(chan error, 1)
	base := filepath.Join(r.o.results, "profiles", r.Part+"-"+name)
	go func() {
		done <- errors.Join(
			saveProfile(ctx, n, daemon, "profile", d, base+".cpu"),
			saveProfile(ctx, n, daemon, "heap", 0, base+".heap"))
	}()
	return func() {
		if err := <-done; err != nil {
			r.say("profile of %s: %v", name, err)
		}
	}
}

func saveProfile(ctx context.Context, n *cluster.Node, daemon, kind string, d time.Duration, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	// A daemon that has just been started does not listen yet.
	err = lab.Poll(ctx, d+5*time.Second, func(ctx context.Context) error { return n.Pprof(ctx, daemon, kind, d, f) })
	return errors.Join(err, f.Close())
}
