package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/quorumlb/quorumlb/test/lab"
	"github.com/quorumlb/quorumlb/test/lab/peers"
)

// etcdFanout measures how long a put takes to as many watches of its key, each on
// a connection of its own, spread over three etcd members.
func etcdFanout(ctx context.Context, r *recorder) error {
	etcd, _, remove, err := openEtcd(r.o)
	if err != nil {
		return err
	}
	defer remove()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	leader, err := etcd.Conn(0)
	if err != nil {
		return err
	}
	defer leader.Close()
	put := putter(leader)
	if err := lab.Poll(ctx, 20*time.Second, func(ctx context.Context) error { return put(ctx, "fan") }); err != nil {
		return err
	}
	told := make(chan time.Time, 2*r.o.speakers)
	for i := range r.o.speakers {
		conn, err := etcd.Conn(i % 3)
		if err != nil {
			return err
		}
		defer conn.Close()
		wg.Go(func() { _ = peers.Watch(ctx, conn, "fan", func() { told <- time.Now() }) })
	}
	if _, err := lastOf(ctx, told, r.o.speakers, time.Minute); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	for range r.o.repeats * fanRounds {
		start := time.Now()
		if err := put(ctx, "fan"); err != nil {
			return err
		}
		answered := time.Now()
		last, err := lastOf(ctx, told, r.o.speakers, roundPatience)
		if err != nil {
			return err
		}
		for kind, d := range map[string]time.Duration{
			"etcd-answered": answered.Sub(start), "etcd-last": last.Sub(start), "etcd-after-commit": max(0, last.Sub(answered)),
		} {
			r.Samples[kind] = append(r.Samples[kind], d.Seconds())
		}
	}
	return r.save()
}

// lastOf waits for so many times and gives the latest.
func lastOf(ctx context.Context, told <-chan time.Time, n int, patience time.Duration) (last time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for i := range n {
		select {
		case at := <-told:
			if at.After(last) {
				last = at
			}
		case <-ctx.Done():
			return last, fmt.Errorf("%d of %d watches: %w", i, n, ctx.Err())
		}
	}
	return last, nil
}
